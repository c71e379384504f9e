"""The outcomes of runs, sample by sample; figures from them, and differences between variants with bootstrap intervals.

Figures: corrupted_accuracy is the mean of the accuracies under each of the seven corruptions and level, missing_accuracy
those of missing_parts, and with e[c] the errors 1 - accuracy under corruption c of the seven, added over its levels and
averaged over runs,

    mCE = mean over c of e[c] / e[c] of the baseline   (Ren, Pan and Liu 2022; there the baseline is their DGCNN).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropfold.train.compare.corruptions import ALL, CORRUPTIONS, MISSING
from dropfold.train.storage import checkpoint

Key = tuple[str, int, int]  # variant, seed, fold (-1: the file's own split)
RESAMPLES = 9_999


@dataclass
class Outcome:
    """Whether a run predicts each sample of a split correctly."""

    index: np.ndarray
    """Places of the samples in their file, [n]."""
    label: np.ndarray
    """Classes [n]."""
    right: np.ndarray
    """[n] bool; for shapes with parts, the IoU of each."""
    corrupted: np.ndarray | None = None
    """[corruptions of ALL, levels, n] bool; None if it was not measured."""

    def values(self) -> dict[str, np.ndarray]:
        """By figure, each sample's contribution to it: [n, 1]; to mce its errors under each corruption, [n, corruptions]."""
        figures = {"score": self.right[:, None].astype(float)}
        if self.corrupted is not None:
            seven, missing = self.corrupted[: len(CORRUPTIONS)], self.corrupted[list(ALL).index(MISSING)]
            figures["corrupted_accuracy"] = seven.mean((0, 1))[:, None]
            figures["missing_accuracy"] = missing.mean(0)[:, None]
            figures["mce"] = (~seven).mean(1).T
        return figures


Outcomes = dict[Key, Outcome]


def of_predictions(path: Path) -> Outcome | None:
    """The outcome of a run's predictions.npz. None if samples have several labels, so that none is correct as a whole; and
    for rooms, whose figure is no mean over rooms."""
    predictions = checkpoint.load_arrays(path)
    if "iou" in predictions:
        return Outcome(predictions["index"], predictions["category"], predictions["iou"])
    if "logits" not in predictions:
        return None
    label = predictions["label"]
    if label.ndim > 1:
        return None
    return Outcome(predictions["index"], label, predictions["logits"].argmax(1) == label)


def of_corrupted(outcomes: Outcomes, baseline: str) -> dict[Key, dict[str, float]]:
    """The figures under corruption of each run that has them; mce beside the baseline's mean over its runs."""
    values = {key: outcome.values() for key, outcome in outcomes.items() if outcome.corrupted is not None}
    errors = [figures["mce"].mean(0) for (variant, *_), figures in values.items() if variant == baseline]
    unit = np.mean(errors, 0) if errors else np.full(len(CORRUPTIONS), np.nan)
    with np.errstate(all="ignore"):  # a baseline without an error has no mCE
        return {
            key: {
                "corrupted_accuracy": float(figures["corrupted_accuracy"].mean()),
                "missing_accuracy": float(figures["missing_accuracy"].mean()),
                "mce": float((figures["mce"].mean(0) / unit).mean()),
            }
            for key, figures in values.items()
        }


def interval(outcomes: Outcomes, variant: str, baseline: str, figure: str) -> tuple[float, float]:
    """95 % bootstrap interval of a figure's difference between two variants; NaN if there is nothing to resample.

    A sample is resampled with its values in both variants, averaged over the seeds (and folds) in which both were tested on
    it.
    """
    ours, theirs = paired(outcomes, variant, baseline, figure)

    def difference(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        a, b = ours[chosen].mean(-2), theirs[chosen].mean(-2)
        return (a / b - 1 if figure == "mce" else a - b).mean(-1)

    return bootstrap(difference, len(ours))


def paired(outcomes: Outcomes, variant: str, baseline: str, figure: str) -> tuple[np.ndarray, np.ndarray]:
    """Values [samples, .] of both variants, means over the runs of the same seed, fold and samples."""
    places, ours, theirs = [], [], []
    for key, outcome in outcomes.items():
        other = outcomes.get((baseline, *key[1:]))
        if key[0] != variant or other is None:
            continue
        same = np.array_equal(outcome.index, other.index) and np.array_equal(outcome.label, other.label)
        a, b = outcome.values().get(figure), other.values().get(figure)
        if same and a is not None and b is not None:
            places.append(outcome.index)
            ours.append(a)
            theirs.append(b)
    if not places:
        return np.empty((0, 1)), np.empty((0, 1))
    sample, which, times = np.unique(np.concatenate(places), return_inverse=True, return_counts=True)

    def means(values: list[np.ndarray]) -> np.ndarray:
        total = np.zeros((len(sample), values[0].shape[1]))
        np.add.at(total, which, np.concatenate(values))
        return total / times[:, None]

    return means(ours), means(theirs)


def bootstrap(statistic: Callable[..., np.ndarray], n: int) -> tuple[float, float]:
    """95 % BCa interval (Efron 1987) of a statistic of n samples, a function of their indices [..., n]."""
    from scipy import stats

    if n < 2:
        return np.nan, np.nan
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # If all samples are alike, or a resample leaves the baseline without an error, there is no interval: NaN.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (np.arange(n),),
            statistic,
            n_resamples=RESAMPLES,
            batch=256,
            vectorized=True,
            method="BCa",
            random_state=np.random.default_rng(0),
        ).confidence_interval
    return float(interval.low), float(interval.high)
