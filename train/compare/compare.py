"""`dropfold compare NAME`: variants x seeds (x folds) of a study or a recipe, and the table of their figures.

A study is a function of `studies`; the variants of a recipe are those of --vary. Each run has a folder: a finished
one is read, an interrupted one goes on, so the same command continues a comparison that was stopped.
"""

from __future__ import annotations

import itertools
import os
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from multiprocessing import active_children, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from dropfold.data_scripts.schemas import block_schema, scene_schema
from dropfold.data_scripts.schemas.shape_schema import FOLDS, stated_checksum
from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.errors import in_a_sentence
from dropfold.data_scripts.work.processes import cores, end_with_parent, hold_folder, start_deaf
from dropfold.train.compare import outcomes, robustness, summed, table
from dropfold.train.compare.outcomes import Key, Outcome, Outcomes
from dropfold.train.compare.results import check_folder, write_results
from dropfold.train.compare.studies import STUDIES
from dropfold.train.config.configs import BlockConfig, CloudConfig, Config, SceneConfig
from dropfold.train.config.ranges import check_options
from dropfold.train.config.recipes import RECIPES, recipe
from dropfold.train.data.splits import located
from dropfold.train.storage import belonging, checkpoint


@dataclass
class Options:
    """Compare variants over seeds."""

    name: Annotated[str, tyro.conf.Positional]
    """A study or a recipe."""
    seeds: int = 5
    """Runs of each variant, with seeds 0, 1, ..."""
    folds: bool = False
    """Run each variant and seed on all five folds, each held out once; of `--vary protocol group-fold` those of groups; of
    rooms on all areas of the file (6-fold, where it is S3DIS)."""
    robustness: bool = False
    """Measure each run under the corruptions of `dropfold.train.compare.robustness` too (point clouds)."""
    vary: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """An option and its values, as `--vary noise.kind none point`; several make a grid, one value is set for all."""
    split: Literal["test", "validation"] = "test"
    """The split of the figures, after the last epoch; choose settings on validation."""
    only: tuple[str, ...] = ()
    """Only these variants of the study."""
    baseline: str = ""
    """The variant that the others are compared to; default: the first."""
    jobs: int = 1
    """Runs at a time; each has its share of the cores."""
    out: Path | None = None
    """The folder of runs and tables; default: runs/compare-NAME, with --folds runs/compare-NAME-folds."""


def variants(
    name: str, vary: tuple[tuple[str, ...], ...] = (), only: tuple[str, ...] = ()
) -> dict[str, Config]:
    """The configs of a study (`only` some), or of a recipe, crossed with the values of `vary`."""
    if name not in STUDIES and name not in RECIPES:
        raise ValueError(
            f"there is no study or recipe {name!r}. Studies: {', '.join(STUDIES)}. Recipes: {', '.join(RECIPES)}."
        )
    configs = STUDIES[name]() if name in STUDIES else {"": recipe(name)}
    if unknown := set(only) - set(configs):
        raise ValueError(f"there is no variant {sorted(unknown)}; {name} has {list(configs)}.")
    configs = {label: config for label, config in configs.items() if not only or label in only}
    for option, *values in vary:
        if not values:
            raise ValueError(f"--vary {option} needs one or more values.")
        crossed = itertools.product(configs.items(), values)
        configs = {
            label if len(values) == 1 else f"{label}, {option} {value}".strip(", "): change_option(
                config, option, value
            )
            for (label, config), value in crossed
        }
    return {label or name: config for label, config in configs.items()}


def change_option(config: Config, option: str, value: str) -> Config:
    """`config` with one option as on the command line; "--vary ih.ranks '4 4 4'" gives several numbers."""
    words = [f"--{option.replace('_', '-')}", *value.split()]
    return tyro.cli(type(config), default=config, args=words, config=(tyro.conf.FlagConversionOff,))


