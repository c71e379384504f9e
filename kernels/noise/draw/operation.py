"""Noise by dropping, a function of (seed, index), for every operation that carries noise.

DropFeat draws one number for each element, DropPoint one for each point, DropCluster one for each point and drops whole
neighbourhoods. A number is `u_i = uniform(seed, i)` of `kernels/noise/philox`; what has a u below a threshold is dropped.
Nothing of size [M, C] is stored: backward calls the same functions with the same seed.

    feat     element (m, c) is dropped iff u_(m C + c) < p
    point    point m is dropped iff u_m < p
    cluster, reading "gather"   point i is dropped iff some j in N(i) has u_j < gamma_i, 1 - (1 - gamma_i)^k_i = p, where
             k_i counts the distinct members of N(i): the drop probability is p exactly, for every point
    cluster, reading "scatter"  a seed j has u_j < gamma, and all of N(j) is dropped; gamma solves, for each cloud,
             mean_i (1 - gamma)^(d_i) = 1 - p with the in-degrees d_i: the drop probability is p on average over the
             points (if every point is in its own N, as knn has it: a point that is in none is always kept)

A neighbourhood with fewer members than k (a ball, say) repeats its first entry; repetitions do not count.
What is kept is scaled by 1 / (1 - p) ("unbiased"), by N / kept of its cloud ("count", as DropBlock) or not ("none").
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.operator import operator
from dropfold.kernels.noise import philox
from dropfold.kernels.noise.draw.arguments import ELEMENTS, NONE, ROWS, NoiseArguments
from dropfold.kernels.points.clouds import ptr_to_batch

Level = Literal["feat", "point", "cluster"]
Reading = Literal["gather", "scatter"]
Scaling = Literal["unbiased", "count", "none"]


class Noise(NamedTuple):
    """One draw of noise for one batch: with it forward and backward drop the same."""

    level: Level
    """What is dropped as a whole: an element, a point, or a point's neighbourhood."""
    p: Tensor
    """Drop probability: float32, 0-dim, in [0, 1)."""
    seed: Tensor
    """int64, 0-dim."""
    neighbours: Tensor | None = None
    """[M, k] int64 row numbers, for clusters."""
    reading: Reading = "gather"
    scaling: Scaling = "unbiased"
    kept: Tensor | None = None
    """float32 [M], 1 where a point is kept, else 0: for clusters that `keep_by_nearest` found without lists."""


def keep_scale(noise: Noise | None, ptr: Tensor, rows: int, channels: int) -> Tensor:
    """What `noise` multiplies x [rows, channels] by: 0 where dropped, else the scale; float32 [rows, channels].

    The formulas above in plain torch, for any device: the specification of all kernels that draw noise. The random
    numbers, and so what is dropped, are theirs bit for bit. `ptr` [B + 1] are the row offsets of the clouds. Without
    noise the scale is 1.
    """
    if noise is None:
        return torch.ones((rows, channels), device=ptr.device)
    if noise.level == "feat":
        u = philox.reference(noise.seed, rows * channels).view(rows, channels)
        return torch.where(u >= noise.p, _element_scale(noise), 0)
    _check_neighbours(noise, rows)
    u = philox.reference(noise.seed, rows)
    if noise.level == "point":
        kept = u >= noise.p
    elif noise.kept is not None:
        kept = noise.kept > 0
    elif noise.reading == "gather":
        assert noise.neighbours is not None
        members = mask_distinct(noise.neighbours).sum(1)
        thresholds = gather_thresholds(noise.p, noise.neighbours.shape[1])
        below = u[noise.neighbours] < thresholds[members][:, None]
        kept = ~below.any(1)
    else:
        kept = _kept_by_scatter(noise, ptr, u) > 0
    return _scale_rows(kept.to(torch.float32), noise, ptr)[:, None].expand(-1, channels)


def keep_mask(noise: Noise, ptr: Tensor, rows: int, channels: int) -> Tensor:
    """Which features of x [rows, channels] `noise` keeps: bool [rows, channels]."""
    return keep_scale(noise, ptr, rows, channels) > 0


