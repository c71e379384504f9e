"""`python -m benchmarks.scene_prediction --yanx27 PATH`: labelling a room of a million points, beside yanx27's loop.

Both sides cut the room into the same columns (1 m, 0.5 m apart, 0.001 m of padding) and groups of 4,096, and vote as often.
Sides: ours; the peer's loop around the peer's network, of the same weights; the peer's loop around our network; and both
loops around a network that costs nothing. The peer's loop is its data set, which cuts the room, its `add_vote`, and
between them what its test_semseg.py does: arrays of a batch filled group by group, and the class of each point.
"""

from __future__ import annotations

import datetime
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from benchmarks import harness
from benchmarks.cases import cloud_steps, peers
from dropfold.models import DGCNNSegmentation, PointNet2Segmentation, PointNetSegmentation
from dropfold.train.config.configs import SceneConfig
from dropfold.train.data.local_shape import CHANNELS
from dropfold.train.engine import memory
from dropfold.train.storage.provenance import commit, machine
from dropfold.train.tasks.scene_prediction import label_points

CLASSES = 13
Network = Literal["pointnet", "pointnet2", "dgcnn"]
NETWORKS: dict[Network, cloud_steps.Network] = {
    "pointnet": "pointnet_scenes",
    "pointnet2": "pointnet2_scenes",
}


@dataclass
class Options:
    """Time the labelling of a room."""

    yanx27: Path | None = None
    """A checkout of yanx27/Pointnet_Pointnet2_pytorch; without it only ours is timed."""
    network: Network = "pointnet2"
    """Of dgcnn, which the peer lacks, ours alone is timed."""
    points: int = 1_000_000
    """Of the room; there are 10,000 above each square metre."""
    votes: int = 1
    """How often each column is cut into groups; the peer's default is 3."""
    local_shape: bool = False
    """Feed the shape around each point too, as the recipes for rooms do; the peer lacks it, so ours alone is timed."""
    sides: tuple[str, ...] = (
        "ours",
        "peer",
        "peer's loop, our network",
        "ours, no network",
        "peer, no network",
    )
    """Which to time."""
    memory: bool = True
    """Measure ours's peak memory as well, in a process of its own."""
    out: Path | None = None
    """A CSV file to append the rows to."""


