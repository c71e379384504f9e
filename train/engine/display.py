"""What a run prints: a progress bar in a terminal, or a line an epoch."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Display:
    """The progress of `epochs` epochs of `steps` steps; a context manager."""

    def __init__(self, console: Console, epochs: int, steps: int, first_epoch: int, quiet: bool) -> None:
        self.console, self.epochs = console, epochs
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self.bar = self.progress.add_task("training", total=(epochs - first_epoch) * steps, note="")

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.progress.stop()

    def advance(self) -> None:
        """A step is done."""
        self.progress.advance(self.bar)

    def end_epoch(self, done: int, note: str, seconds: float) -> None:
        """`done` epochs are done, in `seconds`; `note` has the figures of the last."""
        self.progress.update(self.bar, note=note)
        if not self.console.is_terminal:
            left = seconds / done * (self.epochs - done)
            self.console.print(f"epoch {done}/{self.epochs}: {note}, {left:.0f} s left")
