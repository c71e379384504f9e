"""What `dropfold explain` finds of a run on clouds: maps, curves, the game, units; as JSON, arrays and a page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.explain.maps.explanation import Explanation, effective_points
from dropfold.explain.maps.maps import explain
from dropfold.explain.page.page import shape_of
from dropfold.explain.score.curves import FRACTIONS, dropping, sanity
from dropfold.explain.score.game import FIRST, pairs, two_shape_game
from dropfold.explain.score.saliency import CLASS_AGNOSTIC, saliency, winning_points
from dropfold.explain.units.ablation import To, Units, each_unit, pooled_layer, unit_values
from dropfold.explain.units.damage import Damage, attributes, correlations, damage
from dropfold.explain.units.removal import FRACTIONS as REMOVED
from dropfold.explain.units.removal import cumulative_accuracy
from dropfold.models import NETWORKS
from dropfold.train.scoring.intervals import resample
from dropfold.train.tasks.points import to_base64

BATCH = 16
SHOWN_UNITS = 24
SHAPES_OF_A_UNIT = 6
GAME_PAIRS = 54


@dataclass
class Found:
    """values: explanation.json; arrays: explanation.npz; page: what the page shows."""

    values: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    page: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Clouds:
    """A trained network, the clouds x [n, N, C] of a split, their classes [n] and their names."""

    network: nn.Module
    x: Tensor
    label: Tensor
    title: list[str]
    names: list[str]

    def logits(self) -> Tensor:
        """[n, classes]."""
        return dropping(self.network, self.x, self.x[..., 0], (0.0,)).logits[0]


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
    clouds: Clouds, found: Found, harm: Damage, values: Tensor, selectivity: Tensor, winners: Tensor
) -> dict[str, Any]:
    """The units that harm a class most, and the clouds that drive each, with the point that wins its max."""
    summary, rows = found.values["units"], []
    for u in harm.worst_class_loss.argsort(descending=True)[:SHOWN_UNITS].tolist():
        shapes = values[:, u].topk(min(SHAPES_OF_A_UNIT, len(values))).indices.tolist()
        worst = clouds.names[int(harm.worst_class[u])]
        rows.append(
            {
                "unit": u,
                "loss": float(harm.loss[u]),
                "classes": [None if v != v else round(v, 5) for v in harm.class_loss[u].tolist()],
                "selectivity": float(selectivity[u]),
                "shapes": [[k, int(winners[k, u]), round(float(values[k, u]), 4)] for k in shapes],
                "words": f"Unit {u}: removing it costs {worst} most, {float(harm.worst_class_loss[u]):.3f} of log p, and "
                f"{float(harm.loss[u]):.4f} over all. The clouds that drive it, each with the point that wins its max:",
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


def mean_interval(values: Tensor) -> tuple[float, float, float]:
    """The mean of values [n] and its 95 % bootstrap interval."""
    v = values.double().cpu().numpy()
    return float(v.mean()), *resample(len(v), lambda times: times @ v / len(v))


def mean(values: Tensor) -> float:
    """As a number."""
    return float(values.double().mean())


def percent(share: float) -> str:
    """For readers."""
    return f"{100 * share:.1f} %"


def in_words(name: str) -> str:
    """ "xgrad_cam" as it is written."""
    known = {"xgrad_cam": "XGrad-CAM", "grad_cam": "Grad-CAM"}
    return known.get(name, name.replace("_", " ")) + (" (no class)" if name in CLASS_AGNOSTIC else "")
