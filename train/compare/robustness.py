"""`dropfold robustness RUN...`: trained runs under the corruptions of `corruptions`, five levels each.

Accuracy by corruption and level, and the mean corruption error (mCE) beside a baseline. Runs that differ in seed (or
held-out fold) alone are one variant. A folder of runs, as a comparison leaves it, stands for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from dropfold.data_scripts.schemas.centre import Centre
from dropfold.data_scripts.work import atomic
from dropfold.train.compare import table
from dropfold.train.compare.corruptions import ALL, LEVELS, corrupt
from dropfold.train.compare.outcomes import Key, Outcome, Outcomes
from dropfold.train.config.configs import CloudConfig, Config
from dropfold.train.scoring.metrics import in_words
from dropfold.train.storage import checkpoint

STEPS = 1 + len(ALL) * LEVELS


@dataclass
class Options:
    """Measure runs under corruption."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs, or folders that hold some."""
    baseline: Path | None = None
    """The run, or one of the variant's runs, whose errors are mCE's unit; default: the first."""
    split: Literal["test", "validation"] = "test"
    """Whose shapes."""
    seed: int = 0
    """Of the corruptions."""
    out: Path = Path("runs/robustness")
    """The folder of tables and pictures."""


def check(run: Path, config: Config) -> None:
    """Refuse a run whose samples the corruptions are not of."""
    what = f"one on {config.task}" if not isinstance(config, CloudConfig) else "given normals, too"
    if not isinstance(config, CloudConfig) or config.normals:
        raise ValueError(
            f"{run} is not a run on the coordinates of point clouds alone, and the corruptions are of those; it is {what}."
        )


def measure(
    run: Path, split: str = "test", seed: int = 0, advance: Callable[[int], object] = lambda steps: None
) -> Outcome:
    """The outcome of a finished run on a split, clean and corrupted; saved in its folder, and read from there the next time.

    Raises:
        ValueError: not a run on point clouds without normals; another data file than it was trained on; no shapes in the
            split.
    """
    import torch

    from dropfold.train.scoring.logits import predict
    from dropfold.train.tasks import clouds
    from dropfold.train.tasks.trained import Trained

    if saved := read(run, split, seed):
        advance(STEPS)
        return saved
    trained = Trained.of(run)
    config, network = trained.config, trained.network
    check(run, config)
    assert isinstance(config, CloudConfig)
    samples: Any = trained.split(split)
    points = clouds.inputs(samples, config)[0].numpy()
    centre = centre_of_run(run)

    def is_correct(x: np.ndarray) -> np.ndarray:
        logits = predict(network, (torch.from_numpy(x),), config.batch_size)
        advance(1)
        return (logits.argmax(1) == samples.label).numpy()

    outcome = Outcome(
        samples.index,
        samples.label.numpy(),
        is_correct(points),
        np.array(
            [
                [
                    is_correct(corrupt(points, samples.index, name, level + 1, seed, centre))
                    for level in range(LEVELS)
                ]
                for name in ALL
            ]
        ),
    )
    checkpoint.save_arrays(file_of(run, split), {"definition": definition(seed, centre), **vars(outcome)})
    return outcome


def read(run: Path, split: str, seed: int = 0) -> Outcome | None:
    """An earlier measurement, from the run's folder; None if there is none, or one of other corruptions."""
    path = file_of(run, split)
    if not path.exists():
        return None
    arrays = checkpoint.load_arrays(path)
    if str(arrays["definition"]) != definition(seed, centre_of_run(run)):
        return None
    return Outcome(*(arrays[name] for name in ("index", "label", "right", "corrupted")))


def file_of(run: Path, split: str) -> Path:
    """The file of a measurement."""
    return run / f"robustness-{split}.npz"


def centre_of_run(run: Path) -> Centre:
    """Where the shapes of a run's data stand; their mean where that is not known."""
    return checkpoint.load_config(run)[1].centre or "mean"


def definition(seed: int, centre: Centre = "mean") -> str:
    """All that the corrupted clouds depend on, beside the clouds themselves."""
    box = ", scaled on the box" if centre == "box" else ""
    return f"seed {seed}, {', '.join(f'{name} {levels}' for name, (_, levels) in ALL.items())}{box}"


def accuracies(outcomes: Outcomes) -> dict[str, np.ndarray]:
    """By variant [seeds, corruptions, 1 + levels], the clean accuracy first; folds of a seed are averaged."""
    by_variant: dict[str, dict[int, list[np.ndarray]]] = {}
    for (variant, seed, _), outcome in outcomes.items():
        if outcome.corrupted is not None:
            levels = outcome.corrupted.mean(2)
            clean = np.full((len(levels), 1), outcome.right.mean())
            by_variant.setdefault(variant, {}).setdefault(seed, []).append(np.concatenate([clean, levels], 1))
    return {
        variant: np.array([np.mean(folds, 0) for folds in seeds.values()])
        for variant, seeds in by_variant.items()
    }


