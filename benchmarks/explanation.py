"""`python -m benchmarks.explanation RUN...`: which explanation holds, over the seeds of trained runs on clouds.

What is measured of a run lies in OUT/NETWORK-NOISE/seed-SEED, a part after the other, and a part that is there is not
measured again: an interrupted study goes on. A part is measured anew where it is asked for otherwise (`--clouds`); a folder
that holds another run, and runs of one network and noise that differ in more than their seed, are refused.

Tables, over all runs in OUT:

    axioms    median over clouds of conservation, sensitivity and correlation, by layer and method
    dropping  accuracy without the most salient 10, 30 and 50 % of the points and their mean; and the other figures of a map
    game      share of the top eighth of points on the own shape; share of valid pairs
    units     what a pooled unit costs over all, and the class that it harms most in training; how many units share that
    tells     Pearson's r over units of an attribute with the damage
    removed   accuracy without most of the units

A value is a run's; what is random is drawn by the run's seed. `mean` and `half_width` are Student's 95 % interval over
seeds. Two differences, paired by seed, have one too: `difference` to XGrad-CAM, and `change` to the same network trained
without noise. `.._low` and `.._high` are the 95 % percentile bootstrap of the same difference over test shapes, each with
its mean over seeds; in the game a pair is drawn as often as both of its shapes (Owen 2007), whichever seeds they are in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro

from benchmarks.harness import RESULTS
from dropfold.data_scripts.schemas.copies import digest_of
from dropfold.explain import axioms, dropping, saliency
from dropfold.explain.run.found import BATCH, Clouds, Found
from dropfold.explain.run.scores import GAME_PAIRS, score_maps
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
from dropfold.train.tasks.trained import Trained, find_weights

METHODS = ("xgrad_cam", "grad_cam", "gradient_x_activation", "zheng", "feature_norm", "critical_points", "radius",
           "random")  # fmt: skip
BASE, ITERATIVE, WITHOUT = "xgrad_cam", "zheng_iterative", "none"
LOST = {"10 %": 0.1, "30 %": 0.3, "50 %": 0.5}
DEFAULT_LAYERS = {"pointnet": "conv2", "dgcnn": "edge1..4", "pointnet2": "sa2"}
MEASURED = "study"  # .json and .npz of what is measured
OF_A_RUN = ("seed", "out", "start", "resume", "wandb")  # in which the runs of a group may differ


@dataclass
class Options:
    """Explain trained runs on point clouds, and compare over their seeds."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of ended runs."""
    out: Path = Path("runs/explanation")
    """The folder of what is measured."""
    clouds: int = 24
    """Test clouds whose channels are ablated one by one at a network's default layer, of each class its share."""
    parts: tuple[Literal["maps", "dropping", "iterative", "game", "units", "axioms", "pool"], ...] = (
        *("maps", "game", "units", "axioms", "pool"),
    )
    """What is measured. `maps` is all figures of all scores, `dropping` their curves alone, `iterative` Zheng's iterative
    score, `axioms` those at the default layer and `pool` those before the pool."""
    keep: bool = False
    """Write the tables to benchmarks/results, too."""


class Key(NamedTuple):
    """Which value of a run. `at`: the layer of an axiom, or what replaces a unit; `of`: the score of points, the attribute
    of units, or the order in which they go; `measure`: what of it. Empty where there is none."""

    table: str
    at: str
    of: str
    measure: str


Part = tuple[dict[str, np.ndarray], dict[str, Any]]
"""What is measured: arrays, and values for study.json."""


