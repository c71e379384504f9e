"""Inputs and comparisons that the tests of several operations share."""

import torch
from torch import Tensor

from dropfold.kernels import BatchNorm, Noise, knn

# Sums of up to 1e5 float64 terms of size 1 to 10.
EXACT = {"rtol": 0.0, "atol": 1e-11}


def batch_norm(channels, training=True, dtype=torch.float64, device="cpu"):
    """A BatchNorm with gammas of both signs; the same for the same channels, with leaves and buffers of its own."""
    generator = torch.Generator().manual_seed(channels)
    gamma, beta, mean, var = torch.randn(4, channels, generator=generator, dtype=torch.float64)
    vectors = [t.to(device, dtype, copy=True) for t in (gamma, beta, mean, var.abs() + 0.5)]
    return BatchNorm(*(t.requires_grad_() for t in vectors[:2]), *vectors[2:], training)


def noise(level: str | None, x: Tensor, p: float = 0.5, k: int = 4, device="cpu") -> Noise | None:
    """One draw for the dense clouds x [B, N, C]."""
    if level is None:
        return None
    neighbours = None
    if level == "cluster":
        local = knn(x.detach(), min(k, x.shape[1]))
        start = torch.arange(x.shape[0], device=x.device)[:, None, None] * x.shape[1]
        neighbours = (local + start).flatten(0, 1)
    return Noise(level, torch.tensor(p, device=device), torch.tensor(11, device=device), neighbours)
