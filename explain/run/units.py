"""What `dropfold explain` finds of the pooled units of a run on clouds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dropfold.explain.run.found import BATCH, Clouds, Found, in_words, mean, percent
from dropfold.explain.score.saliency import winning_points
from dropfold.explain.units.ablation import To, Units, each_unit, pooled_layer, unit_values
from dropfold.explain.units.damage import Damage, attributes, correlations, damage
from dropfold.explain.units.removal import FRACTIONS as REMOVED
from dropfold.explain.units.removal import cumulative_accuracy
from dropfold.models import NETWORKS, PointNet2

SHOWN_UNITS = 24
SHAPES_OF_A_UNIT = 6


def explain_units(clouds: Clouds, found: Found, training: Clouds, logits: Tensor, to: To) -> None:
    """The pooled units, each removed in turn: of the test split, replaced by the mean of `training` clouds or by 0."""
    network: Any = clouds.network
    if not any(isinstance(network, known.classification) for known in NETWORKS.values()):
        return
    trained_on = values_of(network, training.x)
    means = trained_on.means()
    replaced: Any = "zero" if to == "zero" else means
    without = torch.cat([each_unit(network, part, to=replaced) for part in clouds.x.split(BATCH)], 1)
    harm = damage(logits, without, clouds.label)
    values = values_of(network, clouds.x)
    layer = network.get_submodule(pooled_layer(network))
    layer = layer.layers[-1] if hasattr(layer, "layers") else layer
    known = attributes(
        values, clouds.label, logits.softmax(-1), layer.matrix().weight, network.fc1.matrix().weight
    )
    found.values["units"] = {
        "layer": pooled_layer(network),
        "to": to,
        "loss_mean": mean(harm.loss),
        "loss_worst": float(harm.loss.max()),
        "worst_class_loss_mean": mean(harm.worst_class_loss),
        "worst_class_loss_worst": float(harm.worst_class_loss.max()),
        "change_no_prediction": mean((without.argmax(-1) == logits.argmax(-1)).all(1)),
        "correlations": correlations(known, harm),
    }
    found.arrays |= {f"units/{name}": v.cpu().numpy() for name, v in (*vars(harm).items(), *known.items())}
    remove_units(clouds, found, training, values, trained_on, known["l1_in"])
    winners = None  # of PointNet++ they are centres, and the page shows points
    if not isinstance(network, PointNet2):
        winners = torch.cat([winning_points(network, part) for part in clouds.x.split(BATCH)])
    found.page["units"] = unit_rows(clouds, found, harm, values.parts[0], known["class_selectivity"], winners)
    head = ["attribute", "with the loss over all", "with the worst class's loss"]
    rows = [
        [in_words(name), *(f"{r['r']:+.2f} ({r['low']:+.2f} to {r['high']:+.2f})" for r in both.values())]
        for name, both in found.values["units"]["correlations"].items()
    ]
    text = "Pearson's r over units, with Fisher's 95 % interval: which attribute tells what removing a unit would do?"
    found.page["tables"].append(
        {"title": "What tells a unit's damage", "text": text, "head": head, "rows": rows}
    )


def remove_units(
    clouds: Clouds, found: Found, training: Clouds, values: Units, trained_on: Units, l1_in: Tensor
) -> None:
    """Test accuracy with most units replaced by their training mean: least important first, ranked on training clouds."""
    network: Any = clouds.network
    means, logits = trained_on.means(), training.logits()
    without = torch.cat([each_unit(network, part, to=means) for part in training.x.split(BATCH)], 1)
    known = attributes(trained_on, training.label, logits.softmax(-1), None, network.fc1.matrix().weight)
    scores = {
        "exact ablation": damage(logits, without, training.label).loss,
        "std x out-weights": known["std_x_out"],
        "L1 of in-weights": l1_in,
        "random": torch.rand(values.count, generator=torch.Generator().manual_seed(0)),
    }
    accuracy = {
        name: cumulative_accuracy(network, values, clouds.label, score.argsort(stable=True), means)
        for name, score in scores.items()
    }
    found.values["units"]["removed"] = {"fractions": list(REMOVED), "accuracy": accuracy}
    head = ["order", *(f"{100 * fraction:.0f} % removed" for fraction in REMOVED)]
    rows = [[name, *map(percent, row)] for name, row in accuracy.items()]
    text = (
        "Accuracy of the smaller network that is left, without fine-tuning: removed units are folded into the next bias by "
        "their training mean. Units are ranked on training clouds, accuracy is of these."
    )
    found.page["tables"].append({"title": "Removing many units", "text": text, "head": head, "rows": rows})


def unit_rows(
    clouds: Clouds, found: Found, harm: Damage, values: Tensor, selectivity: Tensor, winners: Tensor | None
) -> dict[str, Any]:
    """The units that harm a class most, and the clouds that drive each, with the point that wins its max."""
    summary, rows = found.values["units"], []
    won = "" if winners is None else ", each with the point that wins its max"
    for u in harm.worst_class_loss.argsort(descending=True)[:SHOWN_UNITS].tolist():
        shapes = values[:, u].topk(min(SHAPES_OF_A_UNIT, len(values))).indices.tolist()
        worst = clouds.names[int(harm.worst_class[u])]
        rows.append(
            {
                "unit": u,
                "loss": float(harm.loss[u]),
                "classes": [None if v != v else round(v, 5) for v in harm.class_loss[u].tolist()],
                "selectivity": float(selectivity[u]),
                "shapes": [
                    [k, -1 if winners is None else int(winners[k, u]), round(float(values[k, u]), 4)]
                    for k in shapes
                ],
                "words": f"Unit {u}: removing it costs {worst} most, {float(harm.worst_class_loss[u]):.3f} of log p, and "
                f"{float(harm.loss[u]):.4f} over all. The clouds that drive it{won}:",
            }
        )
    ratio = summary["worst_class_loss_mean"] / max(summary["loss_mean"], 1e-12)
    replaced = "its training mean" if summary["to"] == "mean" else "0"
    text = (
        f"Fall of log p(truth) when a unit of {summary['layer']} is replaced by {replaced}: {summary['loss_mean']:.4f} over "
        f"all and {summary['worst_class_loss_mean']:.3f} for its worst class ({ratio:.0f} times), in the mean of "
        f"{len(harm.loss):,} units; {percent(summary['change_no_prediction'])} of them change no prediction. Below are the "
        f"{len(rows)} that harm a class most; click one."
    )
    return {"text": text, "rows": rows}


def values_of(network: nn.Module, x: Tensor) -> Units:
    """The pooled values of many clouds."""
    parts = [unit_values(network, part).parts for part in x.split(BATCH)]
    return Units(tuple(torch.cat(part) for part in zip(*parts, strict=True)))
