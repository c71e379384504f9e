"""`python -m benchmarks.point_clouds`: point-cloud training steps and operations beside their peers, in interleaved runs.

Groups (`--only`): inference, logits in evaluation of one cloud and of several, beside the same peers eager, through inductor
and in onnxruntime; steps, training steps of PointNet, PointNet++ and DGCNN for classification, beside yanx27's and antao97's
where their checkouts are given; segmentation, the same networks for parts and scenes; knn, edge_conv, linear_norm_max and
noise, the operations beside eager PyTorch, PyG and, in 3-D, a k-d tree; knn_sweep, neighbours and their memory against the
number of points; scene_ops, farthest points, balls and interpolation beside a k-d tree, eager PyTorch and yanx27's; scaling,
the DGCNN step against B, N, k and threads; epochs, whole epochs on furniture and what drawing their batches takes of them.
All but those two hold two limits as well (benchmarks/cases/limits.py).

Before a peer is timed, both sides must compute the same in float64. `--out` appends rows to a CSV file after each
comparison; those in benchmarks/results/ were made so. `python -m benchmarks.plots` draws them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks import harness
from benchmarks.cases import cloud_inference, cloud_operations, cloud_steps, epochs, scene_operations
from benchmarks.cases.cloud_steps import PEER, Network, Setting
from benchmarks.harness import Case
from dropfold.train.engine.memory import keep

Group = Literal[
    "inference",
    "steps",
    "segmentation",
    "knn",
    "edge_conv",
    "linear_norm_max",
    "noise",
    "knn_sweep",
    "scene_ops",
    "scaling",
    "epochs",
]
DType = Literal["float32", "bfloat16", "float16"]
SAME = 1e-6  # of the spread of log-probabilities: rounding is 1e-16, and BatchNorm over a few clouds makes more of it


@dataclass
class Options:
    """Time ours, the peers given and the limits."""

    antao97: Path | None = None
    """A checkout of antao97/dgcnn.pytorch, to run DGCNN beside ours."""
    yanx27: Path | None = None
    """A checkout of yanx27/Pointnet_Pointnet2_pytorch, to run PointNet and PointNet++ beside ours."""
    only: tuple[Group, ...] = (
        "inference", "steps", "segmentation", "knn", "edge_conv", "linear_norm_max", "noise", "knn_sweep", "scene_ops",
        "scaling", "epochs",
    )  # fmt: skip
    """Which groups to run."""
    dtypes: tuple[DType, ...] = ("float32", "bfloat16")
    """float32, and the types of autocast, on both sides."""
    device: str = "cpu"
    """The device of both sides: cpu or cuda."""
    repetitions: int = 7
    """Timed steps of each; the table and the rows hold their quantiles."""
    memory: bool = True
    """Measure peak memory as well, each in a process of its own."""
    keep_memory: bool = False
    """Let freed memory stay with the process, as training on a CPU does (train/engine/memory.py), for what is timed; marks
    shapes "-kept"."""
    quick: bool = False
    """Small sizes, three repetitions, no memory: under two minutes, to see that all runs."""
    out: Path | None = None
    """A CSV file to append the rows to."""


@dataclass(frozen=True)
class Sizes:
    """Clouds and points of each group. The sweep's clouds are fewer where they are larger, so that a peer fits."""

    steps: dict[Network, tuple[int, int]]
    segmentation: dict[Network, tuple[int, int]]
    inference: tuple[tuple[Network, tuple[int, ...], int], ...]
    operation: tuple[int, int]
    sweep: tuple[tuple[int, int], ...]
    base: tuple[int, int]
    clouds: tuple[int, ...]
    points: tuple[int, ...]
    epochs: tuple[tuple[int, ...], tuple[int, ...]]


FULL = Sizes(
    steps=dict.fromkeys(("pointnet", "pointnet2_ssg", "pointnet2_msg", "dgcnn"), (8, 1024)),
    segmentation={
        **dict.fromkeys(("pointnet_parts", "pointnet2_parts", "dgcnn_parts"), (4, 2048)),
        **dict.fromkeys(("pointnet_scenes", "pointnet2_scenes", "dgcnn_s3dis"), (4, 4096)),
    },
    inference=(
        ("pointnet", (1, 8, 32), 1024),
        ("dgcnn", (1, 8), 1024),
        ("pointnet2_ssg", (1, 8), 1024),
        ("dgcnn_s3dis", (1,), 4096),
        ("pointnet2_scenes", (1,), 4096),
    ),
    operation=(8, 1024),
    sweep=((8, 1024), (8, 2048), (4, 4096), (2, 8192), (1, 16384)),
    base=(8, 1024), clouds=(2, 4, 8, 16), points=(256, 512, 1024, 2048, 4096),
    epochs=((8, 16, 32), (128, 256, 512, 1024)),
)  # fmt: skip
QUICK = Sizes(
    steps=dict.fromkeys(FULL.steps, (4, 512)),
    segmentation=dict.fromkeys(FULL.segmentation, (1, 1024)),
    inference=(("pointnet", (1,), 128), ("dgcnn", (1,), 128), ("pointnet2_ssg", (1,), 512)),
    operation=(4, 512),
    sweep=((4, 256), (2, 512), (1, 1024)),
    base=(2, 256), clouds=(2, 4), points=(128, 256),
    epochs=((32,), (64,)),
)  # fmt: skip
K = 20


