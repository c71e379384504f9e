"""`python -m benchmarks.gpu --out DIR`: everything that only a GPU can show, in one command and under 9 minutes.

1. The kernel tests, on the device (the test bodies that the interpreter runs elsewhere).
2. Timings: the noises as a share of the measured copy bandwidth; operations beside eager PyTorch and PyG, and training steps
   beside peers whose checkouts are given, against what each is expected to reach.
3. A short DGCNN training on the device and on the CPU from the same weights and noise: the loss curves must lie together.
4. Compressed LSTMs beside cuDNN's, with FlashRNN's published figures printed for comparison; then LSTMs and GRUs of small
   sizes, dense and as tensor trains, beside cuDNN's.
5. Ours as CUDA graphs, and both sides through torch.compile.

Each group has its minutes (MINUTES); what one leaves over, the next ones have, and what does not fit is named as left out.
Writes `rows.csv`, `training.csv` and `log.txt` to DIR, and exits with 1 if a test failed: no speed is reported as good on a
red gate. `--device cpu --small` runs the same code in small sizes without a GPU (with TRITON_INTERPRET=1 through the Triton
kernels).
"""

from __future__ import annotations

import csv
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from benchmarks import harness
from benchmarks.cases import gpu_clouds, gpu_rnn, limits, small_rnn
from benchmarks.cases.gpu_clouds import Comparison
from benchmarks.harness import Case, Row

# In their order. A comparison starts only while its group's time lasts. Compilations come last: they take a minute and more,
# and a started one is waited for, so MINUTES_LEFT stay free after the last start.
MINUTES = {"tests": 4.0, "clouds": 1.25, "training": 0.5, "recurrent": 0.5, "small": 0.5, "compiled": 0.5}
MINUTES_LEFT = 1.75


@dataclass
class Options:
    """Run the tests and the timings on one GPU, and write rows to commit."""

    out: Path
    """Folder for rows.csv, training.csv and log.txt; made if it does not exist."""
    device: str = "cuda"
    """cuda (ROCm's name too), or cpu to try this program out."""
    small: bool = False
    """Tiny sizes and few repetitions: to try this program out, not to measure."""
    tests: bool = True
    """Run the kernel tests on the device first."""
    antao97: Path | None = None
    """A checkout of antao97/dgcnn.pytorch, to run DGCNN beside ours."""
    yanx27: Path | None = None
    """A checkout of yanx27/Pointnet_Pointnet2_pytorch, to run PointNet beside ours."""


def main() -> None:
    import tyro

    options = tyro.cli(Options, description=__doc__)
    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("no CUDA or ROCm device is visible to torch; on a CPU give --device cpu --small.")
    raise SystemExit(Run(options).all())


