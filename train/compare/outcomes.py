"""What runs got right, sample by sample; figures from it, and their differences between variants with bootstrap intervals.

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

Key = tuple[str, int, int]  # variant, seed, fold (-1: the file's own split)
RESAMPLES = 9_999


@dataclass
class Outcome:
    """What a run got right of a split."""

    index: np.ndarray
    """Places of the samples in their file, [n]."""
    label: np.ndarray
    """Classes [n]."""
    right: np.ndarray
    """[n] bool; of shapes with parts, the IoU of each."""
    corrupted: np.ndarray | None = None
    """[corruptions of ALL, levels, n] bool, where it was measured."""

    def values(self) -> dict[str, np.ndarray]:
        """By figure, what each sample gives to it: [n, 1], of mce its errors under each corruption, [n, corruptions]."""
        found = {"score": self.right[:, None].astype(float)}
        if self.corrupted is not None:
            seven, missing = self.corrupted[: len(CORRUPTIONS)], self.corrupted[list(ALL).index(MISSING)]
            found["corrupted_accuracy"] = seven.mean((0, 1))[:, None]
            found["missing_accuracy"] = missing.mean(0)[:, None]
            found["mce"] = (~seven).mean(1).T
        return found


Outcomes = dict[Key, Outcome]


def of_predictions(path: Path) -> Outcome | None:
    """The outcome of a run's predictions.npz; None where a sample has several labels, for then none is right as a whole, and
    of rooms, whose figure is no mean over them."""
    with np.load(path) as found:
        if "iou" in found:
            return Outcome(found["index"], found["category"], found["iou"])
        if "logits" not in found:
            return None
        label = found["label"]
        if label.ndim > 1:
            return None
        return Outcome(found["index"], label, found["logits"].argmax(1) == label)


def of_corrupted(outcomes: Outcomes, baseline: str) -> dict[Key, dict[str, float]]:
    """The figures under corruption of each run that has them; mce beside the baseline's mean over its runs."""
    values = {key: outcome.values() for key, outcome in outcomes.items() if outcome.corrupted is not None}
    ours = [found["mce"].mean(0) for (variant, *_), found in values.items() if variant == baseline]
    usual = np.mean(ours, 0) if ours else np.full(len(CORRUPTIONS), np.nan)
    with np.errstate(all="ignore"):  # a baseline without an error has no mCE
        return {
            key: {
                "corrupted_accuracy": float(found["corrupted_accuracy"].mean()),
                "missing_accuracy": float(found["missing_accuracy"].mean()),
                "mce": float((found["mce"].mean(0) / usual).mean()),
            }
            for key, found in values.items()
        }


def interval(outcomes: Outcomes, variant: str, baseline: str, figure: str) -> tuple[float, float]:
    """95 % bootstrap interval of a figure's difference between two variants; NaN where there is nothing to resample.

    A sample is drawn with all that is known of it: its values in both variants, averaged over the seeds (and folds) in
    which both were tested on it.
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
    """95 % BCa interval (Efron 1987) of a statistic of n samples, which is given their numbers [..., n]."""
    from scipy import stats

    if n < 2:
        return np.nan, np.nan
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Where all samples are alike, or a resample leaves the baseline no error, there is no interval: NaN.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (np.arange(n),),
            statistic,
            n_resamples=RESAMPLES,
            batch=256,
            vectorized=True,
            method="BCa",
            random_state=np.random.default_rng(0),
        ).confidence_interval
    return float(found.low), float(found.high)
