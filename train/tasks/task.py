"""A task: what a run learns from. Each task is a module of this folder with the functions of `Task`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from dropfold.data_scripts.readers.columns import AS_FOUND, Layout
from dropfold.train.config.configs import Config, Signature
from dropfold.train.data.splits import Batch, Data, Samples
from dropfold.train.scoring.metrics import Predictions, Scores
from dropfold.train.tasks.section import ClassTable, Section

ConfigT = TypeVar("ConfigT", bound=Config, contravariant=True)
SplitT = TypeVar("SplitT", bound=Samples)


class Task(Protocol[ConfigT, SplitT]):
    """Loads, builds, predicts, scores and shows, for configs and splits of its own types."""

    @property
    def NOUN(self) -> str:
        """What the file holds: "shapes", "rooms", "clips"."""

    @property
    def SAMPLES(self) -> str:
        """What an epoch counts."""

    @property
    def CLASSES(self) -> str:
        """What the network tells apart: "classes", "parts"."""

    def load(self, config: ConfigT) -> Data[SplitT]:
        """Read the data file and cut it into splits; ValueError says what does not fit the config."""

    def samples(self, split: SplitT, config: ConfigT) -> int:
        """Training samples in an epoch, of which whole batches are steps."""

    def batches(
        self, split: SplitT, config: ConfigT, epoch: int, rank: int = 0, processes: int = 1
    ) -> Iterator[Batch]:
        """This rank's part `(inputs, label)` of each batch of an epoch."""

    def build(self, config: ConfigT, signature: Signature, steps: int = 1) -> nn.Module:
        """The network; `steps` are those of an epoch, for the noise's warm-up."""

    def describe(self, config: ConfigT) -> str:
        """The network in a few words."""

    def facts(self, network: nn.Module) -> dict[str, Any]:
        """What the summary says of the network beside its number of parameters."""

    def predict_split(
        self, network: nn.Module, split: SplitT, config: ConfigT, final: bool = False
    ) -> Predictions:
        """The network's predictions on a split, as predictions.npz keeps them; `final`: after the last epoch, where they may
        take longer."""

    def scores(self, predictions: Predictions, signature: Signature) -> Scores:
        """The figures of predictions."""

    def class_table(self, scores: Scores, predictions: Predictions, signature: Signature) -> ClassTable:
        """The table of the classes, and the confusion matrix if there is one."""

    def galleries(self, config: ConfigT, data: Data[SplitT], predictions: Predictions) -> list[Section]:
        """Samples of the test split for the report."""

    def sections(
        self, config: ConfigT, data: Data[SplitT], network: Callable[[], nn.Module]
    ) -> list[Section]:
        """What else the report shows; `network()` reads the trained network."""

    def log_predictions(
        self, wandb: Any, config: ConfigT, data: Data[SplitT], predictions: Predictions
    ) -> dict[str, Any]:
        """What W&B shows of the test split."""


class ClassifyingTask(Task[ConfigT, SplitT], Protocol):
    """A task whose samples have one prediction each, and can be read from files of their own."""

    def inputs(self, split: SplitT, config: ConfigT) -> tuple[Tensor, ...]:
        """The inputs of a whole split, as evaluation sees them."""

    def read(
        self, file: Path, config: ConfigT, signature: Signature, votes: int, layout: Layout = AS_FOUND
    ) -> tuple[Tensor, ...]:
        """The inputs of one file; ValueError says what is wrong with it. layout: of clouds in tables."""
