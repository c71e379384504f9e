"""The seven corruptions of PointCloud-C (Ren, Pan and Liu 2022) and an eighth, five levels each, for clouds [N, 3] in the
unit sphere.

| | the corrupted cloud | levels 1 .. 5 |
|---|---|---|
| jitter | x + s z, z ~ N(0, 1) a coordinate | s = .01 .02 .03 .04 .05 |
| scale | each axis times U(1/S, S), then centred as the data are and scaled to the unit sphere | S = 1.6 1.7 1.8 1.9 2.0 |
| rotate | Rz Ry Rx, each angle U(-t, t) | t = pi/30 pi/15 pi/10 pi/7.5 pi/6 |
| drop_global | a random share r is dropped | r = .25 .375 .5 .625 .75 |
| drop_local | K points are dropped, in C parts: a random point and the nearest to it | K = 100 200 300 400 500 |
| add_global | K points more, uniform in the unit sphere | K = 10 20 30 40 50 |
| add_local | K points more, in C parts: Gaussians about points of the cloud, s ~ U(.075, .125) | K = 100 200 300 400 500 |
| missing_parts | drop_local with 30 to 70 % of the points | K = 307.2 409.6 512 614.4 716.8 |

C ~ U{1 .. 7}, and each of the K points is in any of the parts with equal chance. K counts for clouds of 1,024 points; with N
points it is K N / 1024, rounded. All this is as the generator of the published files has it (ldkong1205/PointCloud-C,
build/corrupt_utils.py); the page of the benchmark has r = .675 and C up to 8 instead. missing_parts is ours, for clouds of
which much is not seen; it is never part of mCE, nor of the mean over corruptions.

A corrupted cloud is a function of (seed, corruption, level, its place in the file): every run sees the same points, in
whichever split or fold a shape is, and nothing needs to be stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from dropfold.data_scripts.schemas.centre import Centre, middle_of

Corruption = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def jitter(x: np.ndarray, sigma: float, random: np.random.Generator) -> np.ndarray:
    """x + sigma z, z ~ N(0, 1)."""
    return x + sigma * random.standard_normal(x.shape)


def scale(x: np.ndarray, most: float, random: np.random.Generator, centre: Centre = "mean") -> np.ndarray:
    """Each axis times U(1 / most, most), then centred, the farthest point at distance 1."""
    x = x * random.uniform(1 / most, most, 3)
    x = x - middle_of(x, centre)
    return x / max(1e-9, np.linalg.norm(x, axis=1).max())


def rotate(x: np.ndarray, most: float, random: np.random.Generator) -> np.ndarray:
    """x R with R = Rz Ry Rx, each angle U(-most, most) radians."""
    from scipy.spatial.transform import Rotation

    return x @ Rotation.from_euler("xyz", random.uniform(-most, most, 3)).as_matrix()


def drop_global(x: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """floor(N (1 - share)) points, chosen at random, are kept."""
    return x[np.sort(random.permutation(len(x))[: int(len(x) * (1 - share))])]


def drop_local(x: np.ndarray, count: float, random: np.random.Generator) -> np.ndarray:
    """K points are dropped: part by part a random point of those that are left, and the nearest to it."""
    for size in parts(scale_count(count, x), random):
        distance = np.square(x - x[random.integers(len(x))]).sum(1)
        x = x[np.sort(distance.argpartition(size)[size:])]
    return x


def add_global(x: np.ndarray, count: float, random: np.random.Generator) -> np.ndarray:
    """K points more, uniform in the unit sphere: radius U(0, 1)^(1/3)."""
    K = scale_count(count, x)
    direction = random.standard_normal((K, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.concatenate([x, direction * random.random((K, 1)) ** (1 / 3)])


def add_local(x: np.ndarray, count: float, random: np.random.Generator) -> np.ndarray:
    """K points more, part by part p = c + s z with c a point of x, s ~ U(.075, .125), z ~ N(0, 1); beyond the unit sphere
    p / |p|^2."""
    sizes = parts(scale_count(count, x), random)
    centres = x[random.permutation(len(x))[: len(sizes)]]
    width = random.uniform(0.075, 0.125, (len(sizes), 1))
    added = np.repeat(centres, sizes, 0) + np.repeat(width, sizes, 0) * random.standard_normal(
        (sizes.sum(), 3)
    )
    return np.concatenate([x, added / np.maximum(1, np.square(added).sum(1, keepdims=True))])


def scale_count(count: float, x: np.ndarray) -> int:
    """A count for clouds of 1,024 points, scaled to the number of points of x."""
    return round(count * len(x) / 1024)


def parts(K: int, random: np.random.Generator) -> np.ndarray:
    """Sizes, adding up to K, of U{1 .. 7} parts; each of the K is in any part with equal chance."""
    C = random.integers(1, 8)
    return np.bincount(random.integers(C, size=K), minlength=C)


CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "jitter": (jitter, (0.01, 0.02, 0.03, 0.04, 0.05)),
    "scale": (scale, (1.6, 1.7, 1.8, 1.9, 2.0)),
    "rotate": (rotate, (math.pi / 30, math.pi / 15, math.pi / 10, math.pi / 7.5, math.pi / 6)),
    "drop_global": (drop_global, (0.25, 0.375, 0.5, 0.625, 0.75)),
    "drop_local": (drop_local, (100, 200, 300, 400, 500)),
    "add_global": (add_global, (10, 20, 30, 40, 50)),
    "add_local": (add_local, (100, 200, 300, 400, 500)),
}
MISSING = "missing_parts"
ALL = CORRUPTIONS | {MISSING: (drop_local, tuple(1024 * share for share in (0.3, 0.4, 0.5, 0.6, 0.7)))}
LEVELS = 5


def corrupt(
    points: np.ndarray, places: np.ndarray, name: str, level: int, seed: int = 0, centre: Centre = "mean"
) -> np.ndarray:
    """Clouds [n, N, 3] under a corruption at a level of 1 .. 5: float32 [n, N', 3].

    `centre` says where the clouds stand in their unit spheres, and stand again after their axes are scaled. `places` [n] are
    the clouds' places in their file, which with the seed, the corruption and the level govern the chance.

    Raises:
        ValueError: no such corruption or level; not clouds of at least 8 points; outside the unit sphere.
    """
    if name not in ALL or level not in range(1, LEVELS + 1):
        raise ValueError(
            f"there is no corruption {name!r} of level {level}; there are {', '.join(ALL)}, levels 1 to {LEVELS}."
        )
    if points.ndim != 3 or points.shape[2] != 3 or points.shape[1] < 8:
        raise ValueError(f"points must be clouds [n, N, 3] with N of at least 8; got {list(points.shape)}.")
    farthest = np.linalg.norm(points, axis=2).max(initial=0)
    if farthest > 1 + 1e-3:  # files hold float32 coordinates, some of them rounded to 16 bits before
        raise ValueError(
            f"a point lies {farthest:.3f} from the centre, and the corruptions are those of clouds in the unit sphere; "
            "scale the data set when it is made."
        )
    apply, strengths = ALL[name]
    if name == "scale":
        apply = partial(scale, centre=centre)
    which = list(ALL).index(name)
    clouds = [
        apply(cloud, strengths[level - 1], np.random.default_rng((seed, which, level, int(place))))
        for cloud, place in zip(points.astype(np.float64), places, strict=True)
    ]
    return np.stack(clouds).astype(np.float32)