def read_finished(config: Config) -> dict[str, Any] | None:
    """The summary of the finished run in the folder of `config`, if there is one; ValueError if it has another config."""
    assert config.out is not None
    if not checkpoint.holds_run(config.out):
        return None
    saved, signature = checkpoint.load_config(config.out)
    names = {field.name for field in fields(saved)} - {"out"}  # the folder may have been moved
    other = [name for name in sorted(names) if getattr(saved, name) != getattr(config, name, None)]
    if other or type(saved) is not type(config):
        raise ValueError(
            f"{config.out} holds a run with another {', '.join(other) or 'task'}; give another --out, or remove it."
        )
    if not (config.out / checkpoint.SUMMARY).exists():
        return None
    if checksum := stated_checksum(located(config)):
        checkpoint.same_data(config.out, config, checksum)
    if faults := belonging.find_faults(config.out, saved, signature):
        for _, fault in faults:  # the run's own log is no place to look for it
            print(f"note: {fault} The run is looked at anew.", file=sys.__stderr__)
        return None
    return checkpoint.load_summary(config.out)


def run_one(config: Config, corrupt_split: str | None = None) -> dict[str, Any] | str:
    """Run, or continue, one run, and measure it under corruption if asked for. Returns its summary, or an error sentence."""
    from dropfold.train.engine.run import Run

    folder = config.out
    assert folder is not None
    atomic.make_folder(folder)
    with (folder / "log.txt").open("a") as log:
        sys.stderr = log
        try:
            going_on = checkpoint.holds_run(folder)
            summary = (
                read_finished(config) or Run(replace(config, resume=folder) if going_on else config).train()
            )
            if corrupt_split:
                robustness.measure(folder, corrupt_split)
            return summary
        except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
            traceback.print_exc(file=log)  # a RuntimeError: out of memory, or a bug
            return in_a_sentence(error)
        finally:
            sys.stderr = sys.__stderr__


def run_in_process(config: Config, corrupt_split: str | None, threads: int) -> dict[str, Any] | str:
    """`run_one` in a new process with `threads` threads: it has its own peak memory and generators, and if it is killed the
    other runs go on."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, config, corrupt_split, threads), daemon=True)
    with start_deaf():
        process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        return (
            f"killed by signal {-code}, perhaps for want of memory" if code < 0 else f"ended with code {code}"
        )


def _work(sender: Connection, config: Config, corrupt_split: str | None, threads: int) -> None:
    import torch

    end_with_parent()
    torch.set_num_threads(threads)
    sender.send(run_one(config, corrupt_split))


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables for the processes that start inside."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def compare(options: Options) -> str:
    """All runs, then the table as Markdown; tables are written anew after each run."""
    configs = variants(options.name, options.vary, options.only)
    baseline = options.baseline or next(iter(configs))
    if baseline not in configs:
        raise ValueError(f"there is no variant {baseline!r} to compare to; there are {list(configs)}.")
    if options.seeds < 1 or options.jobs < 1:
        raise ValueError("seeds and jobs must be at least 1.")
    for label, config in configs.items():
        check_options(config)
        if options.robustness and (not isinstance(config, CloudConfig) or config.normals):
            raise ValueError(
                f"--robustness corrupts the coordinates of point clouds, and {label} is not of those alone."
            )
        if options.split == "validation" and config.train_on_validation:
            raise ValueError(
                f"{label} trains on the validation samples too, so none are left to judge by; add --vary "
                "train_on_validation False."
            )
    folder = options.out or Path("runs") / f"compare-{options.name}{'-folds' if options.folds else ''}"
    check_folder(folder)
    atomic.make_folder(folder)
    with hold_folder(folder, "compared in"):
        return compare_in(folder, options, configs, baseline)


def compare_in(folder: Path, options: Options, configs: dict[str, Config], baseline: str) -> str:
    """The comparison in its folder, in which this process alone compares."""
    from rich.console import Console

    console = Console(stderr=True)
    own = {label: find_folds(config) if options.folds else [-1] for label, config in configs.items()}
    held_out = sorted({fold for folds in own.values() for fold in folds})
    runs = {
        (label, seed, fold): config_of(config, seed, fold, folder / folder_name(label))
        for seed in range(options.seeds)
        for fold in held_out
        for label, config in configs.items()
        if fold in own[label]
    }
    rows: dict[Key, dict[str, Any]] = {}

    def note(key: Key, summary: dict[str, Any] | str) -> None:
        rows[key] = make_row(key, summary, options.split)
        write_results(folder, [rows[key] for key in runs if key in rows], baseline)
        result = (
            summary
            if isinstance(summary, str)
            else f"{100 * rows[key]['score']:.1f} %, {summary['seconds']:.0f} s"
        )
        run = f"seed {key[1]}" + (f", fold {key[2]}" if options.folds else "")
        console.print(f"{len(rows)} of {len(runs)}: {key[0]}, {run}: {result}", markup=False)

    corrupt_split = options.split if options.robustness else None
    ended = {}
    for key, config in runs.items():
        summary = read_finished(config)
        if summary and (not corrupt_split or read_outcome(config, corrupt_split, corrupted=True)):
            ended[key] = summary
    for key, summary in ended.items():
        note(key, summary)
    threads = max(1, cores() // options.jobs)
    with environment(OMP_NUM_THREADS=str(threads), NUMBA_NUM_THREADS=str(threads)):
        pool = ThreadPoolExecutor(options.jobs)
        try:
            waiting = {
                pool.submit(run_in_process, config, corrupt_split, threads): key
                for key, config in runs.items()
                if key not in ended
            }
            for done in as_completed(waiting):
                note(waiting[done], done.result())
        finally:  # after an interruption nothing is left to run
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()
    by_run: Outcomes = {}
    for key in runs:
        if "score" in rows[key] and (kept := read_outcome(runs[key], options.split, options.robustness)):
            by_run[key] = kept
    text = write_results(folder, [rows[key] for key in runs], baseline, by_run)
    if options.robustness and by_run:
        robustness.write_levels(folder, by_run)
    ended_runs = {key: config.out for key, config in runs.items() if config.out and "score" in rows[key]}
    if options.folds and options.split == "test" and (pooled := summed.table_of(ended_runs)):
        text += "\n" + pooled
        checkpoint.write(folder / "summed.md", pooled.encode())
    return text


def find_folds(config: Config) -> list[int]:
    """The folds that can be held out: five, or the areas of a file of rooms."""
    if not isinstance(config, BlockConfig):
        return list(range(FOLDS))
    schema = scene_schema if isinstance(config, SceneConfig) else block_schema
    return np.unique(schema.read(located(config)).area).tolist()


def config_of(config: Config, seed: int, fold: int, folder: Path) -> Config:
    """The config of a variant's run; a fold of -1 leaves the protocol as it is."""
    config = replace(config, seed=seed, out=folder / f"seed-{seed}", wandb="disabled")
    if fold < 0:
        return config
    protocol = "fold" if config.protocol == "split" else config.protocol
    if isinstance(config, BlockConfig):
        protocol = "area"
    return replace(config, protocol=protocol, held_out=fold, out=folder / f"seed-{seed}" / f"fold-{fold}")


