"""What `dropfold explain` measures of scores of points: curves, infidelity, layers drawn anew, spread, time, the game."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dropfold.explain.maps.explanation import effective_points
from dropfold.explain.run.found import BATCH, Clouds, Found, in_words, mean, mean_interval, percent
from dropfold.explain.score.curves import FRACTIONS, Curve, cascades, dropping, inserted_shares, unrelated
from dropfold.explain.score.game import FIRST, pairs, two_shape_games
from dropfold.explain.score.infidelity import SETS, SHARE, Drops, infidelity, random_drops
from dropfold.explain.score.saliency import IN_LOGITS, saliency
from dropfold.train.data.splits import stratified

GAME_PAIRS = 54


def score_maps(
    clouds: Clouds,
    found: Found,
    methods: Sequence[str],
    logits: Tensor,
    target: Tensor,
    seed: int,
    known: Mapping[str, tuple[Tensor, Curve]] | None = None,
) -> None:
    """Each method's maps of the predicted classes, by every measure, in tables and charts; of some the map and a curve of
    dropping at `FRACTIONS` and others are `known`."""
    drops = random_drops(clouds.network, clouds.x, target, seed, logits=logits)
    inserted = inserted_shares(clouds.network, clouds.x.shape[1])
    few = stratified(clouds.label, BATCH)
    sample = clouds.network, clouds.x[few], target[few], methods, seed
    anew, nothing_in_common = cascades(*sample), unrelated(*sample)
    values = {}
    for name in methods:
        start = time.perf_counter()
        scores = saliency(clouds.network, clouds.x, target, name, seed)
        seconds = time.perf_counter() - start
        if known and name in known:
            scores, curve = known[name]
            most = curve.at(FRACTIONS)
        else:
            most = dropping(clouds.network, clouds.x, scores, FRACTIONS)
        values[name] = {
            **_measure(clouds, found, name, scores, most, drops, inserted),
            "drawn_anew": {layer: mean(rho) for layer, rho in anew[name].items()},
            "two_drawn_anew": mean(nothing_in_common[name]),
            "seconds_a_map": seconds / len(clouds.x),
        }
    found.values["dropping"] = {
        "fractions": list(FRACTIONS),
        "inserted": list(inserted),
        "sets": {"count": SETS, "share": SHARE},
        "methods": values,
    }
    found.page["curves"] = _charts(clouds, values, inserted, percent_right(logits, clouds.label))
    found.page.setdefault("tables", []).append(_table(values))


def percent_right(logits: Tensor, label: Tensor) -> float:
    """The accuracy of logits, 0 to 1."""
    return mean((logits.argmax(1) == label).double())


def _measure(
    clouds: Clouds,
    found: Found,
    name: str,
    scores: Tensor,
    most: Curve,
    drops: Drops,
    inserted: Sequence[float],
) -> dict[str, Any]:
    network, x, label = clouds.network, clouds.x, clouds.label
    curves = {"most": most.right(label)}
    some = [share for share in inserted if share < 1]
    curves["inserted"] = dropping(network, x, scores, some, "insertion").right(label)
    left = mean_interval(curves["most"].mean(0))  # of each cloud's mean over the fractions
    of_sets = infidelity(scores, drops)
    found.arrays[f"dropping/{name}"] = curves["most"].cpu().numpy().astype(bool)
    return {
        **{order: right.mean(1).tolist() for order, right in curves.items()},
        "most_mean": left[0],
        "most_interval": left[1:],
        "inserted_mean": mean(curves["inserted"].mean(0)),
        "effective_points": mean(effective_points(scores)),
        "infidelity": of_sets.relative(of_sets.as_it_is) if name in IN_LOGITS else None,
        "infidelity_scaled": of_sets.relative(of_sets.scaled),
    }


def _charts(
    clouds: Clouds, values: dict[str, Any], inserted: Sequence[float], clean: float
) -> dict[str, Any]:
    shares = [0.0, *FRACTIONS]
    charts: list[dict[str, Any]] = [
        {
            "title": "Accuracy without the most salient share of points",
            "lines": [{"name": in_words(n), "y": [clean, *v["most"]]} for n, v in values.items()],
            "x": shares,
            "share": True,
        },
        {
            "title": "Accuracy with the most salient share of points alone",
            "lines": [{"name": in_words(n), "y": [*v["inserted"], clean]} for n, v in values.items()],
            "x": [*(share for share in inserted if share < 1), 1.0],
            "share": True,
        },
    ]
    layers = list(next(iter(values.values()))["drawn_anew"])
    charts.append(
        {
            "title": f"Layers drawn anew, from {layers[0]} down to {layers[-1]}: rank correlation of the map with its own",
            "lines": [
                {"name": in_words(n), "y": [1.0, *v["drawn_anew"].values()]} for n, v in values.items()
            ],
            "x": ["none", *layers],
        }
    )
    text = (
        "A map that finds what the network needs makes accuracy fall fast where its most salient points are dropped, and "
        f"rise fast where they come first. {len(clouds.x)} clouds, one seed: over seeds the order of close methods changes."
    )
    return {"text": text, "charts": charts}


def _table(values: dict[str, Any]) -> dict[str, Any]:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    rows = []
    for name, v in values.items():
        anew = list(v["drawn_anew"].values())
        rows.append(
            [in_words(name), percent(v["most_mean"]), "{} to {}".format(*map(percent, v["most_interval"])),
             percent(v["inserted_mean"]), number(v["infidelity"]), number(v["infidelity_scaled"]),
             f"{v['effective_points']:.0f}", f"{anew[0]:.2f}", f"{anew[-1]:.2f}",
             f"{v['two_drawn_anew']:.2f}", f"{1000 * v['seconds_a_map']:.1f} ms"]
        )  # fmt: skip
    text = (
        "Mean accuracy over the steps of dropping, lower is better, with its 95 % bootstrap interval over clouds, and over "
        "those of insertion, higher is better. Infidelity (Yeh et al. 2019): how far the scores of "
        f"{SETS} random sets of {SHARE:.0%} of the points are from the fall of the logit without them, squared, 1 for maps "
        "of zeros; as they are, if they are in logits, and with a factor, fitted on other sets: random scores say no more "
        "than the mean fall. How many points share the evidence. |Rank correlation| with the map of the network whose last "
        f"layer, and whose every layer, is drawn anew (of up to {BATCH} clouds, of each class its share), and of two such "
        "networks with each other: a score about what was learnt falls from 1 to that level; one that knows no class stays "
        "at 1 where the last layer alone is. Time of one map."
    )
    head = ["score", "accuracy left", "interval", "inserted", "infidelity", "with a factor", "effective points",
            "last layer anew", "all anew", "two anew", "a map"]  # fmt: skip
    return {"title": "Scores beside each other", "text": text, "head": head, "rows": rows}


def play(clouds: Clouds, found: Found, methods: Sequence[str], logits: Tensor, seed: int) -> None:
    """The two-shape game."""
    chosen = pairs(logits, clouds.label, GAME_PAIRS, seed)
    games = two_shape_games(clouds.network, clouds.x, clouds.label, chosen, methods, seed)
    values, rows, valid = {}, [], 0.0
    for name, game in games.items():
        top, low, high = (
            None if value != value else value for value in game.mean_top()
        )  # NaN: no pair is valid
        valid = game.share_valid if len(chosen) else 0.0
        values[name] = {"top": top, "low": low, "high": high}
        found.arrays[f"game/{name}"] = game.top.cpu().numpy()
        found.arrays["game/valid"] = game.valid.cpu().numpy()
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