def comparisons(options: Options) -> Iterator[list[Case]]:
    """The comparisons of the groups asked for, ours first in each: `times` in the table is over it."""
    sizes, device = QUICK if options.quick else FULL, options.device
    clouds, points = sizes.operation
    for group in options.only:
        if group == "inference":
            for network, batches, points_of_cloud in sizes.inference:
                for batch in batches:
                    setting = Setting(network, batch, points_of_cloud, device=device)
                    yield cloud_inference.comparison(network, beside(setting, options))
        elif group in ("steps", "segmentation"):
            networks = sizes.steps if group == "steps" else sizes.segmentation
            for network, dtype in itertools.product(networks, options.dtypes):
                setting = Setting(network, *networks[network], dtype=dtype, device=device)
                yield cloud_steps.limited(beside(setting, options))
        elif group == "knn":
            for channels in (3, 64):
                yield cloud_operations.knn_cases(clouds, points, channels, K, device)
        elif group == "edge_conv":
            for channels, dtype in itertools.product((3, 64, 128), options.dtypes):
                yield cloud_operations.edge_conv_cases(clouds, points, channels, K, dtype, device)
                if channels == 64:
                    yield cloud_operations.group_mlp_max_cases(clouds, points, channels, K, dtype, device)
        elif group == "linear_norm_max":
            for dtype in options.dtypes:
                yield cloud_operations.linear_norm_max_cases(clouds, points, 128, dtype, device)
        elif group == "noise":
            for name, dtype in itertools.product(("feat", "point", "cluster"), options.dtypes):
                yield cloud_operations.noise_cases(f"drop_{name}", clouds, points, 512, dtype, device)
        elif group == "knn_sweep":
            for channels, size in itertools.product((3, 64), sizes.sweep):
                yield cloud_operations.knn_cases(*size, channels, K, device)
        elif group == "scene_ops":
            scenes = scene_operations.QUICK if options.quick else scene_operations.CPU
            yield from scene_operations.all_cases(scenes, device, options.yanx27)
        elif group == "epochs":
            yield from epochs.all_cases(*sizes.epochs)
        else:
            for setting in scaling(sizes, device):
                yield cloud_steps.cases(beside(setting, options), "dgcnn_scaling")


def scaling(sizes: Sizes, device: str) -> list[Setting]:
    """The DGCNN step with one of B, N, k and threads changed at a time; the base once."""
    clouds, points = sizes.base
    settings = [Setting("dgcnn", n, points, K, device=device) for n in sizes.clouds]
    settings += [Setting("dgcnn", clouds, n, K, device=device) for n in sizes.points]
    settings += [Setting("dgcnn", clouds, points, k, device=device) for k in (10, 20, 40)]
    cores = os.cpu_count() or 1
    if device == "cpu" and cores > 1:
        threads = sorted({1 << i for i in range(cores.bit_length()) if 1 << i <= cores} | {cores})
        settings += [Setting("dgcnn", clouds, points, K, threads=n) for n in threads]
    return list(dict.fromkeys(settings))


def beside(setting: Setting, options: Options) -> Setting:
    """The setting with its peer's checkout, if that is given."""
    return replace(setting, checkout=getattr(options, PEER[setting.network]))


def check(options: Options) -> None:
    """Both sides of each training step compute the same, or none is timed."""
    networks: set[Network] = {"dgcnn"} if "scaling" in options.only else set()
    networks |= set(FULL.steps) if "steps" in options.only else set()
    networks |= set(FULL.segmentation) if "segmentation" in options.only else set()
    for network in sorted(networks):
        setting = beside(Setting(network, 4, 1024), options)
        if setting.checkout is None:
            print(f"{network}: {PEER[network]} is left out; --{PEER[network]} PATH runs it beside ours.")
            continue
        apart = cloud_steps.distance(setting)
        print(
            f"{network}: ours and {PEER[network]}'s agree to {apart:.1e} in float64, with the same weights."
        )
        if not apart < SAME:
            raise SystemExit(f"that is more than {SAME:.0e}: what computes something else is not timed.")

    for network, _, _ in FULL.inference if "inference" in options.only else ():
        setting = beside(Setting(network, 2, 1024), options)
        if setting.checkout is not None:
            apart = cloud_inference.distance(setting)
            print(f"{network} in evaluation: agree to {apart:.1e} in float64, with the same weights.")
            if not apart < SAME:
                raise SystemExit(f"that is more than {SAME:.0e}: what computes something else is not timed.")

    if "scene_ops" in options.only and options.yanx27:
        apart = scene_operations.distance(options.yanx27)
        print(
            f"scene_ops: ours and yanx27's choose the same points, and interpolate to {apart:.1e} in float32."
        )
        if not apart < scene_operations.SAME:
            raise SystemExit(
                f"that is more than {scene_operations.SAME:.0e}: what computes something else is not timed."
            )


def leave_out(case: Case, error: Exception) -> None:
    """Say that a peer failed; what is ours must not."""
    if case.provider.startswith("dropfold"):
        raise error
    print(f"{case.provider} is left out of {case.operation}: {type(error).__name__}: {error!s:.300}")


def main() -> None:
    import tyro

    options = tyro.cli(Options, description=__doc__)
    if options.keep_memory and not keep():
        raise SystemExit("error: --keep-memory needs glibc's malloc.")
    check(options)
    for comparison in comparisons(options):
        if options.keep_memory:
            comparison = [replace(case, shape=f"{case.shape}-kept") for case in comparison]
        rows = harness.measure(
            comparison,
            repetitions=3 if options.quick else options.repetitions,
            device=options.device,
            memory=options.memory and not options.quick,
            settled=comparison[0].operation.endswith("_inference"),
            broken=leave_out,
        )
        harness.show(rows)
        if options.out:
            harness.append(rows, options.out)


if __name__ == "__main__":
    main()
