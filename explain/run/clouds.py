"""What `dropfold explain` finds of a run on clouds: maps, curves, the game, units; as JSON, arrays and a page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dropfold.explain.maps.explanation import Explanation, effective_points
from dropfold.explain.maps.maps import explain
from dropfold.explain.page.page import shape_of
from dropfold.explain.run.found import BATCH, Clouds, Found, in_words, mean, mean_interval, percent
from dropfold.explain.run.units import explain_units
from dropfold.explain.score.curves import FRACTIONS, dropping, sanity
from dropfold.explain.score.game import FIRST, pairs, two_shape_game
from dropfold.explain.score.saliency import saliency
from dropfold.explain.units.ablation import To
from dropfold.train.tasks.points import to_base64

GAME_PAIRS = 54


def explain_clouds(clouds: Clouds, training: Clouds, methods: Sequence[str], to: To, seed: int = 0) -> Found:
    """Everything, of the test split; what replaces units, and their ranking, is of `training` clouds."""
    logits = clouds.logits()
    order = logits.argsort(dim=1, descending=True)
    found = Found()
    maps = explain_maps(clouds, found, logits, order)
    explain_curves(clouds, found, methods, order[:, 0], maps, seed)
    play(clouds, found, methods, logits, seed)
    explain_units(clouds, found, training, logits, to)
    return found


def explain_maps(clouds: Clouds, found: Found, logits: Tensor, order: Tensor) -> Explanation:
    """The predicted class, the runner-up and their difference, with their accounts."""
    first, second = (in_batches(clouds, order[:, place]) for place in (0, 1))
    difference = first.contrast(second)
    accounts = {"predicted": first, "runner_up": second, "difference": difference}
    found.values |= {name: e.to_json() for name, e in accounts.items()}
    found.values |= {"classes": clouds.names, "label": clouds.label.tolist()}
    found.values["effective_points"] = {"predicted": mean(effective_points(first.scores))}
    found.arrays |= {f"scores/{name}": e.scores.cpu().numpy() for name, e in accounts.items()}
    found.arrays |= {"logits": logits.cpu().numpy(), "label": clouds.label.cpu().numpy()}
    found.page["notes"] = list(first.notes)
    curve = dropping(clouds.network, clouds.x, first.scores, (0.0, *FRACTIONS))
    p = curve.logits.double().softmax(-1)
    shapes = []
    for i in range(len(first)):
        label, predicted = int(clouds.label[i]), int(order[i, 0])
        note = f"{clouds.names[label]} → {clouds.names[predicted]}"
        shape = shape_of([first, second, difference], i, clouds.title[i], note)
        ranks = first.scores[i].argsort(descending=True, stable=True).argsort().cpu().numpy()
        shown = list(dict.fromkeys([predicted, int(order[i, 1]), label]))
        shapes.append(
            {
                **shape,
                "label": label,
                "wrong": label != predicted,
                "rank": to_base64(ranks.astype(np.uint16)),
                "steps": [[[c, round(float(p[s, i, c]), 4)] for c in shown] for s in range(len(p))],
            }
        )
    found.page |= {"shapes": shapes, "names": clouds.names, "fractions": list(curve.fractions)}
    return first


def in_batches(clouds: Clouds, target: Tensor) -> Explanation:
    """`explain` of all clouds, a few at a time: the plain forward of the account stores every activation."""
    parts = [
        explain(clouds.network, x, c, class_names=clouds.names)
        for x, c in zip(clouds.x.split(BATCH), target.split(BATCH), strict=True)
    ]
    return join(parts)


def join(parts: Sequence[Explanation]) -> Explanation:
    """Explanations of more samples as one."""
    one = parts[0]
    return Explanation(
        torch.cat([e.scores for e in parts]),
        {name: torch.cat([e.account[name] for e in parts]) for name in one.account},
        torch.cat([e.logit for e in parts]),
        torch.cat([e.target for e in parts]),
        one.method,
        one.layer,
        points=None if one.points is None else torch.cat([e.points for e in parts if e.points is not None]),
        notes=tuple(dict.fromkeys(note for e in parts for note in e.notes)),
        class_names=one.class_names,
    )


def explain_curves(
    clouds: Clouds, found: Found, methods: Sequence[str], target: Tensor, maps: Explanation, seed: int
) -> None:
    """Accuracy after the most, and after the least salient points are gone; each method's time, spread and sanity."""
    values: dict[str, Any] = {}
    for name in methods:
        start = time.perf_counter()
        scores = saliency(clouds.network, clouds.x, target, name, seed)
        seconds = time.perf_counter() - start
        curves = {
            order: dropping(clouds.network, clouds.x, scores, FRACTIONS, order).right(clouds.label)
            for order in ("most", "least")
        }
        left = mean_interval(curves["most"].mean(0))  # of each cloud's mean over the fractions
        some = slice(0, 2 * BATCH)
        checked = sanity(clouds.network, clouds.x[some], target[some], name, seed=seed)
        values[name] = {
            **{order: right.mean(1).tolist() for order, right in curves.items()},
            "most_mean": left[0],
            "most_interval": left[1:],
            "effective_points": mean(effective_points(scores)),
            "head_randomised": mean(checked),
            "seconds": seconds,
        }
        found.arrays[f"dropping/{name}"] = curves["most"].cpu().numpy().astype(bool)
    found.values["dropping"] = {"fractions": list(FRACTIONS), "methods": values}
    clean = float((clouds.logits().argmax(1) == clouds.label).double().mean())
    charts = [
        {
            "title": f"Accuracy without the {order} salient share of points",
            "lines": [{"name": in_words(n), "y": [clean, *values[n][order]]} for n in methods],
            "x": [0.0, *FRACTIONS],
            "share": True,
        }
        for order in ("most", "least")
    ]
    text = (
        "A map that finds what the network needs makes accuracy fall fast on the left, and not on the right. "
        f"{len(clouds.x)} clouds, one seed: over seeds the order of close methods changes."
    )
    found.page["curves"] = {"text": text, "charts": charts}
    rows = [
        [in_words(n), percent(v["most_mean"]), "{} to {}".format(*map(percent, v["most_interval"])),
         f"{v['effective_points']:.0f}", f"{v['head_randomised']:+.2f}", f"{v['seconds']:.2f} s"]
        for n, v in values.items()
    ]  # fmt: skip
    text = (
        "Mean accuracy over the five steps, lower is better, with its 95 % bootstrap interval over clouds; how many points "
        "share the evidence; the rank correlation with the map of the network whose last layer is drawn anew: a score about "
        "the class falls to 0, one that knows no class stays at 1."
    )
    head = ["score", "accuracy left", "interval", "effective points", "head drawn anew", "time"]
    found.page["tables"] = [{"title": "Scores beside each other", "text": text, "head": head, "rows": rows}]


