"""What parts and scenes share: how points are chosen, and clouds coloured by class beside the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from dropfold.train.config.configs import PointConfig
from dropfold.train.tasks.points import to_base64

POINTS_SHOWN = 6_000  # points of a cloud on the page
# Okabe and Ito's colours, which the colour-blind can tell apart, and then others.
PALETTE = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#f0e442", "#7f7f7f"),
    *("#8c564b", "#17becf", "#bcbd22", "#9467bd", "#1b5e20", "#ad1457", "#3949ab", "#ff8a65"),
)
CORRECT, WRONG = "#c3cad3", "#d62728"


def check_points(config: PointConfig, least: int) -> None:
    """Refuse fewer points than PointNet++'s first level has centres, `least`."""
    if config.network == "pointnet2" and config.points < least:
        raise ValueError(
            f"PointNet++ has {least} centres in its first level, and the config asks for {config.points} points; ask for "
            f"{least} or more."
        )


def compare_clouds(
    title: str,
    note: str,
    cloud: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    names: list[str],
    colours: np.ndarray,
) -> list[dict[str, Any]]:
    """Three items of a report: a cloud [N, 3] within the unit sphere coloured by truth, by prediction, and by error. `names`
    and `colours` (indices into PALETTE) are by class."""
    if len(cloud) > POINTS_SHOWN:
        kept = np.sort(np.random.default_rng(0).permutation(len(cloud))[:POINTS_SHOWN])
        cloud, truth, predicted = cloud[kept], truth[kept], predicted[kept]
    legend = [[names[c], PALETTE[colours[c]]] for c in np.union1d(truth, predicted)]
    wrong = (truth != predicted).astype(np.uint8)
    packed = to_base64(np.round(32767 * np.clip(cloud, -1, 1)).astype(np.int16))
    share = f"{100 * wrong.mean():.1f} % of the points"
    return [
        {"title": f"{title}: truth", "note": note, "palette": PALETTE, "legend": legend}
        | {"fine": packed, "colours": to_base64(colours[truth].astype(np.uint8))},
        {"title": "predicted", "note": "", "palette": PALETTE}
        | {"fine": packed, "colours": to_base64(colours[predicted].astype(np.uint8))},
        {"title": "errors", "note": share, "palette": [CORRECT, WRONG]}
        | {"fine": packed, "colours": to_base64(wrong)},
    ]


def colour_cloud(wandb: Any, cloud: np.ndarray, colours: np.ndarray) -> Any:
    """A turnable cloud for W&B; `colours` are indices into PALETTE."""
    rgb = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in PALETTE])
    return wandb.Object3D(np.concatenate([cloud, rgb[colours]], 1))


def take(size: int, wanted: int, order: Tensor) -> Tensor:
    """The first `wanted` of a random order [size]; if it is shorter, it is repeated."""
    return order[:wanted] if size >= wanted else order.repeat(-(-wanted // size))[:wanted]


def to_page(points: np.ndarray) -> np.ndarray:
    """Points [n, 3] of a room, z upwards, as the report's page draws them: y upwards, in the unit sphere."""
    cloud = points[:, [0, 2, 1]] * np.array([1, 1, -1], np.float32)
    low, high = cloud.min(0), cloud.max(0)
    return (cloud - (low + high) / 2) / max(1e-6, float(np.linalg.norm(high - low) / 2))


def groups(size: int, wanted: int, random: np.random.Generator) -> np.ndarray:
    """The indices 0 .. size - 1 in random order, in groups of `wanted`: [groups, wanted]. The last group is filled up with
    random indices, without repetition if there are enough."""
    lacking = -size % wanted
    more = random.choice(size, lacking, replace=lacking > size)
    return random.permutation(np.concatenate([np.arange(size), more])).reshape(-1, wanted)
