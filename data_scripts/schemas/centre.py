"""Where a shape stands in its unit sphere: on the mean of its points, or on the middle of their box."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

Centre = Literal["mean", "box"]
NEAR = 0.01  # of the centre and the radius of half of a data set's clouds


def normalised(points: np.ndarray, centre: Centre = "mean") -> np.ndarray:
    """Points [N, 3] centred on their mean, or on the middle of their box, the farthest one at distance 1; float32."""
    points = points.astype(np.float64)
    points = points - middle_of(points, centre)
    return (points / max(np.linalg.norm(points, axis=1).max(), 1e-12)).astype(np.float32)


def middle_of(points: np.ndarray, centre: Centre) -> np.ndarray:
    """The mean [3] of points [N, 3], or the middle of their box."""
    return points.mean(0) if centre == "mean" else (points.min(0) + points.max(0)) / 2


def centre_of(clouds: Iterable[np.ndarray]) -> Centre | Literal[""]:
    """How a data set's clouds were centred: on the middle of their boxes, or on their means, the farthest point at distance
    1; or neither, empty. By the medians over the clouds, as some sets hold a part of the points that were centred.

    A network is given a shape as it was trained on: moved by a seventh of its size, it sees another one.
    """
    radius, away = [], {"box": list[float](), "mean": list[float]()}
    for points in clouds:
        radius.append(np.linalg.norm(points, axis=1).max())
        for centre, found in away.items():
            found.append(np.linalg.norm(middle_of(points, centre)))  # type: ignore[arg-type]
    if not radius or abs(np.median(radius) - 1) > NEAR:
        return ""
    box, mean = np.median(away["box"]), np.median(away["mean"])
    if min(box, mean) > NEAR:
        return ""
    return "box" if box <= mean else "mean"
