"""Counter-based random numbers: the same on every device, a function of (seed, index) alone.

Philox 4x32-10 [Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"] turns a key (the 64-bit seed) and a
counter into four 32-bit words. Number i is word `i mod 4` of counter `i div 4`, mapped to float32 in [0, 1) by Triton's
own map; CPU and GPU agree bit for bit. One Philox call thus serves four neighbouring elements, so that noise over a
large tensor stays bound by memory and not by arithmetic.

Seeds are 0-dim int64 tensors drawn by torch, so `torch.manual_seed` governs them and `torch.compile` neither bakes
them in nor waits for the GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.backend.operator import operator


def draw_seed(device: torch.device | str = "cpu") -> Tensor:
    """A fresh seed from torch's generator: int64, 0-dim."""
    return torch.randint(2**62, (), device=device)


def as_seed(seed: Tensor | None, device: torch.device) -> Tensor:
    """A seed on the device of what it is drawn for; a fresh one where none is given."""
    if seed is None:
        return draw_seed(device)
    if not isinstance(seed, Tensor) or seed.dtype != torch.int64 or seed.dim():
        given = f"{seed.dtype} {list(seed.shape)}" if isinstance(seed, Tensor) else repr(seed)
        raise ValueError(f"seed must be a 0-dim int64 tensor, torch.tensor(7) say; got {given}.")
    return seed.to(device)


_uniform = operator(
    "uniform(Tensor seed, SymInt n) -> Tensor",
    implementations=__package__,
    fake=lambda seed, n: torch.empty(n, device=seed.device),
)


def uniform(seed: Tensor, n: int) -> Tensor:
    """Numbers 0 .. n - 1 of the stream `seed`: float32 [n] in [0, 1)."""
    return _uniform(seed, n)
