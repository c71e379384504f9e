"""Milliseconds of a network on this machine: medians of calls, taken in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

CALLS = 15


class Times(NamedTuple):
    """Milliseconds of a call: the 20th, 50th and 80th percentile."""

    p20: float
    p50: float
    p80: float


@torch.inference_mode()
def times_of(networks: Sequence[nn.Module], *example: Any, calls: int = CALLS) -> list[Times]:
    """The times of each network on an example, in evaluation.

    The networks take turns, so that what else the machine does meets all of them. Two first calls of each, which compile and
    fill caches, do not count.
    """
    devices = [next(network.parameters()).device for network in networks]
    taken: list[list[float]] = [[] for _ in networks]
    before = [[module.training for module in network.modules()] for network in networks]
    try:
        for network in networks:
            network.eval()
        for turn in range(calls + 2):
            for network, device, times in zip(networks, devices, taken, strict=True):
                start = time.perf_counter()
                network(*example)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if turn >= 2:
                    times.append(1e3 * (time.perf_counter() - start))
    finally:
        for network, modes in zip(networks, before, strict=True):
            for module, training in zip(network.modules(), modes, strict=True):
                module.training = training
    return [Times(*(torch.tensor(times).quantile(q).item() for q in (0.2, 0.5, 0.8))) for times in taken]
