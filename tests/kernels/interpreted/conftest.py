"""These tests launch Triton kernels: in Triton's interpreter on CPU tensors, or on a GPU where there is one.

Triton decides at its import whether it interprets, so they run in processes of their own, started by
tests/kernels/test_interpreted.py, and are not collected elsewhere.
"""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
    collect_ignore_glob = ["*"]


@pytest.fixture
def device() -> torch.device:
    """The CPU under the interpreter, the GPU without it."""
    return torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
