"""LSTMs and GRUs of the sizes of features, audio and sensors: ours, dense and as tensor trains, beside PyTorch's modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn

from benchmarks.harness import Case
from dropfold.models import TensorGRU, TensorLSTM
from dropfold.models.formats import FormatSpec

Cell = Literal["lstm", "gru"]
RANK = 4
MODES = {16: (2, 2, 4), 40: (2, 4, 5), 64: (4, 4, 4), 256: (4, 8, 8), 1024: (8, 8, 16), 2048: (8, 16, 16)}
FORMS = {"dense": (False, False), "tt ih": (True, False), "tt hh": (False, True), "tt both": (True, True)}


@dataclass(frozen=True)
class Point:
    """One layer in one direction."""

    batch: int
    frames: int
    hidden: int
    input: int

    def __str__(self) -> str:
        return f"M{self.input}-H{self.hidden}-B{self.batch}-T{self.frames}-kept"


POINTS = [
    Point(*sizes)
    for sizes in (
        (1, 10, 64, 40), (1, 100, 64, 256), (1, 100, 256, 256), (1, 10, 1024, 2048),
        (16, 10, 64, 40), (16, 100, 256, 40), (16, 10, 1024, 2048),
        (64, 100, 64, 40), (64, 10, 256, 256), (64, 10, 1024, 256),
        (256, 10, 64, 256), (256, 100, 256, 40),
    )
]  # fmt: skip
# What `python -m benchmarks.gpu` times of them, and what it is tried out with.
GPU = [POINTS[i] for i in (2, 5, 9, 10)]
TINY = [Point(2, 3, 16, 16)]


def build(cell: Cell, point: Point, provider: str) -> nn.Module:
    """PyTorch's module, or ours in one of FORMS."""
    torch.manual_seed(0)
    if provider.startswith("nn."):
        return (nn.LSTM if cell == "lstm" else nn.GRU)(point.input, point.hidden)
    hidden = MODES[point.hidden]
    ih, hh = (
        FormatSpec("tt", MODES[size], hidden, (RANK,)) if compressed else None
        for size, compressed in zip((point.input, point.hidden), FORMS[provider.removeprefix("dropfold ")])
    )
    return (TensorLSTM if cell == "lstm" else TensorGRU)(point.input, point.hidden, ih=ih, hh=hh)


def step(
    cell: Cell, point: Point, provider: str, backward: bool, calls: int, device: str = "cpu"
) -> Callable[[], Any]:
    """`calls` times one forward without autograd, or one forward and backward of the sum of all hidden states."""
    torch.backends.cudnn.allow_tf32 = False  # ours does not round to TF32 either
    network = build(cell, point, provider).to(device)
    x = torch.randn(point.frames, point.batch, point.input, generator=torch.Generator().manual_seed(0))
    x = x.to(device)

    def forward() -> None:
        with torch.no_grad():
            network(x)

    def both() -> None:
        network(x)[0].sum().backward()
        network.zero_grad()

    def run() -> None:
        for _ in range(calls):
            (both if backward else forward)()

    return run


def cases(cell: Cell, point: Point, backward: bool, calls: int, device: str = "cpu") -> list[Case]:
    """PyTorch's module first (on a GPU cuDNN's), and ours."""
    providers = ["nn.LSTM" if cell == "lstm" else "nn.GRU", *(f"dropfold {form}" for form in FORMS)]
    return [
        Case(
            operation=f"{cell}_forward_backward" if backward else f"{cell}_forward",
            provider=provider,
            shape=str(point),
            dtype="float32",
            make=partial(step, cell, point, provider, backward, calls, device),
        )
        for provider in providers
    ]


def comparisons(points: Sequence[Point], device: str) -> Iterator[list[Case]]:
    """All cells, forward and training, one call at a time."""
    for point in points:
        for cell in get_args(Cell):
            for backward in (False, True):
                yield cases(cell, point, backward, 1, device)
