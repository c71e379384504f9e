"""What is said of the units of any run: their damage as numbers and tables, and the rows of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from dropfold.explain.run.found import Found, in_words, mean, percent
from dropfold.explain.units.ablation import To, Units
from dropfold.explain.units.damage import Damage, attributes, correlations, damage
from dropfold.explain.units.removal import FRACTIONS as REMOVED

SHOWN = 24  # units of the page
DRIVEN = 6  # samples of each

Attributes = dict[str, Tensor]


def record_damage(
    found: Found,
    layer: str,
    to: To,
    logits: Tensor,
    without: Tensor,
    label: Tensor,
    known: Attributes,
    training: Damage,
) -> Damage:
    """The numbers and arrays of the units of `layer`: logits [n, K], and those `without` each unit [U, n, K]. A unit's worst
    class is that of the `training` samples."""
    harm = damage(logits, without, label, training)
    found.values["units"] = {
        "layer": layer,
        "to": to,
        "loss_mean": mean(harm.loss),
        "loss_worst": float(harm.loss.max()),
        "worst_class_loss_mean": mean(harm.worst_class_loss),
        "worst_class_loss_worst": float(harm.worst_class_loss.max()),
        "change_no_prediction": mean((without.argmax(-1) == logits.argmax(-1)).all(1)),
        "correlations": correlations(known, harm),
    }
    found.arrays |= {f"units/{name}": v.cpu().numpy() for name, v in (*vars(harm).items(), *known.items())}
    return harm


def add_correlations(found: Found) -> None:
    """The table of what tells a unit's damage."""
    rows = [
        [in_words(name), *(f"{r['r']:+.2f} ({r['low']:+.2f} to {r['high']:+.2f})" for r in both.values())]
        for name, both in found.values["units"]["correlations"].items()
    ]
    text = (
        "Pearson's r over units, with Fisher's 95 % interval: which attribute tells what removing a unit would do? The "
        "worst class is that of training samples."
    )
    head = ["attribute", "with the loss over all", "with the worst class's loss"]
    found.page["tables"].append(
        {"title": "What tells a unit's damage", "text": text, "head": head, "rows": rows}
    )


class Ranking(Protocol):
    """The samples that units are ranked on: their classes [n] and logits [n, K]."""

    @property
    def label(self) -> Tensor: ...

    def logits(self) -> Tensor: ...


def add_removal(
    found: Found,
    training: Ranking,
    values: Units,
    harm: Damage,
    weight: Tensor,
    accuracy_of: Callable[[Tensor], list[float]],
    text: str,
    more: Mapping[str, Tensor] | None = None,
) -> None:
    """The accuracy with most units replaced by their training mean: least important first, by scores on `training`, and at
    random.

    values: the units of `training`; harm: what each does there; weight [K, U]: of the linear layer that reads the units;
    accuracy_of: by an order of units; more: scores [U] by name.
    """
    logits = training.logits()
    scores = {
        "exact ablation": harm.loss,
        "std x out-weights": attributes(values, training.label, logits.softmax(-1), None, weight)[
            "std_x_out"
        ],
        **(more or {}),
    }
    scores["random"] = torch.rand(len(harm.loss), generator=torch.Generator().manual_seed(0))
    accuracy = {name: accuracy_of(score.argsort(stable=True)) for name, score in scores.items()}
    found.values["units"]["removed"] = {"fractions": list(REMOVED), "accuracy": accuracy}
    head = ["order", *(f"{100 * fraction:.0f} % removed" for fraction in REMOVED)]
    rows = [[name, *map(percent, row)] for name, row in accuracy.items()]
    found.page["tables"].append({"title": "Removing many units", "text": text, "head": head, "rows": rows})


def unit_rows(
    found: Found,
    harm: Damage,
    names: list[str],
    values: Tensor,
    selectivity: Tensor,
    *,
    units: str,
    drive: str,
    winners: Tensor | None = None,
) -> dict[str, Any]:
    """The units that harm a class most, and of `values` [n, U] the samples that drive each, with the point that wins.

    units, drive: what they are, and the samples, in words.
    """
    summary, rows = found.values["units"], []
    for u in harm.worst_class_loss.argsort(descending=True)[:SHOWN].tolist():
        driving = values[:, u].topk(min(DRIVEN, len(values))).indices.tolist()
        worst = names[int(harm.worst_class[u])]
        rows.append(
            {
                "unit": u,
                "loss": float(harm.loss[u]),
                "classes": [None if v != v else round(v, 5) for v in harm.class_loss[u].tolist()],
                "selectivity": float(selectivity[u]),
                "shapes": [
                    [k, -1 if winners is None else int(winners[k, u]), round(float(values[k, u]), 4)]
                    for k in driving
                ],
                "words": f"Unit {u}: {worst}, the class that it harms most in training, loses "
                f"{float(harm.worst_class_loss[u]):.3f} of log p without it, and all classes {float(harm.loss[u]):.4f}. "
                f"The {drive}:",
            }
        )
    replaced = "its training mean" if summary["to"] == "mean" else "0"
    text = (
        f"Fall of log p(truth) when {units} is replaced by {replaced}: {summary['loss_mean']:.4f} over all and "
        f"{summary['worst_class_loss_mean']:.4f} for the class that suffers most in training, in the "
        f"mean of {len(harm.loss):,} units; {percent(summary['change_no_prediction'])} of them change no prediction. Below "
        f"are the {len(rows)} that harm that class most; click one."
    )
    return {"text": text, "rows": rows}
