"""Where a shape stands in its unit sphere: on the mean of its points, or on the middle of their box."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

Centre = Literal["mean", "box"]
NEAR, FAR = 0.01, 0.06  # from the centre: half of a data set's clouds, and most of them
MOST = 0.9


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
    1; or neither, empty. Near enough for most of them, as some sets hold a part of the points that were centred.

    A network is given a shape as it was trained on: moved by a seventh of its size, it sees another one.
    """
    away = {"radius": list[float](), "box": list[float](), "mean": list[float]()}
    for points in clouds:
        away["radius"].append(abs(np.linalg.norm(points, axis=1).max() - 1))
        away["box"].append(float(np.linalg.norm(middle_of(points, "box"))))
        away["mean"].append(float(np.linalg.norm(middle_of(points, "mean"))))
    if not away["radius"]:
        return ""
    median = {name: float(np.median(found)) for name, found in away.items()}
    most = {name: float(np.quantile(found, MOST)) for name, found in away.items()}
    near = {name: median[name] <= NEAR and most[name] <= FAR for name in away}
    if median["radius"] > FAR or not (near["box"] or near["mean"]):
        return ""
    return "box" if (near["box"] and median["box"] <= median["mean"]) or not near["mean"] else "mean"


def in_sphere(centre: str) -> str:
    """In words."""
    words = {"mean": "on the mean of their points", "box": "on the middle of their boxes"}
    return words.get(centre, "in a frame that is not known") + (" in the unit sphere" if centre else "")
