"""`python -m train.compare NAME`: variants x seeds of a study or a recipe, and the table of what they reach.

A study is a function of `train.studies`; of a recipe the variants are those of --vary. Each run has a folder: a finished
one is read, an interrupted one goes on, so the same command continues a comparison that was stopped.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from train import checkpoint, table
from train.config import Config
from train.metrics import in_words
from train.recipes import RECIPES, recipe
from train.studies import STUDIES

Run = tuple[str, Config]


@dataclass
class Options:
    """Compare variants over seeds."""

    name: Annotated[str, tyro.conf.Positional]
    """A study or a recipe."""
    seeds: int = 5
    """Runs of each variant, with seeds 0, 1, ..."""
    vary: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """An option and its values, as `--vary noise.kind none point`; several make a grid, one value is set for all."""
    split: Literal["test", "validation"] = "test"
    """What to judge by, after the last epoch; choose settings on validation."""
    only: tuple[str, ...] = ()
    """Of a study these variants alone."""
    baseline: str = ""
    """The variant that the others are compared to; default: the first."""
    jobs: int = 1
    """Runs at a time; each has its share of the cores."""
    out: Path | None = None
    """The folder of runs and tables; default: runs/compare-NAME."""


def variants(
    name: str, vary: tuple[tuple[str, ...], ...] = (), only: tuple[str, ...] = ()
) -> dict[str, Config]:
    """The configs of a study (`only` some), or of a recipe, crossed with the values of `vary`."""
    if name not in STUDIES and name not in RECIPES:
        raise ValueError(
            f"there is no study or recipe {name!r}. Studies: {', '.join(STUDIES)}. Recipes: {', '.join(RECIPES)}."
        )
    found = STUDIES[name]() if name in STUDIES else {"": recipe(name)}
    if unknown := set(only) - set(found):
        raise ValueError(f"there is no variant {sorted(unknown)}; {name} has {list(found)}.")
    found = {label: config for label, config in found.items() if not only or label in only}
    for option, *values in vary:
        if not values:
            raise ValueError(f"--vary {option} needs one or more values.")
        crossed = itertools.product(found.items(), values)
        found = {
            label if len(values) == 1 else f"{label}, {option} {value}".strip(", "): changed(
                config, option, value
            )
            for (label, config), value in crossed
        }
    return {label or name: config for label, config in found.items()}


def changed(config: Config, option: str, value: str) -> Config:
    """`config` with one option as on the command line; "--vary ih.ranks '4 4 4'" gives several numbers."""
    words = [f"--{option.replace('_', '-')}", *value.split()]
    return tyro.cli(type(config), default=config, args=words, config=(tyro.conf.FlagConversionOff,))


def finished(config: Config) -> dict[str, Any] | None:
    """The summary of a run that has ended, in the folder of `config`; one with another config there is refused."""
    assert config.out is not None
    if not (config.out / "config.json").exists():
        return None
    saved, _ = checkpoint.load_config(config.out)
    other = [f.name for f in fields(saved) if getattr(saved, f.name) != getattr(config, f.name, None)]
    if other or type(saved) is not type(config):
        raise ValueError(
            f"{config.out} holds a run with another {', '.join(other) or 'task'}; give another --out, or remove it."
        )
    summary = config.out / "summary.json"
    return json.loads(summary.read_text()) if summary.exists() else None


def one(config: Config) -> dict[str, Any] | str:
    """Run, or go on with, one run; its summary, or the sentence that says why there is none."""
    from train.engine import Run

    folder = config.out
    assert folder is not None
    if (folder / "config.json").exists():
        config = replace(config, resume=folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        sys.stderr = log
        try:
            return Run(config).train()
        except (ValueError, OSError, ArithmeticError) as error:
            return str(error)
        finally:
            sys.stderr = sys.__stderr__


def share_cores(threads: int) -> None:
    """Begin a process that runs with this many threads."""
    import torch

    torch.set_num_threads(threads)


def compare(options: Options) -> str:
    """All runs, then the table as Markdown; tables are written anew after each run."""
    from rich.console import Console

    console = Console(stderr=True)
    configs = variants(options.name, options.vary, options.only)
    baseline = options.baseline or next(iter(configs))
    if baseline not in configs:
        raise ValueError(f"there is no variant {baseline!r} to compare to; there are {list(configs)}.")
    if options.seeds < 1 or options.jobs < 1:
        raise ValueError("seeds and jobs must be at least 1.")
    folder = options.out or Path("runs") / f"compare-{options.name}"
    folder.mkdir(parents=True, exist_ok=True)
    runs: list[Run] = [
        (label, replace(config, seed=seed, out=folder / named(label) / f"seed-{seed}", wandb="disabled"))
        for seed in range(options.seeds)
        for label, config in configs.items()
    ]
    found: dict[int, dict[str, Any]] = {}

    def note(k: int, summary: dict[str, Any] | str) -> None:
        label, config = runs[k]
        found[k] = row(label, config.seed, summary, options.split)
        write(folder, [found[k] for k in sorted(found)], baseline)
        said = (
            summary
            if isinstance(summary, str)
            else f"{100 * found[k]['score']:.1f} %, {summary['seconds']:.0f} s"
        )
        console.print(f"{len(found)} of {len(runs)}: {label}, seed {config.seed}: {said}")

    ended = {k: summary for k, (_, config) in enumerate(runs) if (summary := finished(config))}
    for k, summary in ended.items():
        note(k, summary)
    threads = max(1, len(os.sched_getaffinity(0)) // options.jobs)
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(threads)
    # A fresh process for each run: its peak memory and its generators are its own.
    pool = ProcessPoolExecutor(
        options.jobs, get_context("spawn"), share_cores, (threads,), max_tasks_per_child=1
    )
    with pool:
        waiting = {pool.submit(one, config): k for k, (_, config) in enumerate(runs) if k not in ended}
        for done in as_completed(waiting):
            note(waiting[done], done.result())
    return write(folder, [found[k] for k in sorted(found)], baseline)


def named(label: str) -> str:
    """A variant's folder."""
    return "".join(c if c.isalnum() or c in "-.=" else "-" for c in label.replace(", ", "--"))


def row(variant: str, seed: int, summary: dict[str, Any] | str, split: str) -> dict[str, Any]:
    """A line of the table of runs."""
    if isinstance(summary, str):
        return {"variant": variant, "seed": seed, "failure": summary}
    figure = next((name for name in summary if name.startswith(f"{split}/")), "")
    if not figure:
        raise ValueError(f"the runs of {variant} have no figure on their {split} split; was there one?")
    kept = [*table.COLUMNS, "peak_memory_bytes", "epochs", "commit", "machine", "torch"]
    return {
        "variant": variant,
        "seed": seed,
        "figure": figure.removeprefix(f"{split}/"),
        "score": summary[figure],
        **{name: summary[name] for name in kept if name in summary},
    }


def write(folder: Path, rows: table.Rows, baseline: str) -> str:
    """runs.csv, table.csv, table.md; returns the last."""
    lines = table.summarized(rows, baseline)
    figure = in_words(next((line["figure"] for line in rows if "figure" in line), "score"))
    text = table.as_markdown(lines, figure, baseline)
    for name, content in (
        ("runs.csv", table.as_csv(rows)),
        ("table.csv", table.as_csv(lines)),
        ("table.md", text),
    ):
        checkpoint.write(folder / name, content.encode())
    return text


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    try:
        print(compare(options))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted; the same command goes on.") from None


if __name__ == "__main__":
    main()
