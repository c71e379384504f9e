"""`dropfold evaluate RUN`: scores of a trained run on a split of its data set, or of another file's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

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


def main(options: Options) -> None:
    from rich.console import Console
    from rich.table import Table

    from dropfold.train.engine.run import in_a_line
    from dropfold.train.storage import checkpoint
    from dropfold.train.tasks.registry import task_of
    from dropfold.train.tasks.trained import load_network

    try:
        config, signature, model = load_network(options.run)
        config.data = options.data or config.data
        config.train_on_validation = False
        task = task_of(config)
        data = task.load(config)
        if options.data is None:
            checkpoint.same_data(options.run, config, data.checksum)
        if data.signature.class_names != signature.class_names:
            raise ValueError(
                f"{config.data} has the classes {data.signature.class_names}, the run was trained on "
                f"{signature.class_names}."
            )
        if data.signature.shape[1:] != signature.shape[1:]:
            raise ValueError(
                f"{config.data} has samples {list(data.signature.shape)}, the run was trained on {list(signature.shape)}."
            )
        split = getattr(data, options.split)
        if not len(split):
            raise ValueError(f"{config.data} has no {task.NOUN} in its {options.split} split.")
        answers = task.answers(model, split, config, final=True)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    found = task.scores(answers, signature)
    stated = task.classes(found, answers, signature)["classes"]
    table = Table(title=f"{options.run}, {options.split} split")
    for name in stated["head"]:
        table.add_column(name, justify="left" if name == stated["head"][0] else "right")
    for name, count, *values in stated["rows"]:
        shown = (f"{100 * value:.1f} %" if count and value == value else "" for value in values)
        table.add_row(name, f"{count:,}", *shown)
    Console().print(table)
    print(in_a_line({f"test/{name}": value for name, value in found.figures.items()}, 2))
