"""Which operations may stand in another's place: the two-level transitions of NAT++ (type, then size), as data.

Multiply-adds never grow along a transition (a test computes them, from three channels on), and the last of each list is
the cheapest. null becomes a skip as well: it costs nothing here, where a skip with a stride has no parameters; in the
authors' cells that skip is a convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

from dropfold.models.operations.balls import Balls, Scale
from dropfold.models.operations.edges import EdgeOperation

# Guo et al. 2021, as in guoyongcs/NATv2, commit e50c9ec.
CONVOLUTIONS: dict[str, tuple[str, ...]] = {
    "conv_5x5": (
        "conv_5x5", "conv_3x3", "conv_1x1", "sep_conv_5x5", "sep_conv_3x3", "dil_conv_5x5", "dil_conv_3x3",
        "max_pool_5x5", "max_pool_3x3", "avg_pool_5x5", "avg_pool_3x3", "skip_connect", "null",
    ),
    "conv_3x3": (
        "conv_3x3", "conv_1x1", "sep_conv_3x3", "dil_conv_3x3", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "null"
    ),
    "conv_1x1": ("conv_1x1", "skip_connect", "null"),
    "sep_conv_5x5": (
        "sep_conv_5x5", "sep_conv_3x3", "dil_conv_5x5", "dil_conv_3x3", "max_pool_5x5", "max_pool_3x3", "avg_pool_5x5",
        "avg_pool_3x3", "skip_connect", "null",
    ),
    "sep_conv_3x3": ("sep_conv_3x3", "dil_conv_3x3", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "null"),
    "dil_conv_5x5": (
        "dil_conv_5x5", "dil_conv_3x3", "max_pool_5x5", "max_pool_3x3", "avg_pool_5x5", "avg_pool_3x3", "skip_connect",
        "null",
    ),
    "dil_conv_3x3": ("dil_conv_3x3", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "null"),
    "avg_pool_5x5": ("avg_pool_5x5", "avg_pool_3x3", "max_pool_5x5", "max_pool_3x3", "skip_connect", "null"),
    "avg_pool_3x3": ("avg_pool_3x3", "max_pool_3x3", "skip_connect", "null"),
    "max_pool_5x5": ("max_pool_5x5", "max_pool_3x3", "avg_pool_5x5", "avg_pool_3x3", "skip_connect", "null"),
    "max_pool_3x3": ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "null"),
    "skip_connect": ("skip_connect", "null"),
    "null": ("skip_connect", "null"),
}  # fmt: skip

LEAST_MEMBERS = 8  # of a ball
LEAST_NEIGHBOURS = 5
SHARES = (1.0, 0.75, 0.5)  # of a layer's usual width


def edge_transitions(
    k: int, width: int, first: bool = False, shares: Sequence[float] = SHARES
) -> tuple[str, ...]:
    """What an EdgeConv of k neighbours may become, itself first: fewer neighbours (k halved, down to 5), the graph that is
    there already (not for the `first` layer, which has none), no neighbours but the point itself, fewer channels, a skip,
    nothing."""
    neighbours = [k]
    while neighbours[-1] // 2 >= LEAST_NEIGHBOURS:
        neighbours.append(neighbours[-1] // 2)
    kinds = [
        EdgeOperation("edge_conv", n, reused)
        for reused in (False, True)[: 1 if first else 2]
        for n in neighbours
    ]
    kinds.append(EdgeOperation("pointwise"))
    widths = [None if share == 1 else round(share * width) for share in shares]
    sized = [EdgeOperation(op.kind, op.k, op.reused, one) for one in widths for op in kinds]
    return tuple(map(str, [*sized, EdgeOperation("skip"), EdgeOperation("null")]))


def ball_transitions(scales: Sequence[Scale]) -> tuple[str, ...]:
    """What a level of set abstraction may become, itself first: one of its scales, fewer members, a smaller radius, a
    perceptron with fewer layers."""
    alone: list[int | None] = [None, *range(1, len(scales) + 1)] if len(scales) > 1 else [None]
    found = []
    for shallow in (False, True):
        for near in (False, True):
            for scale in alone:
                left = scales if scale is None else [scales[scale - 1]]
                thins = any(len(Balls(shallow=True).layers(one)) < len(one.widths) for one in left)
                parts = [
                    part for part in (1, 2, 4) if part == 1 or min(s.k for s in left) // part >= LEAST_MEMBERS
                ]
                found += [Balls(scale, part, near, shallow) for part in parts if thins or not shallow]
    work = {str(one): _work(one.of(tuple(scales))) for one in found}
    first, *others = work
    return first, *sorted(others, key=work.__getitem__, reverse=True)


def _work(scales: Sequence[Scale]) -> int:
    """Multiply-adds of a perceptron's layers after its first, for a centre, as the textbook has them."""
    return sum(s.k * (s.widths[0] + sum(a * b for a, b in zip(s.widths, s.widths[1:]))) for s in scales)
