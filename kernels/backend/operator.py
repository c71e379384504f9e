"""How an operation becomes a PyTorch operator: one schema, a CPU and a Triton implementation, shapes for tracing."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # when this package is imported


def operator(
    schema: str, *, implementations: str, fake: Callable[..., Any], cpu_alone: bool = False
) -> Callable[..., Any]:
    """Register `dropfold::<schema>` and return it.

    `implementations` is the package of the operation. Its files `cpu.py` and `triton.py` have a function each with the
    operator's name and arguments; a file is imported at the operator's first call on its device. CUDA and ROCm tensors
    always go to Triton, CPU tensors to `cpu.py`: neither stands in for the other. The one exception is asked for by name:
    with TRITON_INTERPRET=1 in the environment when this package is imported, CPU tensors go through the Triton kernels
    too, in Triton's interpreter (slow; it is how kernels are debugged). With `cpu_alone` there are no Triton kernels.
    `fake` returns empty outputs of the right shapes,
    for torch.compile and torch.export. All outputs are contiguous, whatever the strides of the inputs: compiled code is
    made for the strides that `fake` promises.
    """
    name = schema.split("(")[0]
    cpu, triton = (_import_at_first_call(implementations, device, name) for device in ("cpu", "triton"))
    torch.library.define(f"dropfold::{name}", schema[len(name) :])
    torch.library.impl(
        f"dropfold::{name}", "CPU", _without_autocast(triton if INTERPRETED and not cpu_alone else cpu, "cpu")
    )
    if not cpu_alone:
        torch.library.impl(
            f"dropfold::{name}", "CUDA", _without_autocast(_without_float64(triton, name), "cuda")
        )
    torch.library.register_fake(f"dropfold::{name}", lambda *args: _make_contiguous(fake(*args)))
    return getattr(torch.ops.dropfold, name).default


def _import_at_first_call(package: str, device: str, name: str) -> Callable[..., Any]:
    """The function `name` of the package's file for a device, imported at the first call."""

    @functools.cache
    def load() -> Callable[..., Any]:
        if device == "triton":
            import dropfold.kernels.backend.triton  # noqa: F401  (says what to install where Triton is missing)
        return getattr(importlib.import_module(f"{package}.{device}"), name)

    def run(*args: Any) -> Any:
        return load()(*args)

    return run


def _without_autocast(implementation: Callable[..., Any], device: str) -> Callable[..., Any]:
    """Switch autocast off inside the operator: its caller has chosen the type in which it works."""

    def run(*args: Any) -> Any:
        if not torch.is_autocast_enabled(device):
            return _make_contiguous(implementation(*args))
        with torch.autocast(device, enabled=False):
            return _make_contiguous(implementation(*args))

    return run


def _make_contiguous(outputs: Any) -> Any:
    """An operator's outputs, each copied only if it is not contiguous yet."""
    if isinstance(outputs, torch.Tensor):
        return outputs.contiguous()
    return type(outputs)(map(_make_contiguous, outputs))


def _without_float64(launch: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Refuse float64: the Triton kernels compute in float32 and would round it without a word."""

    def run(*args: Any) -> Any:
        if any(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in args):
            raise TypeError(f"{name} takes float64 on the CPU alone; convert to float32.")
        return launch(*args)

    return run
