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
    if differ_in_type(x, weight, bias):
        others = describe(weight) + ("" if bias is None else f" and bias {describe(bias)}")
        raise ValueError(
            f"x must be of the type of weight and bias; got x {describe(x)} for weight {others}. Give x.to(weight.dtype), "
            "or run it under torch.autocast."
        )


def differ_in_type(*given: Tensor | None) -> bool:
    """Whether tensors of floating point are of several types that autocast does not bring together: it leaves float64
    alone, and is no matter of the meta device. Integers (bytes) and None are left out."""
    found = [x for x in given if x is not None and x.is_floating_point()]
    types = {x.dtype for x in found}
    if len(types) < 2:
        return False
    device = found[0].device.type
    return torch.float64 in types or device == "meta" or not torch.is_autocast_enabled(device)


def check_type_of(what: str, weight: Tensor, **given: Tensor | None) -> None:
    """Refuse floating point tensors of another type than a weight, `what` in words, as PyTorch's own layers do.

    Raises:
        ValueError: an argument is of another type, and autocast does not bring them together.
    """
    for name, x in given.items():
        if x is not None and differ_in_type(x, weight):
            raise ValueError(
                f"{name} must be of the type of {what}, {weight.dtype}; got {name} {describe(x)}. Give "
                f"{name}.to({weight.dtype}), or run it under torch.autocast, which takes all but float64."
            )
