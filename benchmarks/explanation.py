"""`python -m benchmarks.explanation RUN...`: which explanation holds, over the seeds of trained runs on clouds.

Each run is copied to OUT/NETWORK-NOISE/seed-SEED, explained there by `dropfold explain`, and measured by what that command
does not do: the axioms of maps per layer, units replaced by 0 beside units replaced by their mean, and Zheng's iterative
score where asked for. Whatever is there already is not made again, so that an interrupted study goes on.

Tables, over all runs in OUT:

    axioms    median over clouds of conservation, sensitivity and correlation, by layer and method
    dropping  accuracy without the most salient 10, 30 and 50 % of the points and their mean; and the other figures of a map
    game      share of the top eighth of points on the own shape; share of valid pairs
    units     what a pooled unit costs over all, and its worst class; how many units share the damage
    tells     Pearson's r over units of an attribute with the damage
    removed   accuracy without most of the units

A value is a run's. `mean` and `half_width` are Student's 95 % interval over seeds, and so are those of the difference to
XGrad-CAM, paired by seed. `difference_low` and `_high` are the 95 % percentile bootstrap of the same difference over test
shapes, each with its mean over seeds; in the game over the valid pairs of all seeds.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro

from benchmarks.harness import RESULTS
from dropfold.__main__ import main as dropfold
from dropfold.explain import axioms, dropping, saliency
from dropfold.explain.run.found import Clouds, Found
from dropfold.explain.run.units import explain_units
from dropfold.explain.score.axioms import before_pool
from dropfold.explain.score.curves import FRACTIONS
from dropfold.train.compare import table
from dropfold.train.data.splits import stratified
from dropfold.train.scoring.intervals import resample
from dropfold.train.storage import checkpoint
from dropfold.train.storage.provenance import commit, machine
from dropfold.train.storage.sealed import load_json
from dropfold.train.tasks.trained import Trained

METHODS = ("xgrad_cam", "grad_cam", "gradient_x_activation", "zheng", "feature_norm", "critical_points", "radius",
           "random")  # fmt: skip
BASE, ITERATIVE = "xgrad_cam", "zheng_iterative"
LOST = {"10 %": 0.1, "30 %": 0.3, "50 %": 0.5}
DEFAULT_LAYERS = {"pointnet": "conv2", "dgcnn": "edge1..4", "pointnet2": "sa2"}
MEASURED = "study"  # .json and .npz of what is measured here


@dataclass
class Options:
    """Explain trained runs on point clouds, and compare over their seeds."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of ended runs."""
    out: Path = Path("runs/explanation")
    """The folder of copies."""
    clouds: int = 24
    """Test clouds whose channels are ablated one by one at a network's default layer, of each class its share."""
    iterative: bool = False
    """Zheng's iterative score too: a backward pass for each fortieth of the points."""
    keep: bool = False
    """Write the tables to benchmarks/results, too."""


class Key(NamedTuple):
    """Which value of a run: "dropping", "", "grad_cam", "30 %"."""

    table: str
    layer: str
    method: str
    measure: str


Values = dict[Key, float]
Samples = dict[Key, np.ndarray]
"""Of the same keys the contribution of each sample [n], where the value is their mean or median."""


@dataclass
class Measured:
    """What is known of one run."""

    network: str
    noise: str
    seed: int
    values: Values
    samples: Samples
    source: dict[str, str]


def main(options: Options) -> None:
    for run in options.runs:
        copy = copy_of(run, options.out)
        explain_run(copy)
        measure_run(copy, options)
        print(write_tables(options))


def copy_of(run: Path, out: Path) -> Path:
    """The copy of a run, made if it is not there."""
    config, _ = checkpoint.load_config(run)
    place = out / f"{config.network}-{config.noise.kind}" / f"seed-{config.seed}"
    if not checkpoint.holds_run(place):
        checkpoint.load_summary(run)  # which only an ended run has
        shutil.copytree(run, place, dirs_exist_ok=True)
    return place


def explain_run(run: Path) -> None:
    """`dropfold explain` by all methods, where it is not done."""
    path = run / "explanation.json"
    if not path.exists() or not set(METHODS) <= set(load_json(path)["dropping"]["methods"]):
        dropfold(["explain", str(run), "--methods", *METHODS])


