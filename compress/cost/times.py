"""Milliseconds of a network on this machine: medians of calls, taken in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

CALLS, SECONDS = 15, 1.5  # of each network at least
MOST_CALLS = 200


class Times(NamedTuple):
    """Milliseconds of a call: the 20th, 50th and 80th percentile."""

    p20: float
    p50: float
    p80: float


@torch.inference_mode()
def times_of(networks: Sequence[nn.Module], *example: Any, seconds: float = SECONDS) -> list[Times]:
    """The times of each network on an example, in evaluation, called for so many seconds each, and some times at least.

    The networks take turns, so that what else the machine does meets all of them. Two first calls of each, which compile and
    fill caches, do not count.
    """
    devices = [next((p.device for p in network.parameters()), torch.device("cpu")) for network in networks]
    taken: list[list[float]] = [[] for _ in networks]
    before = [[module.training for module in network.modules()] for network in networks]
    try:
        for network in networks:
            network.eval()
        end = time.perf_counter() + seconds * len(networks)
        for turn in range(MOST_CALLS + 2):
            if turn >= CALLS + 2 and time.perf_counter() > end:
                break
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
