"""Each input of the fuzzer, made anew from its seed, format and number; and the verdict of the product's readers on it."""

from __future__ import annotations

import traceback
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropfold.data_scripts.work.errors import (
    ArchiveError,
    PictureError,
    SchemaError,
    ShapeError,
    VideoError,
)
from dropfold.train.storage.sealed import DamagedError
from tests.fuzz.case import Arrays, Format, chance
from tests.fuzz.formats import FORMATS, PLANTED
from tests.fuzz.mutate import damage_bytes

GOOD = ("read", "refused")
BAD = ("wrong", "damaged", "unnamed", "traceback", "memory", "abort", "hang")
FAULTS = (
    ArchiveError,
    DamagedError,
    PictureError,
    SchemaError,
    ShapeError,
    VideoError,
)  # whose text is a sentence
OUT_OF_MEMORY = "fit into memory", "more memory than"  # how the product says so of its own process
SMALL = 1 << 24  # bytes: a file below this has no reason to fill the memory


@dataclass(frozen=True)
class Input:
    """A file, and what its format says of it."""

    path: Path
    format: Format
    valid: bool
    done: str
    """What was done to it."""
    allowed: list[Arrays] | None
    """What may be read of it; None: anything, for nothing can know."""
    cut: bool = False
    """It only lost its end: what is read of it must be as long as it was."""


def make_input(seed: int, name: str, valid: bool, number: int, folder: Path) -> Input:
    """Write an input into an empty folder."""
    form = FORMATS.get(name) or PLANTED[name]
    random = np.random.default_rng([seed, zlib.crc32(name.encode()), int(valid), number])
    path = folder / (form.suffix if not form.suffix.startswith(".") else f"input{form.suffix}")
    expected = form.make(random, path)
    if valid:
        return Input(path, form, True, "valid", [expected])
    if form.damage is not None and chance(random, 0.4):
        known = form.damage(random, path)
        return Input(
            path, form, False, "damaged by its structure", [expected] if form.sealed and known else None
        )
    other = folder / "other"
    other.mkdir()
    found = form.make(random, other / path.name)
    files = sorted(file for file in folder.iterdir() if file.is_file())
    file = files[int(random.integers(len(files)))] if chance(random, 0.2) else path
    beside = other / file.name
    content, done = damage_bytes(random, file.read_bytes(), beside.read_bytes() if beside.is_file() else b"")
    file.write_bytes(content)
    cut = form.counted and done == "truncate" and file == path
    allowed = [expected, found] if form.sealed else [expected] if cut else None
    return Input(path, form, False, f"{file.name}: {done}", allowed, cut)


def judge(one: Input) -> tuple[str, str]:
    """The worst verdict of the format's readers, and its reason."""
    worst = ("read", "")
    for read in one.format.reads:
        verdict = _judge_reader(one, read)
        if verdict[0] in BAD:
            return verdict
        worst = verdict if verdict[0] != "read" else worst
    return worst


def _judge_reader(one: Input, read: Callable[[Path], Arrays]) -> tuple[str, str]:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of NumPy, for backslashes in a header; no user sees them
        try:
            found = read(one.path)
        except Exception as error:
            verdict = _judge_error(one, error)
        except BaseException as error:  # a panic of a decoder
            verdict = "traceback", f"{type(error).__name__}: {error}"
        else:
            verdict = _judge_result(one, found)
    if warned and verdict[0] in GOOD:
        first = warned[0]
        return (
            "traceback",
            f"{first.category.__name__}: {first.message} ({first.filename}, line {first.lineno})",
        )
    return verdict


def _judge_error(one: Input, error: Exception) -> tuple[str, str]:
    said = str(error)
    sentence = isinstance(error, FAULTS) or type(error) in (ValueError, FileNotFoundError) or (
        isinstance(error, OSError) and error.filename is not None
    )  # fmt: skip
    names = [file.name for file in one.path.parent.rglob("*") if file.name != "other"]
    if not sentence:
        return "traceback", "".join(traceback.format_exception(error))
    if not any(name in said for name in names):
        return "unnamed", f"{type(error).__name__}: {said}"
    if any(words in said for words in OUT_OF_MEMORY) and one.path.stat().st_size < SMALL:
        return "memory", said
    if one.valid:
        return "wrong", f"a valid file is refused: {said}"
    return "refused", said


def _judge_result(one: Input, found: Arrays) -> tuple[str, str]:
    if one.allowed is None:
        return "read", ""
    reasons = [_differs(one, allowed, found) for allowed in one.allowed]
    if None in reasons:
        return "read", ""
    return "wrong" if one.valid else "damaged", str(reasons[0])


def _differs(one: Input, expected: Arrays, found: Arrays) -> str | None:
    """How what was read differs from what it should be."""
    lost, strange = expected.keys() - found.keys(), found.keys() - expected.keys()
    if len(one.format.reads) == 1 and lost:
        return f"{min(lost)} is missing"
    if one.format.sealed and strange:
        return f"{min(strange)} was read"
    for name in sorted(expected.keys() & found.keys()):
        a, b = np.asarray(expected[name]), np.asarray(found[name])
        if a.shape != b.shape:
            return f"{name} is {b.shape}, expected {a.shape}"
        if one.cut or not a.size:
            continue
        if a.dtype.kind in "fiu" and b.dtype.kind in "fiu":
            same = np.abs(a.astype(np.float64) - b.astype(np.float64)).max() <= one.format.tolerance
        else:
            same = bool((a == b).all())
        if not same:
            return f"{name} is {b.ravel()[:6].tolist()} .., expected {a.ravel()[:6].tolist()} .."
    return None
