"""`python -m benchmarks.segmentation_baselines`: what the obvious baselines reach on components and on rooms.

Majority: of parts, each category's most frequent part in training; of rooms, the most frequent class. Forest: a random
forest on local features of each point: where it lies, its colour (rooms), and of its 16 and its 64 nearest neighbours the
eigenvalues of their covariance (how like a line, a plane or a ball they lie), the upright part of their normal, their
height and where their mean lies. Of parts there is a forest for each category. Metrics are those of training; of rooms they
are taken on a random choice of points.

scikit-learn: pip install -e '.[baselines]'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from data_scripts.scene_schema import Scenes
from train import metrics, parts, scenes
from train.recipes import recipe

NEIGHBOURS = (16, 64)


@dataclass
class Options:
    """Measure the baselines."""

    only: tuple[Literal["components", "rooms"], ...] = ("components", "rooms")
    """On which of the defaults."""
    trees: int = 100
    """Of a forest."""
    train_points: int = 4_000
    """Rooms: points of each training room."""
    test_points: int = 20_000
    """Rooms: points of each test room."""
    seed: int = 0
    """Of everything."""


def local_features(cloud: np.ndarray, rows: np.ndarray, up: int) -> np.ndarray:
    """Features [rows, F] of some points of a cloud [N, 3]; `up` is the upright axis."""
    from scipy.spatial import cKDTree

    tree, found = cKDTree(cloud), [cloud[rows]]
    for k in NEIGHBOURS:
        _, idx = tree.query(cloud[rows], min(k, len(cloud)))
        near = cloud[idx]
        mean = near.mean(1)
        centred = (near - mean[:, None]).astype(np.float64)
        values, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", centred, centred) / near.shape[1])
        small, middle, large = np.clip(values, 1e-12, None).T
        found += [
            np.stack([(large - middle) / large, (middle - small) / large, small / large, np.sqrt(large)], 1),
            np.abs(vectors[:, up, :1]),
            np.ptp(near[..., up], axis=1)[:, None],
            mean - cloud[rows],
        ]
    return np.concatenate(found, 1).astype(np.float32)


def forest(x: np.ndarray, y: np.ndarray, options: Options) -> Any:
    """A trained random forest."""
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError:
        raise SystemExit("error: the forest needs scikit-learn: pip install -e '.[baselines]'") from None
    made = RandomForestClassifier(options.trees, min_samples_leaf=2, random_state=options.seed, n_jobs=-1)
    return made.fit(x, y)


def of_components(options: Options) -> dict[str, dict[str, float]]:
    """By baseline, the figures on the test shapes of components, all their points."""
    config = recipe("components")
    data = parts.load(config)  # type: ignore[arg-type]
    signature, classes = data.signature, len(data.signature.class_names)
    train, test = data.train, data.test

    def rows(split: parts.Shapes, c: int) -> list[slice]:
        chosen = np.flatnonzero(split.category.numpy() == c).tolist()
        return [slice(int(split.ptr[i]), int(split.ptr[i + 1])) for i in chosen]

    label = test.part.numpy().astype(np.int64)
    said = {name: np.zeros(len(label), np.int64) for name in ("majority", "forest")}
    for c in track(range(len(signature.categories)), "components", console=Console(stderr=True)):
        known = np.concatenate([train.part[r].numpy() for r in rows(train, c)])
        x = np.concatenate([_whole(train.x[r].numpy()) for r in rows(train, c)])
        made = forest(x, known, options)
        for r in rows(test, c):
            said["majority"][r] = np.bincount(known, minlength=classes).argmax()
            said["forest"][r] = made.predict(_whole(test.x[r].numpy()))
    category, own = test.category.numpy(), np.array(signature.part_category)

    def scored(found: np.ndarray) -> dict[str, float]:
        ious = metrics.shape_ious(label, found, test.ptr, category, own)
        return metrics.part_scores(ious, category, label, found, len(signature.categories)).figures

    return {name: scored(found) for name, found in said.items()}


def _whole(cloud: np.ndarray) -> np.ndarray:
    return local_features(cloud, np.arange(len(cloud)), up=1)


def of_rooms(options: Options) -> dict[str, dict[str, float]]:
    """By baseline, the figures on the test area of rooms, on a random choice of its points."""
    config = recipe("rooms")
    data = scenes.load(config)  # type: ignore[arg-type]
    classes = len(data.signature.class_names)
    x, y = _rooms(data.train.scenes, data.train.index, options.train_points, options.seed)
    made = forest(x, y, options)
    x, label = _rooms(data.test.scenes, data.test.index, options.test_points, options.seed)
    said = {"majority": np.full(len(label), np.bincount(y).argmax()), "forest": made.predict(x)}
    return {
        name: metrics.scene_scores(metrics.confusion(label, found, classes)).figures
        for name, found in said.items()
    }


def _rooms(held: Scenes, index: np.ndarray, points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    features, labels = [], []
    for i in track(index.tolist(), "rooms", console=Console(stderr=True)):
        room, random = held.room(i), np.random.default_rng((seed, i))
        rows = np.sort(random.permutation(len(room.points))[:points])
        place = room.points[rows] / room.points.max(0)
        local = local_features(room.points, rows, up=2)
        features.append(np.concatenate([local, room.colour[rows] / 255, place], 1).astype(np.float32))
        labels.append(room.label[rows])
    return np.concatenate(features), np.concatenate(labels)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    for name, measure in (("components", of_components), ("rooms", of_rooms)):
        if name in options.only:
            for baseline, figures in measure(options).items():
                shown = ", ".join(f"{metrics.in_words(k)} {100 * v:.1f} %" for k, v in figures.items())
                print(f"{name}, {baseline}: {shown}", flush=True)


if __name__ == "__main__":
    main()
