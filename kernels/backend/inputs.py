"""What operations are given, checked at their door by type, shape and device; no number is read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe


def check_tensors(**given: Any) -> None:
    """Refuse what is no tensor, and tensors that are on different devices; None is left out.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: an argument is on another device than the first.
    """
    first = ""
    for name, x in given.items():
        if x is None:
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor; got a {type(x).__name__}.")
        first = first or name
        if x.device != given[first].device:
            raise ValueError(
                f"{name} must be where {first} is, on {given[first].device}; got {name} {describe(x)} on {x.device}."
            )


def check_floating(**given: Any) -> None:
    """`check_tensors`, of floating point.

    Raises:
        TypeError: an argument is no tensor, or one of another type.
        ValueError: an argument is on another device than the first.
    """
    check_tensors(**given)
    for name, x in given.items():
        if x is not None and not x.is_floating_point():
            raise TypeError(f"{name} must be of a floating point type; got {describe(x)}.")


def check_has_numbers(name: str, x: Tensor) -> None:
    """Refuse a tensor on the meta device for an operation whose outcome depends on its numbers, or that only runs.

    Raises:
        ValueError: x is on the meta device.
    """
    if x.is_meta:
        raise ValueError(
            f"{name} {describe(x)} is on the meta device and has no numbers: give one on the CPU or a GPU, or trace the "
            "operation with torch.compile or torch.export."
        )


def check_product(x: Any, weight: Any, bias: Any = None) -> None:
    """Refuse x [..., m], weight [n, m] and bias [n] or None that cannot be multiplied as they are.

    Raises:
        TypeError: an argument is no tensor, or of no floating point type.
        ValueError: shapes, devices or, outside autocast, types differ.
    """
    check_floating(x=x, weight=weight, bias=bias)
    if weight.dim() != 2 or x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x must be [..., m] for weight [n, m]; got x {describe(x)}, weight {describe(weight)}."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias must be [{weight.shape[0]}] for weight {describe(weight)}; got {describe(bias)}."
        )
    types = {t.dtype for t in (x, weight, bias) if t is not None}
    if len(types) > 1 and (
        torch.float64 in types or x.is_meta or not torch.is_autocast_enabled(x.device.type)
    ):
        others = describe(weight) + ("" if bias is None else f" and bias {describe(bias)}")
        raise ValueError(
            f"x must be of the type of weight and bias; got x {describe(x)} for weight {others}. Give x.to(weight.dtype), "
            "or run it under torch.autocast."
        )
