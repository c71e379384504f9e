"""`explain`: the map of a logit and the account of it.

    logit = evidence + terms + bias + missing

evidence = <g, F> at the layer; terms are what goes past it; bias is the effective biases above, each times its
gradient; missing is the rest, 0 up to rounding for a full cut of a piecewise linear network (Fu et al. 2020, equation 5).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dropfold.explain.cut.cuts import Cut, cut_of, known_cuts
from dropfold.explain.cut.images import last_convolution
from dropfold.explain.cut.inputs import Given, Inputs
from dropfold.explain.cut.passes import as_it_was, differentiable, smooth_modules
from dropfold.explain.maps.captured import Captured
from dropfold.explain.maps.explanation import ROUNDING, Explanation
from dropfold.explain.maps.methods import METHODS
from dropfold.explain.maps.targets import choose

NOT_EXACT = (
    "the terms do not add up to the logit: what follows {} is not piecewise linear (a smooth activation, a product), or "
    "something goes past that layer. How much is the missing term."
)
INVERTED = 0.1  # share of channels whose weight changes sign, above which the map is said to be unsafe


def explain(
    network: nn.Module,
    inputs: Given,
    target: int | Tensor | None = None,
    *,
    layer: str | None = None,
    channels: int | None = None,
    method: str | None = None,
    points: int | Tensor | None = None,
    frozen: bool = True,
    account: bool = True,
    batch: Tensor | None = None,
    class_names: list[str] | None = None,
) -> Explanation:
    """Scores of points, pixels or frames for a logit, and its account.

    Points in another order have the same scores up to rounding: sums over points are then added up in another order.

    Args:
        network: any of dropfold's, a classifier around a TensorLSTM or TensorGRU, or any module with `layer` and `channels`.
        inputs: what it is called with: a tensor, a tuple of arguments, or a mapping of their names.
        target: the class, one for all samples or one each [B]; default: the predicted one.
        layer: a module's name, whose output the evidence is read at; default: see `dropfold.explain.cut.cuts`, and of
            networks with 2-D convolutions `dropfold.explain.cut.images`.
        channels: the axis of that output that holds the channels. Asked for of networks that are not dropfold's.
        method: "xgrad_cam", "grad_cam", "gradient_x_activation" or "ablation"; default: what suits the cut.
        points: of networks that label points, those whose mean logit is explained: the number of one, or bool [B, N] (rows:
            [M]); default: all.
        frozen: T-Nets and gates are constants of the sample. Without, products are counted twice, and "missing" shows it.
        account: whether to compute bias and missing, which takes a second, plain forward.
        batch: [M], the sample of each row, of networks on rows; it goes to the network, too, if `forward` has an argument
            of that name.
        class_names: of all classes, in the order of the logits.

    Raises:
        ValueError: no such layer, class, method or point; numbers that are not finite; a network with no exact account.
    """
    return explain_each(
        *(network, inputs, [target]),
        layer=layer,
        channels=channels,
        method=method,
        points=points,
        frozen=frozen,
        account=account,
        batch=batch,
        class_names=class_names,
    )[0]


@torch.inference_mode(False)  # with gradients, wherever it is called
def explain_each(
    network: nn.Module,
    inputs: Given,
    targets: Sequence[int | Tensor | None],
    *,
    layer: str | None = None,
    channels: int | None = None,
    method: str | None = None,
    points: int | Tensor | None = None,
    frozen: bool = True,
    account: bool = True,
    batch: Tensor | None = None,
    class_names: list[str] | None = None,
) -> list[Explanation]:
    """`explain` of several classes of the same inputs, from one forward."""
    if method is not None and method not in (*METHODS, "ablation"):
        raise ValueError(f"method must be one of {', '.join([*METHODS, 'ablation'])}; got {method!r}.")
    given = Inputs.of(network, inputs, batch)
    cut = _cut(network, given, layer, channels, frozen)
    method = method or cut.method
    notes = _doubts(network, account)
    with as_it_was(network), differentiable(network):
        seen = Captured(network, cut, given)
        if class_names is not None and len(class_names) != seen.logits.shape[-1]:
            raise ValueError(
                f"class_names must name all {seen.logits.shape[-1]} classes; got {len(class_names)} names."
            )
        chosen = [choose(seen.logits, target, points, given) for target in targets]
        pulled = [seen.logit(weight) for _, weight in chosen]
        biases = seen.run.bias_terms(seen.leaves) if account else None
        accounts = []
        for (_, weight), (s, gradients) in zip(chosen, pulled, strict=True):
            terms = {term: given.add_up(gradients[term] * leaf) for term, leaf in seen.leaves.items()}
            if biases is not None:
                terms["bias"] = given.add_up(biases * weight)
                terms["missing"] = s - sum(terms.values())
                size = torch.stack([s, *terms.values()]).abs().amax(0)
                if not notes and bool((terms["missing"].abs() > ROUNDING * size).any()):
                    notes.append(NOT_EXACT.format(cut.layer))
            accounts.append(terms)
        maps = [seen.scores(method, *p, weight) for p, (_, weight) in zip(pulled, chosen, strict=True)]
        if method == "xgrad_cam" and (share := inverted_share(seen.features, given)) > INVERTED:
            notes.append(
                f"{100 * share:.0f} % of the channels at {cut.layer} have a negative sum where they are active, as of a "
                "layer without ReLU: their weights change sign and the map is inverted. Take the layer below."
            )
    return [
        Explanation(
            scores,
            terms,
            s,
            classes,
            method,
            cut.layer,
            points=coordinates(given, scores),
            batch=None if given.batch is None or scores.shape[:1] != given.batch.shape else given.batch,
            notes=tuple(notes),
            class_names=None if class_names is None else tuple(class_names),
            logits=torch.stack([given.add_up(one * weight.sum(-1)) for one in seen.logits.unbind(-1)], -1),
            frozen=frozen,
        )
        for scores, terms, (s, _), (classes, weight) in zip(maps, accounts, pulled, chosen, strict=True)
    ]


@torch.inference_mode(False)
def map_scores(
    network: nn.Module, inputs: Given, targets: Sequence[Tensor], methods: Sequence[str]
) -> dict[str, list[Tensor]]:
    """The scores alone, by method and for each of `targets`, from one forward and a gradient a target."""
    given = Inputs.of(network, inputs)
    with as_it_was(network), differentiable(network):
        seen = Captured(network, _cut(network, given), given)
        weights = [choose(seen.logits, target, None, given)[1] for target in targets]
        pulled = [seen.logit(weight) for weight in weights]
        return {
            method: [seen.scores(method, *p, weight) for p, weight in zip(pulled, weights, strict=True)]
            for method in methods
        }


def _cut(
    network: nn.Module,
    given: Inputs,
    layer: str | None = None,
    channels: int | None = None,
    frozen: bool = True,
) -> Cut:
    """Where it is explained; of networks with 2-D convolutions by default the last of them."""
    if layer is None and not known_cuts(network) and (found := last_convolution(network, given)):
        if channels not in (None, 1):
            raise ValueError(
                f"channels of {found!r}, a map [B, C, H, W], are at axis 1; got channels={channels}."
            )
        layer, channels = found, 1
    return cut_of(network, layer, channels, frozen)


def inverted_share(f: Tensor, inputs: Inputs) -> float:
    """The share of channels, over the samples, that are active somewhere and whose sum is negative."""
    rows = inputs.batch is not None and len(f) == len(inputs.batch) and f.dim() == 2
    parts = inputs.per_sample(f) if rows else list(f.reshape(len(f), -1, f.shape[-1]))
    parts = [part for part in parts if len(part)]  # batch may leave a number out
    active = torch.stack([part.amax(0) > 0 for part in parts])
    negative = torch.stack([part.sum(0) < 0 for part in parts])
    return float((active & negative).sum() / active.sum().clamp(min=1))


def coordinates(inputs: Inputs, scores: Tensor) -> Tensor | None:
    """The coordinates of the points that are scored."""
    x = inputs.x
    same = x.shape[:-1] == scores.shape and x.shape[-1] >= 3
    return (
        x[..., :3].detach()
        if same and x.is_floating_point() and (x.dim() == 3 or inputs.batch is not None)
        else None
    )


def _doubts(network: nn.Module, account: bool) -> list[str]:
    """What keeps the account from being exact, in words."""
    smooth, piecewise = smooth_modules(network)
    if not smooth:
        return []
    kinds = ", ".join(smooth)
    if account and not piecewise:
        raise ValueError(
            f"nothing in {type(network).__name__} is piecewise linear ({kinds}), so evidence and bias do not add up to its "
            "logits; give account=False for a map without an account."
        )
    return [f"{kinds} is not piecewise linear: what the account cannot say is its missing term"]
