r"""DropCluster: points are dropped together with their neighbourhood N(i).

    reading "gather"    i is dropped iff some j in N(i) has u_j < gamma_i,  1 - (1 - gamma_i)^|N(i)| = p
    reading "scatter"   each j with u_j < gamma is a seed and drops all of N(j);  mean_i (1 - gamma)^(d_i) = 1 - p

u is the Philox number of kernels/noise/philox and d_i the in-degree of i in the neighbour graph. Gather has the drop
probability p exactly at every point, with no atomics. Scatter, the usual wording, has it on average over each cloud:
gamma is solved from the cloud's own degrees (bisection); the usual gamma = 1 - (1 - p)^(1 / k) drops less than p.
Kept points are scaled as in `drop_point`. The gradient is the same map, drawn again: no mask is stored.

Neighbourhoods may come from `knn` in coordinates or in features, from a ball query, or from the network's own graph.
A list with fewer than k members repeats its first entry.

Sources: arXiv 2103.15027 (cluster level); DropBlock (Ghiasi et al. 2018) on images. Both gammas are derived here.
"""

from __future__ import annotations

from torch import Tensor

from dropfold.kernels.backend.inputs import check_tensors
from dropfold.kernels.noise import drop
from dropfold.kernels.noise.draw import Reading, Scaling, check, new_noise
from dropfold.kernels.points.clouds import check_neighbours, global_idx


def reference(
    x: Tensor,
    p: float | Tensor,
    neighbours: Tensor,
    *,
    seed: Tensor | None = None,
    reading: Reading = "gather",
    scaling: Scaling = "unbiased",
    training: bool = True,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """`drop_cluster` in plain torch, with a stored mask: its specification. The same seed drops the same clusters."""
    if not training:
        return x
    lists = global_idx(neighbours)
    noise = new_noise("cluster", p, x.device, seed=seed, neighbours=lists, reading=reading, scaling=scaling)
    return drop.reference(x, noise, batch=batch, batch_size=batch_size)


def drop_cluster(
    x: Tensor,
    p: float | Tensor,
    neighbours: Tensor,
    *,
    seed: Tensor | None = None,
    reading: Reading = "gather",
    scaling: Scaling = "unbiased",
    training: bool = True,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Drop clusters of x: each point with probability p, 0 <= p < 1.

    Args:
        x: dense [B, N, C], or rows [M, C] with `batch` [M].
        p: a float, or a 0-dim float32 tensor (the current value of a schedule).
        neighbours: int64, [B, N, k] counted within the cloud, or [M, k] row numbers; what `knn` returns.
        seed: 0-dim int64 tensor, drawn from torch's generator if it is not given.

    Raises:
        ValueError: p outside [0, 1), an unknown reading or scaling, neighbours that do not fit x.
    """
    check("cluster", p, scaling, reading)
    check_tensors(x=x)
    check_neighbours(neighbours, x)
    if not training or (isinstance(p, float | int) and p == 0):
        return x
    lists = global_idx(neighbours)
    noise = new_noise("cluster", p, x.device, seed=seed, neighbours=lists, reading=reading, scaling=scaling)
    return drop.drop(x, noise, batch=batch, batch_size=batch_size)
