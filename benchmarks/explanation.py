"""`python -m benchmarks.explanation RUN...`: which explanation holds, over the seeds of trained runs on clouds.

Each run is copied to OUT/NETWORK-NOISE/seed-SEED, explained there by `dropfold explain`, and measured by what that command
does not do: the axioms of maps per layer, units replaced by 0 beside units replaced by their mean, and Zheng's iterative
score where asked for. A part that is there already is not measured again, so that an interrupted study goes on.

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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro

from benchmarks.harness import RESULTS
from dropfold.__main__ import main as dropfold
from dropfold.explain import axioms, dropping, saliency
from dropfold.explain.run.found import BATCH, Clouds, Found
from dropfold.explain.run.scores import GAME_PAIRS
from dropfold.explain.run.units import explain_units
from dropfold.explain.score.axioms import before_pool
from dropfold.explain.score.curves import FRACTIONS
from dropfold.explain.score.game import pairs, two_shape_games
from dropfold.explain.score.saliency import saliencies
from dropfold.train.compare import table
from dropfold.train.config.configs import CloudConfig
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
    parts: tuple[Literal["explain", "dropping", "iterative", "game", "units", "axioms", "pool"], ...] = (
        *("explain", "units", "axioms", "pool"),
    )
    """What is measured. `explain` is all of `dropfold explain`, `dropping` and `game` two parts of it for less time,
    `iterative` Zheng's iterative score, `axioms` those at the default layer and `pool` those before the pool."""
    keep: bool = False
    """Write the tables to benchmarks/results, too."""


class Key(NamedTuple):
    """Which value of a run: "dropping", "", "grad_cam", "30 %"."""

    table: str
    layer: str
    method: str
    measure: str


Part = tuple[dict[str, np.ndarray], dict[str, Any]]
"""What is measured: arrays, and values for study.json."""
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
        measure_run(copy_of(run, options.out), options)
        print(write_tables(options))


def config_of(run: Path) -> CloudConfig:
    """The config of a run; ValueError if it is not one that classifies clouds."""
    config, _ = checkpoint.load_config(run)
    if not isinstance(config, CloudConfig):
        raise ValueError(f"{run} is a run on {config.task}; the study is of runs that classify clouds.")
    return config


def copy_of(run: Path, out: Path) -> Path:
    """The copy of a run, made if it is not there."""
    config = config_of(run)
    place = out / f"{config.network}-{config.noise.kind}" / f"seed-{config.seed}"
    if not checkpoint.holds_run(place):
        checkpoint.load_summary(run)  # which only an ended run has
        shutil.copytree(run, place, dirs_exist_ok=True)
    return place


def measure_run(run: Path, options: Options) -> None:
    """study.json and study.npz: the parts that are asked for and not there, written as each ends."""
    path = run / f"{MEASURED}.json"
    done = load_json(path) if path.exists() else {"parts": {}}
    arrays = dict(checkpoint.load_arrays(path.with_suffix(".npz"))) if path.exists() else {}
    study: Study | None = None
    for part in options.parts:
        if part in done["parts"]:
            continue
        study = study or Study(run, options)
        found, values = PARTS[part](study)
        arrays |= found
        done["parts"][part] = values | {"commit": commit(), "machine": machine()}
        checkpoint.save_arrays(path.with_suffix(".npz"), arrays)
        checkpoint.save_json(path, done)


