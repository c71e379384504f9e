"""A finished run as one value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dropfold.models.layers.precision import LowPrecision, Precision, lower_precision
from dropfold.train.config.configs import Config, Signature
from dropfold.train.data.splits import Data, Samples
from dropfold.train.scoring.metrics import Predictions
from dropfold.train.storage import belonging, checkpoint
from dropfold.train.tasks.registry import AnyTask, build, task_of


class Trained:
    """A run's folder, config, signature and task; its network, data and predictions, each read when it is first asked for.

    The engine, which holds them already, gives them.
    """

    def __init__(
        self,
        run: Path,
        config: Config,
        signature: Signature,
        *,
        network: nn.Module | None = None,
        data: Data[Any] | None = None,
        predictions: Predictions | None = None,
    ) -> None:
        self.run, self.config, self.signature = run, config, signature
        self.task: AnyTask = task_of(config)
        self._network, self._data, self._predictions = network, data, predictions
        self._changed: list[str] = []  # options that differ from the run's own

    @classmethod
    def of(cls, run: Path, **changes: Any) -> Trained:
        """The finished run in a folder, with `changes` to its config, e.g. `data=` for another file.

        Raises:
            FileNotFoundError: no run there, or one that has not ended.
            DamagedError: weights or a config that are not as the run wrote them; other files are noted.
        """
        config, signature = checkpoint.load_config(run)
        find_weights(run)
        belonging.note_faults(run, config, signature, (checkpoint.WEIGHTS,))
        trained = cls(run, replace(config, **changes), signature)
        trained._changed = [
            name for name, value in changes.items() if name == "data" or value != getattr(config, name)
        ]
        return trained

    @property
    def network(self) -> nn.Module:
        """The trained network in evaluation mode, on the GPU if there is one."""
        if self._network is None:
            network = build(self.config, self.signature)
            path = find_weights(self.run)
            checkpoint.fill_network(network, checkpoint.load_weights(path), path)
            self._network = network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        return self._network

    def lower_precision(self, precision: Precision) -> LowPrecision:
        """Take the network in fewer bits from here on, int8 on the CPU, and return it."""
        network = self.network.cpu() if precision == "int8" else self.network
        self._network = lowered = lower_precision(network, precision)
        return lowered

    @property
    def data(self) -> Data[Any]:
        """The data of the config; ValueError if the run's own file is not the one it was trained on."""
        if self._data is None:
            data = self.task.load(self.config)
            if "data" not in self._changed:
                checkpoint.same_data(self.run, self.config, data.checksum)
            self._data = data
        return self._data

    @property
    def predictions(self) -> Predictions:
        """The predictions on the test split after the last epoch, as the run kept them; ValueError if this is the run with
        another data set or other options, of which it kept none."""
        if self._changed:
            raise ValueError(
                f"{self.run} keeps predictions by its own config alone, and this one has another "
                f"{', '.join(self._changed)}; compute them with task.predict_split."
            )
        if self._predictions is None:
            self._predictions = checkpoint.load_arrays(self.run / checkpoint.PREDICTIONS)
        return self._predictions

    def split(self, name: str) -> Samples:
        """The train, validation or test split; ValueError if it is empty."""
        split = getattr(self.data, name)
        if not len(split):
            raise ValueError(f"{self.config.data} has no {self.task.NOUN} in its {name} split.")
        return split


def find_weights(run: Path) -> Path:
    """The weights of a finished run."""
    path = run / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: the run has not ended; continue it with --resume {run}."
        )
    return path