def new_noise(
    level: Level, p: float | Tensor, device: torch.device, *, seed: Tensor | None = None,
    neighbours: Tensor | None = None, reading: Reading = "gather", scaling: Scaling = "unbiased",
) -> Noise:  # fmt: skip
    """Noise on `device`, with a fresh seed if none is given; p is a float, or a 0-dim float32 tensor."""
    return Noise(level, as_p(p, device), philox.as_seed(seed, device), neighbours, reading, scaling)


def draw(noise: Noise | None, ptr: Tensor, rows: int) -> NoiseArguments:
    """`noise` for the rows of `ptr` as kernels take it; called in forward and again, with equal result, in backward."""
    nothing = torch.zeros(1, device=ptr.device)
    if noise is None:
        return NoiseArguments(
            NONE, nothing, nothing, nothing, torch.zeros(1, dtype=torch.int64, device=ptr.device)
        )
    if noise.level == "feat":
        return NoiseArguments(ELEMENTS, nothing, noise.p, _element_scale(noise), noise.seed)
    return NoiseArguments(ROWS, row_keep_scale(noise, ptr, rows), noise.p, _element_scale(noise), noise.seed)


def row_keep_scale(noise: Noise, ptr: Tensor, rows: int) -> Tensor:
    """0 where a point is dropped, else its scale: float32 [M] (noise of level point or cluster)."""
    _check_neighbours(noise, rows)
    if noise.level == "point":
        kept = _keep_points(noise.seed, noise.p.reshape(1), None, rows)
    elif noise.kept is not None:
        kept = noise.kept
    elif noise.reading == "gather":
        assert noise.neighbours is not None
        thresholds = gather_thresholds(noise.p, noise.neighbours.shape[1])
        kept = _keep_points(noise.seed, thresholds, noise.neighbours, rows)
    else:
        kept = _kept_by_scatter(noise, ptr, philox.uniform(noise.seed, rows))
    return _scale_rows(kept, noise, ptr)


_keep_points = operator(
    "kept_points(Tensor seed, Tensor thresholds, Tensor? neighbours, SymInt rows) -> Tensor",
    implementations=__package__,
    fake=lambda seed, thresholds, neighbours, rows: torch.empty(rows, device=seed.device),
)


def keep_by_nearest(noise: Noise, x: Tensor, ptr: Tensor, k: int) -> Noise:
    """`noise` of level cluster, reading "gather", with the k nearest of each row of x [M, C] as its neighbourhood.

    It drops what it would drop with the lists of `knn` as `neighbours`, bit for bit, and on the CPU makes none: all that is
    asked of a point is whether one of the few seeds is among its k nearest. x are the clouds' points or features, ptr
    [B + 1] their row offsets; k is at most the points of the smallest cloud. Forward and backward share what is found.
    """
    return noise._replace(kept=_keep_by_nearest(noise.seed, gather_thresholds(noise.p, k), x.detach(), ptr))


_keep_by_nearest = operator(
    "kept_by_nearest(Tensor seed, Tensor thresholds, Tensor x, Tensor ptr) -> Tensor",
    implementations=__package__,
    fake=lambda seed, thresholds, x, ptr: torch.empty(x.shape[0], device=x.device),
)


def _check_neighbours(noise: Noise, rows: int) -> None:
    if noise.level == "point":
        return
    found = noise.neighbours if noise.kept is None else noise.kept
    if noise.level != "cluster" or found is None or (noise.kept is None and found.dtype != torch.int64):
        given = "no neighbours" if found is None else describe(found)
        raise ValueError(
            "noise is of level 'feat', 'point', or 'cluster' with int64 neighbours [M, k]; got level "
            f"{noise.level!r} and {given}."
        )
    if found.shape[0] != rows:
        raise ValueError(
            f"noise has neighbours for {found.shape[0]} points and is applied to {rows}; "
            "draw it from the cloud that it is applied to."
        )


def _element_scale(noise: Noise) -> Tensor:
    return torch.ones_like(noise.p) if noise.scaling == "none" else 1 / (1 - noise.p)


