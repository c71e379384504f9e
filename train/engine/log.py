"""Weights & Biases, if it is installed and asked for. Absent or failing, it never stops a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dropfold.train.config.configs import Config
from dropfold.train.data.splits import Data
from dropfold.train.scoring.metrics import Predictions
from dropfold.train.tasks.registry import task_of


class Tracker:
    """A W&B run that turns itself off, with one line, at the first error."""

    def __init__(
        self, config: Config, folder: Path, say: Callable[[str], None], resume: bool = False
    ) -> None:
        """resume: go on with the W&B run that was begun in the folder, if it is still there."""
        self.say = say
        self.run: Any = None
        self.wandb: Any = None
        if config.wandb == "disabled":
            return
        try:
            import wandb
        except ImportError:
            say("W&B is not installed (pip install wandb): going on without it.")
            return
        self.wandb = wandb
        os.environ.setdefault("WANDB_SILENT", "true")
        self._try(lambda: setattr(self, "run", self._start(config, folder, resume)))

    def _start(self, config: Config, folder: Path, resume: bool) -> Any:
        known = last_id(folder) if resume else None
        more = {"config": asdict(config)} if known is None else {"id": known, "resume": "allow"}
        return self.wandb.init(
            project="dropfold", name=folder.name, dir=str(folder), mode=config.wandb, **more
        )

    def log(self, row: dict[str, Any]) -> None:
        """Log one epoch's line of metrics."""
        self._try(lambda: self.run.log(row))

    def end(self) -> None:
        """End the W&B run."""
        self._try(lambda: self.run.finish())

    def finish(
        self, summary: dict[str, Any], config: Config, data: Data[Any], predictions: Predictions
    ) -> None:
        """Send the summary, and what the task shows of the test split, and end the W&B run."""

        def send() -> None:
            self.run.log(task_of(config).log_predictions(self.wandb, config, data, predictions))
            self.run.summary.update(summary)
            self.run.finish()

        self._try(send)

    def _try(self, act: Callable[[], Any]) -> None:
        if self.wandb is None:
            return
        try:
            act()
        except Exception as error:  # whatever it is, the training is worth more
            self.say(f"W&B failed ({type(error).__name__}: {error}): going on without it.")
            self.wandb = None


def last_id(folder: Path) -> str | None:
    """The id of the W&B run that was last begun in a run's folder: of wandb/offline-run-DATE_TIME-ID or run-DATE_TIME-ID."""
    begun = sorted(
        path.name.removeprefix("offline-") for path in folder.glob("wandb/*run-*-*") if path.is_dir()
    )
    return begun[-1].rpartition("-")[2] if begun else None


def log_rows(config: Config, folder: Path, rows: dict[str, float], say: Callable[[str], None]) -> None:
    """Send numbers that were found of a finished run to its W&B run, in the mode that it was trained with."""
    tracker = Tracker(config, folder, say, resume=True)
    tracker.log(rows)
    tracker.end()
