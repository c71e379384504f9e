"""Which operations may stand in another's place: the two-level transitions of NAT++ (type, then size), as data.

Multiply-adds never grow along a transition (a test computes them, from three channels on), and the last of each list is
the cheapest. null becomes a skip as well: it costs nothing here, where a skip with a stride has no parameters; in the
authors' cells that skip is a convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

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
