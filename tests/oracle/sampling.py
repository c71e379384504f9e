"""Sampling and grouping of points as PointNet++'s text and its public implementations have them: all distances made."""

import torch


def square_distances(a, b):
    """[len(a), len(b)] sums of squared differences, in the order of the coordinates."""
    d = (a[:, None] - b[None]).square()
    return d[..., 0] + d[..., 1] + d[..., 2]


def farthest_point_sample(x, m, start=0):
    """int64 [m] of one cloud x [N, 3]; of equally far points the smaller index."""
    chosen, least = [start], torch.full((len(x),), torch.inf, dtype=x.dtype)
    for _ in range(m - 1):
        least = torch.minimum(least, square_distances(x[chosen[-1:]], x)[0])
        chosen.append(int((least == least.max()).nonzero()[0]))
    return torch.tensor(chosen)


def ball_query(x, centres, radius, k):
    """int64 [S, k] of one cloud, copies of the first where fewer than k are within; the nearest where none is."""
    d = square_distances(centres, x)
    numbers = torch.arange(len(x)).expand_as(d).masked_fill(d > radius**2, len(x))
    idx = numbers.sort(1).values[:, :k]
    idx = torch.nn.functional.pad(idx, (0, k - idx.shape[1]), value=len(x))
    first = torch.where(idx[:, :1] == len(x), d.argmin(1, keepdim=True), idx[:, :1])
    return torch.where(idx == len(x), first, idx)


def interpolate(features, pos, query, k=3):
    """[N, C] from features [S, C] at pos [S, 3]: inverse squared distance weights of the k nearest."""
    d, idx = square_distances(query, pos).sort(dim=1, stable=True)
    weight = 1 / (d[:, :k] + 1e-8)
    weight = weight / weight.sum(1, keepdim=True)
    return (features[idx[:, :k]] * weight[..., None]).sum(1)