def room(points: int) -> tuple[np.ndarray, np.ndarray]:
    """A square room, 3 m high, with points on its walls and floor and in it, and their colours."""
    random = np.random.default_rng(0)
    side = (points / 10_000) ** 0.5
    x = random.uniform(0, 1, (points, 3)) * (side, side, 3)
    x[: points // 3, 2] = 0
    x[points // 3 : points // 2, random.integers(2)] = 0
    return x.astype(np.float32), random.integers(256, size=(points, 3)).astype(np.uint8)


class Free(nn.Module):
    """A network that costs nothing: [B, N, C] to logits that are always the same."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(*x.shape[:2], CLASSES)


def ours(network: nn.Module, points: int, votes: int, local_shape: bool = False) -> np.ndarray:
    """Our labels."""
    config = SceneConfig(data=Path(), points=4096, votes=votes, local_shape=local_shape)
    return label_points(network, *room(points), config, CLASSES)


def peer_loop(checkout: Path, network: Callable[[Tensor], Tensor], points: int, votes: int) -> np.ndarray:
    """The peer's labels: `network` takes [B, 9, N] and gives [B, N, classes]."""
    loader = peers.load_module(checkout, "data_utils/S3DISDataLoader.py")
    stand_ins = {name: types.ModuleType(name) for name in ("data_utils", "provider")}
    stand_ins["data_utils.S3DISDataLoader"] = loader
    stand_ins["data_utils.indoor3d_util"] = types.SimpleNamespace(g_label2color={})  # type: ignore[assignment]
    with mock.patch.dict(sys.modules, stand_ins):
        add_vote = peers.load_module(checkout, "test_semseg.py").add_vote
    x, colour = room(points)
    held: Any = loader.ScannetDatasetWholeScene.__new__(loader.ScannetDatasetWholeScene)
    held.block_points, held.block_size, held.padding, held.stride = 4096, 1.0, 0.001, 0.5
    held.scene_points_list = [np.concatenate([x, colour], 1).astype(np.float64)]
    held.semantic_labels_list = [np.zeros(points)]
    held.labelweights = np.ones(CLASSES, np.float32)
    pool, size = np.zeros((points, CLASSES)), 32
    for _ in range(votes):
        data, _, weight, index = held[0]
        batch, places, weights = np.zeros((size, 4096, 9)), np.zeros((size, 4096)), np.zeros((size, 4096))
        for start in range(0, len(data), size):
            real = len(data[start : start + size])
            batch[:real], places[:real] = data[start : start + size], index[start : start + size]
            weights[:real] = weight[start : start + size]
            with torch.no_grad():
                said = network(torch.Tensor(batch).transpose(2, 1)).max(2)[1].numpy()
            pool = add_vote(pool, places[:real], said[:real], weights[:real])
    return np.argmax(pool, 1)


def networks(options: Options) -> tuple[nn.Module, nn.Module | None]:
    """Ours, and the peer's of the same weights."""
    if options.network == "dgcnn" or options.yanx27 is None or options.local_shape:
        kinds = {
            "pointnet": PointNetSegmentation,
            "pointnet2": PointNet2Segmentation,
            "dgcnn": DGCNNSegmentation,
        }
        return kinds[options.network](CLASSES, 9 + CHANNELS * options.local_shape).eval(), None
    setting = cloud_steps.Setting(NETWORKS[options.network], 1, 4096, checkout=options.yanx27)
    return tuple(cloud_steps.side(setting, name).model.eval() for name in ("dropfold", "yanx27"))  # type: ignore[return-value]


def steps(options: Options) -> dict[str, Callable[[int], np.ndarray]]:
    """By side, the labelling of a room of so many points."""
    mine, theirs = networks(options)
    labelling: dict[str, Callable[[int], np.ndarray]] = {
        "ours": lambda points: ours(mine, points, options.votes, options.local_shape),
        "ours, no network": lambda points: ours(Free(), points, options.votes, options.local_shape),
    }
    if options.yanx27 is not None and theirs is not None:
        loop = partial(peer_loop, options.yanx27, votes=options.votes)
        labelling |= {
            "peer": lambda points: loop(lambda x: theirs(x)[0], points),
            "peer's loop, our network": lambda points: loop(
                lambda x: mine(x.transpose(1, 2).contiguous()), points
            ),
            "peer, no network": lambda points: loop(lambda x: Free()(x.transpose(1, 2)), points),
        }
    return {side: labelling[side] for side in options.sides if side in labelling}


def measured_memory(options: Options) -> float:
    """Peak memory of ours in MiB above the imports, in a process of its own."""
    return harness.peak_memory(partial(_make, options))


def _make(options: Options) -> Callable[[], Any]:
    network, _ = networks(options)
    return partial(ours, network, options.points, options.votes, options.local_shape)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    memory.keep()
    rows = []
    for side, label in steps(options).items():
        label(20_000)  # compiles, and allocates what later calls use again
        start = time.perf_counter()
        labels = label(options.points)
        seconds = time.perf_counter() - start
        assert len(labels) == options.points
        peak = measured_memory(options) if side == "ours" and options.memory else None
        row = harness.Row(
            date=datetime.date.today().isoformat(),
            commit=commit(),
            machine=machine("cpu"),
            torch=torch.__version__,
            device="cpu",
            operation="scene_prediction",
            provider=side,
            shape=f"{options.network}-N{options.points}-votes{options.votes}{'-shape' * options.local_shape}",
            dtype="float32",
            repetitions=1,
            p20_ms=1e3 * seconds,
            p50_ms=1e3 * seconds,
            p80_ms=1e3 * seconds,
            peak_mib=peak,
            bytes_least=None,
            flops_least=None,
        )
        rows.append(row)
        print(f"{side}: {seconds:.1f} s" + (f", {peak:,.0f} MiB" if peak else ""), flush=True)
    harness.show(rows)
    if options.out is not None:
        harness.append(rows, options.out)


if __name__ == "__main__":
    main()
