"""Every fused layer has a plain form: the textbook formula, run through the layer's own submodules.

A fused layer computes the same numbers without its activations ever being there, so a hook on its `linear` sees nothing. In
the plain form every linear map, BatchNorm, activation, noise and pool is a module that is called. Forward hooks,
Captum, torch.ao, parametrizations, torch.export and ONNX work on it:

    with unfused(network):
        logits = network(x)

Both forms give equal numbers, gradients and running statistics, and drop the same points. The plain form is slower and
stores every activation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class HasPlainForm(nn.Module):
    """A module that runs fused, or, while `fused` is False, in its plain form."""

    fused: bool = True


@contextmanager
def unfused(network: nn.Module) -> Iterator[nn.Module]:
    """Run `network`, a network or a single layer, and everything in it in the plain form; restored at the end."""
    layers = [module for module in network.modules() if isinstance(module, HasPlainForm)]
    before = [layer.fused for layer in layers]
    try:
        for layer in layers:
            layer.fused = False
        yield network
    finally:
        for layer, fused in zip(layers, before, strict=True):
            layer.fused = fused
