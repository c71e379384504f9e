"""`dropfold robustness RUN...`: trained runs under the corruptions of `corruptions`, five levels each.

Accuracy by corruption and level, and the mean corruption error (mCE) beside a baseline. Runs that differ in seed (or
held-out fold) alone are one variant. A folder of runs, as a comparison leaves it, stands for all of them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from dropfold.train.compare import table
from dropfold.train.compare.corruptions import ALL, LEVELS, corrupted
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


def measured(
    run: Path, split: str = "test", seed: int = 0, advance: Callable[[int], object] = lambda steps: None
) -> Outcome:
    """What a finished run gets right of a split, clean and corrupted; kept in its folder, and read from there.

    Raises:
        ValueError: not a run on point clouds without normals; another data file than it was trained on; no shapes in the
            split.
    """
    import torch

    from dropfold.train.scoring.predict import predict
    from dropfold.train.tasks.registry import task_of
    from dropfold.train.tasks.trained import load_network

    if kept := read(run, split, seed):
        advance(STEPS)
        return kept
    config, _, model = load_network(run)
    if not isinstance(config, CloudConfig) or config.normals:
        raise ValueError(
            f"{run} is not a run on the coordinates of point clouds alone, and the corruptions are of those."
        )
    task = task_of(config)
    data = task.load(config)
    checkpoint.same_data(run, config, data.checksum)
    samples = getattr(data, split)
    if not len(samples):
        raise ValueError(f"{config.data} has no {task.NOUN} in its {split} split.")
    points = task.inputs(samples, config)[0].numpy()

    def right(clouds: np.ndarray) -> np.ndarray:
        logits = predict(model, (torch.from_numpy(clouds),), config.batch_size)
        advance(1)
        return (logits.argmax(1) == samples.label).numpy()

    found = Outcome(
        samples.index,
        samples.label.numpy(),
        right(points),
        np.array(
            [
                [right(corrupted(points, samples.index, name, level + 1, seed)) for level in range(LEVELS)]
                for name in ALL
            ]
        ),
    )
    buffer = io.BytesIO()
    np.savez(buffer, definition=definition(seed), **vars(found))
    checkpoint.write(kept_in(run, split), buffer.getvalue())
    return found


def read(run: Path, split: str, seed: int = 0) -> Outcome | None:
    """What an earlier measurement left in the run's folder; None if it is not there, or not of these corruptions."""
    path = kept_in(run, split)
    if not path.exists():
        return None
    with np.load(path) as found:
        if str(found["definition"]) != definition(seed):
            return None
        return Outcome(*(found[name] for name in ("index", "label", "right", "corrupted")))


def kept_in(run: Path, split: str) -> Path:
    """The file of a measurement."""
    return run / f"robustness-{split}.npz"


def definition(seed: int) -> str:
    """What the points of the corrupted clouds depend on, beside the clouds."""
    return f"seed {seed}, {', '.join(f'{name} {levels}' for name, (_, levels) in ALL.items())}"


def accuracies(outcomes: Outcomes) -> dict[str, np.ndarray]:
    """Of each variant [seeds, corruptions, 1 + levels], the clean accuracy first; folds of a seed are averaged."""
    found: dict[str, dict[int, list[np.ndarray]]] = {}
    for (variant, seed, _), outcome in outcomes.items():
        if outcome.corrupted is not None:
            levels = outcome.corrupted.mean(2)
            clean = np.full((len(levels), 1), outcome.right.mean())
            found.setdefault(variant, {}).setdefault(seed, []).append(np.concatenate([clean, levels], 1))
    return {
        variant: np.array([np.mean(folds, 0) for folds in seeds.values()]) for variant, seeds in found.items()
    }


def write(folder: Path, outcomes: Outcomes) -> str:
    """levels.csv, levels.md and levels.png: accuracy by corruption and level. Returns the Markdown."""
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
    found = accuracies(outcomes)
    lines = [
        [
            in_words(name) if level else "none",
            str(level),
            *(table.shown(*table.mean(values[:, c, level].tolist())[:2]) for values in found.values()),
        ]
        for c, name in enumerate(ALL)
        for level in range(0 if c == 0 else 1, LEVELS + 1)
    ]
    markdown = table.table(["corruption", "level", *found], lines, 1)
    markdown += "\nAccuracy in per cent, ± Student's 95 % over seeds.\n"
    checkpoint.write(folder / "levels.csv", table.as_csv(rows).encode())
    checkpoint.write(folder / "levels.md", markdown.encode())
    plots.levels(folder / "levels.png", found)
    return markdown


def found_in(folders: tuple[Path, ...]) -> list[Path]:
    """The finished runs in these folders, in their order."""
    runs = [path.parent for folder in folders for path in sorted(folder.rglob("summary.json"))]
    if empty := [str(folder) for folder in folders if not any(folder.rglob("summary.json"))]:
        raise ValueError(
            f"there is no finished run in {', '.join(empty)}; give folders as `dropfold train` printed them."
        )
    return list(dict.fromkeys(runs))


def keys(runs: list[Path]) -> dict[Path, Key]:
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
        names.setdefault(apart_from_seed(config), short if short not in names.values() else whole)
    found = {
        run: (names[apart_from_seed(config)], config.seed, -1 if config.held_out is None else config.held_out)
        for run, config in configs.items()
    }
    seen: dict[Key, Path] = {}
    for run, key in found.items():
        if key in seen:
            raise ValueError(f"{run} and {seen[key]} are runs of one config and seed; give one of them.")
        seen[key] = run
    return found


def apart_from_seed(config: Config) -> str:
    """All of a config but its seed, its fold and where it was kept."""
    apart = ("seed", "held_out", "out", "resume", "wandb", "recipe")
    return repr({name: value for name, value in asdict(config).items() if name not in apart})


def robustness(options: Options) -> str:
    """All measurements, then the tables as Markdown."""
    from rich.console import Console
    from rich.progress import Progress

    from dropfold.train.compare import plots

    runs = found_in(options.runs)
    baseline = found_in((options.baseline,))[0] if options.baseline else runs[0]
    named = keys(list(dict.fromkeys([baseline, *runs])))  # the baseline first in tables, too
    outcomes: Outcomes = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("corruptions", total=STEPS * len(named))
        for run, key in named.items():
            progress.update(task, description=f"{key[0]}, seed {key[1]}")
            outcomes[key] = measured(run, options.split, options.seed, lambda n: progress.advance(task, n))
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
    options.out.mkdir(parents=True, exist_ok=True)
    text = table.write(options.out, rows, named[baseline][0], outcomes)
    text += "\n" + write(options.out, outcomes)
    plots.corruptions(options.out / "corruptions.png", checkpoint.load_config(baseline)[0], options.seed)
    return text


def main(options: Options) -> None:
    try:
        print(robustness(options), end="")
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"\ntables and pictures: {options.out}")
