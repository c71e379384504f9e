"""What a command is given and what it finds, and how numbers are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.explain.maps.explanation import Explanation
from dropfold.explain.score.saliency import CLASS_AGNOSTIC, Pooled, pooled_features
from dropfold.explain.units.ablation import Units
from dropfold.train.scoring.intervals import resample

BATCH = 16  # clouds at a time


@dataclass
class Found:
    """values: explanation.json; arrays: explanation.npz; page: what the page shows."""

    values: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    page: dict[str, Any] = field(default_factory=dict)
    points: np.ndarray | None = None
    """Of a single cloud: its coordinates [N, 3] ..."""
    scores: dict[str, Tensor] = field(default_factory=dict)
    """... and its maps by name, [N] each."""


@dataclass(frozen=True)
class Clouds:
    """A trained network, the clouds x [n, N, C] of a split, their classes [n] (-1: not known) and their names."""

    network: nn.Module
    x: Tensor
    label: Tensor
    title: list[str]
    names: list[str]

    @cached_property
    def pooled(self) -> Pooled:
        """Of all clouds, in one forward."""
        parts = [pooled_features(self.network, part) for part in self.x.split(BATCH)]
        logits, values, winners = zip(*parts, strict=True)
        sides = zip(*(one.parts for one in values), strict=True)
        return Pooled(torch.cat(logits), Units(tuple(map(torch.cat, sides))), torch.cat(winners))

    def logits(self) -> Tensor:
        """[n, classes]."""
        return self.pooled.logits


def join(parts: Sequence[Explanation]) -> Explanation:
    """Explanations of more samples as one."""
    one = parts[0]
    return Explanation(
        torch.cat([e.scores for e in parts]),
        {name: torch.cat([e.account[name] for e in parts]) for name in one.account},
        torch.cat([e.logit for e in parts]),
        torch.cat([e.target for e in parts]),
        one.method,
        one.layer,
        points=None if one.points is None else torch.cat([e.points for e in parts if e.points is not None]),
        notes=tuple(dict.fromkeys(note for e in parts for note in e.notes)),
        class_names=one.class_names,
        logits=None if one.logits is None else torch.cat([e.logits for e in parts if e.logits is not None]),
        frozen=one.frozen,
    )


def check_runner_up(names: Sequence[str]) -> None:
    """Refuse a network of a single class, which has none."""
    if len(names) < 2:
        raise ValueError(
            f"a network that knows the class {', '.join(names)} alone decides between none, and there is no runner-up; "
            "explain a run of two classes or more."
        )


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
