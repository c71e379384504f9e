"""Milliseconds of a network on this machine: medians of calls, taken in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from dropfold.models.layers.grouped import EdgeConv2, GroupMLPMax
from dropfold.models.layers.linear_norm import LinearNorm
from dropfold.models.layers.low_rank import CONVOLUTIONS, LowRank

CALLS, SECONDS = 15, 1.5  # of each network at least
MOST_CALLS = 200
UNTIMED = 2  # first calls of a network, which compile and fill caches
LAYERS = LinearNorm, GroupMLPMax, EdgeConv2, LowRank, nn.Linear, *CONVOLUTIONS


class Times(NamedTuple):
    """Milliseconds of a call: the 20th, 50th and 80th percentile."""

    p20: float
    p50: float
    p80: float


@torch.inference_mode()
def times_of(networks: Sequence[nn.Module], *example: Any, seconds: float = SECONDS) -> list[Times]:
    """The times of each network on an example, in evaluation, called for so many seconds each, and some times at least.

    The networks take turns, so that what else the machine does meets all of them. The first two calls of each do not count.
    """
    devices = [next((p.device for p in network.parameters()), torch.device("cpu")) for network in networks]
    taken: list[list[float]] = [[] for _ in networks]
    before = [[module.training for module in network.modules()] for network in networks]
    try:
        for network in networks:
            network.eval()
        end = time.perf_counter() + seconds * len(networks)
        for turn in range(MOST_CALLS + UNTIMED):
            if turn >= CALLS + UNTIMED and time.perf_counter() > end:
                break
            for network, device, times in zip(networks, devices, taken, strict=True):
                start = time.perf_counter()
                network(*example)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if turn >= UNTIMED:
                    times.append(1e3 * (time.perf_counter() - start))
    finally:
        for network, modes in zip(networks, before, strict=True):
            for module, training in zip(network.modules(), modes, strict=True):
                module.training = training
    return [Times(*(torch.tensor(times).quantile(q).item() for q in (0.2, 0.5, 0.8))) for times in taken]


def layer_times(network: nn.Module, *example: Any, seconds: float = SECONDS) -> dict[str, float]:
    """Milliseconds of each layer by its name, in calls of the network on an example, in evaluation: medians.

    A layer is one of the fused ones, or a matrix or convolution (or the two thin ones in its place) called by itself; what
    is in none is not in it. The calls of a layer within a call of the network add up.
    """
    layers: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{other}.") for other in layers)
        if not inside and isinstance(module, LAYERS):
            layers[name] = module
    calls: list[dict[str, float]] = []  # of the network
    began: dict[str, float] = {}
    device = next((p.device for p in network.parameters()), torch.device("cpu"))

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def before(name: str) -> Any:
        return lambda *_: began.update({name: clock()})

    def after(name: str) -> Any:
        return lambda *_: calls[-1].update({name: calls[-1].get(name, 0.0) + 1e3 * (clock() - began[name])})

    hooks = [network.register_forward_pre_hook(lambda *_: calls.append({}))]
    hooks += [layer.register_forward_pre_hook(before(name)) for name, layer in layers.items()]
    hooks += [layer.register_forward_hook(after(name)) for name, layer in layers.items()]
    try:
        times_of([network], *example, seconds=seconds)
    finally:
        for hook in hooks:
            hook.remove()
    counted = calls[UNTIMED:]
    return {
        name: torch.tensor([call.get(name, 0.0) for call in counted]).median().item()
        for name in layers
        if any(name in call for call in counted)
    }
