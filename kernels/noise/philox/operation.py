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

LOW_32_BITS = 0xFFFFFFFF


def reference(seed: Tensor, n: int) -> Tensor:
    """`uniform` in plain torch, for any device, bit for bit: the specification of the random numbers.

    Words of 32 bits are kept in int64, where a product wraps around: its 64 bits are those of the unsigned product.
    """
    key_0, key_1 = seed & LOW_32_BITS, (seed >> 32) & LOW_32_BITS
    counter = torch.arange(-(-n // 4), device=seed.device)
    word_0, word_1 = counter & LOW_32_BITS, counter >> 32
    word_2 = word_3 = torch.zeros_like(counter)
    for _ in range(10):
        a, b = word_0 * 0xD2511F53, word_2 * 0xCD9E8D57
        word_0, word_2 = (
            ((b >> 32) & LOW_32_BITS) ^ word_1 ^ key_0,
            ((a >> 32) & LOW_32_BITS) ^ word_3 ^ key_1,
        )
        word_1, word_3 = b & LOW_32_BITS, a & LOW_32_BITS
        key_0, key_1 = (key_0 + 0x9E3779B9) & LOW_32_BITS, (key_1 + 0xBB67AE85) & LOW_32_BITS
    words = torch.stack([word_0, word_1, word_2, word_3], 1).flatten()[:n]
    # As `tl.uint_to_uniform_float`: words from 2^31 on count down from there.
    folded = torch.where(words < 2**31, words, LOW_32_BITS - words)
    return folded.to(torch.float32) * 4.6566127342e-10


def draw_seed(device: torch.device | str = "cpu") -> Tensor:
    """Draw a seed from torch's generator: int64, 0-dim."""
    return torch.randint(2**62, (), device=device)


def as_seed(seed: Tensor | None, device: torch.device) -> Tensor:
    """The seed on `device`, or a fresh one if it is None."""
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
