"""The point-cloud comparisons of `python -m benchmarks.gpu`, what they are expected to show, and a training's loss curve."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from benchmarks.cases import cloud_operations, cloud_steps, limits, peers, scene_operations
from benchmarks.cases.cloud_steps import PEER, Network, Setting
from benchmarks.harness import ROOT, Case, Row
from dropfold.data_scripts.schemas import shape_schema
from dropfold.models import DGCNN, DropCluster

# What one of ours is to reach on a GPU: of the measured copy bandwidth, or times as fast as a provider.
SHARE = 0.9
TIMES = {
    ("edge_conv_fwd_bwd", "pyg"): 5.0,
    ("edge_conv_fwd_bwd", "eager"): 5.0,
    ("dgcnn_step", "antao97"): 8.0,
}
COMPILED: tuple[Network, ...] = ("dgcnn", "pointnet")
SPREAD = 2.5  # of the distance that rounding alone makes


class Comparison(NamedTuple):
    """What is compared, and its cases: built when it is their turn, since that takes a device."""

    name: str
    build: Callable[[], list[Case]]


@dataclass(frozen=True)
class Sizes:
    """Shapes: ModelNet40's and S3DIS's and, for the noises, a tensor much larger than the L2 cache."""

    operation: tuple[int, int]
    k: int
    channels: tuple[int, ...]
    noise: tuple[int, int, int]
    sweep: tuple[tuple[int, int], ...]
    steps: dict[Network, tuple[int, int]]
    scenes: tuple[scene_operations.Size, ...]


FULL = Sizes(
    operation=(32, 1024), k=20, channels=(3, 64, 128), noise=(256, 1024, 128), sweep=((8, 4096), (1, 16384)),
    steps={
        "pointnet": (32, 1024), "dgcnn": (32, 1024), "dgcnn_s3dis": (4, 4096),
        "pointnet2_ssg": (32, 1024), "pointnet2_msg": (32, 1024), "pointnet2_scenes": (4, 4096),
        "dgcnn_parts": (8, 2048), "pointnet_parts": (16, 2048), "pointnet2_parts": (16, 2048),
        "pointnet_scenes": (16, 4096),
    },
    scenes=scene_operations.GPU,
)  # fmt: skip
SMALL = Sizes(
    operation=(2, 8), k=3, channels=(3, 9), noise=(2, 8, 8), sweep=(), steps={},
    scenes=scene_operations.SMALL,
)  # fmt: skip


def comparisons(sizes: Sizes, device: str, checkouts: dict[str, Path | None]) -> Iterator[Comparison]:
    """The goals first: time may run out."""
    dtypes, size, k = ("float32", "bfloat16"), sizes.operation, sizes.k
    for name, dtype in itertools.product(("feat", "point", "cluster"), dtypes):
        arguments = (f"drop_{name}", *sizes.noise, dtype, device)
        yield Comparison(f"drop_{name} {dtype}", partial(cloud_operations.noise_cases, *arguments))
    for channels, dtype in itertools.product(sizes.channels, dtypes):
        build = partial(cloud_operations.edge_conv_cases, *size, channels, k, dtype, device)
        yield Comparison(f"edge_conv C{channels} {dtype}", build)
    for network, dtype in itertools.product(sizes.steps, dtypes):
        setting = Setting(
            network, *sizes.steps[network], dtype=dtype, device=device, checkout=checkouts.get(PEER[network])
        )
        yield Comparison(f"{network}_step {dtype}", partial(cloud_steps.limited, setting))
    for (clouds, points), channels in itertools.product((size, *sizes.sweep), sizes.channels):
        build = partial(cloud_operations.knn_cases, clouds, points, channels, k, device)
        yield Comparison(f"knn N{points} C{channels}", build)
    for dtype in dtypes:
        build = partial(cloud_operations.linear_norm_max_cases, *size, sizes.channels[-1], dtype, device)
        yield Comparison(f"linear_norm_max {dtype}", build)
        build = partial(cloud_operations.group_mlp_max_cases, *size, sizes.channels[1], k, dtype, device)
        yield Comparison(f"group_mlp_max {dtype}", build)
    for operation, scene in itertools.product(scene_operations.OPERATIONS, sizes.scenes):
        build = partial(scene_operations.cases, operation, scene, device, checkouts.get("yanx27"))
        yield Comparison(f"{operation} {scene}", build)


def launched_otherwise(sizes: Sizes, device: str, checkouts: dict[str, Path | None]) -> Iterator[Comparison]:
    """Replayed CUDA graphs of ours, and torch.compile of ours and of the peers whose checkouts are given: last, since
    compiling takes long. (yanx27's PointNet++ samples in a loop over centres, for which a compiler takes minutes.)"""
    clouds, points = sizes.operation
    for dtype in ("float32", "bfloat16"):
        for network in filter(sizes.steps.__contains__, COMPILED):
            peer = PEER[network]
            setting = Setting(
                network, *sizes.steps[network], dtype=dtype, device=device, checkout=checkouts.get(peer)
            )
            more = (
                "dropfold graph",
                "dropfold compiled",
                *([f"{peer} compiled"] if setting.checkout else []),
            )
            build = partial(cloud_steps.cases, setting, f"{network}_step", more)
            yield Comparison(f"{network}_step {dtype}, graph and compiled", build)
        providers = ("dropfold graph", "eager compiled")
        build = partial(
            cloud_operations.edge_conv_cases, clouds, points, 64, sizes.k, dtype, device, providers
        )
        yield Comparison(f"edge_conv C64 {dtype}, graph and compiled", build)
        build = partial(cloud_operations.linear_norm_max_cases, clouds, points, 128, dtype, device, providers)
        yield Comparison(f"linear_norm_max {dtype}, graph and compiled", build)


def goals(rows: Sequence[Row]) -> list[str]:
    """A line for each goal that the rows of one comparison bear on: what was expected, what was measured."""
    times = {row.provider: row.p50_ms for row in rows}
    if "dropfold" not in times:
        return []
    what, ours, lines = f"{rows[0].operation} {rows[0].shape} {rows[0].dtype}", times["dropfold"], []
    if rows[0].operation.startswith("drop_") and limits.BYTES in times:
        share = times[limits.BYTES] / ours
        verdict = "reached" if share >= SHARE else "missed"
        lines.append(f"{verdict}: {what} at {share:.0%} of the measured copy bandwidth (goal {SHARE:.0%})")
    for (operation, provider), goal in TIMES.items():
        if rows[0].operation == operation and provider in times:
            ratio = times[provider] / ours
            verdict = "reached" if ratio >= goal else "missed"
            lines.append(f"{verdict}: {what} {ratio:.1f} times as fast as {provider} (goal {goal:g})")
    return lines


def losses(device: str, small: bool, moved: int | None = None) -> list[float]:
    """The losses of a short training of a DGCNN with DropCluster on furniture, from the same weights, clouds and noise on
    each device.

    `moved` seeds a change of the points by up to 8 roundings: what another order of the same sums does to the distances
    that choose neighbours. The learning rate is low: a high one makes a large difference of any rounding.
    """
    torch.manual_seed(0)
    clouds, points, k, steps = (2, 8, 3, 1) if small else (24, 128, 10, 12)
    model = DGCNN(12, k=k, emb_dims=16 if small else 256, dropout=0.0, noise=DropCluster(0.2, k=k))
    shapes = shape_schema.read(ROOT / "data/furniture.h5")
    chosen = torch.arange(clouds) * (len(shapes.label) // clouds)
    x, labels = (torch.from_numpy(a)[chosen] for a in (shapes.points[:, :points], shapes.label))
    if moved is not None:
        generator = torch.Generator().manual_seed(moved)
        x = x * (1 + 2**-20 * (2 * torch.rand(x.shape, generator=generator) - 1))
    step = peers.training_step(model.to(device), x.to(device), labels.long().to(device), lr=1e-3)
    seeds = torch.Generator().manual_seed(0)  # a device's own generator would draw other seeds

    def draw(device: torch.device) -> torch.Tensor:
        return torch.randint(2**62, (), generator=seeds).to(device)

    with mock.patch("dropfold.models.layers.noise.draw_seed", draw):
        return [float(step()) for _ in range(steps)]


def apart(curve: Sequence[float], reference: Sequence[float]) -> float:
    """Mean distance of two loss curves."""
    return sum(abs(a - b) for a, b in zip(curve, reference, strict=True)) / len(reference)
