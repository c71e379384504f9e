"""How an operation becomes a PyTorch operator: one schema, a CPU and a Triton implementation, shapes for tracing."""

from __future__ import annotations

import functools
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
    torch.library.impl(f"dropfold::{name}", "CPU", triton if interpreted else cpu)
    torch.library.impl(f"dropfold::{name}", "CUDA", functools.partial(_without_float64, triton))
    torch.library.register_fake(f"dropfold::{name}", fake)
    return getattr(torch.ops.dropfold, name).default


def _without_float64(launch: Callable[..., Any], *args: Any) -> Any:
    """Launch, unless an input is float64: the Triton kernels compute in float32, and would round it in silence."""
    if any(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in args):
        raise TypeError(
            f"{launch.__name__.removeprefix('_launch_')} takes float64 on the CPU alone; convert to float32."
        )
    return launch(*args)
