"""Figures of rooms over all folds, of the confusion summed over them, as "6-fold" figures are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dropfold.train.compare import table
from dropfold.train.compare.outcomes import Key
from dropfold.train.scoring import metrics
from dropfold.train.storage import checkpoint


def table_of(runs: dict[Key, Path]) -> str:
    """Markdown: by variant the figures of the confusion matrices summed over folds, mean over seeds with Student's interval;
    empty if the runs are not of rooms. `runs` are folders of finished runs; a seed that lacks a fold which another has is
    left out."""
    matrices: dict[tuple[str, int], dict[int, np.ndarray]] = {}
    for (variant, seed, fold), folder in runs.items():
        predictions = checkpoint.load_arrays(folder / checkpoint.PREDICTIONS)
        if "confusion" not in predictions:
            return ""
        matrices.setdefault((variant, seed), {})[fold] = predictions["confusion"]
    most = max((len(folds) for folds in matrices.values()), default=0)
    figures: dict[str, list[dict[str, float]]] = {}
    for (variant, _), folds in matrices.items():
        if len(folds) == most:
            summed = np.sum(list(folds.values()), 0)
            figures.setdefault(variant, []).append(metrics.scene_scores(summed).figures)
    if not figures:
        return ""
    names = list(next(iter(figures.values()))[0])
    rows = [
        [
            variant,
            str(len(seeds)),
            *(table.shown(*table.mean([seed[name] for seed in seeds])[:2]) for name in names),
        ]
        for variant, seeds in figures.items()
    ]
    head = ["variant", "seeds", *(f"{metrics.in_words(name)}, %" for name in names)]
    note = f"Of the confusion summed over all points that {most} folds test; ±: {table.INTERVAL}"
    return f"{table.table(head, rows, 1)}\n{note}\n"