def _scale_rows(kept: Tensor, noise: Noise, ptr: Tensor) -> Tensor:
    """`kept` [M], 0 or 1 in float32, times the scale of each row."""
    if noise.scaling == "none":
        return kept
    if noise.scaling == "unbiased":
        return kept / (1 - noise.p)
    batch = ptr_to_batch(ptr, kept.shape[0])
    points = (ptr[1:] - ptr[:-1]).to(torch.float32)
    kept_B = torch.zeros_like(points).index_add_(0, batch, kept)
    return kept * (points / kept_B.clamp(min=1))[batch]


def gather_thresholds(p: Tensor, k: int) -> Tensor:
    """gamma for 0 .. k distinct members, float32 [k + 1]: 1 - (1 - p)^(1 / k'), rounded once from float64."""
    members = torch.arange(k + 1, device=p.device).clamp(min=1)
    return (-torch.expm1(torch.log1p(-p.double()) / members)).float()


def mask_distinct(neighbours: Tensor) -> Tensor:
    """bool [M, k]: the first entry of each list, and the others that do not repeat it."""
    distinct = neighbours != neighbours[:, :1]
    distinct[:, 0] = True
    return distinct


def _kept_by_scatter(noise: Noise, ptr: Tensor, u: Tensor) -> Tensor:
    """1 for points in no seed's neighbourhood, float32 [M]; torch on every device, exact and deterministic."""
    neighbours, rows = noise.neighbours, u.shape[0]
    assert neighbours is not None
    distinct = mask_distinct(neighbours)
    degrees = torch.zeros(rows, dtype=torch.int64, device=ptr.device)
    degrees.index_add_(0, neighbours.flatten(), distinct.flatten().to(torch.int64))
    gamma = scatter_gamma(degrees, ptr, noise.p).to(torch.float32)
    seeds = u < gamma[ptr_to_batch(ptr, rows)]
    drops = torch.zeros(rows, dtype=torch.int32, device=ptr.device)  # how many seeds drop each point
    drops.index_add_(0, neighbours.flatten(), (seeds[:, None] & distinct).flatten().to(torch.int32))
    return (drops == 0).to(torch.float32)


def scatter_gamma(degrees: Tensor, ptr: Tensor, p: Tensor) -> Tensor:
    """gamma [B] (float64) with mean_i (1 - gamma)^(d_i) = 1 - p over each cloud; monotone, so by bisection."""
    points = (ptr[1:] - ptr[:-1]).double()
    batch = ptr_to_batch(ptr, degrees.shape[0])
    low, high = torch.zeros_like(points), torch.ones_like(points)
    degrees = degrees.double()
    for _ in range(40):
        middle = (low + high) / 2
        kept = torch.zeros_like(points).index_add_(0, batch, torch.pow(1 - middle[batch], degrees)) / points
        low, high = torch.where(kept > 1 - p, middle, low), torch.where(kept > 1 - p, high, middle)
    return (low + high) / 2


def check(level: Level, p: float | Tensor, scaling: Scaling, reading: Reading = "gather") -> None:
    """Refuse drop probabilities outside [0, 1) and unknown options, in a sentence."""
    if isinstance(p, Tensor):
        if p.dim() != 0 or p.dtype != torch.float32:
            raise ValueError(
                f"p as a tensor must be float32 with no dimension (the current value of a schedule); got "
                f"{list(p.shape)} {p.dtype}."
            )
    elif not 0 <= p < 1:
        raise ValueError(f"p is the drop probability, 0 <= p < 1; got {p} (at 1 nothing would be left).")
    if scaling not in get_args(Scaling):
        raise ValueError(f"scaling must be one of {', '.join(get_args(Scaling))}; got {scaling!r}.")
    if reading not in get_args(Reading):
        raise ValueError(f"reading must be one of {', '.join(get_args(Reading))}; got {reading!r}.")
    if level == "feat" and scaling == "count":
        raise ValueError("scaling 'count' counts kept points; noise on elements takes 'unbiased' or 'none'.")


def as_p(p: float | Tensor, device: torch.device) -> Tensor:
    """The drop probability as kernels take it: float32, 0-dim."""
    return p.to(device) if isinstance(p, Tensor) else torch.full((), p, dtype=torch.float32, device=device)
