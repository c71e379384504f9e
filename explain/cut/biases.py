"""The effective biases of a network, and how a forward pass along them takes from a max what its tangent needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.models import LinearNormMax


def effective_biases(network: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Each bias by name, and the constant that its layer adds: a BatchNorm's is beta - gamma mean / sqrt(var + eps), with
    beta = 0 and gamma = 1 where it has none."""
    found = {}
    for name, value in network.named_parameters():
        owner, _, own = name.rpartition(".")
        if not any("bias" in word for word in (own, owner.rpartition(".")[2])):
            continue
        bias = value.detach()
        found[name] = bias, bias
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            norm: Any = module
            shift = norm.running_mean * torch.rsqrt(norm.running_var + norm.eps)
            beta = torch.zeros_like(shift) if norm.bias is None else norm.bias.detach()
            gamma = 1 if norm.weight is None else norm.weight.detach()
            found[f"{name}.bias" if name else "bias"] = beta, beta - gamma * shift
    return found


@contextmanager
def noting_winners(network: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """While it is open, each `LinearNormMax` notes the points that win its channels, [B, C_out]."""
    found: dict[nn.Module, Tensor] = {}

    def ask(layer: nn.Module, args: Any, kwargs: Any) -> Any:
        return args, kwargs | {"return_argmax": True}

    def note(layer: nn.Module, args: Any, out: Any) -> Tensor:
        top, found[layer] = out
        return top

    with ExitStack() as stack:
        for layer in _layers(network):
            stack.callback(layer.register_forward_pre_hook(ask, with_kwargs=True).remove)
            stack.callback(layer.register_forward_hook(note).remove)
        yield found


@contextmanager
def winners_alone(network: nn.Module, winners: dict[nn.Module, Tensor]) -> Iterator[None]:
    """While it is open, the plain form of each `LinearNormMax` computes its products at its `winners` alone, w(c) of
    channel c: out_c = act(norm(W_c x_w(c) + b_c)), which is [B, C] where the products of all points are [B, N, C]. The value
    and the tangent of a max are those of its winner."""
    layers = [layer for layer in _layers(network) if layer in winners]
    try:
        for layer in layers:
            vars(layer)["plain"] = partial(_at_winners, layer, winners[layer])
        yield
    finally:
        for layer in layers:
            vars(layer).pop("plain", None)


def _layers(network: nn.Module) -> list[Any]:
    return [m for m in network.modules() if type(m) is LinearNormMax and isinstance(m.linear, nn.Linear)]


def _at_winners(layer: Any, rows: Tensor, x: Tensor, batch: Tensor | None = None, **options: Any) -> Tensor:
    if batch is None and x.dim() == 3:  # of dense clouds they are counted within a cloud
        rows = rows + torch.arange(len(rows), device=rows.device)[:, None] * x.shape[1]
    weight, bias = layer.matrix()
    z = (x.flatten(0, -2)[rows] * weight).sum(-1)
    return layer.activation(layer.norm(z if bias is None else z + bias))