@dataclass
class Run:
    """One run of the programme: its clock, its log, and what failed."""

    options: Options
    start: float = field(default_factory=time.monotonic)
    failed: list[str] = field(default_factory=list)
    goals: list[str] = field(default_factory=list)

    def all(self) -> int:
        """The whole programme; returns the exit status."""
        options = self.options
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "log.txt").write_text("")
        self.say(f"{harness.machine(options.device)}, torch {torch.__version__}, commit {harness.commit()}")
        ends = dict(zip(MINUTES, itertools.accumulate(MINUTES.values())))
        for name, group in self.groups().items():
            group(ends[name])
        self.say(gpu_rnn.published())
        self.say("\n".join(["goals:", *self.goals]))
        self.say("\n".join([f"{len(self.failed)} failures", *self.failed]) if self.failed else "all passed")
        return int(bool(self.failed))

    def groups(self) -> dict[str, Callable[[float], None]]:
        """What is run, in the order of MINUTES: functions of the minute after which nothing more starts."""
        options, device = self.options, self.options.device
        clouds, recurrent, points = (
            (gpu_clouds.SMALL, gpu_rnn.SMALL, small_rnn.TINY)
            if options.small
            else (gpu_clouds.FULL, gpu_rnn.FULL, small_rnn.GPU)
        )
        checkouts = {"antao97": options.antao97, "yanx27": options.yanx27}
        repetitions, few = (1, 1) if options.small else (30, 10)
        groups: dict[str, Callable[[float], None]] = {
            "tests": self.tests,
            "clouds": partial(self.measure, gpu_clouds.comparisons(clouds, device, checkouts), repetitions),
            "training": self.training,
            "recurrent": partial(self.measure, _named(gpu_rnn.comparisons(recurrent, device)), few),
            "small": partial(self.measure, _named(small_rnn.comparisons(points, device)), few),
            "compiled": partial(
                self.measure, gpu_clouds.launched_otherwise(clouds, device, checkouts), repetitions
            ),
        }
        if not options.tests:
            del groups["tests"]
        if device == "cpu":
            del groups["compiled"]  # CUDA graphs are a GPU's
        return groups

    def say(self, text: str) -> None:
        """Print a line, and keep it in the log."""
        line = f"[{time.monotonic() - self.start:6.1f} s] {text}"
        print(line, flush=True)
        with (self.options.out / "log.txt").open("a") as log:
            print(line, file=log)

    def fail(self, what: str) -> None:
        self.failed.append(what)
        self.say(f"FAILED {what}")

    def tests(self, until: float) -> None:
        """The kernel tests on the device, in a process of their own."""
        command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "tests/kernels/interpreted"]
        command += ["-m", "not slow", "--tb=short"]
        environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
        try:
            done = subprocess.run(
                command, cwd=harness.ROOT, env=environment, capture_output=True, text=True,
                timeout=60 * until,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            self.fail(f"tests on the device: not through after {until:g} minutes")
            return
        self.say("tests on the device:\n" + "\n".join(done.stdout.splitlines()[-60:]))
        if done.returncode:
            self.fail("tests on the device")

    def measure(self, comparisons: Iterable[Comparison], repetitions: int, until: float) -> None:
        """Time what there is time for in minutes; one broken case must not cost the other rows of a rare machine."""

        def broken(case: Case, error: Exception) -> None:
            self.fail(f"{case.operation} {case.shape} {case.dtype} {case.provider}: {_short(error)}")

        for name, build in comparisons:
            if time.monotonic() - self.start > 60 * until:
                self.say(f"left out for lack of time: {name}")
                continue
            try:
                cases, device = build(), self.options.device
                rows = harness.measure(
                    cases, repetitions=repetitions, device=device, memory=False, broken=broken
                )
            except Exception as error:
                self.fail(f"{name}: {_short(error)}")
                continue
            harness.append(rows, self.options.out / "rows.csv")
            for row in rows:
                self.say(_line(row, rows))
            if not self.options.small:
                self.goals += gpu_clouds.goals(rows)

    def training(self, until: float) -> None:
        """The device's loss curve beside the CPU's own curves, of the same points and of points moved by rounding."""
        if time.monotonic() - self.start > 60 * until:
            self.say("left out for lack of time: training")
            return
        device, small = self.options.device, self.options.small
        ours, reference = gpu_clouds.losses(device, small), gpu_clouds.losses("cpu", small)
        seeds = (1,) if small else (1, 2, 3)
        moved = [gpu_clouds.losses("cpu", small, seed) for seed in seeds]
        with (self.options.out / "training.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", device, "cpu", *(f"cpu, points moved {i}" for i in seeds)])
            writer.writerows([i, *losses] for i, losses in enumerate(zip(ours, reference, *moved)))
        distance = gpu_clouds.apart(ours, reference)
        allowed = gpu_clouds.SPREAD * max(gpu_clouds.apart(curve, reference) for curve in moved)
        self.say(
            f"training: first loss {ours[0]:.4f}, last {ours[-1]:.4f}; mean distance from the CPU's curve {distance:.2e}, "
            f"allowed {allowed:.2e}: {gpu_clouds.SPREAD:g} times what rounding alone does to it on the CPU"
        )
        if not distance <= allowed:
            self.fail("the training on the device is not the CPU's")


def _named(comparisons: Iterable[list[Case]]) -> Iterable[Comparison]:
    for cases in comparisons:
        yield Comparison(f"{cases[0].operation} {cases[0].shape} {cases[0].dtype}", partial(list, cases))


def _line(row: Row, rows: list[Row]) -> str:
    """A row as a line: its time, as times of ours, and as a share of the copy that moves the least bytes."""
    text = f"{row.operation} {row.shape} {row.dtype} {row.provider}: {row.p50_ms:.4f} ms"
    if row is not rows[0]:
        text += f", {row.p50_ms / rows[0].p50_ms:.2f} times {rows[0].provider}'s"
    copy = next((other for other in rows if other.provider == limits.BYTES), row)
    return text if copy is row else f"{text}, {copy.p50_ms / row.p50_ms:.0%} of the copy bandwidth"


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:500]}"


if __name__ == "__main__":
    main()
