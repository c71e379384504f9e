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

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.numba import njit
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.backend.triton import cdiv, jit, next_power_of_2
from dropfold.kernels.noise.philox import philox_words, uniform, uniform_at, uniform_gather, word_to_uniform
from dropfold.kernels.points.clouds import check_rows, ptr_to_batch

if TYPE_CHECKING:
    import triton.language as tl
    from numba import prange

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


class Drawn(NamedTuple):
    """Noise as kernels take it: mode 0 is none, 1 draws each element, 2 reads a factor a row."""

    mode: int
    factor: Tensor
    rate: Tensor
    scale: Tensor
    seed: Tensor


NONE, ELEMENTS, ROWS = 0, 1, 2


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


# --- which points are kept ---------------------------------------------------------------------------------------


@njit(parallel=True)
def _kept_cpu(u, thresholds, neighbours, out):
    rows, k = neighbours.shape
    for i in prange(rows):
        first, lowest, members = neighbours[i, 0], np.float32(1), 1
        for pos in range(k):
            j = neighbours[i, pos]
            lowest = min(lowest, u[j])
            members += j != first
        out[i] = lowest >= thresholds[members]


def _cpu_kept_points(seed: Tensor, thresholds: Tensor, neighbours: Tensor | None, rows: int) -> Tensor:
    u = uniform(seed, rows)
    if neighbours is None:
        return (u >= thresholds).to(torch.float32)
    out = torch.empty(rows)
    check_rows(neighbours, rows)
    _kept_cpu(u, thresholds, neighbours, out)
    return out


@jit
def _kept_points_fwd_kernel(p_seed, p_thresholds, p_out, rows, BLOCK: tl.constexpr):
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    u = uniform_gather(tl.load(p_seed), o)
    tl.store(p_out + o, tl.where(u >= tl.load(p_thresholds), 1.0, 0.0), mask=o < rows)


@jit
def _kept_clusters_fwd_kernel(
    p_seed, p_thresholds, p_neighbours, p_out, rows, k, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr
):
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    o_k = tl.arange(0, BLOCK_K)
    inside = (o[:, None] < rows) & (o_k[None, :] < k)
    j = tl.load(p_neighbours + o[:, None] * k + o_k[None, :], mask=inside, other=0)
    # The first entry of each list, from the registers that hold it.
    first = tl.sum(tl.where(o_k[None, :] == 0, j, 0), axis=1)
    members = 1 + tl.sum((inside & (j != first[:, None])).to(tl.int32), axis=1)
    u = tl.where(inside, uniform_gather(tl.load(p_seed), j), 1.0)
    kept = tl.min(u, axis=1) >= tl.load(p_thresholds + members, mask=o < rows, other=0.0)
    tl.store(p_out + o, tl.where(kept, 1.0, 0.0), mask=o < rows)


def _launch_kept_points(seed: Tensor, thresholds: Tensor, neighbours: Tensor | None, rows: int) -> Tensor:
    out = torch.empty(rows, device=seed.device)
    if neighbours is None:
        _kept_points_fwd_kernel[(cdiv(rows, 256),)](seed, thresholds, out, rows, BLOCK=256)
        return out
    k = neighbours.shape[1]
    block_k = next_power_of_2(k)
    block = max(1, 1024 // block_k)
    _kept_clusters_fwd_kernel[(cdiv(rows, block),)](
        seed, thresholds, neighbours, out, rows, k, BLOCK=block, BLOCK_K=block_k
    )
    return out


_kept_points = operator(
    "kept_points(Tensor seed, Tensor thresholds, Tensor? neighbours, SymInt rows) -> Tensor",
    cpu=_cpu_kept_points,
    triton=_launch_kept_points,
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


# --- inside kernels ----------------------------------------------------------------------------------------------


@njit
def noise_span(rate, scale, seed, start, f):
    """DropFeat's factors of the elements start, start + 1, ... of a tensor, to f."""
    n, c = f.shape[0], 0
    while c < n and (start + c) & 3:
        f[c] = scale if uniform_at(seed, start + c) >= rate else 0
        c += 1
    # A slice, so that the loop's first index is a constant: otherwise it is not vectorised.
    first, aligned = (start + c) >> 2, f[c:]
    for q in range(aligned.shape[0] // 4):
        w0, w1, w2, w3 = philox_words(seed, first + q)
        aligned[4 * q] = scale if word_to_uniform(w0) >= rate else 0
        aligned[4 * q + 1] = scale if word_to_uniform(w1) >= rate else 0
        aligned[4 * q + 2] = scale if word_to_uniform(w2) >= rate else 0
        aligned[4 * q + 3] = scale if word_to_uniform(w3) >= rate else 0
    for last in range(c + (n - c) // 4 * 4, n):
        f[last] = scale if uniform_at(seed, start + last) >= rate else 0


@njit
def noise_row(mode, factor, rate, scale, seed, m, f):
    """Write the factors of row m's elements to f [C]."""
    if mode == 0:
        f[:] = 1
    elif mode == 2:
        f[:] = factor[m]
    else:
        noise_span(rate, scale, seed, m * f.shape[0], f)


def numba_noise(drawn: Drawn) -> tuple[Any, ...]:
    """`Drawn` as the arguments (mode, factor, rate, scale, seed) of `noise_row`."""
    return (
        drawn.mode,
        drawn.factor,
        np.float32(drawn.rate.item()),
        np.float32(drawn.scale.item()),
        int(drawn.seed.item()),
    )


@jit
def noise_tile(
    MODE: tl.constexpr, p_factor, p_rate, p_scale, p_seed, rows, o_m, i_c, channels, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr, BY_FOUR: tl.constexpr,
):  # fmt: skip
    """The factors of a tile: rows o_m [BLOCK_M] (int64), channels i_c .. i_c + BLOCK_C - 1. BY_FOUR: channels % 4 == 0."""
    if MODE == 2:
        f = tl.load(p_factor + o_m, mask=o_m < rows, other=0.0)
        return tl.broadcast_to(f[:, None], (BLOCK_M, BLOCK_C))
    rate = tl.load(p_rate)
    scale = tl.load(p_scale)
    seed = tl.load(p_seed)
    if BY_FOUR:
        o_q = tl.arange(0, BLOCK_C // 4)
        counter = (o_m[:, None] * channels + i_c + 4 * o_q[None, :]) >> 2
        c0, c1, c2, c3 = tl.randint4x(seed, counter)
        words = tl.join(tl.join(c0, c2), tl.join(c1, c3)).reshape(BLOCK_M, BLOCK_C)
        u = tl.uint_to_uniform_float(words)
    else:
        u = uniform_gather(seed, o_m[:, None] * channels + i_c + tl.arange(0, BLOCK_C)[None, :])
    return tl.where(u >= rate, scale, 0.0)
