"""Measure cases side by side and append rows: interleaved medians, ratios, and peak memory in fresh processes.

Machines are shared and noisy. So the cases of one comparison run interleaved, each once in a fresh order, again and
again, and what is compared are medians of the same run; a row names its commit and machine. Peak memory is that of a
process which does nothing else.
"""

from __future__ import annotations

import csv
import datetime
import gc
import multiprocessing
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dropfold.data_scripts.work.processes import end_with_parent
from dropfold.train.storage.provenance import commit, machine

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Case:
    """One provider of one operation. `make()` builds everything and returns the step to be timed.

    `make` is picklable (a module's function, or a `functools.partial` of one): its memory is measured in a process
    of its own, unless `memory` is false. `bytes_least` and `flops_least` are the limits of any provider, if they
    are known.
    """

    operation: str
    provider: str
    shape: str
    dtype: str
    make: Callable[[], Callable[[], Any]]
    bytes_least: int | None = None
    flops_least: int | None = None
    memory: bool = True


@dataclass(frozen=True)
class Row:
    """One line of a results file. Times in milliseconds, memory in MiB above the imports."""

    date: str
    commit: str
    machine: str
    torch: str
    device: str
    operation: str
    provider: str
    shape: str
    dtype: str
    repetitions: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    peak_mib: float | None
    bytes_least: int | None
    flops_least: int | None


def measure(
    cases: Sequence[Case],
    *,
    repetitions: int = 7,
    device: str = "cpu",
    memory: bool = True,
    settled: bool = False,
    broken: Callable[[Case, Exception], None] | None = None,
) -> list[Row]:
    """Time the cases of one comparison in one run, interleaved, after one warm-up step of each.

    With `settled` each timed step follows an untimed one of the same case: the threads that other libraries let spin for a
    while are at rest, and its own are awake.

    A case that fails is handed to `broken` with its error, and left out; without `broken` it ends the run.
    """
    steps, sound = [], []
    for case in cases:
        try:
            step = case.make()
            step()
        except Exception as error:
            if broken is None:
                raise
            broken(case, error)
            continue
        steps.append(step)
        sound.append(case)
    cases = sound
    if not cases:
        return []
    times: list[list[float]] = [[] for _ in cases]
    for repetition in track(
        range(repetitions), f"{cases[0].operation} {cases[0].shape}", console=Console(stderr=True)
    ):
        # A fresh order each time: what a case leaves in the caches is not always the same neighbour's.
        for k in random.Random(repetition).sample(range(len(steps)), len(steps)):
            if settled:
                steps[k]()
            times[k].append(_time(steps[k], device))
    del steps
    gc.collect()
    peaks = [peak_memory(case.make, device) if memory and case.memory else None for case in cases]
    return [
        _row(case, sorted(milliseconds), peak, device)
        for case, milliseconds, peak in zip(cases, times, peaks)
    ]


def _time(step: Callable[[], Any], device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        step()
        return 1e3 * (time.perf_counter() - start)
    _flush_cache(device)
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start_event.record()
    step()
    end_event.record()
    torch.cuda.synchronize()
    return start_event.elapsed_time(end_event)


def _flush_cache(device: str) -> None:
    """Write more than the GPU's L2 cache holds, so that each repetition starts cold."""
    torch.zeros(64 << 20, device=device)


def replayed(step: Callable[[], Any]) -> Callable[[], None]:
    """The step recorded once as a CUDA graph, to be replayed as one launch."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def peak_memory(make: Callable[[], Callable[[], Any]], device: str = "cpu") -> float:
    """Peak memory of two steps in MiB above the imports, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_peak_memory, args=(make, device, send))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        raise RuntimeError(
            "the process that measures memory ended without a result; see its error above."
        ) from None
    finally:
        process.join()


def _peak_memory(make: Callable[[], Callable[[], Any]], device: str, send: Any) -> None:
    end_with_parent()
    if device != "cpu":
        step = make()
        step()
        step()
        send.send(torch.cuda.max_memory_allocated() / 2**20)
        return
    import numba  # noqa: F401  (the libraries are not what is measured)
    from torch import _dynamo  # noqa: F401  (imported when the first optimiser is made)

    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    step = make()
    step()
    step()
    send.send((_resident("VmHWM") - before) / 2**10)


def _resident(key: str) -> int:
    """`VmRSS` or `VmHWM` of this process in KiB."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0])


def _row(case: Case, milliseconds: list[float], peak: float | None, device: str) -> Row:
    def quantile(q: float) -> float:
        return round(milliseconds[round(q * (len(milliseconds) - 1))], 4)

    return Row(
        date=datetime.date.today().isoformat(),
        commit=commit(),
        machine=machine(device),
        torch=torch.__version__,
        device=device,
        operation=case.operation,
        provider=case.provider,
        shape=case.shape,
        dtype=case.dtype,
        repetitions=len(milliseconds),
        p20_ms=quantile(0.2),
        p50_ms=quantile(0.5),
        p80_ms=quantile(0.8),
        peak_mib=None if peak is None else round(peak, 1),
        bytes_least=case.bytes_least,
        flops_least=case.flops_least,
    )


def append(rows: Sequence[Any], path: Path) -> None:
    """Append rows, all of one dataclass, to a CSV file, with its header if it is new; other columns are an error."""
    if not rows:
        return
    names = [field.name for field in fields(rows[0])]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        with path.open(newline="") as file:
            header = next(csv.reader(file), [])
        if header != names:
            raise ValueError(
                f"{path} has the columns {header}, and rows have {names}; write to another file."
            )
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, names)
        if new:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def show(rows: Sequence[Row]) -> None:
    """Print the rows of one comparison as a table; "x ours" is a row's figure over that of the first row."""
    ours = rows[0]
    console, table = Console(width=110), Table()
    console.print(f"{ours.operation} {ours.shape} {ours.dtype}, {ours.machine}, commit {ours.commit}")
    table.add_column("provider", no_wrap=True)
    for name in ("p20 ms", "p50 ms", "p80 ms", "x ours", "peak MiB", "x ours"):
        table.add_column(name, justify="right")
    for row in rows:
        peak, peaks = "", ""
        if row.peak_mib is not None and ours.peak_mib:
            peak, peaks = f"{row.peak_mib:,.0f}", f"{row.peak_mib / ours.peak_mib:.2f}"
        times = (f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}" for ms in (row.p20_ms, row.p50_ms, row.p80_ms))
        table.add_row(row.provider, *times, f"{row.p50_ms / ours.p50_ms:.3g}", peak, peaks)
    console.print(table)