def play(clouds: Clouds, found: Found, methods: Sequence[str], logits: Tensor, seed: int) -> None:
    """The two-shape game."""
    chosen = pairs(logits, clouds.label, GAME_PAIRS, seed)
    games = {n: two_shape_game(clouds.network, clouds.x, clouds.label, chosen, n, seed) for n in methods}
    values, rows, valid = {}, [], 0.0
    for name, game in games.items():
        top, low, high = (
            None if value != value else value for value in game.mean_top()
        )  # NaN: no pair is valid
        valid = game.share_valid if len(chosen) else 0.0
        values[name] = {"top": top, "low": low, "high": high}
        shown = ["–", "–"] if top is None else [f"{top:.3f}", f"{low:.3f} to {high:.3f}"]
        rows.append([in_words(name), *shown])
    found.values["two_shape_game"] = {"pairs": len(chosen), "valid": valid, "methods": values}
    text = (
        "Two shapes of different classes lie in one cloud: how much of the top eighth of the points for a class is on its "
        f"own shape? Chance, and every score that knows no class: 0.5. {round(valid * len(chosen))} of {len(chosen)} pairs "
        f"count, in which both classes are among the network's first {FIRST}."
    )
    head = ["score", "on its own shape", "95 % interval"]
    found.page["tables"].append(
        {"title": "Two shapes in one cloud", "text": text, "head": head, "rows": rows}
    )
