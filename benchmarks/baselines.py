"""`python -m benchmarks.baselines`: what the obvious baselines reach on the data of the recipes.

Shapes (furniture, labeled-meshes, ldraw): a random forest on hand features of the whole cloud. Videos (action-video,
moving-furniture): a random forest on frames averaged to 15 x 20 pixels, some of them, all, or the differences of neighbours.

Parts and rooms: majority, of parts each category's most frequent part in training, of rooms the most frequent class; and a
random forest on local features of each point: where it lies, its colour (rooms), and of its 16 and its 64 nearest
neighbours the eigenvalues of their covariance (how like a line, a plane or a ball they lie), the upright part of their
normal, their height and where their mean lies. Of parts there is a forest for each category. Metrics are those of
training; of rooms they are taken on a random choice of points.

Trained and tested on the recipe's splits (or on folds), points and frames. scikit-learn: pip install -e '.[baselines]'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from dropfold.data_scripts.schemas.scene_schema import Scenes
from dropfold.data_scripts.schemas.shape_schema import FOLDS
from dropfold.train.config.recipes import recipe
from dropfold.train.scoring import metrics
from dropfold.train.tasks import clouds, parts, scenes, video

NEIGHBOURS = (16, 64)
BINS = 16  # of a histogram
HEIGHT, WIDTH = 15, 20  # to which frames are averaged

Figures = dict[str, dict[str, float]]


@dataclass
class Options:
    """Measure the baselines."""

    only: tuple[str, ...] = ("furniture", "components", "rooms")
    """Recipes; also labeled-meshes, ldraw, action-video and moving-furniture, whose data are made locally."""
    data: Path | None = None
    """Another file than the recipe's."""
    held_out: int | None = None
    """Shapes and components: test on this fold, instead of the file's own test split."""
    folds: bool = False
    """Shapes and components: the means over all folds, each held out once."""
    trees: int = 100
    """Of a forest."""
    train_points: int = 4_000
    """Rooms: points of each training room."""
    test_points: int = 20_000
    """Rooms: points of each test room."""
    seed: int = 0
    """Of everything."""


def of_shapes(name: str, options: Options) -> Figures:
    """The forest's figures on the test shapes."""
    config = _config(name, options)
    data = clouds.load(config)
    x = [shape_features(clouds.inputs(split, config)[0].numpy()) for split in (data.train, data.test)]
    return {"forest": _forest_figures(x, data, options)}


def shape_features(points: np.ndarray) -> np.ndarray:
    """[n, F] of clouds [n, N, 3], y upwards: spread along the axes and of the covariance, and histograms of the height, the
    distance from the centre and from the upright axis, and the distance of two points (D2, Osada et al. 2002)."""
    centred = points - points.mean(1, keepdims=True)
    spread = np.ptp(points, axis=1)
    values = np.linalg.eigvalsh(np.einsum("nki,nkj->nij", centred, centred) / points.shape[1])
    pairs = np.random.default_rng(0).integers(points.shape[1], size=(2, 4 * points.shape[1]))
    measured = (
        (centred[..., 1], 1.0),
        (np.linalg.norm(centred, axis=2), 1.5),
        (np.linalg.norm(centred[..., [0, 2]], axis=2), 1.5),
        (np.linalg.norm(centred[:, pairs[0]] - centred[:, pairs[1]], axis=2), 2.0),
    )
    histograms = [
        np.stack([np.histogram(row, BINS, (-most if k == 0 else 0, most))[0] for row in values_of_rows])
        / values_of_rows.shape[1]
        for k, (values_of_rows, most) in enumerate(measured)
    ]
    return np.concatenate([spread, np.sqrt(values), *histograms], 1)


def of_videos(name: str, options: Options) -> Figures:
    """The forest's figures on the test clips, by what it sees of them."""
    config = _config(name, options)
    data = video.load(config)
    small = [_averaged(split.inputs[0].numpy()) for split in (data.train, data.test)]
    random = np.random.default_rng(options.seed)
    places = [random.integers(clips.shape[1], size=len(clips)) for clips in small]
    views: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "one random frame": lambda clips, place: clips[np.arange(len(clips)), place],
        "the first frame": lambda clips, _: clips[:, 0],
        "the last frame": lambda clips, _: clips[:, -1],
        "all frames": lambda clips, _: clips,
        "differences of frames": lambda clips, _: np.diff(clips, axis=1),
    }
    return {
        f"forest on {seen}": _forest_figures(
            [view(clips, place).reshape(len(clips), -1) for clips, place in zip(small, places)], data, options
        )
        for seen, view in views.items()
    }