@dataclass
class Measured:
    """What is known of one run: the values, of some the contribution of each sample [n] whose mean or median they are, and
    the part that each is of; and of each part its commit and machine."""

    network: str
    noise: str
    seed: int
    values: dict[Key, float]
    samples: dict[Key, np.ndarray] = field(default_factory=dict)
    part: dict[Key, str] = field(default_factory=dict)
    source: dict[str, dict[str, str]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    pairs: np.ndarray | None = None
    """Of the valid pairs of the game the numbers of their shapes [P, 2]."""


def main(options: Options) -> None:
    configs = [config_of(run) for run in options.runs]  # before anything is measured
    for run, config in zip(options.runs, configs):
        measure_run(run, place_of(config, options.out), options)
        print(write_tables(options))


def config_of(run: Path) -> CloudConfig:
    """The config of an ended run; ValueError if it is none that the study is of."""
    config, _ = checkpoint.load_config(run)
    checkpoint.load_summary(run)  # which only an ended run has
    if not isinstance(config, CloudConfig):
        raise ValueError(f"{run} is a run on {config.task}; the study is of runs that classify clouds.")
    if config.network not in DEFAULT_LAYERS:
        raise ValueError(f"{run} trains a {config.network}; the study is of {', '.join(DEFAULT_LAYERS)}.")
    return config


def place_of(config: CloudConfig, out: Path) -> Path:
    """Where what is measured of a run lies."""
    return out / f"{config.network}-{config.noise.kind}" / f"seed-{config.seed}"


def measure_run(run: Path, place: Path, options: Options) -> None:
    """study.npz and study.json: the parts that are asked for and not there, written as each ends, arrays first."""
    path, study = place / f"{MEASURED}.json", Study(run, options)
    done: dict[str, Any] = load_json(path) if path.exists() else {"run": study.identity(), "parts": {}}
    if other := [name for name, value in study.identity().items() if done["run"].get(name) != value]:
        raise ValueError(
            f"{place} holds what was measured of another run than {run} (they differ in {other[0]}); give another --out."
        )
    kept = path.with_suffix(".npz")
    arrays = dict(checkpoint.load_arrays(kept)) if kept.exists() else {}
    for part in options.parts:
        asked = {"clouds": options.clouds} if part == "axioms" else {}
        known = done["parts"].get(part)
        if known and known["asked"] == asked and set(known["arrays"]) <= set(arrays):
            continue
        print(f"{run}: {part}", flush=True)
        found, values = PARTS[part](study)
        arrays |= found
        source = {"asked": asked, "arrays": list(found), "commit": commit(), "machine": machine()}
        done["parts"][part] = values | source
        place.mkdir(parents=True, exist_ok=True)
        checkpoint.save_arrays(kept, arrays)
        checkpoint.save_json(path, done)


class Study:
    """A run's network and clouds, and the parts that are measured of them: `(arrays, values)` each."""

    def __init__(self, run: Path, options: Options) -> None:
        self.run, self.options = run, options
        self.trained = Trained.of(run, train_on_validation=False)  # as `dropfold explain` sees its splits
        self.config: Any = self.trained.config
        self.seed = self.config.seed

    def identity(self) -> dict[str, Any]:
        """What the run is, and in what runs of a group may not differ."""
        settings = {name: value for name, value in asdict(self.config).items() if name not in OF_A_RUN}
        weights = digest_of(find_weights(self.run)).hex()
        trained = checkpoint.load_summary(self.run)["commit"]
        return plain({"weights": weights, "trained": trained, "seed": self.seed, "settings": settings})

    @cached_property
    def clouds(self) -> Clouds:
        """The test split."""
        return self._clouds("test")

    @cached_property
    def predicted(self) -> torch.Tensor:
        """The classes that the network sees in them."""
        return self.clouds.logits().argmax(1)

    def _clouds(self, split: Any) -> Clouds:
        trained, device = self.trained, next(self.trained.network.parameters()).device
        samples: Any = trained.split(split)
        task: Any = trained.task
        x, label = task.inputs(samples, trained.config)[0].to(device), samples.label.long().to(device)
        return Clouds(trained.network, x, label, [""] * len(x), trained.signature.class_names)

    def maps(self) -> Part:
        """All figures of all scores, as `dropfold explain` measures them."""
        found = Found()
        score_maps(self.clouds, found, METHODS, self.clouds.logits(), self.predicted, self.seed)
        places = [FRACTIONS.index(fraction) for fraction in LOST.values()]
        curves = {name: found.arrays[f"dropping/{name}"][places] for name in METHODS}
        figures = {name: figures_of(v) for name, v in found.values["dropping"]["methods"].items()}
        return curves_of(curves) | self._whole(), {"figures": figures}

    def dropping(self) -> Part:
        """The curves of dropping alone."""
        clouds = self.clouds
        maps = saliencies(clouds.network, clouds.x, [self.predicted], METHODS, self.seed)
        curves = {name: self._right(scores) for name, (scores,) in maps.items()}
        return curves_of(curves) | self._whole(), {}

    def iterative(self) -> Part:
        """The curve of Zheng's iterative score: a backward pass for each fortieth of the points."""
        clouds = self.clouds
        scores = saliency(clouds.network, clouds.x, self.predicted, ITERATIVE)
        return curves_of({ITERATIVE: self._right(scores)}), {}

    def game(self) -> Part:
        """The two-shape game."""
        clouds = self.clouds
        chosen = pairs(clouds.logits(), clouds.label, GAME_PAIRS, self.seed)
        games = two_shape_games(clouds.network, clouds.x, clouds.label, chosen, METHODS, self.seed)
        arrays = {f"game/{name}": game.top.cpu().numpy() for name, game in games.items()}
        return arrays | {"game/valid": games[BASE].valid.cpu().numpy(), "game/pairs": chosen.numpy()}, {}

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
        return self._axioms(DEFAULT_LAYERS[self.config.network], few), {"clouds": len(few)}

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
    for name in ("maps", "dropping", "iterative", "game", "units", "axioms", "pool")
}