def write_levels(folder: Path, outcomes: Outcomes) -> str:
    """Write levels.csv, levels.md and levels.png: accuracy by corruption and level. Return the Markdown."""
    from dropfold.train.compare import plots

    rows: list[dict[str, Any]] = [
        {
            "variant": variant,
            "seed": seed,
            **({"fold": fold} if fold >= 0 else {}),
            "corruption": name,
            "level": level + 1,
            "accuracy": float(right.mean()),
        }
        for (variant, seed, fold), outcome in outcomes.items()
        if outcome.corrupted is not None
        for name, levels in zip(ALL, outcome.corrupted, strict=True)
        for level, right in enumerate(levels)
    ]
    values_by_variant = accuracies(outcomes)
    lines = [
        [
            in_words(name) if level else "none",
            str(level),
            *(
                table.shown(*table.mean(values[:, c, level].tolist())[:2])
                for values in values_by_variant.values()
            ),
        ]
        for c, name in enumerate(ALL)
        for level in range(0 if c == 0 else 1, LEVELS + 1)
    ]
    markdown = table.table(["corruption", "level", *values_by_variant], lines, 1)
    markdown += f"\nAccuracy in per cent, ± {table.INTERVAL}\n"
    checkpoint.write(folder / "levels.csv", table.as_csv(rows).encode())
    checkpoint.write(folder / "levels.md", markdown.encode())
    plots.levels(folder / "levels.png", values_by_variant)
    return markdown


def find_runs(folders: tuple[Path, ...]) -> list[Path]:
    """The finished runs in these folders, in their order."""
    runs = [path.parent for folder in folders for path in sorted(folder.rglob("summary.json"))]
    if empty := [str(folder) for folder in folders if not any(folder.rglob("summary.json"))]:
        raise ValueError(
            f"there is no finished run in {', '.join(empty)}; give folders as `dropfold train` printed them."
        )
    return list(dict.fromkeys(runs))


def keys_of(runs: list[Path]) -> dict[Path, Key]:
    """(variant, seed, fold) of each run; runs whose configs differ in seed and fold alone are one variant, which has the
    name of the folder above its seed-N and fold-N.

    Raises:
        ValueError: runs on different data, which cannot be compared; a run given twice.
    """
    configs = {run: checkpoint.load_config(run)[0] for run in runs}
    first = configs[runs[0]]
    if other := [str(run) for run, config in configs.items() if config.data != first.data]:
        raise ValueError(
            f"{other[0]} was trained on {configs[Path(other[0])].data}, {runs[0]} on {first.data}; compare runs on one "
            "data set."
        )
    names: dict[str, str] = {}
    for run, config in configs.items():
        above = [part for part in run.resolve().parts if not re.fullmatch(r"(seed|fold)-\d+", part)]
        short, whole = above[-1], "/".join(above[-2:])
        names.setdefault(without_seed(config), short if short not in names.values() else whole)
    keys = {
        run: (names[without_seed(config)], config.seed, -1 if config.held_out is None else config.held_out)
        for run, config in configs.items()
    }
    seen: dict[Key, Path] = {}
    for run, key in keys.items():
        if key in seen:
            raise ValueError(f"{run} and {seen[key]} are runs of one config and seed; give one of them.")
        seen[key] = run
    return keys


def without_seed(config: Config) -> str:
    """All of a config except its seed, its fold and its folder."""
    left_out = ("seed", "held_out", "out", "resume", "wandb", "recipe")
    return repr({name: value for name, value in asdict(config).items() if name not in left_out})


def robustness(options: Options) -> str:
    """All measurements, then the tables as Markdown."""
    from rich.console import Console
    from rich.progress import Progress

    from dropfold.train.compare import plots
    from dropfold.train.compare.results import check_folder, write_results
    from dropfold.train.tasks.trained import Trained

    if options.seed < 0:
        raise ValueError(f"seed must be at least 0; got {options.seed}.")
    check_folder(options.out)
    runs = find_runs(options.runs)
    baseline = find_runs((options.baseline,))[0] if options.baseline else runs[0]
    named = keys_of(list(dict.fromkeys([baseline, *runs])))  # the baseline first in tables, too
    for run in named:
        check(run, checkpoint.load_config(run)[0])
    outcomes: Outcomes = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("corruptions", total=STEPS * len(named))
        for run, key in named.items():
            progress.update(task, description=f"{key[0]}, seed {key[1]}")
            outcomes[key] = measure(run, options.split, options.seed, lambda n: progress.advance(task, n))
    rows = [
        {
            "variant": variant,
            "seed": seed,
            **({"fold": fold} if fold >= 0 else {}),
            "figure": "overall_accuracy",
            "score": float(outcomes[variant, seed, fold].right.mean()),
            "run": str(run),
        }
        for run, (variant, seed, fold) in named.items()
    ]
    atomic.make_folder(options.out)
    text = write_results(options.out, rows, named[baseline][0], outcomes)
    text += "\n" + write_levels(options.out, outcomes)
    first = Trained.of(baseline)
    assert isinstance(first.config, CloudConfig)
    plots.corruptions(options.out / "corruptions.png", first.data, first.config, options.seed)
    return text


def main(options: Options) -> None:
    print(robustness(options), end="")
    print(f"\ntables and pictures: {options.out}")