def measure_run(run: Path, options: Options) -> None:
    """study.json and study.npz, where they are not there or lack what is asked for."""
    path = run / f"{MEASURED}.json"
    values = load_json(path) if path.exists() else {}
    arrays = dict(checkpoint.load_arrays(path.with_suffix(".npz"))) if path.exists() else {}
    trained = Trained.of(run)
    clouds = clouds_of(trained, "test")
    if "axioms" not in values:
        for layer, few in layers_of(trained, clouds, options.clouds):
            target = clouds.logits()[few].argmax(1)
            for name, found in axioms(clouds.network, clouds.x[few], target, layer=layer).items():
                arrays |= {f"axioms/{layer}/{name}/{m}": v.cpu().numpy() for m, v in vars(found).items()}
        values["axioms"] = {"clouds": options.clouds}
        values |= {"commit": commit(), "machine": machine()}
    if "units" not in values:
        found = Found(page={"tables": []})
        explain_units(clouds, found, clouds_of(trained, "train"), clouds.logits(), "zero")
        values["units"] = found.values["units"]
        arrays["units/loss"] = found.arrays["units/loss"]
    if options.iterative and f"dropping/{ITERATIVE}" not in arrays:
        scores = saliency(clouds.network, clouds.x, clouds.logits().argmax(1), ITERATIVE)
        right = dropping(clouds.network, clouds.x, scores, FRACTIONS).right(clouds.label)
        arrays[f"dropping/{ITERATIVE}"] = right.cpu().numpy().astype(bool)
    checkpoint.save_arrays(path.with_suffix(".npz"), arrays)
    checkpoint.save_json(path, values)


def clouds_of(trained: Trained, split: Any) -> Clouds:
    """A split of a run's data as `dropfold explain` sees it."""
    samples, device = trained.split(split), next(trained.network.parameters()).device
    x, label = trained.task.inputs(samples, trained.config)[0].to(device), samples.label.long().to(device)
    return Clouds(trained.network, x, label, [""] * len(x), trained.signature.class_names)


def layers_of(trained: Trained, clouds: Clouds, few: int) -> Iterator[tuple[str, torch.Tensor]]:
    """The layers at which axioms are measured, and the clouds: of the default layer a few, before the pool all."""
    yield DEFAULT_LAYERS[trained.config.network], stratified(clouds.label, few)
    if (layer := before_pool(clouds.network)) is not None:
        yield layer, torch.arange(len(clouds.x))


def measured(run: Path) -> Measured:
    """Everything that the files of an explained and measured run say."""
    config, _ = checkpoint.load_config(run)
    explained, study = (load_json(run / f"{name}.json") for name in ("explanation", MEASURED))
    arrays, more = (dict(checkpoint.load_arrays(run / f"{n}.npz")) for n in ("explanation", MEASURED))
    values: Values = {}
    samples: Samples = {}

    def add(key: Key, of_samples: np.ndarray, middle: Callable[[np.ndarray], Any] = np.mean) -> None:
        values[key], samples[key] = float(middle(of_samples)), of_samples

    for name, one in more.items():
        if name.startswith("axioms/"):
            _, layer, method, measure = name.split("/")
            add(Key("axioms", layer, method, measure), one, np.median)
    whole = arrays["logits"].argmax(1) == arrays["label"]
    values[Key("dropping", "", "", "whole")] = float(whole.mean())
    for name, right in (arrays | more).items():
        if not name.startswith("dropping/"):
            continue
        method = name.partition("/")[2]
        lost = {m: right[FRACTIONS.index(fraction)].astype(float) for m, fraction in LOST.items()}
        lost["mean"] = np.mean(list(lost.values()), 0)
        for measure, one in lost.items():
            add(Key("dropping", "", method, measure), one)
        for measure, value in figures_of(explained["dropping"]["methods"].get(method, {})).items():
            values[Key("dropping", "", method, measure)] = value
    valid = arrays["game/valid"]
    values[Key("game", "", "", "valid")] = float(valid.mean()) if len(valid) else 0.0
    for method in METHODS:
        if valid.any():
            add(Key("game", "", method, "top"), arrays[f"game/{method}"][valid].mean(1))
    for units, loss in ((explained["units"], arrays["units/loss"]), (study["units"], more["units/loss"])):
        values |= unit_values(units, loss)
    source = {name: study[name] for name in ("commit", "machine")}
    source["trained"] = checkpoint.load_summary(run)["commit"]
    return Measured(config.network, config.noise.kind, config.seed, values, samples, source)


