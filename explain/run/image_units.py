"""What `dropfold explain` finds of the units of a run on images: what goes into the last linear layer.

logits = W p + b        without unit u, which becomes r: logits + (r - p_u) W[:, u], rank one and exact
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dropfold.explain.cut.passes import as_it_was
from dropfold.explain.run.found import Found
from dropfold.explain.run.unit_tables import add_correlations, add_removal, record_damage, unit_rows
from dropfold.explain.units.ablation import To, Units
from dropfold.explain.units.damage import attributes, damage
from dropfold.explain.units.removal import FRACTIONS as REMOVED

if TYPE_CHECKING:
    from dropfold.explain.run.images import Images

BATCH = 64


def last_linear(network: nn.Module, x: Tensor) -> str | None:
    """The name of the linear layer that gives the logits; None if something else does."""
    given: dict[str, Tensor] = {}
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):

            def note(module: nn.Module, args: Any, out: Tensor, name: str = name) -> None:
                given[name] = out

            handles.append(module.register_forward_hook(note))
    try:
        with as_it_was(network), torch.no_grad():
            logits = network(x[:1])
    finally:
        for handle in handles:
            handle.remove()
    return next((name for name, out in given.items() if out is logits), None)


def inputs_of(network: nn.Module, layer: str, x: Tensor) -> Tensor:
    """[n, U]: what goes into a linear layer."""
    seen: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    try:
        with as_it_was(network), torch.no_grad():
            for some in x.split(BATCH):
                network(some)
    finally:
        handle.remove()
    return torch.cat(seen)


def without_each(logits: Tensor, p: Tensor, r: Tensor, weight: Tensor) -> Tensor:
    """Logits [U, n, K] without each unit: of logits [n, K], what goes in [n, U], what replaces it [U], weight [K, U]."""
    return logits + (r - p).T[:, :, None] * weight.T[:, None, :]


def explain_image_units(
    images: Images, found: Found, training: Images, logits: Tensor, to: To, on_page: Tensor
) -> None:
    """The units, each removed in turn, replaced by its mean over `training` images or by 0; and many at once. What drives
    them is shown of the images that are on the page."""
    layer = last_linear(images.network, images.x)
    if layer is None:
        found.page["notes"].append("no linear layer gives the logits, so units are left out.")
        return
    linear: Any = images.network.get_submodule(layer)
    weight = linear.weight.detach()
    p, trained_on = (inputs_of(images.network, layer, some.x) for some in (images, training))
    means = trained_on.mean(0)
    replaced = torch.zeros_like(means) if to == "zero" else means
    known = attributes(Units((p,)), images.label, logits.softmax(-1), None, weight)
    without = without_each(logits, p, replaced, weight)
    in_training = [
        damage(training.logits(), without_each(training.logits(), trained_on, r, weight), training.label)
        for r in ((replaced,) if replaced is means else (replaced, means))
    ]
    harm = record_damage(found, layer, to, logits, without, images.label, known, in_training[0])

    def accuracy_of(order: Tensor) -> list[float]:
        accuracy = []
        for fraction in REMOVED:
            left, gone = p.clone(), order[: round(fraction * len(means))].to(p.device)
            left[:, gone] = means[gone]
            with torch.no_grad():
                right = linear(left).argmax(1) == images.label
            accuracy.append(float(right.double().mean()))
        return accuracy

    add_removal(
        *(found, training, Units((trained_on,)), in_training[-1], weight),
        accuracy_of,
        "Accuracy without fine-tuning: removed units are their training mean. Units are ranked on training images, accuracy "
        "is of these.",
    )
    among = "" if len(on_page) == len(p) else f" among the {len(on_page)} of this page"
    found.page["units"] = unit_rows(
        *(found, harm, images.names, p[on_page], known["class_selectivity"]),
        units="an input of the last linear layer",
        drive=f"images that drive it most{among}",
    )
    add_correlations(found)
