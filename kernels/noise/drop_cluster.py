r"""DropCluster: points fall together with their neighbourhood N(i).

    reading "gather"    i falls iff some j in N(i) has u_j < gamma_i,  1 - (1 - gamma_i)^|N(i)| = p
    reading "scatter"   each j with u_j < gamma is a seed, and all of N(j) falls;  mean_i (1 - gamma)^(d_i) = 1 - p

u is the Philox number of kernels/noise/philox.py and d_i the in-degree of i in the neighbour graph. Gather has the rate p
exactly at every point, with no atomics; scatter, the usual wording, has it on average over each cloud, because gamma
is solved from the cloud's own degrees (bisection), where the usual gamma = 1 - (1 - p)^(1 / k) drops less than p.
Kept points are scaled as in `drop_point`. The gradient is the same map, drawn again: no mask is stored.

Neighbourhoods may come from `knn` in coordinates or in features, from a ball query, or from the network's own graph.
A list with fewer than k members repeats its first entry.

Sources: arXiv 2103.15027 (cluster level); DropBlock (Ghiasi et al. 2018) on images. Both gammas are derived here.
"""

from __future__ import annotations

from torch import Tensor

from dropfold.kernels.noise.draw.operation import Noise, Reading, Scaling, as_rate, check
from dropfold.kernels.noise.elementwise.operation import drop
from dropfold.kernels.noise.philox.operation import as_seed
from dropfold.kernels.points.clouds import check_neighbours, global_idx, to_rows


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
    """Drop clusters of x at rate p, 0 <= p < 1.

    Args:
        x: dense [B, N, C], or rows [M, C] with `batch` [M].
        p: a float, or a 0-dim float32 tensor (the current rate of a schedule).
        neighbours: int64, [B, N, k] counted within the cloud, or [M, k] row numbers; what `knn` returns.
        seed: 0-dim int64 tensor, drawn from torch's generator if it is not given.

    Raises:
        ValueError: p outside [0, 1), an unknown reading or scaling, neighbours that do not fit x.
    """
    check("cluster", p, scaling, reading)
    check_neighbours(neighbours, x)
    if not training or (isinstance(p, float | int) and p == 0):
        return x
    rows, ptr = to_rows(x, batch, batch_size)
    seed = as_seed(seed, x.device)
    noise = Noise("cluster", as_rate(p, x.device), seed, global_idx(neighbours), reading, scaling)
    return drop(rows, ptr, noise).view_as(x)