def read_outcome(config: Config, split: str, corrupted: bool) -> Outcome | None:
    """The outcome of a finished run, sample by sample; None if it was not saved."""
    assert config.out is not None
    if corrupted:
        return robustness.read(config.out, split)
    return outcomes.of_predictions(config.out / "predictions.npz") if split == "test" else None


def folder_name(label: str) -> str:
    """A variant's folder."""
    return "".join(c if c.isalnum() or c in "-.=" else "-" for c in label.replace(", ", "--"))


def make_row(key: Key, summary: dict[str, Any] | str, split: str) -> dict[str, Any]:
    """A line of the table of runs."""
    variant, seed, fold = key
    start = {"variant": variant, "seed": seed, **({"fold": fold} if fold >= 0 else {})}
    if isinstance(summary, str):
        return {**start, "failure": summary}
    figure = next((name for name in summary if name.startswith(f"{split}/")), "")
    if not figure:
        raise ValueError(f"the runs of {variant} have no figure on their {split} split; was there one?")
    kept = [*table.COLUMNS, "peak_memory_bytes", "epochs", "commit", "machine", "torch"]
    return {
        **start,
        "figure": figure.removeprefix(f"{split}/"),
        "score": summary[figure],
        **{name: summary[f"{split}/{name}"] for name in table.FIGURES if f"{split}/{name}" in summary},
        **{name: summary[name] for name in kept if name in summary},
    }


def main(options: Options) -> None:
    try:
        print(compare(options))
    except KeyboardInterrupt as stop:
        stop.add_note("the same command goes on")
        raise
