"""What parts and scenes share: networks with an answer a point, and coloured clouds beside the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from dropfold.models import DGCNNSegmentation, PointNet2Segmentation, PointNetSegmentation
from dropfold.train.config.configs import PointConfig
from dropfold.train.tasks import points

DRAWN = 6_000  # points of a cloud on the page
# Okabe and Ito's colours, which the colour-blind can tell apart, and then others.
PALETTE = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#f0e442", "#7f7f7f"),
    *("#8c564b", "#17becf", "#bcbd22", "#9467bd", "#1b5e20", "#ad1457", "#3949ab", "#ff8a65"),
)
RIGHT, WRONG = "#c3cad3", "#d62728"


def build(
    config: PointConfig, classes: int, channels: int, categories: int | None = None, steps: int = 1
) -> nn.Module:
    """The network of a config; `steps` are those of an epoch, for the noise's warm-up."""
    options: dict[str, Any] = {
        "categories": categories,
        "dropout": config.dropout,
        "noise": points.noises(config, steps),
        "sync_batch_norm": config.sync_batch_norm,
    }
    if config.network == "pointnet":
        if not config.transforms:
            raise ValueError(
                "PointNet for parts and scenes has its transforms always; leave out --no-transforms."
            )
        return PointNetSegmentation(classes, channels, **options)
    if config.network == "pointnet2":
        return PointNet2Segmentation(
            classes, channels, grouping=config.grouping, radius=config.radius, **options
        )
    return DGCNNSegmentation(classes, channels, k=config.k, emb_dims=config.emb_dims, **options)


def enough_points(config: PointConfig, least: int) -> None:
    """PointNet++'s first level has so many centres."""
    if config.network == "pointnet2" and config.points < least:
        raise ValueError(
            f"PointNet++ has {least} centres in its first level, and the config asks for {config.points} points; ask for "
            f"{least} or more."
        )


def compared(
    title: str,
    note: str,
    cloud: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    names: list[str],
    colours: np.ndarray,
) -> list[dict[str, Any]]:
    """A cloud [N, 3] within the unit sphere three times for the report's page: truth, prediction, where they differ.
    `names` and `colours` (numbers in PALETTE) are by class."""
    if len(cloud) > DRAWN:
        kept = np.sort(np.random.default_rng(0).permutation(len(cloud))[:DRAWN])
        cloud, truth, predicted = cloud[kept], truth[kept], predicted[kept]
    seen = np.union1d(truth, predicted)
    legend = [[names[c], PALETTE[colours[c]]] for c in seen]
    wrong = (truth != predicted).astype(np.uint8)
    held = points.text(np.round(32767 * np.clip(cloud, -1, 1)).astype(np.int16))
    share = f"{100 * wrong.mean():.1f} % of the points"
    return [
        {"title": f"{title}: truth", "note": note, "palette": PALETTE, "legend": legend}
        | {"fine": held, "colours": points.text(colours[truth].astype(np.uint8))},
        {"title": "predicted", "note": "", "palette": PALETTE}
        | {"fine": held, "colours": points.text(colours[predicted].astype(np.uint8))},
        {"title": "errors", "note": share, "palette": [RIGHT, WRONG]}
        | {"fine": held, "colours": points.text(wrong)},
    ]


def coloured(wandb: Any, cloud: np.ndarray, colours: np.ndarray) -> Any:
    """A turnable cloud for W&B; `colours` are numbers in PALETTE."""
    rgb = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in PALETTE])
    return wandb.Object3D(np.concatenate([cloud, rgb[colours]], 1))


def drawn(size: int, wanted: int, order: Tensor) -> Tensor:
    """`wanted` places of `size`, from a random order [size] of them; where there are fewer, from its beginning again."""
    return order[:wanted] if size >= wanted else order.repeat(-(-wanted // size))[:wanted]


def standing(points: np.ndarray) -> np.ndarray:
    """Points [n, 3] of a room, z upwards, as the report draws them: y upwards, in the unit sphere."""
    cloud = points[:, [0, 2, 1]] * np.array([1, 1, -1], np.float32)
    low, high = cloud.min(0), cloud.max(0)
    return (cloud - (low + high) / 2) / max(1e-6, float(np.linalg.norm(high - low) / 2))


def groups(size: int, wanted: int, random: np.random.Generator) -> np.ndarray:
    """The places 0 .. size - 1 in random order, in groups of `wanted`: [groups, wanted]. What the last group lacks is drawn
    from all places, without repetition if they are enough."""
    lacking = -size % wanted
    more = random.choice(size, lacking, replace=lacking > size)
    return random.permutation(np.concatenate([np.arange(size), more])).reshape(-1, wanted)
