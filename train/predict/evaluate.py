"""`dropfold evaluate RUN`: scores of a trained run on a split of its data set, or of another file's."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclass
class Options:
    """Evaluate a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    split: Literal["train", "validation", "test"] = "test"
    """Which part of it."""
    data: Path | None = None
    """Another data set with the same classes; default: the run's."""
    precision: Literal["float32", "int8", "bf16"] = "float32"
    """float32, as it was trained, or fewer bits: the scores are then those of int8 or bf16, with float32's beside."""


def main(options: Options) -> None:
    from rich.console import Console
    from rich.table import Table

    from dropfold.data_scripts.schemas.centre import in_sphere
    from dropfold.train.scoring.metrics import in_a_line
    from dropfold.train.tasks.trained import Trained

    changes: dict[str, Any] = {"train_on_validation": False}
    if options.data is not None:
        changes["data"] = options.data
    trained = Trained.of(options.run, **changes)
    task, config, signature, network = trained.task, trained.config, trained.signature, trained.network
    theirs = trained.data.signature
    if theirs.class_names != signature.class_names:
        raise ValueError(
            f"{config.data} has the classes {theirs.class_names}, the run was trained on {signature.class_names}."
        )
    if theirs.codes != signature.codes:
        print(
            f"note: the classes of {config.data} have the codes {theirs.codes}, those of the run {signature.codes}; they "
            "are compared by their names",
            file=sys.stderr,
        )
    if theirs.centre != signature.centre:
        print(
            f"note: the shapes of {config.data} stand {in_sphere(theirs.centre)}, those that the run was trained on "
            f"{in_sphere(signature.centre)}; they are taken as they are",
            file=sys.stderr,
        )
    if theirs.fixed != signature.fixed:
        raise ValueError(
            f"{config.data} has samples {list(theirs.shape)}, the run was trained on {list(signature.shape)}."
        )
    split = trained.split(options.split)
    exact = None
    if options.precision != "float32":
        lowered = trained.lower_precision(options.precision)  # which may refuse, before anything is computed
        print(lowered.describe())
        exact = task.scores(task.predict_split(network, split, config, final=True), signature)
        network = lowered
    predictions = task.predict_split(network, split, config, final=True)
    scores = task.scores(predictions, signature)
    classes = task.class_table(scores, predictions, signature)
    lowered_to = "" if exact is None else f", {options.precision}"
    table = Table(title=f"{options.run}, {options.split} split{lowered_to}")
    for name in classes.head:
        table.add_column(name, justify="left" if name == classes.head[0] else "right")
    for name, count, *values in classes.rows:
        shown = (f"{100 * value:.1f} %" if count and value == value else "" for value in values)
        table.add_row(name, f"{count:,}", *shown)
    Console().print(table)
    if exact is None:
        print(in_a_line(scores.figures, 2))
    else:
        print(f"{options.precision}: {in_a_line(scores.figures, 2)}")
        print(f"float32: {in_a_line(exact.figures, 2)}")
