"""A label for each point of a scene of any size.

The scene is cut into columns of `block` metres, `stride` metres apart, each wider by PADDING so that no point lies between
two. The points of a column, in random order, are cut into groups of as many as the network was trained on; the last group is
filled up with points of the column. Each prediction is a vote for its point, and a vote is the vector of class
probabilities: they have one scale in all columns, which logits have not, and an uncertain prediction weighs less than a
certain one. A point gets the class with the largest sum of votes. (yanx27's evaluation has the same columns and groups, and
counts classes.)

Columns are visited along x, row by row. A point to the left of the current row has all its votes, and its label is written;
so votes are kept for a strip of the scene alone, and memory grows with the points themselves only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from dropfold.train.config.configs import BlockConfig, SceneConfig
from dropfold.train.data.columns import UP, Columns, channels
from dropfold.train.data.local_shape import local_shape
from dropfold.train.tasks.segmentation import groups

PADDING = 0.001
POINTS_PER_CALL = {"cpu": 16_384, "cuda": 262_144}  # of the network; at least one group


def starts(low: float, high: float, block: float, stride: float) -> list[float]:
    """Where the columns along one axis begin. The last one ends at `high`, and so does the only one of a narrow room."""
    count = max(1, int(np.ceil((high - low - block) / stride)) + 1)
    return [min(low + i * stride + block, high) - block for i in range(count)]


def occupied(places: np.ndarray, low: float, columns: int, block: float, stride: float) -> list[int]:
    """Indices of the columns along an axis that may hold a point, given the points' coordinates on it. The columns of an
    empty stretch before a point far away are left out."""
    reach = int(np.ceil((block + 2 * PADDING) / stride))
    cells = np.unique(np.floor((places - low) / stride).astype(np.int64))
    near = np.clip(cells[:, None] + np.arange(-reach, 2), 0, columns - 1)
    return np.unique(near).tolist()


def check_colour(colour: np.ndarray | None, config: BlockConfig, name: str) -> None:
    """Refuse a scene without the colours that a network was trained with."""
    if colour is None and config.colour:
        raise ValueError(
            f"{name} has no colours, and the run was trained with them; train one with --no-colour for such scenes."
        )


def label_points(
    network: nn.Module,
    points: np.ndarray,
    colour: np.ndarray | None,
    config: BlockConfig,
    classes: int,
    advance: Callable[[int], object] = lambda points: None,
    amp: torch.dtype | None = None,
) -> np.ndarray:
    """The class of each point: uint8 [n] of points [n, 3] in metres, z upwards, and colour [n, 3] uint8 or None.

    `advance` is called with the number of points that have just got their label. `amp` is the type of the network's
    products, e.g. torch.bfloat16.

    Raises:
        ValueError: no points.
    """
    from dropfold.kernels.backend.numba import launch
    from dropfold.train.tasks.add_votes import add_votes

    if not len(points):
        raise ValueError("a scene has no points; expected 1 or more.")
    points = np.ascontiguousarray(points - points.min(0), dtype=np.float32)
    highest, columns = points.max(0), Columns(points[:, :2], config.stride)
    shape = None
    if isinstance(config, SceneConfig) and config.local_shape:
        shape = local_shape(points, UP)[columns.order]
    points = points[columns.order]
    colour = colour[columns.order] if colour is not None and config.colour else None
    low, high = columns.low, columns.high
    labels = np.empty(len(points), np.uint8)
    # The votes of the points from `begin` on, in the order of the columns.
    votes, begin = np.zeros((0, classes), np.float32), 0
    points_per_call = POINTS_PER_CALL[next(network.parameters()).device.type]
    network.eval()

    def settle(until: int) -> None:
        labels[columns.order[begin:until]] = votes[: until - begin].argmax(1)
        advance(until - begin)

    along_x, along_y = (starts(low[a], high[a], config.block, config.stride) for a in range(2))
    for row in occupied(columns.xy[:, 0], low[0], len(along_x), config.block, config.stride):
        x = along_x[row]
        first, last = columns.run(x - PADDING, x + config.block + PADDING)
        first = max(first, begin)
        settle(min(first, begin + len(votes)))
        kept = votes[first - begin :]
        votes = np.concatenate([kept, np.zeros((last - first - len(kept), classes), np.float32)])
        begin = first
        pieces, centres = [], []
        row_y = columns.xy[first:last, 1]
        for column in occupied(row_y, low[1], len(along_y), config.block, config.stride):
            corner = np.array([x, along_y[column]])
            inside = columns.inside(corner - PADDING, corner + config.block + PADDING)
            if not len(inside):
                continue
            for vote in range(config.votes):
                random = np.random.default_rng((vote, row, column))
                cut = groups(len(inside), config.points, random)
                pieces.append(inside[cut])
                centres += [corner + config.block / 2] * len(cut)
        members = np.concatenate(pieces) if pieces else np.empty((0, config.points), np.int64)
        size = max(1, points_per_call // config.points)
        for start in range(0, len(members), size):
            batch = members[start : start + size]
            x_batch = channels(
                points[batch],
                None if colour is None else colour[batch],
                np.array(centres[start : start + size])[:, None],
                highest,
                None if shape is None else shape[batch],
            )
            launch(add_votes, votes, batch.ravel() - begin, _probabilities(network, x_batch, amp))
    settle(len(points))
    return labels


@torch.inference_mode()
def _probabilities(network: nn.Module, x: np.ndarray, amp: torch.dtype | None) -> np.ndarray:
    device = next(network.parameters()).device
    with torch.autocast(device.type, amp, enabled=amp is not None):
        logits = network(torch.from_numpy(x).to(device))
    return logits.float().softmax(-1).flatten(0, 1).cpu().numpy()


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[int], object]]:
    """A progress bar on standard error, if that is a terminal; gives the function that advances it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda count: bar.advance(task, count)
