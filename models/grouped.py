"""Layers over groups of points: a shared perceptron of several layers on each group's members, then the max over the group.

Each layer is a linear map, BatchNorm and LeakyReLU; its parts are held as plain `nn.Linear` and `nn.BatchNorm1d` in
`layers.0.linear`, `layers.0.norm`, `layers.1.linear`, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from kernels import Groups, Noise
from kernels._clouds import dense_ptr, global_idx, to_rows
from kernels._groups import neighbourhoods
from kernels._noise import draw
from kernels._random import uniform
from models.layers import LinearNorm


class _Perceptron(nn.Module):
    """What the two layers share: the layers, and their application to groups."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], bias: bool, negative_slope: float, sync: bool
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("widths must name at least one layer; got none.")
        sizes = [in_channels, *widths]
        self.layers = nn.ModuleList(
            LinearNorm(*pair, bias=bias, negative_slope=negative_slope, sync=sync) for pair in pairwise(sizes)
        )
        self.negative_slope = negative_slope

    def _run(self, rows: Tensor, groups: Groups, owner: Tensor, ptr: Tensor, noise: Noise | None) -> Tensor:
        """Rows [E, C], an entry each, with the group that each is in."""
        entry = torch.arange(len(rows), device=rows.device)
        if groups.count is not None:
            entry = entry.repeat_interleave(groups.count)
        z = rows[entry]
        for layer in self.layers:
            assert isinstance(layer, LinearNorm)
            norm = layer._batch_norm()
            z = nn.functional.linear(z, layer.linear.weight, layer.linear.bias)
            z = nn.functional.batch_norm(
                z, norm.mean, norm.var, norm.gamma, norm.beta, norm.training, norm.momentum, norm.eps
            )
            z = torch.where(z > 0, z, self.negative_slope * z)
        if noise is not None:
            points, j = int(ptr[-1]), groups.idx[entry]
            drawn = draw(noise, ptr, points)
            if drawn.mode == 1:
                kept = uniform(noise.seed, points * z.shape[1]).view(points, -1)[j] >= noise.rate
            else:
                kept = (drawn.factor > 0)[j, None]
            z = torch.where(kept, z, -torch.inf)
        out = z.new_full((len(groups.ptr) - 1, z.shape[1]), -torch.inf)
        out = out.scatter_reduce(0, owner[entry][:, None].expand_as(z), z, "amax")
        return torch.where(out > -torch.inf, out, 0)


class GroupMLPMax(_Perceptron):
    """PointNet++'s set abstraction: max over the members j of group g of MLP([p_j - c_g ; x_j]).

    Qi et al. 2017, "PointNet++", section 3.2. BatchNorm weighs an entry of the groups with its `count`, so the result is
    that of padded groups, copies included.

    Args:
        in_channels: of the features x; 0 without features.
        widths: of the layers; `layers.0.linear.weight` is [widths[0], 3 + in_channels] on [p_j - c_g ; x_j].
        negative_slope: of the LeakyReLU after each layer (0: ReLU); not negative.
        sync: BatchNorm statistics over all processes.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        bias: bool = True,
        negative_slope: float = 0.0,
        sync: bool = False,
    ) -> None:
        super().__init__(3 + in_channels, widths, bias, negative_slope, sync)

    def forward(
        self,
        features: Tensor | None,
        pos: Tensor,
        centres: Tensor,
        groups: Groups,
        noise: Noise | None = None,
        *,
        batch: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Features [M, in_channels] or None, pos [M, 3], centres [G, 3] and groups of rows of pos to [G, widths[-1]].

        Noise is drawn for the points: what falls is left out of the max. Its clouds are those of `batch` [M], or without
        one `batch_size` clouds of equal size (None: a single cloud).
        """
        if batch is None:
            clouds = batch_size or 1
            ptr = dense_ptr(clouds, len(pos) // clouds, pos.device)
        else:
            ptr = to_rows(pos, batch, batch_size)[1]
        size = groups.ptr[1:] - groups.ptr[:-1]
        owner = torch.arange(len(size), device=pos.device).repeat_interleave(size)
        rows = pos[groups.idx] - centres[owner]
        if features is not None:
            rows = torch.cat([rows, features[groups.idx]], 1)
        return self._run(rows, groups, owner, ptr, noise)


class EdgeConv2(_Perceptron):
    """max over neighbours j of a(BatchNorm(W2 a(BatchNorm(W1 [x_j - x_i ; x_i])))), and so on for more widths.

    Wang et al. 2019, section 5.4 (the EdgeConvs of the segmentation networks). `layers.0.linear.weight` is
    [widths[0], 2 in_channels] on [x_j - x_i ; x_i].
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        bias: bool = False,
        negative_slope: float = 0.2,
        sync: bool = False,
    ) -> None:
        super().__init__(2 * in_channels, widths, bias, negative_slope, sync)

    def forward(
        self,
        x: Tensor,
        idx: Tensor,
        noise: Noise | None = None,
        batch: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """x [B, N, C] and idx [B, N, k], or rows [M, C] and [M, k], to [.., widths[-1]]."""
        rows, ptr = to_rows(x, batch, batch_size)
        groups = neighbourhoods(global_idx(idx))
        owner = torch.arange(len(rows), device=x.device).repeat_interleave(idx.shape[-1])
        central = rows[owner]
        out = self._run(torch.cat([rows[groups.idx] - central, central], 1), groups, owner, ptr, noise)
        return out.view(*x.shape[:-1], -1)
