"""Philox on the CPU: one number, the four words of a counter, or the first n numbers."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.numba import launch, njit


@njit(inline=True)
def philox_words(seed, counter):
    """The four words of `counter` under `seed`: 32 bits each, in uint64."""
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
    """A 32-bit word as float32 in [0, 1), like `tl.uint_to_uniform_float`."""
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
def _fill(seed, out):
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


def uniform(seed: Tensor, n: int) -> Tensor:
    out = torch.empty(n)
    launch(_fill, int(seed), out)
    return out
