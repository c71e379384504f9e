"""How an operation becomes a PyTorch operator: one schema, a CPU and a Triton implementation, shapes for tracing."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch


def operator(
    schema: str, *, cpu: Callable[..., Any], triton: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    """Register `dropfold::<schema>` and return it.

    CUDA and ROCm tensors always go to `triton`, CPU tensors to `cpu`: neither stands in for the other. The one
    exception is asked for by name: with TRITON_INTERPRET=1 in the environment when this package is imported, CPU
    tensors go through the Triton kernels too, in Triton's interpreter (slow; it is how kernels are debugged).
    `fake` returns empty outputs of the right shapes, for torch.compile and torch.export.
    """
    name = schema.split("(")[0]
    torch.library.define(f"dropfold::{name}", schema[len(name) :])
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    torch.library.impl(f"dropfold::{name}", "CPU", _in_full_precision(triton if interpreted else cpu, "cpu"))
    torch.library.impl(f"dropfold::{name}", "CUDA", _in_full_precision(_without_float64(triton), "cuda"))
    torch.library.register_fake(f"dropfold::{name}", fake)
    return getattr(torch.ops.dropfold, name).default


def _in_full_precision(implementation: Callable[..., Any], device: str) -> Callable[..., Any]:
    """Inside an operator autocast rounds nothing: what type it works in was decided before."""

    def run(*args: Any) -> Any:
        with torch.autocast(device, enabled=False):
            return implementation(*args)

    return run


def _without_float64(launch: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse float64: the Triton kernels compute in float32, and would round it in silence."""

    def run(*args: Any) -> Any:
        if any(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in args):
            name = launch.__name__.removeprefix("_launch_")
            raise TypeError(f"{name} takes float64 on the CPU alone; convert to float32.")
        return launch(*args)

    return run
