"""The effective biases of a network, and how a forward pass along them takes from a max what its tangent needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.kernels import linear_norm_max
from dropfold.models import LinearNormMax


def effective_biases(network: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Each bias by name, and the constant that its layer adds: a BatchNorm's is beta - gamma mean / sqrt(var + eps)."""
    found = {}
    for name, value in network.named_parameters():
        owner, _, own = name.rpartition(".")
        if not any("bias" in word for word in (own, owner.rpartition(".")[2])):
            continue
        bias = value.detach()
        norm: Any = network.get_submodule(owner)
        added, is_norm = bias, issubclass(type(norm), nn.modules.batchnorm._BatchNorm)
        if is_norm and norm.running_mean is not None:
            added = bias - norm.weight.detach() * norm.running_mean * torch.rsqrt(norm.running_var + norm.eps)
        found[name] = bias, added
    return found


@contextmanager
def winners_alone(network: nn.Module) -> Iterator[None]:
    """While it is open, the plain form of each `LinearNormMax` computes its products at the points that win a channel's max:
    with x_w(c) the winner of channel c, out_c = act(norm(W_c x_w(c) + b_c)), which is [B, C] where all points are [B, N, C].
    The value and the tangent of a max are those of its winners; the fused form finds them."""
    layers = [m for m in network.modules() if type(m) is LinearNormMax and isinstance(m.linear, nn.Linear)]
    try:
        for layer in layers:
            layer.plain = _Winners(layer)  # type: ignore[method-assign]
        yield
    finally:
        for layer in layers:
            vars(layer).pop("plain", None)


class _Winners:
    """The plain form of a layer at its winners."""

    def __init__(self, layer: LinearNormMax) -> None:
        self.layer = layer

    def __call__(self, x: Tensor, *, batch: Tensor | None, batch_size: int | None, **options: Any) -> Tensor:
        layer: Any = self.layer
        norm = layer.batch_norm()
        weight, bias = layer.matrix()
        _, rows = linear_norm_max(  # of values alone: detached tensors have no tangent
            *(x.detach(), weight.detach(), None if bias is None else bias.detach()),
            norm._replace(gamma=norm.gamma.detach(), beta=norm.beta.detach()),
            **{"batch": batch, "batch_size": batch_size, "negative_slope": 1.0, "return_argmax": True, **options},
        )
        if batch is None and x.dim() == 3:  # the fused form counts within a dense cloud
            rows = rows + torch.arange(len(rows), device=rows.device)[:, None] * x.shape[1]
        z = (x.flatten(0, -2)[rows] * weight).sum(-1)
        return layer.activation(layer.norm(z if bias is None else z + bias))
