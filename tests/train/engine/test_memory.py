"""Freed memory stays with a process that trains."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from dropfold.train.engine import memory
if {kept} and not memory.keep():
    print("none"); raise SystemExit
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(40)][-1])
"""


def pages(kept: bool) -> int:
    """Pages that the last of many tensors of 40 MiB, each freed before the next, has to be given."""
    found = subprocess.run(
        [sys.executable, "-c", COUNT.format(kept=kept)], capture_output=True, text=True, check=True
    ).stdout.strip()
    if found == "none":
        pytest.skip("there is no glibc here")
    return int(found)


def test_a_tensor_takes_the_place_of_the_one_before() -> None:
    # Of 10,240 pages of 4 KiB, which a process that keeps nothing is given anew.
    assert pages(kept=True) < 200
