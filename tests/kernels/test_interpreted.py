"""Gate 1: every kernel's real code, run by Triton's interpreter against the oracle, one process a file."""

from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.glob("interpreted/test_*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kernels_in_the_interpreter(path, run_python):
    done = run_python("-m", "pytest", "-x", "-p", "no:xdist", str(path), TRITON_INTERPRET="1", timeout=600)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
