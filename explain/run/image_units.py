"""What `dropfold explain` finds of the units of a run on images: what goes into the last linear layer.

logits = W p + b        without unit u, which becomes r: logits + (r - p_u) W[:, u], rank one and exact
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dropfold.explain.cut.passes import as_it_was
from dropfold.explain.run.found import Found, in_words, mean, percent
from dropfold.explain.units.ablation import To, Units
from dropfold.explain.units.damage import Damage, attributes, correlations, damage
from dropfold.explain.units.removal import FRACTIONS as REMOVED

if TYPE_CHECKING:
    from dropfold.explain.run.images import Images

BATCH = 64
SHOWN_UNITS = 24
IMAGES_OF_A_UNIT = 6


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


def explain_image_units(images: Images, found: Found, training: Images, logits: Tensor, to: To) -> None:
    """The units, each removed in turn, replaced by its mean over `training` images or by 0; and many at once."""
    layer = last_linear(images.network, images.x)
    if layer is None:
        found.page["notes"].append("no linear layer gives the logits, so units are left out.")
        return
    linear: Any = images.network.get_submodule(layer)
    weight = linear.weight.detach()
    p, trained_on = (inputs_of(images.network, layer, some.x) for some in (images, training))
    means = trained_on.mean(0)
    replaced = torch.zeros_like(means) if to == "zero" else means
    harm = damage(logits, without_each(logits, p, replaced, weight), images.label)
    known = attributes(Units((p,)), images.label, logits.softmax(-1), None, weight)
    same = without_each(logits, p, replaced, weight).argmax(-1) == logits.argmax(-1)
    found.values["units"] = {
        "layer": layer,
        "to": to,
        "loss_mean": mean(harm.loss),
        "loss_worst": float(harm.loss.max()),
        "worst_class_loss_mean": mean(harm.worst_class_loss),
        "worst_class_loss_worst": float(harm.worst_class_loss.max()),
        "change_no_prediction": mean(same.all(1)),
        "correlations": correlations(known, harm),
    }
    found.arrays |= {f"units/{name}": v.cpu().numpy() for name, v in (*vars(harm).items(), *known.items())}
    found.page["tables"].append(removed_table(images, found, training, p, trained_on, linear))
    found.page["units"] = unit_rows(images, found, harm, p, known["class_selectivity"])
    head = ["attribute", "with the loss over all", "with the worst class's loss"]
    rows = [
        [in_words(name), *(f"{r['r']:+.2f} ({r['low']:+.2f} to {r['high']:+.2f})" for r in both.values())]
        for name, both in found.values["units"]["correlations"].items()
    ]
    text = "Pearson's r over units, with Fisher's 95 % interval: which attribute tells what removing a unit would do?"
    found.page["tables"].append(
        {"title": "What tells a unit's damage", "text": text, "head": head, "rows": rows}
    )


def removed_table(
    images: Images, found: Found, training: Images, p: Tensor, trained_on: Tensor, linear: Any
) -> dict[str, Any]:
    """Accuracy with most units replaced by their training mean: least important first, ranked on training images."""
    means, logits = trained_on.mean(0), training.logits()
    without = without_each(logits, trained_on, means, linear.weight.detach())
    known = attributes(Units((trained_on,)), training.label, logits.softmax(-1), None, linear.weight)
    scores = {
        "exact ablation": damage(logits, without, training.label).loss,
        "std x out-weights": known["std_x_out"],
        "random": torch.rand(len(means), generator=torch.Generator().manual_seed(0)),
    }
    accuracy: dict[str, list[float]] = {}
    for name, score in scores.items():
        order, accuracy[name] = score.argsort(stable=True).to(p.device), []
        for fraction in REMOVED:
            left = p.clone()
            gone = order[: round(fraction * len(means))]
            left[:, gone] = means[gone]
            with torch.no_grad():
                right = linear(left).argmax(1) == images.label
            accuracy[name].append(float(right.double().mean()))
    found.values["units"]["removed"] = {"fractions": list(REMOVED), "accuracy": accuracy}
    head = ["order", *(f"{100 * fraction:.0f} % removed" for fraction in REMOVED)]
    rows = [[name, *map(percent, row)] for name, row in accuracy.items()]
    text = (
        "Accuracy without fine-tuning: removed units are their training mean. Units are ranked on training images, accuracy "
        "is of these."
    )
    return {"title": "Removing many units", "text": text, "head": head, "rows": rows}


def unit_rows(images: Images, found: Found, harm: Damage, p: Tensor, selectivity: Tensor) -> dict[str, Any]:
    """The units that harm a class most, and the images of the page that drive each."""
    summary, rows, shown = found.values["units"], [], len(found.page["images"])
    for u in harm.worst_class_loss.argsort(descending=True)[:SHOWN_UNITS].tolist():
        strongest = p[:shown, u].topk(min(IMAGES_OF_A_UNIT, shown)).indices.tolist()
        worst = images.names[int(harm.worst_class[u])]
        rows.append(
            {
                "unit": u,
                "loss": float(harm.loss[u]),
                "classes": [None if v != v else round(v, 5) for v in harm.class_loss[u].tolist()],
                "selectivity": float(selectivity[u]),
                "shapes": [[k, -1, round(float(p[k, u]), 4)] for k in strongest],
                "words": f"Unit {u}: removing it costs {worst} most, {float(harm.worst_class_loss[u]):.3f} of log p, and "
                f"{float(harm.loss[u]):.4f} over all. The images that drive it:",
            }
        )
    ratio = summary["worst_class_loss_mean"] / max(summary["loss_mean"], 1e-12)
    replaced = "its training mean" if summary["to"] == "mean" else "0"
    text = (
        f"Fall of log p(truth) when an input of the last linear layer is replaced by {replaced}: {summary['loss_mean']:.4f} "
        f"over all and {summary['worst_class_loss_mean']:.3f} for its worst class ({ratio:.0f} times), in the mean of "
        f"{len(harm.loss):,} units; {percent(summary['change_no_prediction'])} of them change no prediction. Below are the "
        f"{len(rows)} that harm a class most; click one."
    )
    return {"text": text, "rows": rows}
