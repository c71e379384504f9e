"""A label for each point of a scene of any size.

The scene is cut into columns of `block` metres, `stride` metres apart, each a hair (PADDING) wider than that so that no
point falls between two. The points of a column, in random order, are cut into groups of as many as the network was trained
on; what the last group lacks is filled up with points of the column. Each answer is a vote for its point, and a vote is
the vector of class probabilities: probabilities are on one scale in all columns, which logits are not, and a
hesitant answer weighs less than a sure one, which it does not where classes are counted. A point gets the class whose
votes add up to most. (yanx27's evaluation has the same columns and groups, and counts classes.)

Columns go along x, row by row. A point to the left of the current row has all its votes, and its label is
written; so votes are kept for a strip of the scene alone, and memory grows with the points themselves only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from dropfold.kernels.backend.numba import launch, njit
from dropfold.train.config.configs import BlockConfig, SceneConfig
from dropfold.train.data.columns import UP, Columns, channels
from dropfold.train.data.local_shape import local_shape
from dropfold.train.tasks.segmentation import groups

PADDING = 0.001
AT_ONCE = {"cpu": 16_384, "cuda": 262_144}  # points in a call of the network, or one group


def starts(low: float, high: float, block: float, stride: float) -> list[float]:
    """Where the columns along one axis begin: the last one ends at `high`, as does the only one of a narrow room."""
    count = max(1, int(np.ceil((high - low - block) / stride)) + 1)
    return [min(low + i * stride + block, high) - block for i in range(count)]


def occupied(places: np.ndarray, low: float, columns: int, block: float, stride: float) -> list[int]:
    """Numbers of the columns along an axis that may hold one of the points at these places on it: not those of the empty
    stretch before a point that lies far away."""
    reach = int(np.ceil((block + 2 * PADDING) / stride))
    cells = np.unique(np.floor((places - low) / stride).astype(np.int64))
    near = np.clip(cells[:, None] + np.arange(-reach, 2), 0, columns - 1)
    return np.unique(near).tolist()


def needed(colour: np.ndarray | None, config: BlockConfig, name: str) -> None:
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

    `advance` is told how many points have got their label. `amp` is the type of the network's products, e.g.
    torch.bfloat16.

    Raises:
        ValueError: no points.
    """
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
    votes, begin = (
        np.zeros((0, classes), np.float32),
        0,
    )  # of the points from `begin` on, in the order of the columns
    at_once = AT_ONCE[next(network.parameters()).device.type]
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
        held, centres = [], []
        row_y = columns.xy[first:last, 1]
        for column in occupied(row_y, low[1], len(along_y), config.block, config.stride):
            corner = np.array([x, along_y[column]])
            found = columns.inside(corner - PADDING, corner + config.block + PADDING)
            if not len(found):
                continue
            for vote in range(config.votes):
                random = np.random.default_rng((vote, row, column))
                cut = groups(len(found), config.points, random)
                held.append(found[cut])
                centres += [corner + config.block / 2] * len(cut)
        places = np.concatenate(held) if held else np.empty((0, config.points), np.int64)
        size = max(1, at_once // config.points)
        for start in range(0, len(places), size):
            some = places[start : start + size]
            centre = np.array(centres[start : start + size])[:, None]
            seen = channels(
                points[some],
                None if colour is None else colour[some],
                centre,
                highest,
                None if shape is None else shape[some],
            )
            launch(_add, votes, some.ravel() - begin, _probabilities(network, seen, amp))
    settle(len(points))
    return labels


@torch.inference_mode()
def _probabilities(network: nn.Module, seen: np.ndarray, amp: torch.dtype | None) -> np.ndarray:
    device = next(network.parameters()).device
    with torch.autocast(device.type, amp, enabled=amp is not None):
        logits = network(torch.from_numpy(seen).to(device))
    return logits.float().softmax(-1).flatten(0, 1).cpu().numpy()


@njit
def _add(votes, places, answers):  # type: ignore[no-untyped-def]
    for i in range(places.shape[0]):
        for c in range(votes.shape[1]):
            votes[places[i], c] += answers[i, c]


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar on standard error, where that is a terminal; gives the function that advances it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda count: bar.advance(task, count)
