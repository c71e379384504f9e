"""Operations have first derivatives alone: backward refuses to be differentiated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def first_derivatives_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward of an autograd function that has none of its own.

    torch's `once_differentiable` lets a second derivative through an earlier tensor pass as zero where `autograd.grad` asks
    for chosen inputs. This raises as soon as backward is recorded.

    Raises:
        RuntimeError: called with create_graph=True.
    """

    @functools.wraps(backward)
    def run(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "this operation has no second derivatives: its backward was called with create_graph=True. Take the plain "
                "form, `with dropfold.models.unfused(network):`, or the operation's `reference`."
            )
        return backward(ctx, *gradients)

    return run