def plain(value: Any) -> Any:
    """As it comes back from a JSON file."""
    return json.loads(json.dumps(value, default=str))


def curves_of(rights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As they are kept: at the fractions of `LOST`."""
    return {f"lost/{name}": right.astype(bool) for name, right in rights.items()}


def measured(place: Path) -> Measured:
    """Everything that the files of a measured run say."""
    done, arrays = load_json(place / f"{MEASURED}.json"), checkpoint.load_arrays(place / f"{MEASURED}.npz")
    run, parts = done["run"], done["parts"]
    settings = run["settings"]
    source = {
        name: {"commit": part["commit"], "machine": part["machine"], "trained": run["trained"]}
        for name, part in parts.items()
    }
    found = Measured(
        settings["network"],
        settings["noise"]["kind"],
        run["seed"],
        {},
        source=source,
        settings=settings,
        asked={name: part["asked"] for name, part in parts.items()},
    )
    for part, about in parts.items():
        kept = {name: arrays[name] for name in about["arrays"]}
        before, found.values = found.values, {}
        _add_samples(found, kept)
        for of, figures in about.get("figures", {}).items():
            found.values |= {Key("dropping", "", of, measure): value for measure, value in figures.items()}
        if part == "units":
            for to in ("zero", "mean"):
                found.values |= unit_values(about[to], kept[f"units/{to}"])
            found.values |= removed_values(about["mean"]["removed"])
        found.part |= dict.fromkeys(
            found.values, part
        )  # of two parts that have a value the last one's is there
        found.values = before | found.values
    return found


def _add_samples(found: Measured, arrays: dict[str, np.ndarray]) -> None:
    """The values that are means or medians of arrays, with what they are of."""

    def add(key: Key, of_samples: np.ndarray, middle: Callable[[np.ndarray], Any] = np.mean) -> None:
        found.values[key], found.samples[key] = float(middle(of_samples)), of_samples

    for name, one in arrays.items():
        kind, _, of = name.partition("/")
        if kind == "axioms":
            layer, of, measure = of.split("/")
            add(Key("axioms", layer, of, measure), one, np.median)
        elif kind == "whole":
            add(Key("dropping", "", "", "whole"), one.astype(float))
        elif kind == "lost":
            lost = dict(zip(LOST, one.astype(float), strict=True))
            for measure, right in (lost | {"mean": np.mean(list(lost.values()), 0)}).items():
                add(Key("dropping", "", of, measure), right)
        elif name == "game/valid":
            found.values[Key("game", "", "", "valid")] = float(one.mean()) if len(one) else 0.0
        elif name == "game/pairs":
            found.pairs = one[arrays["game/valid"]]
        elif kind == "game" and (valid := arrays["game/valid"]).any():
            add(Key("game", "", of, "top"), one[valid].mean(1))


def figures_of(found: dict[str, Any]) -> dict[str, float]:
    """The other figures of a map: those that are not None."""
    names = "inserted_mean", "effective_points", "infidelity", "infidelity_scaled"
    figures = {name: found[name] for name in names if found.get(name) is not None}
    anew = list(found["drawn_anew"].values())
    return figures | {"last layer anew": anew[0], "all anew": anew[-1], "two anew": found["two_drawn_anew"]}


def unit_values(units: dict[str, Any], loss: np.ndarray) -> dict[Key, float]:
    """What is said of the units, each replaced by 0 or by its mean."""
    to = units["to"]
    names = (
        "loss_mean",
        "loss_worst",
        "worst_class_loss_mean",
        "worst_class_loss_worst",
        "change_no_prediction",
    )
    values = {Key("units", to, "", name): units[name] for name in names}
    values[Key("units", to, "", "effective units")] = effective_number(loss)
    for attribute, both in units["correlations"].items():
        values |= {Key("tells", to, attribute, of): r["r"] for of, r in both.items()}
    return values


def removed_values(removed: dict[str, Any]) -> dict[Key, float]:
    """Accuracy with many units at their means."""
    return {
        Key("removed", "mean", order, f"{100 * fraction:.0f} %"): value
        for order, accuracy in removed["accuracy"].items()
        for fraction, value in zip(removed["fractions"], accuracy, strict=True)
    }


def effective_number(amounts: np.ndarray) -> float:
    """exp(entropy) of the positive amounts: how many would share their sum equally; 0 if none is positive."""
    positive = amounts[amounts > 0]
    share = positive / positive.sum()
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


def summarize(runs: list[Measured]) -> table.Rows:
    """A row for each network, noise and key.

    Raises:
        ValueError: runs of one network and noise differ in more than their seed.
    """
    lines = []
    for network, noise in dict.fromkeys((run.network, run.noise) for run in runs):
        group = [run for run in runs if (run.network, run.noise) == (network, noise)]
        check_alike(group)
        without = {run.seed: run for run in runs if (run.network, run.noise) == (network, WITHOUT)}
        if noise != WITHOUT:
            check_alike([group[0], *without.values()])
        for key in dict.fromkeys(key for run in group for key in run.values):
            having = [run for run in group if key in run.values]
            value, base = table.mean([run.values[key] for run in having]), key._replace(of=BASE)
            beside = [] if base == key else [(run, run, base) for run in having]
            trained = [] if noise == WITHOUT else [
                (run, without[run.seed], key) for run in having if run.seed in without
            ]  # fmt: skip
            lines.append(
                {"network": network, "noise": noise, **key._asdict(), "seeds": value.n, "mean": value.mean,
                 "half_width": value.half, **compared("difference", key, beside), **compared("change", key, trained)}
            )  # fmt: skip
    return lines


def check_alike(group: list[Measured]) -> None:
    """ValueError if runs of a group differ in more than their seed, are of one seed, or were asked for other things."""
    first = group[0]
    for other in group[1:]:
        if other.seed == first.seed and other.noise == first.noise:
            raise ValueError(
                f"two runs of {first.network} with noise {first.noise} are of seed {first.seed}."
            )
        for part in {*first.asked} & {*other.asked}:
            if first.asked[part] != other.asked[part]:
                raise ValueError(
                    f"{part} of seeds {first.seed} and {other.seed} of {first.network} with noise {first.noise} is of "
                    f"{first.asked[part]} and {other.asked[part]}; measure one of them again."
                )
        for name in first.settings:
            if name == "noise" and first.noise != other.noise:
                continue  # what is compared
            if other.settings.get(name) != first.settings[name]:
                raise ValueError(
                    f"seeds {first.seed} and {other.seed} of {first.network} with noise {first.noise} differ in {name}, "
                    f"{first.settings[name]} and {other.settings.get(name)}; give runs that differ in that an --out of "
                    "their own."
                )


def compared(name: str, key: Key, sides: list[tuple[Measured, Measured, Key]]) -> dict[str, float]:
    """The mean difference of `key` in a run to another key, or to the same in another run, paired by seed: with Student's
    half width, and the bootstrap interval over shapes where both are means of samples (NaN elsewhere)."""
    sides = [(run, other, base) for run, other, base in sides if base in other.values]
    change = table.mean([run.values[key] - other.values[base] for run, other, base in sides])
    low = high = math.nan
    if sides and all(key in run.samples and base in other.samples for run, other, base in sides):
        if key.table == "dropping":
            of_shapes = np.mean([run.samples[key] - other.samples[base] for run, other, base in sides], 0)
            low, high = resample(len(of_shapes), lambda times: times @ of_shapes / len(of_shapes))
        elif key.table == "game" and all(run is other for run, other, _ in sides):
            low, high = between_pairs(
                [(run.pairs, run.samples[key] - run.samples[base]) for run, _, base in sides]
            )
    return {name: change.mean, f"{name}_half_width": change.half, f"{name}_low": low, f"{name}_high": high}


def between_pairs(seeds: list[tuple[np.ndarray | None, np.ndarray]]) -> tuple[float, float]:
    """The bootstrap interval of the mean over seeds of the mean over pairs, of each seed (pairs [P, 2], values [P])."""
    shapes = 1 + max(int(chosen.max()) for chosen, _ in seeds if chosen is not None)

    def statistic(times: np.ndarray) -> np.ndarray:
        means = []
        for chosen, values in seeds:
            assert chosen is not None
            weight = times[:, chosen[:, 0]] * times[:, chosen[:, 1]]
            total = weight.sum(1)
            means.append(np.divide(weight @ values, total, out=np.full(len(total), np.nan), where=total > 0))
        return np.mean(means, 0)

    return resample(shapes, statistic)


def write_tables(options: Options) -> str:
    """Write runs.csv and table.csv of all runs in OUT that are measured; returns what is printed."""
    places = sorted(path.parent for path in options.out.glob(f"*/seed-*/{MEASURED}.json"))
    runs = [measured(place) for place in places]
    rows = [
        {"network": run.network, "noise": run.noise, "seed": run.seed, **key._asdict(), "value": value,
         **run.source[run.part[key]]}
        for run in runs
        for key, value in run.values.items()
    ]  # fmt: skip
    lines = summarize(runs)
    for folder in [options.out, *([RESULTS] if options.keep else [])]:
        start = "explanation_" if folder == RESULTS else ""
        for name, of_name in (("runs", rows), ("table", lines)):
            checkpoint.write(folder / f"{start}{name}.csv", table.as_csv(of_name).encode())
    return f"{len(runs)} runs: {', '.join(str(place) for place in places)}"


if __name__ == "__main__":
    main(tyro.cli(Options))
