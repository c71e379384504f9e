"""Intervals of a run's leading figure over its test samples: how far another draw of as many samples would move it.

They say nothing of other seeds: a network that is trained again differs by more or less than that.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dropfold.train.scoring.metrics import Predictions

Z = 1.959964  # the normal distribution's 97.5 % quantile
RESAMPLES = 2000
FEWEST = 5  # rooms or shapes that are resampled: of fewer an interval would come out far too narrow


def leading_interval(name: str, predictions: Predictions) -> tuple[float, float, str] | None:
    """The 95 % interval of the figure `name` and its method in words; None if there is none, as of a few rooms."""
    if name == "overall_accuracy" and "logits" in predictions and len(predictions["label"]):
        right = predictions["logits"].argmax(1) == predictions["label"]
        return *wilson(int(right.sum()), len(right)), "Wilson"
    if name == "instance_mean_iou" and len(predictions["iou"]) >= FEWEST:
        iou = predictions["iou"]
        return *resample(len(iou), lambda times: times @ iou / len(iou)), "bootstrap"
    if name == "mean_iou" and len(predictions.get("confusions", ())) >= FEWEST:
        confusions = predictions["confusions"].astype(np.float64)
        return *resample(
            len(confusions), lambda times: _mean_iou(np.tensordot(times, confusions, 1))
        ), "bootstrap"
    return None


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) of a share of n samples: within 0 .. 1, and not of no width where all are right."""
    share, spread = hits / n, Z * Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def resample(n: int, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """95 % percentile bootstrap of a statistic of n samples, a function of how often each is drawn [resamples, n]."""
    times = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    low, high = np.nanquantile(statistic(times), [0.025, 0.975])
    return float(low), float(high)


def _mean_iou(matrices: np.ndarray) -> np.ndarray:
    hit = np.diagonal(matrices, axis1=1, axis2=2)
    union = matrices.sum(1) + matrices.sum(2) - hit
    iou = np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)
    return np.nanmean(iou, 1)
