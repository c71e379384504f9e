"""`python -m benchmarks.compression RECIPE`: what compression costs in accuracy, by method, over seeds and folds.

For each seed (and fold) a run of the recipe is trained, and compressed by each method to one target, with as many epochs of
fine-tuning each: a part of the run's. Beside them stand the run trained on for as long (`longer`), `dropfold transform` by
its searches (`transform`, `transform-policy`, `transform-random`, `transform-blind`), half of these epochs for the shared
weights, and, where asked for, what trains from scratch for the epochs of both: `dcff`, `scratch`, and `handmade`, a DGCNN
with a quarter of the neighbours and half of the channels. Whatever is there already is not made again, so that an
interrupted study goes on.

The table has each method's figure and its difference from the original's, paired by seed and fold, with Student's 95 %
interval over seeds and a bootstrap interval over samples. runs.csv has what each run costs beside its original, too: parts
of the multiply-adds, parameters and milliseconds (those were measured while the study ran, maybe beside other work).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.harness import RESULTS
from dropfold.__main__ import main as dropfold
from dropfold.train.compare.outcomes import Outcomes, of_predictions
from dropfold.train.compare.results import write_results
from dropfold.train.config.recipes import recipe
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.storage.sealed import load_json

FROM_SCRATCH = ("dcff", "scratch")
HANDMADE = {
    "edge1": "edge_conv_5_w32",
    "edge2": "edge_conv_5_w32",
    "edge3": "edge_conv_5_w64",
    "edge4": "edge_conv_5_w128",
}


@dataclass
class Options:
    """Compress runs of a recipe over seeds."""

    recipe: tyro.conf.Positional[str]
    """A recipe on point clouds or images."""
    methods: tuple[str, ...] = ("cc", "cc-released", "norm", "fpgm", "random", "longer")
    """Methods of `dropfold compress`, `longer`, `handmade`, and `transform`, alone or with the name of a search."""
    target: tuple[Literal["latency", "macs", "parameters"], float] = ("macs", 0.5)
    """Of each method."""
    seeds: int = 5
    """Seeds 0, 1, ..."""
    folds: int = 0
    """Folds 0 .. of five, each held out once; 0: the file's own split."""
    part: float = 0.2
    """Epochs of fine-tuning, as a part of the run's."""
    out: Path | None = None
    """The folder of runs; default: runs/compression-RECIPE."""
    keep: bool = False
    """Copy the tables to benchmarks/results."""


def main(options: Options) -> None:
    folder = options.out or Path("runs") / f"compression-{options.recipe}"
    rows: list[dict[str, Any]] = []
    outcomes: Outcomes = {}
    for seed in range(options.seeds):
        for fold in range(options.folds) if options.folds else [-1]:
            place = folder / f"seed-{seed}" / (f"fold-{fold}" if options.folds else "split")
            for variant, run in _runs(options, place, seed, fold):
                rows.append(_row(variant, run, seed, fold))
                outcome = of_predictions(run / "predictions.npz")
                if outcome is not None:
                    outcomes[variant, seed, fold] = outcome
                print(write_results(folder, rows, "original", outcomes))
    if options.keep:
        what, part = options.target
        for name in ("runs", "table"):
            stem = f"compression_{options.recipe.replace('-', '_')}_{what}_{part:g}_{name}.csv"
            shutil.copyfile(folder / f"{name}.csv", RESULTS / stem)


def _runs(options: Options, place: Path, seed: int, fold: int) -> Any:
    """(variant, folder) of each run, made if it is not there."""
    config = replace(recipe(options.recipe), seed=seed, wandb="disabled")
    if fold >= 0:
        config = replace(config, protocol="fold", held_out=fold)
    original, fine = place / "original", max(1, round(options.part * config.epochs))
    _train(replace(config, out=original))
    yield "original", original
    (what, part), lr = options.target, config.lr / 5
    for method in options.methods:
        out = place / (method if method in ("longer", "handmade") else f"{method}-{what}-{part:g}")
        if method == "longer":
            _train(replace(config, out=out, start=original, epochs=fine, lr=lr))
        elif method == "handmade":
            _train(replace(config, out=out, epochs=config.epochs + fine, operations=HANDMADE))
        else:
            epochs, rate = (config.epochs + fine, config.lr) if method in FROM_SCRATCH else (fine, lr)
            words = ["compress", str(original), "--method", method]
            if method.startswith("transform"):
                shared, how = fine // 2, method.removeprefix("transform").removeprefix("-") or "evolution"
                epochs, rate = fine - shared, config.lr / 2
                words = ["transform", str(original), "--search", how, "--supernet-epochs", str(shared)]
            words += ["--target", what, str(part), "--epochs", str(epochs), "--lr", str(rate)]
            if not (out / checkpoint.SUMMARY).exists() or "cost" not in load_json(out / "compression.json"):
                dropfold([*words, "--seed", str(seed), "--out", str(out)])
        yield out.name, out


def _train(config: Any) -> None:
    if not (config.out / checkpoint.SUMMARY).exists():
        Run(replace(config, resume=config.out) if checkpoint.holds_run(config.out) else config).train()


def _row(variant: str, run: Path, seed: int, fold: int) -> dict[str, Any]:
    summary = checkpoint.load_summary(run)
    figure = next(name for name in summary if name.startswith("test/"))
    row = {"variant": variant, "seed": seed, "figure": figure.removeprefix("test/"), "score": summary[figure]}
    if fold >= 0:
        row["fold"] = fold
    row |= {name: summary[name] for name in ("parameters", "seconds", "commit", "machine") if name in summary}
    if (run / "compression.json").exists():
        found = load_json(run / "compression.json")
        for name, (before, after) in found["cost"].items():
            row[f"{name}, part"] = round(after / before, 4)
        for stage in ("channels taken out", "BatchNorm adapted"):
            if stage in found["scores"]:
                row[stage] = found["scores"][stage][row["figure"]]
        if found.get("explanations"):
            row["maps kept"] = found["explanations"]["rank correlation"]
    return row


if __name__ == "__main__":
    main(tyro.cli(Options))
