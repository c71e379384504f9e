"""`python -m benchmarks.gpu --out DIR`: everything that only a GPU can show, in one command and under 9 minutes.

1. The kernel tests, on the device (the test bodies that the interpreter runs elsewhere).
2. Timings: each operation beside eager PyTorch, the noises as a share of the measured copy bandwidth, a training step;
   compressed LSTMs beside cuDNN's, with FlashRNN's published figures printed for comparison.
3. A short DGCNN training on the device and on the CPU from the same seed: the two loss curves must lie together.

Writes `rows.csv`, `training.csv` and `log.txt` to DIR, and exits with 1 if a test failed: no speed is reported as
good on a red gate. `--device cpu --small` runs the same code in small sizes without a GPU (with TRITON_INTERPRET=1
through the Triton kernels).
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks import gpu_rnn, harness, peers
from benchmarks.harness import Case

if TYPE_CHECKING:
    from kernels import BatchNorm

MINUTES = 9


@dataclass
class Options:
    """Run the tests and the timings on one GPU, and write rows to commit."""

    out: Path
    """Folder for rows.csv, training.csv and log.txt; made if it is not there."""
    device: str = "cuda"
    """cuda (ROCm's name too), or cpu to try this program out."""
    small: bool = False
    """Tiny sizes and few repetitions: to try this program out, not to measure."""
    tests: bool = True
    """Run the kernel tests on the device first."""
    antao97: Path | None = None
    """A checkout of antao97/dgcnn.pytorch to run its training step beside ours."""


@dataclass(frozen=True)
class Sizes:
    """Shapes of the comparisons: ModelNet40's and, for the noises, a tensor much larger than the L2 cache."""

    clouds: int
    points: int
    k: int
    channels: tuple[int, ...]
    noise_clouds: int
    repetitions: int
    steps: int
    recurrent: gpu_rnn.Sizes


FULL = Sizes(
    clouds=32, points=1024, k=20, channels=(3, 64, 128), noise_clouds=256, repetitions=30, steps=100,
    recurrent=gpu_rnn.FULL,
)  # fmt: skip
SMALL = Sizes(
    clouds=2, points=16, k=4, channels=(3, 9), noise_clouds=2, repetitions=1, steps=1, recurrent=gpu_rnn.SMALL
)


def main() -> None:
    import tyro

    options = tyro.cli(Options, description=__doc__)
    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("no CUDA or ROCm device is visible to torch; on a CPU give --device cpu --small.")
    raise SystemExit(run(options))


def run(options: Options) -> int:
    """The whole programme; returns the exit status."""
    start = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    log = (options.out / "log.txt").open("w")

    def say(text: str) -> None:
        line = f"[{time.monotonic() - start:6.1f} s] {text}"
        print(line, flush=True)
        print(line, file=log, flush=True)

    say(f"{harness.machine(options.device)}, torch {torch.__version__}, commit {harness.commit()}")
    failed = _tests(say) if options.tests else 0
    sizes = SMALL if options.small else FULL
    recurrent = gpu_rnn.comparisons(sizes.recurrent, options.device)
    for comparison in comparisons(options, sizes) + recurrent:
        if time.monotonic() - start > 60 * (MINUTES - 2):
            say(f"left out for lack of time: {comparison[0].operation} {comparison[0].shape}")
            continue
        try:
            slow = comparison in recurrent
            repetitions = max(1, sizes.repetitions // 3) if slow else sizes.repetitions
            rows = harness.measure(comparison, repetitions=repetitions, device=options.device, memory=False)
        except Exception as error:  # one broken case must not cost the other rows of a rare machine
            failed += 1
            say(f"FAILED {comparison[0].operation} {comparison[0].shape}: {type(error).__name__}: {error}")
            continue
        harness.append(rows, options.out / "rows.csv")
        for row in rows:
            share = (
                f", {row.bytes_least / row.p50_ms / 1e6:.0f} GB/s of the least bytes"
                if row.bytes_least
                else ""
            )
            say(f"{row.operation} {row.shape} {row.dtype} {row.provider}: {row.p50_ms:.4f} ms{share}")
    say(gpu_rnn.published())
    failed += _training(options, sizes, say)
    say(f"{failed} failures" if failed else "all passed")
    return int(bool(failed))


def _tests(say: Callable[[str], None]) -> int:
    """The kernel tests on the device, in a process of their own."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:xdist",
        "tests/kernels/interpreted",
        "-m",
        "not slow",
        "--tb=short",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=harness.ROOT, env=environment, capture_output=True, text=True)
    say("tests on the device:\n" + "\n".join(done.stdout.splitlines()[-60:]))
    return int(done.returncode != 0)


def comparisons(options: Options, sizes: Sizes) -> list[list[Case]]:
    """Each inner list is timed interleaved; its first case is ours."""
    B, N, k, device = sizes.clouds, sizes.points, sizes.k, options.device

    def compare(
        operation: str, make: Callable[..., Any], shape: str, dtype: str, providers: str, *args: Any
    ) -> list[Case]:
        return [
            Case(operation, name, shape, dtype, partial(make, name, *args, dtype, device))
            for name in providers.split()
        ]

    found = []
    for C in sizes.channels:
        found.append(
            compare("knn", knn, f"B{B}-N{N}-C{C}-k{k}", "float32", "dropfold cdist_topk", B, N, C, k)
        )
    for dtype in ("float32", "bfloat16"):
        C = sizes.channels[-1]
        size = (sizes.noise_clouds, N, C)
        noises = compare(
            *("noise", noise, "B{}-N{}-C{}".format(*size), dtype),
            *("drop_feat drop_point drop_cluster copy torch_dropout", size),
        )
        least = 2 * sizes.noise_clouds * N * C * getattr(torch, dtype).itemsize
        found.append([replace(case, bytes_least=least) for case in noises])
        for C in sizes.channels:
            shape = f"B{B}-N{N}-C{C}-k{k}"
            found.append(compare("edge_conv_fwd_bwd", edge_conv, shape, dtype, "dropfold eager", B, N, C, k))
        shape = f"B{B}-N{N}-C{C}-to1024"
        found.append(
            compare("linear_norm_max_fwd_bwd", linear_norm_max, shape, dtype, "dropfold eager", B, N, C)
        )
        if not options.small:
            found.append(_step_cases(options, sizes, dtype))
    return found


def _step_cases(options: Options, sizes: Sizes, dtype: str) -> list[Case]:
    from benchmarks.point_clouds import Options as StepOptions
    from benchmarks.point_clouds import cases

    step = StepOptions(
        antao97=options.antao97, clouds=sizes.clouds, points=sizes.points, device=options.device
    )
    step.dtype = dtype  # type: ignore[assignment]
    return cases(step)


def noise(name: str, shape: tuple[int, int, int], dtype: str, device: str) -> Callable[[], Any]:
    """One noise on `[B, N, C]`; `copy` is the measured bandwidth that the noises are held against."""
    import kernels

    x = torch.randn(shape, device=device, dtype=getattr(torch, dtype))
    seed = torch.tensor(1, device=device)
    if name == "copy":
        out = torch.empty_like(x)
        return lambda: out.copy_(x)
    if name == "torch_dropout":
        return lambda: nn.functional.dropout(x, 0.3)
    if name == "drop_cluster":
        neighbours = torch.randint(shape[1], (shape[0], shape[1], min(16, shape[1])), device=device)
        return lambda: kernels.drop_cluster(x, 0.3, neighbours, seed=seed)
    return lambda: getattr(kernels, name)(x, 0.3, seed=seed)


def knn(name: str, B: int, N: int, C: int, k: int, dtype: str, device: str) -> Callable[[], Any]:
    import kernels

    x = torch.randn(B, N, C, device=device, dtype=getattr(torch, dtype))
    if name == "dropfold":
        return lambda: kernels.knn(x, k)
    return lambda: torch.cdist(x, x).topk(k, largest=False).indices


def _batch_norm(channels: int, device: str) -> BatchNorm:
    import kernels

    gamma, beta, mean, var = (f(channels, device=device) for f in (torch.ones, torch.zeros) * 2)
    return kernels.BatchNorm(gamma, beta, mean, var, training=True)


def edge_conv(name: str, B: int, N: int, C: int, k: int, dtype: str, device: str) -> Callable[[], Any]:
    """Forward and backward of one EdgeConv layer, C to 64 channels, in training; eager makes the edges."""
    import kernels

    x = torch.randn(B, N, C, device=device, requires_grad=True)
    weight = torch.randn(64, 2 * C, device=device, requires_grad=True)
    norm = _batch_norm(64, device)
    idx = kernels.knn(x.detach(), k)
    cloud = torch.arange(B, device=device)[:, None, None]

    def step() -> None:
        with torch.autocast(torch.device(device).type, getattr(torch, dtype), enabled=dtype != "float32"):
            if name == "dropfold":
                y = kernels.edge_conv(x, idx, weight, None, norm)
            else:
                neighbours = x[cloud, idx]
                centre = x[:, :, None].expand_as(neighbours)
                edges = torch.cat([neighbours - centre, centre], -1) @ weight.T
                normed = nn.functional.batch_norm(
                    edges.flatten(0, 2), norm.mean, norm.var, *norm[:2], training=True
                )
                y = nn.functional.leaky_relu(normed.view_as(edges), 0.2).amax(2)
        y.float().square().sum().backward()
        x.grad = weight.grad = None

    return step


def linear_norm_max(name: str, B: int, N: int, C: int, dtype: str, device: str) -> Callable[[], Any]:
    """Forward and backward of C to 1,024 channels, BatchNorm, ReLU and the max over points."""
    import kernels

    x = torch.randn(B, N, C, device=device, requires_grad=True)
    weight = torch.randn(1024, C, device=device, requires_grad=True)
    norm = _batch_norm(1024, device)

    def step() -> None:
        with torch.autocast(torch.device(device).type, getattr(torch, dtype), enabled=dtype != "float32"):
            if name == "dropfold":
                y = kernels.linear_norm_max(x, weight, None, norm)
            else:
                z = nn.functional.linear(x, weight)
                z = nn.functional.batch_norm(
                    z.flatten(0, 1), norm.mean, norm.var, *norm[:2], training=True
                ).view_as(z)
                y = z.relu().amax(1)
        y.float().square().sum().backward()
        x.grad = weight.grad = None

    return step


def _training(options: Options, sizes: Sizes, say: Callable[[str], None]) -> int:
    """The losses of a small DGCNN on the device and on the CPU, from the same weights, batches and noise."""
    curves: list[list[float]] = []
    for device in (options.device, "cpu"):
        curves.append(_losses(device, min(sizes.steps, 20), small=options.small))
        say(f"training on {device}: first loss {curves[-1][0]:.4f}, last {curves[-1][-1]:.4f}")
    with (options.out / "training.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", options.device, "cpu (reference)"])
        writer.writerows([i, *pair] for i, pair in enumerate(zip(*curves)))
    apart = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(*curves))
    say(f"largest distance of the two loss curves: {apart:.2e} (allowed 5e-2: rounding grows with the steps)")
    return int(not apart < 5e-2)


def _losses(device: str, steps: int, small: bool) -> list[float]:
    from models import DGCNN, DropCluster

    torch.manual_seed(0)
    clouds, points, k = (2, 8, 3) if small else (8, 512, 20)
    model = DGCNN(12, k=k, emb_dims=16 if small else 512, dropout=0.0, noise=DropCluster(0.2, k=k))
    x, labels = torch.rand(clouds, points, 3), torch.arange(clouds)
    step = peers.training_step(model.to(device), x.to(device), labels.to(device))
    return [float(step()) for _ in range(steps)]


if __name__ == "__main__":
    main()
