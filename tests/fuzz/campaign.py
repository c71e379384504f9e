"""Many inputs, each read in a child process with a limit of time and memory, and what became of them."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
SECONDS = 10.0  # of reading an input
SECONDS_TO_MAKE = 60.0  # an input, on a machine that is busy
SECONDS_TO_START = 300.0  # with imports, and loops that are compiled once a machine


class Work(NamedTuple):
    seed: int
    name: str
    valid: bool
    number: int
    seconds: float = SECONDS

    @property
    def request(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if name != "seconds"}

    @property
    def label(self) -> str:
        return f"{self.name}:{'valid' if self.valid else 'broken'}:{self.number}"


class Failure(NamedTuple):
    work: Work
    verdict: str
    reason: str
    saved: Path


@dataclass
class Outcome:
    """How often each (format, valid, verdict) came."""

    counts: Counter[tuple[str, bool, str]] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)


class _Child:
    """A process that reads inputs; killed and started anew when one of them costs it its life."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.child", str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        assert self.answer(SECONDS_TO_START).get("state") == "ready", "the process that reads did not start"

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put("")

    def answer(self, seconds: float) -> dict[str, str]:
        """The next answer; `queue.Empty` if there is none in time, nothing if the process ended."""
        line = self.answers.get(timeout=seconds)
        return json.loads(line) if line else {}

    def judge(self, work: Work) -> tuple[str, str]:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(work.request) + "\n")
            self.process.stdin.flush()
        made = self.answer(SECONDS_TO_MAKE)
        if made.get("state") != "made":
            said = made.get("done", "the process ended")
            raise RuntimeError(
                f"{work.label} of seed {work.seed} could not be made, a fault of the fuzzer: {said}"
            )
        try:
            found = self.answer(work.seconds)
        except queue.Empty:
            return "hang", f"{made['done']}: not read after {work.seconds:.0f} s"
        if not found:
            code = self.process.wait()
            return (
                "abort",
                f"{made['done']}: {signal.Signals(-code).name if code < 0 else f'exit status {code}'}",
            )
        return found["verdict"], f"{made['done']}: {found['reason']}"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


def deal(seed: int, names: Sequence[str], broken: int, valid: int, seconds: float = SECONDS) -> list[Work]:
    """So many broken inputs of all formats together, and so many valid ones of each."""
    work = [Work(seed, names[i % len(names)], False, i // len(names), seconds) for i in range(broken)]
    return work + [Work(seed, name, True, i, seconds) for name in names for i in range(valid)]


def run(work: Sequence[Work], workers: int, keep: Path, show: bool = False) -> Outcome:
    """Read all inputs. Those that fail are kept in folders of `keep`."""
    outcome, lock, left = Outcome(), threading.Lock(), _shared(work)
    broken: list[BaseException] = []

    def go_on(place: Path) -> None:
        child = None
        try:
            for one in left:
                child = child or _Child(place)
                verdict, reason = child.judge(one)
                with lock:
                    outcome.counts[one.name, one.valid, verdict] += 1
                    if verdict not in ("read", "refused"):
                        outcome.failures.append(Failure(one, verdict, reason, _save(keep, one, place)))
                        if show:
                            print(describe(outcome.failures[-1]), flush=True)
                if verdict in ("hang", "abort"):
                    child.close()
                    child = None
        except BaseException as error:
            broken.append(error)
        finally:
            if child:
                child.close()

    with tempfile.TemporaryDirectory() as folder:
        threads = [threading.Thread(target=go_on, args=(Path(folder) / f"{i}",)) for i in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if broken:
        raise broken[0]
    return outcome


def _shared(work: Sequence[Work]) -> Iterator[Work]:
    """The work for several threads to take from."""
    waiting: queue.SimpleQueue[Work] = queue.SimpleQueue()
    for one in work:
        waiting.put(one)
    return iter(lambda: None if waiting.empty() else waiting.get(), None)  # type: ignore[arg-type]


def _save(keep: Path, one: Work, folder: Path) -> Path:
    target = keep / f"{one.seed}-{one.label.replace(':', '-').replace(' ', '-')}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target, symlinks=True)
    return target


def describe(failure: Failure) -> str:
    """What failed, where it lies, and how to see it again."""
    again = f"python -m tests.fuzz --seed {failure.work.seed} --only '{failure.work.label}'"
    return f"{failure.verdict}: {failure.saved}\n  {failure.reason}\n  again: {again}"


def table(outcome: Outcome) -> str:
    """A row a format: how many broken inputs were read, refused and failed, and of how many valid ones."""
    from tests.fuzz.inputs import BAD, GOOD

    columns = (*GOOD, *BAD)
    names = sorted({name for name, _, _ in outcome.counts})
    rows = [["format", *columns, "valid", "read right"]]
    for name in [*names, "all"]:
        of = [key for key in outcome.counts if name in (key[0], "all")]
        total = Counter(dict.fromkeys(columns, 0))
        for key in of:
            if not key[1] or key[2] in BAD:
                total[key[2]] += outcome.counts[key]
        valid = sum(outcome.counts[key] for key in of if key[1])
        right = sum(outcome.counts[key] for key in of if key[1] and key[2] == "read")
        rows.append([name, *(str(total[column]) for column in columns), str(valid), str(right)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(word.rjust(width) for word, width in zip(row, widths)) for row in rows)
