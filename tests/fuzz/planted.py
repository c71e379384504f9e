"""Readers with planted faults, by which the fuzzer itself is tested. Each is called as the verdict that it must get."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from dropfold.data_scripts.work.errors import ShapeError
from tests.fuzz.case import Arrays, Format, Random


def make(random: Random, path: Path) -> Arrays:
    path.write_bytes(b"0123456789")
    return {"digits": np.arange(10)}


def read(path: Path) -> Arrays:
    return {"digits": np.array(list(path.read_bytes())) - 48}


def read_wrongly(path: Path) -> Arrays:
    return {"digits": np.arange(10) + 1}


def name_nothing(path: Path) -> Arrays:
    raise ShapeError("something is wrong.")


def name_the_file(path: Path) -> Arrays:
    raise ShapeError(f"{path} is broken.")


def trip(path: Path) -> Arrays:
    return {"digits": np.arange(10)[11]}


def warn(path: Path) -> Arrays:
    return {"digits": np.array([0.0]) / 0}


def hang(path: Path) -> Arrays:
    time.sleep(100)
    return {}


def abort(path: Path) -> Arrays:
    os.abort()


def fill_memory(path: Path) -> Arrays:
    try:
        return {"digits": np.ones(1 << 36)}
    except MemoryError:
        raise ShapeError(f"{path} does not fit into memory.") from None


FORMATS = [
    Format("read", ".txt", make, (read,)),
    Format("refused", ".txt", make, (name_the_file,)),
    Format("wrong", ".txt", make, (read_wrongly,)),
    Format("damaged", ".txt", make, (read,), sealed=True),
    Format("unnamed", ".txt", make, (read, name_nothing)),
    Format("traceback", ".txt", make, (trip,)),
    Format("traceback of a warning", ".txt", make, (warn,)),
    Format("memory", ".txt", make, (fill_memory,)),
    Format("hang", ".txt", make, (hang,)),
    Format("abort", ".txt", make, (abort,)),
]
