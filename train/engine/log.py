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

    def __init__(self, config: Config, folder: Path, say: Callable[[str], None]) -> None:
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
        self._try(lambda: setattr(self, "run", self._start(config, folder)))

    def _start(self, config: Config, folder: Path) -> Any:
        return self.wandb.init(
            project="dropfold", name=folder.name, dir=str(folder), mode=config.wandb, config=asdict(config)
        )

    def log(self, row: dict[str, Any]) -> None:
        """Log one epoch's line of metrics."""
        self._try(lambda: self.run.log(row))

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
