"""`python -m train.evaluate RUN`: scores of a trained run on a split of its data set, or of another file's."""

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
    """Which shapes."""
    data: Path | None = None
    """Another data set with the same classes; default: the run's."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    from rich.console import Console
    from rich.table import Table

    from train.data import load
    from train.metrics import scores
    from train.network import load_network, predict

    try:
        config, names, model = load_network(options.run)
        config.data = options.data or config.data
        config.train_on_validation = False
        data = load(config)
        if data.clouds.class_names != names:
            raise ValueError(
                f"{config.data} has the classes {data.clouds.class_names}, the run was trained on {names}."
            )
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    split = getattr(data, options.split)
    if not len(split):
        raise SystemExit(f"error: {config.data} has no shapes in its {options.split} split.")
    found = scores(predict(model, split.x[:, : config.points], config.batch_size), split.label, len(names))
    table = Table(title=f"{options.run}, {options.split} split")
    for name in ("class", "shapes", "accuracy"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for name, row, right in zip(names, found.confusion.sum(1).tolist(), found.confusion.diag().tolist()):
        table.add_row(name, str(row), f"{100 * right / row:.1f} %" if row else "")
    Console().print(table)
    print(
        f"overall accuracy {100 * found.overall_accuracy:.2f} %, mean class accuracy {100 * found.mean_class_accuracy:.2f} %"
    )


if __name__ == "__main__":
    main()