class Study:
    """A run's network and clouds, and the parts that are measured of them: `(arrays, values)` each."""

    def __init__(self, run: Path, options: Options) -> None:
        self.run, self.options, self.trained = run, options, Trained.of(run)
        self.network = config_of(run).network
        self.clouds = self._clouds("test")
        self.predicted = self.clouds.logits().argmax(1)

    def _clouds(self, split: Any) -> Clouds:
        """A split as `dropfold explain` sees it."""
        trained, device = self.trained, next(self.trained.network.parameters()).device
        samples: Any = trained.split(split)
        task: Any = trained.task
        x, label = task.inputs(samples, trained.config)[0].to(device), samples.label.long().to(device)
        return Clouds(trained.network, x, label, [""] * len(x), trained.signature.class_names)

    def explain(self) -> Part:
        """`dropfold explain` by all methods, if it is not done; the curves of dropping, the game and the figures of maps."""
        path = self.run / "explanation.json"
        if not path.exists() or not set(METHODS) <= set(load_json(path)["dropping"]["methods"]):
            dropfold(["explain", str(self.run), "--methods", *METHODS])
        arrays, values = checkpoint.load_arrays(path.with_suffix(".npz")), load_json(path)
        places = [FRACTIONS.index(fraction) for fraction in LOST.values()]
        curves = {name: arrays[f"dropping/{name}"][places] for name in METHODS}
        games = {name: v for name, v in arrays.items() if name.startswith("game/")}
        figures = {name: figures_of(v) for name, v in values["dropping"]["methods"].items()}
        return curves_of(curves) | games | self._whole(), {"figures": figures}

    def dropping(self) -> Part:
        """The curves of dropping alone."""
        clouds = self.clouds
        maps = saliencies(clouds.network, clouds.x, [self.predicted], METHODS)
        curves = {name: self._right(scores) for name, (scores,) in maps.items()}
        return curves_of(curves) | self._whole(), {}

    def iterative(self) -> Part:
        """The curve of Zheng's iterative score: a backward pass for each fortieth of the points."""
        clouds = self.clouds
        scores = saliency(clouds.network, clouds.x, self.predicted, ITERATIVE)
        return curves_of({ITERATIVE: self._right(scores)}), {}

    def game(self) -> Part:
        """The two-shape game alone."""
        clouds = self.clouds
        chosen = pairs(clouds.logits(), clouds.label, GAME_PAIRS)
        games = two_shape_games(clouds.network, clouds.x, clouds.label, chosen, METHODS)
        arrays = {f"game/{name}": game.top.cpu().numpy() for name, game in games.items()}
        return arrays | {"game/valid": games[BASE].valid.cpu().numpy()}, {}

    def units(self) -> Part:
        """The pooled units, in both readings."""
        training = self._clouds("train")
        arrays, values = {}, {}
        for to in ("zero", "mean"):
            found = Found(page={"tables": []})
            explain_units(self.clouds, found, training, self.clouds.logits(), to)
            arrays[f"units/{to}"], values[to] = found.arrays["units/loss"], found.values["units"]
        return arrays, values

    def axioms(self) -> Part:
        """The axioms at the default layer, of a few clouds: a pass above it for each of its channels."""
        few = stratified(self.clouds.label, self.options.clouds)
        return self._axioms(DEFAULT_LAYERS[self.network], few), {"clouds": len(few)}

    def pool(self) -> Part:
        """The axioms before the pool, of all clouds."""
        layer = before_pool(self.clouds.network)
        assert layer is not None
        return self._axioms(layer, torch.arange(len(self.clouds.x))), {}

    def _axioms(self, layer: str, some: torch.Tensor) -> dict[str, np.ndarray]:
        arrays: dict[str, list[np.ndarray]] = {}
        for few in some.split(BATCH):
            found = axioms(self.clouds.network, self.clouds.x[few], self.predicted[few], layer=layer)
            for name, one in found.items():
                for measure, values in vars(one).items():
                    arrays.setdefault(f"axioms/{layer}/{name}/{measure}", []).append(values.cpu().numpy())
        return {name: np.concatenate(values) for name, values in arrays.items()}

    def _right(self, scores: torch.Tensor) -> np.ndarray:
        clouds = self.clouds
        curve = dropping(clouds.network, clouds.x, scores, tuple(LOST.values()))
        return curve.right(clouds.label).cpu().numpy()

    def _whole(self) -> dict[str, np.ndarray]:
        return {"whole": (self.predicted == self.clouds.label).cpu().numpy()}


PARTS: dict[str, Callable[[Study], Part]] = {
    name: getattr(Study, name)
    for name in ("explain", "dropping", "iterative", "game", "units", "axioms", "pool")
}


def curves_of(rights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As they are kept: at the fractions of `LOST`."""
    return {f"lost/{name}": right.astype(bool) for name, right in rights.items()}


def measured(run: Path) -> Measured:
    """Everything that the files of a measured run say."""
    config = config_of(run)
    parts = load_json(run / f"{MEASURED}.json")["parts"]
    arrays = checkpoint.load_arrays(run / f"{MEASURED}.npz")
    values: Values = {}
    samples: Samples = {}

    def add(key: Key, of_samples: np.ndarray, middle: Callable[[np.ndarray], Any] = np.mean) -> None:
        values[key], samples[key] = float(middle(of_samples)), of_samples

    for name, one in arrays.items():
        kind, _, method = name.partition("/")
        if kind == "axioms":
            layer, method, measure = method.split("/")
            add(Key("axioms", layer, method, measure), one, np.median)
        elif kind == "whole":
            add(Key("dropping", "", "", "whole"), one)
        elif kind == "lost":
            lost = dict(zip(LOST, one.astype(float), strict=True))
            for measure, right in (lost | {"mean": np.mean(list(lost.values()), 0)}).items():
                add(Key("dropping", "", method, measure), right)
        elif kind == "game" and method == "valid":
            values[Key("game", "", "", "valid")] = float(one.mean()) if len(one) else 0.0
        elif kind == "game" and (valid := arrays["game/valid"]).any():
            add(Key("game", "", method, "top"), one[valid].mean(1))
    for method, figures in parts.get("explain", {}).get("figures", {}).items():
        values |= {Key("dropping", "", method, measure): value for measure, value in figures.items()}
    for to, units in parts.get("units", {}).items():
        if to in ("zero", "mean"):
            values |= unit_values(units, arrays[f"units/{to}"])
    sources = {name: dict.fromkeys(part[name] for part in parts.values()) for name in ("commit", "machine")}
    source = {name: ", ".join(found) for name, found in sources.items()}
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
