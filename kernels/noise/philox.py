"""Counter-based random numbers: the same on every device, a function of (seed, index) alone.

Philox 4x32-10 [Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"] turns a key (the 64-bit seed) and a
counter into four 32-bit words. Number i is word `i mod 4` of counter `i div 4`, mapped to float32 in [0, 1) by Triton's
own map; CPU and GPU agree bit for bit. One Philox call thus serves four neighbouring elements, so that noise over a
large tensor stays bound by memory and not by arithmetic.

Seeds are 0-dim int64 tensors drawn by torch, so `torch.manual_seed` governs them and `torch.compile` neither bakes
them in nor waits for the GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dropfold.kernels.backend.numba import njit
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.backend.triton import cdiv, jit

if TYPE_CHECKING:
    import triton.language as tl
    from numba import prange


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


# --- CPU ---------------------------------------------------------------------------------------------------------


@njit(inline=True)
def philox_words(seed, counter):
    """The four words of `counter` under `seed`, as uint64 holding 32 bits each."""
    low = np.uint64(0xFFFFFFFF)
    k0, k1 = np.uint64(seed) & low, np.uint64(seed) >> np.uint64(32)
    c0, c1 = np.uint64(counter) & low, np.uint64(counter) >> np.uint64(32)
    c2, c3 = np.uint64(0), np.uint64(0)
    for _ in range(10):
        a = np.uint64(0xD2511F53) * c0
        b = np.uint64(0xCD9E8D57) * c2
        c0 = (b >> np.uint64(32)) ^ c1 ^ k0
        c2 = (a >> np.uint64(32)) ^ c3 ^ k1
        c1 = b & low
        c3 = a & low
        k0 = (k0 + np.uint64(0x9E3779B9)) & low
        k1 = (k1 + np.uint64(0xBB67AE85)) & low
    return c0, c1, c2, c3


@njit
def word_to_uniform(word):
    """A 32-bit word as float32 in [0, 1), as `tl.uint_to_uniform_float` does it."""
    signed = np.int64(word)
    folded = signed if signed < 2147483648 else np.int64(4294967295) - signed
    return np.float32(folded) * np.float32(4.6566127342e-10)


@njit
def uniform_at(seed, index):
    """Number `index` of the stream `seed`."""
    c0, c1, c2, c3 = philox_words(seed, index >> 2)
    lane = index & 3
    return word_to_uniform(c0 if lane == 0 else c1 if lane == 1 else c2 if lane == 2 else c3)


@njit(parallel=True)
def _uniform_cpu(seed, out):
    n = out.shape[0]
    for group in prange((n + 3) // 4):
        c0, c1, c2, c3 = philox_words(seed, group)
        i = 4 * group
        out[i] = word_to_uniform(c0)
        if i + 1 < n:
            out[i + 1] = word_to_uniform(c1)
        if i + 2 < n:
            out[i + 2] = word_to_uniform(c2)
        if i + 3 < n:
            out[i + 3] = word_to_uniform(c3)


def _cpu_uniform(seed: Tensor, n: int) -> Tensor:
    out = torch.empty(n)
    _uniform_cpu(int(seed), out)
    return out


# --- Triton ------------------------------------------------------------------------------------------------------


@jit
def uniform_block(seed, start, BLOCK: tl.constexpr):
    """Numbers start .. start + BLOCK - 1; `start` is a multiple of 4. A Philox call for four numbers."""
    counter = (start >> 2) + tl.arange(0, BLOCK // 4).to(tl.int64)
    c0, c1, c2, c3 = tl.randint4x(seed, counter)
    words = tl.join(tl.join(c0, c2), tl.join(c1, c3)).reshape(BLOCK)
    return tl.uint_to_uniform_float(words)


@jit
def uniform_gather(seed, index):
    """Numbers at any indices (int64), one Philox call each."""
    c0, c1, c2, c3 = tl.randint4x(seed, index >> 2)
    lane = index & 3
    word = tl.where(lane == 0, c0, tl.where(lane == 1, c1, tl.where(lane == 2, c2, c3)))
    return tl.uint_to_uniform_float(word)


@jit
def _uniform_fwd_kernel(p_seed, p_out, n, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    o = start + tl.arange(0, BLOCK)
    tl.store(p_out + o, uniform_block(tl.load(p_seed), start, BLOCK), mask=o < n)


def _launch_uniform(seed: Tensor, n: int) -> Tensor:
    out = torch.empty(n, device=seed.device)
    _uniform_fwd_kernel[(cdiv(n, 1024),)](seed, out, n, BLOCK=1024)
    return out


_uniform = operator(
    "uniform(Tensor seed, SymInt n) -> Tensor",
    cpu=_cpu_uniform,
    triton=_launch_uniform,
    fake=lambda seed, n: torch.empty(n, device=seed.device),
)


def uniform(seed: Tensor, n: int) -> Tensor:
    """Numbers 0 .. n - 1 of the stream `seed`: float32 [n] in [0, 1)."""
    return _uniform(seed, n)
