"""Global compression rates as published: an exponential for each layer, and one multiplier for all.

With s_i the multiply-adds saved in layer i of f_i, its loss of information is fitted by p_i exp(q_i s_i / f_i). Least in sum
for a given sum of the s_i are

    s_i = f_i / q_i  ln(mu f_i / (p_i q_i))        cut to 0 .. 0.95 f_i

The paper's code leaves f_i out of the logarithm (equal losses for equal rates, not for equal work), and divides each layer's
curve by its own largest loss, so that only shapes are compared: `released` does both, to our curves.
Theirs are others: docs/compress.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MOST, TINY = 0.95, 1e-10  # of a layer; added in the logarithm of the fit: as published


def fit_exponential(rates: Tensor, losses: Tensor, released: bool = False) -> tuple[float, float]:
    """(p, q) with loss ~ p exp(q rate), by least squares on log(loss + 1e-10) weighted by the root of the loss.

    Only rates above 0 count. The curve is divided by its largest loss for the fit; `released` leaves it so.

    Raises:
        ValueError: fewer than two different rates above 0.
    """
    used = rates > 0
    rates, losses = rates[used].double(), losses[used].double()
    if len(rates.unique()) < 2:
        raise ValueError(f"a curve needs two rates above 0 at least; got {rates.tolist()}.")
    largest = losses.max().clamp(min=torch.finfo(torch.float64).tiny)
    losses = losses / largest
    weight, y = losses.sqrt(), (losses + TINY).log()
    x_mean, y_mean = (weight * rates).sum() / weight.sum(), (weight * y).sum() / weight.sum()
    spread = (weight * (rates - x_mean).square()).sum().clamp(min=torch.finfo(torch.float64).tiny)
    q = float((weight * (rates - x_mean) * (y - y_mean)).sum() / spread)
    p = math.exp(float(y_mean) - q * float(x_mean)) * (1.0 if released else float(largest))
    return p, q


def allocate(
    work: Sequence[float], curves: Sequence[tuple[float, float]], total: float, released: bool = False
) -> list[float]:
    """How much of its `work` f each layer saves, `total` in sum; `curves` are its (p, q).

    The multiplier is found by bisection: the sum rises with it.

    Raises:
        ValueError: a curve that does not rise, or more than 0.95 of the work.
    """
    if any(not (p > 0 and q > 0) for p, q in curves):
        raise ValueError(f"each curve p exp(q rate) must rise; got (p, q) of {list(curves)}.")
    if not 0 <= total <= MOST * sum(work) * (1 + 1e-12):
        raise ValueError(f"{total:g} of {sum(work):g} are to be saved; at most {MOST:g} of it can be.")

    def saved(log_mu: float) -> list[float]:
        found = []
        for f, (p, q) in zip(work, curves, strict=True):
            inside = log_mu - math.log(p * q) + (0.0 if released else math.log(f))
            found.append(min(max(f / q * inside, 0.0), MOST * f))
        return found

    ends = [
        math.log(p * q) - (0.0 if released else math.log(f)) for f, (p, q) in zip(work, curves, strict=True)
    ]
    low, high = min(ends), max(end + MOST * q for end, (_, q) in zip(ends, curves, strict=True))
    for _ in range(200):
        middle = (low + high) / 2
        if sum(saved(middle)) < total:
            low = middle
        else:
            high = middle
    return saved(high)
