"""Noise by dropping: what falls, as a function of (seed, index), for every operation that carries noise.

DropFeat draws one number an element, DropPoint one a point, DropCluster one a point and lets whole neighbourhoods
fall. A number is `u_i = uniform(seed, i)` of `kernels/noise/philox.py`; a thing falls iff its u is below a threshold.
Nothing of size [M, C] is stored: backward calls the same functions with the same seed.

    feat     element (m, c) falls iff u_(m C + c) < p
    point    point m falls iff u_m < p
    cluster, reading "gather"   point i falls iff some j in N(i) has u_j < gamma_i, 1 - (1 - gamma_i)^k_i = p, where k_i
             counts the distinct members of N(i): the rate is p exactly, for every point
    cluster, reading "scatter"  a seed j has u_j < gamma and all of N(j) falls; gamma solves, for each cloud,
             mean_i (1 - gamma)^(d_i) = 1 - p with the in-degrees d_i: the rate is p on average over the points (if
             every point is in its own N, as knn has it: one that is in none cannot fall)

A neighbourhood with fewer members than k (a ball, say) repeats its first entry; repetitions do not count.
What is kept is scaled by 1 / (1 - p) ("unbiased"), by N / kept of its cloud ("count", as DropBlock) or not ("none").
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.noise.draw.drawn import ELEMENTS, NONE, ROWS, Drawn
from dropfold.kernels.noise.philox.operation import uniform
from dropfold.kernels.points.clouds import ptr_to_batch

Level = Literal["feat", "point", "cluster"]


Reading = Literal["gather", "scatter"]


Scaling = Literal["unbiased", "count", "none"]


class Noise(NamedTuple):
    """One draw of noise for one batch: all that an operation needs to know, and to know again in backward."""

    level: Level
    """What falls together: an element, a point, or a point with its neighbourhood."""
    rate: Tensor
    """Share p that falls: float32, 0-dim, in [0, 1)."""
    seed: Tensor
    """int64, 0-dim."""
    neighbours: Tensor | None = None
    """[M, k] int64 row numbers, for clusters."""
    reading: Reading = "gather"
    scaling: Scaling = "unbiased"


def draw(noise: Noise | None, ptr: Tensor, rows: int) -> Drawn:
    """What `noise` means for the rows of `ptr`; called in forward and again, with equal result, in backward."""
    nothing = torch.zeros(1, device=ptr.device)
    if noise is None:
        return Drawn(NONE, nothing, nothing, nothing, torch.zeros(1, dtype=torch.int64, device=ptr.device))
    scale = torch.ones_like(noise.rate) if noise.scaling == "none" else 1 / (1 - noise.rate)
    if noise.level == "feat":
        return Drawn(ELEMENTS, nothing, noise.rate, scale, noise.seed)
    return Drawn(ROWS, point_factor(noise, ptr, rows), noise.rate, scale, noise.seed)


def point_factor(noise: Noise, ptr: Tensor, rows: int) -> Tensor:
    """The factor of each row, float32 [M]: 0 where the point falls, else its scale (noise of level point or cluster)."""
    if noise.level == "point":
        kept = _kept_points(noise.seed, noise.rate.reshape(1), None, rows)
    else:
        if noise.level != "cluster" or noise.neighbours is None or noise.neighbours.dtype != torch.int64:
            given = "no neighbours" if noise.neighbours is None else describe(noise.neighbours)
            raise ValueError(
                "noise is of level 'feat', 'point', or 'cluster' with int64 neighbours [M, k]; got level "
                f"{noise.level!r} and {given}."
            )
        if noise.neighbours.shape[0] != rows:
            raise ValueError(
                f"noise has neighbours for {noise.neighbours.shape[0]} points and is applied to {rows}; "
                "draw it from the cloud that it is applied to."
            )
        if noise.reading == "gather":
            kept = _kept_points(noise.seed, gather_thresholds(noise), noise.neighbours, rows)
        else:
            kept = _kept_scatter(noise, ptr, rows)
    if noise.scaling == "none":
        return kept
    if noise.scaling == "unbiased":
        return kept / (1 - noise.rate)
    points = (ptr[1:] - ptr[:-1]).to(torch.float32)
    kept_B = torch.zeros_like(points).index_add_(0, ptr_to_batch(ptr, rows), kept)
    return kept * (points / kept_B.clamp(min=1))[ptr_to_batch(ptr, rows)]


def gather_thresholds(noise: Noise) -> Tensor:
    """gamma for 0 .. k distinct members, float32 [k + 1]: 1 - (1 - p)^(1 / k'), rounded once from float64."""
    assert noise.neighbours is not None
    members = torch.arange(noise.neighbours.shape[1] + 1, device=noise.rate.device).clamp(min=1)
    return (-torch.expm1(torch.log1p(-noise.rate.double()) / members)).float()


def check(level: Level, p: float | Tensor, scaling: Scaling, reading: Reading = "gather") -> None:
    """Refuse rates outside [0, 1) and options that are none, in a sentence."""
    if isinstance(p, Tensor):
        if p.dim() != 0 or p.dtype != torch.float32:
            raise ValueError(
                f"p as a tensor must be float32 with no dimension (the current rate of a schedule); got "
                f"{list(p.shape)} {p.dtype}."
            )
    elif not 0 <= p < 1:
        raise ValueError(f"p is the share that is dropped, 0 <= p < 1; got {p} (at 1 nothing would be left).")
    if scaling not in get_args(Scaling):
        raise ValueError(f"scaling must be one of {', '.join(get_args(Scaling))}; got {scaling!r}.")
    if reading not in get_args(Reading):
        raise ValueError(f"reading must be one of {', '.join(get_args(Reading))}; got {reading!r}.")
    if level == "feat" and scaling == "count":
        raise ValueError("scaling 'count' counts kept points; noise on elements takes 'unbiased' or 'none'.")


def as_rate(p: float | Tensor, device: torch.device) -> Tensor:
    """p as kernels take it: float32, 0-dim."""
    return p.to(device) if isinstance(p, Tensor) else torch.full((), p, dtype=torch.float32, device=device)


_kept_points = operator(
    "kept_points(Tensor seed, Tensor thresholds, Tensor? neighbours, SymInt rows) -> Tensor",
    implementations=__package__,
    fake=lambda seed, thresholds, neighbours, rows: torch.empty(rows, device=seed.device),
)


def _kept_scatter(noise: Noise, ptr: Tensor, rows: int) -> Tensor:
    """Which points no seed's neighbourhood holds, float32 [M]; torch on every device, exact and deterministic."""
    neighbours = noise.neighbours
    assert neighbours is not None
    counted = neighbours != neighbours[:, :1]
    counted[:, 0] = True
    degrees = torch.zeros(rows, dtype=torch.int64, device=ptr.device)
    degrees.index_add_(0, neighbours.flatten(), counted.flatten().to(torch.int64))
    batch = ptr_to_batch(ptr, rows)
    gamma = scatter_gamma(degrees, ptr, noise.rate).to(torch.float32)
    seeds = uniform(noise.seed, rows) < gamma[batch]
    fallen = torch.zeros(rows, dtype=torch.int32, device=ptr.device)
    fallen.index_add_(0, neighbours.flatten(), (seeds[:, None] & counted).flatten().to(torch.int32))
    return (fallen == 0).to(torch.float32)


def scatter_gamma(degrees: Tensor, ptr: Tensor, rate: Tensor) -> Tensor:
    """gamma [B] (float64) with mean_i (1 - gamma)^(d_i) = 1 - p over each cloud; monotone, so by bisection."""
    points = (ptr[1:] - ptr[:-1]).double()
    batch = ptr_to_batch(ptr, degrees.shape[0])
    low, high = torch.zeros_like(points), torch.ones_like(points)
    degrees = degrees.double()
    for _ in range(40):
        middle = (low + high) / 2
        kept = torch.zeros_like(points).index_add_(0, batch, torch.pow(1 - middle[batch], degrees)) / points
        low, high = torch.where(kept > 1 - rate, middle, low), torch.where(kept > 1 - rate, high, middle)
    return (low + high) / 2
