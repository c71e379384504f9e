"""Where the evidence of a network for images is read, if nobody says where: at its last convolution.

It is the last module with a convolution in it (a stage of residual blocks, or the convolution itself, then with the
BatchNorm and activation that follow) whose map is a full cut and has 4 x 4 positions at least: of a VGG for small images the
last convolutions see one position, which says nothing about where.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dropfold.explain.cut.inputs import Inputs
from dropfold.explain.cut.passes import as_it_was, detached

LEAST = 4  # rows and columns of a map
FOLLOWING = (nn.BatchNorm2d, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh)


class Call(NamedTuple):
    """A module that was called once in a forward, and the tensor that went in and came out."""

    name: str
    module: nn.Module
    into: Any
    out: Any


def last_convolution(network: nn.Module, inputs: Inputs) -> str | None:
    """The name of the module whose output [B, C, H, W] is read by default; None for a network without a 2-D convolution, or
    one in which all maps are gone round."""
    if not _convolves(network):
        return None
    one = _first_sample(inputs)
    with as_it_was(network), torch.no_grad():
        calls = _calls(network, one)
    maps = [call for call in calls if _convolves(call.module) and _is_map(call.out)]
    large = [call for call in maps if min(call.out.shape[2:]) >= LEAST]
    with as_it_was(network):
        for call in reversed(large or maps):
            name = _carried(call, calls).name
            inside = set(call.module.modules())
            earlier = [c.module for c in calls[: calls.index(call)] if isinstance(c.module, nn.Conv2d)]
            if is_full_cut(network, name, [module for module in earlier if module not in inside], one):
                return name
    return None


def is_full_cut(network: nn.Module, name: str, earlier: list[nn.Module], inputs: Inputs) -> bool:
    """Whether the logits are a function of a module's output alone: nothing of the `earlier` convolutions, nor of the
    inputs, reaches them while that output is a constant. The network is in evaluation mode."""

    def ask(module: nn.Module, args: Any, out: Any) -> Any:
        return out if out.requires_grad else out.clone().requires_grad_().clone()

    x = inputs.x.detach().clone()
    x = x.requires_grad_() if x.is_floating_point() else x
    args = tuple(x if value is inputs.x else value for value in inputs.args)
    kwargs = {key: x if value is inputs.x else value for key, value in inputs.kwargs.items()}
    with ExitStack() as stack, torch.enable_grad():
        for module in earlier:
            stack.callback(module.register_forward_hook(ask).remove)
        cut = network.get_submodule(name)
        stack.callback(cut.register_forward_hook(lambda m, a, out: out.detach()).remove)
        return not functional_call(network, detached(network), args, kwargs).requires_grad


def _calls(network: nn.Module, inputs: Inputs) -> list[Call]:
    """Of all modules inside a network that are called once, in the order in which they end."""
    calls: list[Call] = []
    with ExitStack() as stack:
        for name, module in network.named_modules():
            if name:

                def note(module: nn.Module, args: Any, out: Any, name: str = name) -> None:
                    calls.append(Call(name, module, args[0] if args else None, out))

                stack.callback(module.register_forward_hook(note).remove)
        network(*inputs.args, **inputs.kwargs)
    times = Counter(call.name for call in calls)
    return [call for call in calls if times[call.name] == 1]


def _carried(call: Call, calls: list[Call]) -> Call:
    """The BatchNorm or activation that takes what a convolution gives, and so on; or the convolution itself."""
    following = [one for one in calls if one.into is call.out and isinstance(one.module, FOLLOWING)]
    later = [one for one in following if one is not call and calls.index(one) > calls.index(call)]
    return _carried(later[0], calls) if later else call


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(inner, nn.Conv2d) for inner in module.modules())


def _is_map(out: Any) -> bool:
    return isinstance(out, Tensor) and out.dim() == 4


def _first_sample(inputs: Inputs) -> Inputs:
    """A batch of one image, where the inputs are nothing but images."""
    if len(inputs.args) != 1 or inputs.kwargs:
        return inputs
    x = inputs.x[:1]
    return Inputs((x,), {}, x, None, 1)