def figures_of(found: dict[str, Any]) -> dict[str, float]:
    """The other figures of a map: those that are not None."""
    names = "inserted_mean", "effective_points", "infidelity", "infidelity_scaled"
    figures = {name: found[name] for name in names if found.get(name) is not None}
    if "drawn_anew" in found:
        anew = list(found["drawn_anew"].values())
        figures |= {"last layer anew": anew[0], "all anew": anew[-1]}
    return figures


def unit_values(units: dict[str, Any], loss: np.ndarray) -> Values:
    """What explanation.json says of units; `layer` is what they are replaced by."""
    to = units["to"]
    names = (
        "loss_mean",
        "loss_worst",
        "worst_class_loss_mean",
        "worst_class_loss_worst",
        "change_no_prediction",
    )
    values = {Key("units", to, "", name): units[name] for name in names}
    values[Key("units", to, "", "worst class / overall")] = (
        units["worst_class_loss_mean"] / units["loss_mean"]
    )
    values[Key("units", to, "", "effective units")] = effective_number(loss)
    for attribute, both in units["correlations"].items():
        values |= {Key("tells", to, attribute, of): r["r"] for of, r in both.items()}
    removed = units["removed"]
    for order, accuracy in removed["accuracy"].items():
        for fraction, value in zip(removed["fractions"], accuracy, strict=True):
            values[Key("removed", "mean", order, f"{100 * fraction:.0f} %")] = value
    return values


def effective_number(amounts: np.ndarray) -> float:
    """exp(entropy) of the positive amounts: how many would share their sum equally."""
    positive = amounts[amounts > 0]
    share = positive / positive.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def summarize(runs: list[Measured]) -> table.Rows:
    """A row for each network, noise and key."""
    lines = []
    groups = dict.fromkeys((run.network, run.noise) for run in runs)
    for network, noise in groups:
        group = [run for run in runs if (run.network, run.noise) == (network, noise)]
        for key in dict.fromkeys(key for run in group for key in run.values):
            having = [run for run in group if key in run.values]
            value = table.mean([run.values[key] for run in having])
            base = key._replace(method=BASE)
            pairs = [] if base == key else [run for run in having if base in run.values]
            change = table.mean([run.values[key] - run.values[base] for run in pairs])
            low, high = between(key, pairs, base)
            lines.append(
                {
                    "network": network,
                    "noise": noise,
                    **key._asdict(),
                    "seeds": value.n,
                    "mean": value.mean,
                    "half_width": value.half,
                    "difference": change.mean,
                    "difference_half_width": change.half,
                    "difference_low": low,
                    "difference_high": high,
                }
            )
    return lines


def between(key: Key, runs: list[Measured], base: Key) -> tuple[float, float]:
    """The bootstrap interval of the mean difference between samples of two keys; NaN where the value is no mean of
    samples."""
    pairs = [run for run in runs if key in run.samples and base in run.samples]
    if not pairs or key.table == "axioms":
        return math.nan, math.nan
    differences = [run.samples[key] - run.samples[base] for run in pairs]
    if key.table == "game":  # a seed has pairs of its own
        of_samples = np.concatenate(differences)
    else:
        of_samples = np.mean(differences, 0)
    return resample(len(of_samples), lambda times: times @ of_samples / len(of_samples))


def write_tables(options: Options) -> str:
    """Write runs.csv and table.csv of all runs in OUT that are measured; returns what is printed."""
    folders = sorted(path.parent for path in options.out.glob(f"*/seed-*/{MEASURED}.json"))
    runs = [measured(folder) for folder in folders]
    rows = [
        {"network": run.network, "noise": run.noise, "seed": run.seed, **key._asdict(), "value": value, **run.source}
        for run in runs
        for key, value in run.values.items()
    ]  # fmt: skip
    places = [options.out, *([RESULTS] if options.keep else [])]
    for place in places:
        start = "explanation_" if place == RESULTS else ""
        for name, lines in (("runs", rows), ("table", summarize(runs))):
            checkpoint.write(place / f"{start}{name}.csv", table.as_csv(lines).encode())
    return f"{len(runs)} runs: {', '.join(str(folder) for folder in folders)}"


if __name__ == "__main__":
    main(tyro.cli(Options))
