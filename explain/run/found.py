"""What a command is given and what it finds, and how numbers are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from dropfold.explain.score.curves import dropping
from dropfold.explain.score.saliency import CLASS_AGNOSTIC
from dropfold.train.scoring.intervals import resample

BATCH = 16  # clouds at a time


@dataclass
class Found:
    """values: explanation.json; arrays: explanation.npz; page: what the page shows."""

    values: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    page: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Clouds:
    """A trained network, the clouds x [n, N, C] of a split, their classes [n] and their names."""

    network: nn.Module
    x: Tensor
    label: Tensor
    title: list[str]
    names: list[str]

    def logits(self) -> Tensor:
        """[n, classes]."""
        return dropping(self.network, self.x, self.x[..., 0], (0.0,)).logits[0]


def mean_interval(values: Tensor) -> tuple[float, float, float]:
    """The mean of values [n] and its 95 % bootstrap interval."""
    v = values.double().cpu().numpy()
    return float(v.mean()), *resample(len(v), lambda times: times @ v / len(v))


def mean(values: Tensor) -> float:
    """As a number."""
    return float(values.double().mean())


def percent(share: float) -> str:
    """For readers."""
    return f"{100 * share:.1f} %"


def in_words(name: str) -> str:
    """ "xgrad_cam" as it is written."""
    known = {"xgrad_cam": "XGrad-CAM", "grad_cam": "Grad-CAM"}
    return known.get(name, name.replace("_", " ")) + (" (no class)" if name in CLASS_AGNOSTIC else "")
