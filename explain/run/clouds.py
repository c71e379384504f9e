"""What `dropfold explain` finds of a run on clouds: maps, their scores, the game, units; as JSON, arrays and a page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dropfold.explain.maps.explanation import Explanation, effective_points
from dropfold.explain.maps.maps import explain_each
from dropfold.explain.page.page import shape_of
from dropfold.explain.run.found import BATCH, Clouds, Found, check_runner_up, join, mean
from dropfold.explain.run.scores import play, score_maps
from dropfold.explain.run.units import explain_units
from dropfold.explain.score.curves import Curve, dropping
from dropfold.explain.units.ablation import To
from dropfold.train.tasks.points import to_base64

DROPPED = tuple(i / 10 for i in range(1, 10))  # the steps of the slider


def explain_clouds(clouds: Clouds, training: Clouds, methods: Sequence[str], to: To, seed: int = 0) -> Found:
    """Everything, of the test split; what replaces units, and their ranking, is of `training` clouds."""
    logits = clouds.logits()
    order = logits.argsort(dim=1, descending=True)
    found = Found()
    first, curve = explain_maps(clouds, found, logits, order)
    score_maps(clouds, found, methods, logits, order[:, 0], seed, {first.method: (first.scores, curve)})
    play(clouds, found, methods, logits, seed)
    explain_units(clouds, found, training, logits, to)
    return found


def explain_maps(clouds: Clouds, found: Found, logits: Tensor, order: Tensor) -> tuple[Explanation, Curve]:
    """The predicted class, the runner-up and their difference, with their accounts; and what dropping says of the first."""
    check_runner_up(clouds.names)
    first, second = in_batches(clouds, order[:, :2])
    difference = first.contrast(second)
    accounts = {"predicted": first, "runner_up": second, "difference": difference}
    found.values |= {name: e.to_json() for name, e in accounts.items()}
    found.values |= {"classes": clouds.names, "label": clouds.label.tolist()}
    found.values["effective_points"] = {"predicted": mean(effective_points(first.scores))}
    found.arrays |= {f"scores/{name}": e.scores.cpu().numpy() for name, e in accounts.items()}
    found.arrays |= {"logits": logits.cpu().numpy(), "label": clouds.label.cpu().numpy()}
    found.page["notes"] = list(first.notes)
    curve = dropping(clouds.network, clouds.x, first.scores, DROPPED)
    p = torch.cat([logits[None], curve.logits]).double().softmax(-1)
    shapes = []
    for i in range(len(first)):
        label, predicted = int(clouds.label[i]), int(order[i, 0])
        known = label >= 0
        note = f"{clouds.names[label]} → {clouds.names[predicted]}" if known else first.sentence(i)
        shape = shape_of([first, second, difference], i, clouds.title[i], note)
        ranks = first.scores[i].argsort(descending=True, stable=True).argsort().cpu().numpy()
        shown = list(dict.fromkeys([predicted, int(order[i, 1]), *[label] * known]))
        shapes.append(
            {
                **shape,
                "label": label,
                "wrong": known and label != predicted,
                "rank": to_base64(ranks.astype(np.uint16)),
                "steps": [[[c, round(float(p[s, i, c]), 4)] for c in shown] for s in range(len(p))],
            }
        )
    found.page |= {"shapes": shapes, "names": clouds.names, "fractions": [0.0, *curve.fractions]}
    return first, curve


def in_batches(clouds: Clouds, targets: Tensor) -> list[Explanation]:
    """`explain` of all clouds for classes [n, T], one explanation for each of the T, a few clouds at a time: the plain
    forward of the account stores every activation."""
    parts = [
        explain_each(clouds.network, x, classes.unbind(1), class_names=clouds.names)
        for x, classes in zip(clouds.x.split(BATCH), targets.split(BATCH), strict=True)
    ]
    return [join(one) for one in zip(*parts, strict=True)]