def _averaged(frames: np.ndarray) -> np.ndarray:
    """Frames [n, T, H, W, C] as [n, T, HEIGHT, WIDTH, C], each pixel the mean of those that it covers."""
    n, t, height, width, channels = frames.shape
    if height % HEIGHT or width % WIDTH:
        raise SystemExit(f"error: frames of {height} x {width} do not average to {HEIGHT} x {WIDTH}.")
    tiles = (n, t, HEIGHT, height // HEIGHT, WIDTH, width // WIDTH, channels)
    return frames.reshape(tiles).mean((3, 5), dtype=np.float32)


def _forest_figures(x: list[np.ndarray], data: Any, options: Options) -> dict[str, float]:
    model = forest(x[0], data.train.label.numpy(), options)
    right = model.predict(x[1]) == data.test.label.numpy()
    each = [right[data.test.label.numpy() == c].mean() for c in np.unique(data.test.label.numpy())]
    return {"overall_accuracy": float(right.mean()), "mean_class_accuracy": float(np.mean(each))}


def _config(name: str, options: Options) -> Any:
    config = recipe(name)
    config.data = options.data or config.data
    if options.held_out is not None:
        config.protocol, config.held_out = "fold", options.held_out
    return config


def local_features(cloud: np.ndarray, rows: np.ndarray, up: int) -> np.ndarray:
    """Features [rows, F] of some points of a cloud [N, 3]; `up` is the upright axis."""
    from scipy.spatial import cKDTree

    tree, features = cKDTree(cloud), [cloud[rows]]
    for k in NEIGHBOURS:
        _, idx = tree.query(cloud[rows], min(k, len(cloud)))
        near = cloud[idx]
        mean = near.mean(1)
        centred = (near - mean[:, None]).astype(np.float64)
        values, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", centred, centred) / near.shape[1])
        small, middle, large = np.clip(values, 1e-12, None).T
        features += [
            np.stack([(large - middle) / large, (middle - small) / large, small / large, np.sqrt(large)], 1),
            np.abs(vectors[:, up, :1]),
            np.ptp(near[..., up], axis=1)[:, None],
            mean - cloud[rows],
        ]
    return np.concatenate(features, 1).astype(np.float32)


def forest(x: np.ndarray, y: np.ndarray, options: Options) -> Any:
    """A trained random forest."""
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError:
        raise SystemExit("error: the forest needs scikit-learn: pip install -e '.[baselines]'") from None
    model = RandomForestClassifier(options.trees, min_samples_leaf=2, random_state=options.seed, n_jobs=-1)
    return model.fit(x, y)


def of_components(options: Options) -> Figures:
    """By baseline, the figures on the test shapes of components, all their points."""
    config = _config("components", options)
    data = parts.load(config)
    signature, classes = data.signature, len(data.signature.class_names)
    train, test = data.train, data.test

    def rows(split: parts.Shapes, c: int) -> list[slice]:
        chosen = np.flatnonzero(split.category.numpy() == c).tolist()
        return [slice(int(split.ptr[i]), int(split.ptr[i + 1])) for i in chosen]

    def features(split: parts.Shapes, r: slice) -> np.ndarray:
        cloud = split.x[r].numpy()
        return local_features(cloud, np.arange(len(cloud)), "xyz".index(config.augment.up))

    label = test.part.numpy().astype(np.int64)
    predictions = {name: np.zeros(len(label), np.int64) for name in ("majority", "forest")}
    for c in track(range(len(signature.categories)), "components", console=Console(stderr=True)):
        known = np.concatenate([train.part[r].numpy() for r in rows(train, c)])
        x = np.concatenate([features(train, r) for r in rows(train, c)])
        model = forest(x, known, options)
        for r in rows(test, c):
            predictions["majority"][r] = np.bincount(known, minlength=classes).argmax()
            predictions["forest"][r] = model.predict(features(test, r))
    category, own = test.category.numpy(), np.array(signature.part_category)

    def score(predicted: np.ndarray) -> dict[str, float]:
        ious = metrics.shape_ious(label, predicted, test.ptr, category, own)
        return metrics.part_scores(ious, category, label, predicted, len(signature.categories)).figures

    return {name: score(predicted) for name, predicted in predictions.items()}


def of_rooms(options: Options) -> Figures:
    """By baseline, the figures on the test area of rooms, on a random choice of its points."""
    data = scenes.load(_config("rooms", options))
    classes = len(data.signature.class_names)
    x, y = _rooms(data.train.scenes, data.train.index, options.train_points, options.seed)
    model = forest(x, y, options)
    x, label = _rooms(data.test.scenes, data.test.index, options.test_points, options.seed)
    predictions = {"majority": np.full(len(label), np.bincount(y).argmax()), "forest": model.predict(x)}
    return {
        name: metrics.scene_scores(metrics.confusion(label, predicted, classes)).figures
        for name, predicted in predictions.items()
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


MEASURES: dict[str, Callable[[Options], Figures]] = {
    "furniture": partial(of_shapes, "furniture"),
    "labeled-meshes": partial(of_shapes, "labeled-meshes"),
    "ldraw": partial(of_shapes, "ldraw"),
    "components": of_components,
    "rooms": of_rooms,
    "action-video": partial(of_videos, "action-video"),
    "moving-furniture": partial(of_videos, "fdht-lstm-video"),
}


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if unknown := set(options.only) - set(MEASURES):
        raise SystemExit(
            f"error: there are no baselines of {sorted(unknown)}; there are {', '.join(MEASURES)}."
        )
    for name in options.only:
        try:
            each = range(FOLDS) if options.folds else [options.held_out]
            figures = [MEASURES[name](replace(options, held_out=held_out)) for held_out in each]
        except ValueError as error:
            raise SystemExit(f"error: {error}") from None
        for baseline in figures[0]:
            shown = ", ".join(
                f"{metrics.in_words(k)} {100 * np.mean([one[baseline][k] for one in figures]):.1f} %"
                for k in figures[0][baseline]
            )
            print(f"{name}, {baseline}: {shown}", flush=True)


if __name__ == "__main__":
    main()
