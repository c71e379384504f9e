"""Layers over groups of points: a shared perceptron of several layers on each group's members, then the max over the group.

Each layer is a linear map, BatchNorm and LeakyReLU, held as plain `nn.Linear` and `nn.BatchNorm1d` in `layers.0.linear`,
`layers.0.norm`, `layers.1.linear`, ... The fused form applies the first linear map to points and centres, not to the members
of groups; the plain form makes every member, with its copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from dropfold import kernels
from dropfold.kernels import BatchNorm, Groups, Noise
from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gemm import COORDINATES
from dropfold.kernels.backend.inputs import check_floating
from dropfold.kernels.noise.draw import keep_mask
from dropfold.kernels.norm.plain import pad_segments
from dropfold.kernels.points.clouds import check_neighbours, dense_ptr, global_idx, to_rows
from dropfold.kernels.points.groups import neighbourhoods
from dropfold.models.layers.linear_norm import LinearNorm, LinearNormAct, edges, linear
from dropfold.models.layers.matrix import Affine
from dropfold.models.layers.plain import rounding_unless
from dropfold.models.layers.pools import MaxPool, masked_max
from dropfold.models.layers.unfused import HasPlainForm


class _SharedPerceptron(HasPlainForm):
    """The layers, and their application to the members of groups."""

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        bias: bool,
        negative_slope: float,
        sync: bool,
        coordinates: bool,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must be those of one layer or more; got {list(widths)}.")
        self.layers = nn.ModuleList(
            LinearNormAct(
                *sizes,
                bias=bias,
                negative_slope=negative_slope,
                sync=sync,
                coordinates=coordinates and i == 0,
            )
            for i, sizes in enumerate(pairwise([in_channels, *widths]))
        )
        self.pool = MaxPool()

    @property
    def negative_slope(self) -> float:
        """The slope below 0 of the activations."""
        slopes = {layer.negative_slope for layer in self._layers()}
        if len(slopes) > 1:
            raise ValueError(
                f"the fused form has one activation for all layers; got slopes {sorted(slopes)}."
            )
        return slopes.pop()

    def _layers(self) -> list[LinearNorm]:
        return cast(list[LinearNorm], list(self.layers))

    def _activated(self, members: Tensor, channels: int) -> Tensor:
        """The plain layers on members [.., C], made of points of so many `channels`."""
        first, *others = self._layers()
        z = first.activated(members, channels)
        for layer in others:
            z = layer.activated(z)
        return z

    def _run(
        self, first: Affine, q: Tensor, p: Tensor, groups: Groups, noise: Noise | None, **options: Any
    ) -> Any:
        """The fused form on q and p that the `first` linear map (with a single layer: nothing) has been applied to."""
        layers = self._layers()
        norms: list[BatchNorm | None] = [layer.batch_norm() for layer in layers]
        matrices = [first, *(layer.matrix() for layer in layers[1:])]
        biases: list[Tensor | None] = [matrix.bias for matrix in matrices]
        weights = [matrix.weight for matrix in matrices]
        if len(layers) == 1:
            norms, biases = [None, *norms], [None, *biases]
        else:
            weights = weights[1:]
        # With a single layer q and p are what the first matrix is applied to, coordinates perhaps.
        coordinates = layers[0].coordinates or layers[0].in_channels <= 2 * COORDINATES
        with rounding_unless(len(layers) == 1 and coordinates, q):
            return kernels.group_mlp_max(
                *(q, p, groups, weights, norms, biases),
                negative_slope=self.negative_slope,
                noise=noise,
                **options,
            )


class GroupMLPMax(_SharedPerceptron):
    """PointNet++'s set abstraction: max over the members j of group g of MLP([p_j - c_g ; x_j]).

    Qi et al. 2017, "PointNet++", section 3.2. BatchNorm weighs an entry of the groups with its `count`, so the result is
    that of padded groups, copies included.

    Args:
        in_channels: of the features x; 0 without features.
        widths: of the layers; `layers.0.linear.weight` is [widths[0], 3 + in_channels] on [p_j - c_g ; x_j].
        negative_slope: of the LeakyReLU after each layer (0: ReLU); not negative.
        sync: BatchNorm statistics over all processes.
        coordinates: whether the features are coordinates too, which autocast must not round.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        bias: bool = True,
        negative_slope: float = 0.0,
        sync: bool = False,
        coordinates: bool = False,
    ) -> None:
        super().__init__(3 + in_channels, widths, bias, negative_slope, sync, coordinates or len(widths) == 1)

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
        return_argmax: bool = False,
    ) -> Any:
        """Features [M, in_channels] or None, pos [M, 3], centres [G, 3] and groups of rows of pos to [G, widths[-1]].

        Noise is drawn for the points: dropped ones are left out of the max. Its clouds are those of `batch` [M], or without
        one `batch_size` clouds of equal size (None: a single cloud). With `return_argmax`, `(max, argmax)`: int64
        [G, widths[-1]], the row of pos with each max, and -1 where there is none.
        """
        check_floating(pos=pos, centres=centres, features=features)
        if pos.dim() != 2 or centres.dim() != 2 or pos.shape[1] != 3 or centres.shape[1] != 3:
            raise ValueError(
                f"pos must be [M, 3] and centres [G, 3]; got {describe(pos)} and {describe(centres)}."
            )
        weight = next(self._layers()[0].norm.parameters())
        if pos.dtype != weight.dtype or centres.dtype != weight.dtype:
            raise ValueError(
                f"pos and centres must be of the type of the layer's weights, {describe(weight).split()[-1]}; got "
                f"{describe(pos)} and {describe(centres)}."
            )
        in_channels = self._layers()[0].in_channels - 3
        given = 0 if features is None else features.shape[-1]
        if given != in_channels:
            raise ValueError(
                f"features must have the {in_channels} channels that the layer was made for; got {given}."
            )
        if not self.fused:
            pooled, argmax = self._plain(features, pos, centres, groups, noise, batch, batch_size)
            return (pooled, argmax) if return_argmax else pooled
        first = self._layers()[0].matrix()
        if len(self.layers) == 1:
            q, p = pos, -centres
            if features is not None:
                q = torch.cat([pos, features], 1)
                p = torch.cat([p, p.new_zeros(p.shape[0], given)], 1)
        else:
            of_pos, of_features = first.weight[:, :3], first.weight[:, 3:]
            with torch.autocast(pos.device.type, enabled=False):  # coordinates are never rounded
                q, p = pos @ of_pos.T, -centres @ of_pos.T
            if features is not None:
                q = q + linear(features, of_features, coordinates=self._layers()[0].coordinates)
        options: dict[str, Any] = {"batch": batch, "batch_size": batch_size, "return_argmax": return_argmax}
        out = self._run(first, q, p, groups, noise, **options)
        if not return_argmax:
            return out
        pooled, entry = out
        return pooled, torch.where(entry < 0, -1, groups.idx[entry.clamp(min=0)])

    def _plain(
        self, features: Tensor | None, pos: Tensor, centres: Tensor, groups: Groups, noise: Noise | None,
        batch: Tensor | None, batch_size: int | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Every member is made, with its copies, so that BatchNorm weighs an entry with its count."""
        sizes = groups.ptr[1:] - groups.ptr[:-1]
        owner, idx, ptr = (
            torch.arange(len(sizes), device=pos.device).repeat_interleave(sizes),
            groups.idx,
            groups.ptr,
        )
        if groups.count is not None:
            owner, idx = owner.repeat_interleave(groups.count), idx.repeat_interleave(groups.count)
            ends = torch.cat([groups.count.new_zeros(1), groups.count.cumsum(0)])
            ptr = ends[ptr]
        members = pos[idx] - centres[owner]
        if features is not None:
            members = torch.cat([members, features[idx].to(members.dtype)], -1)
        z = self._activated(members, 3)
        places, inside = pad_segments(ptr)
        mask = inside[..., None]
        if noise is not None:
            clouds = to_rows(pos, batch, batch_size)[1]
            if batch is None:
                clouds = dense_ptr(batch_size or 1, len(pos) // (batch_size or 1), pos.device)
            mask = mask & keep_mask(noise, clouds, len(pos), z.shape[1])[idx][places]
        stacked = z[places]
        place = masked_max(stacked.detach(), mask)[1]
        argmax = torch.where(place < 0, -1, idx[places].gather(1, place.clamp(min=0)))
        return self.pool(stacked, mask), argmax


class EdgeConv2(_SharedPerceptron):
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
        coordinates: bool = False,
    ) -> None:
        super().__init__(2 * in_channels, widths, bias, negative_slope, sync, coordinates)

    def forward(
        self,
        x: Tensor,
        idx: Tensor,
        noise: Noise | None = None,
        batch: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """x [B, N, C] and idx [B, N, k] counted within the cloud, or rows [M, C] and row numbers [M, k], to
        [.., widths[-1]]."""
        check_neighbours(idx, x)
        if 2 * x.shape[-1] != self._layers()[0].in_channels:
            raise ValueError(f"x must have {self._layers()[0].in_channels // 2} channels; got {describe(x)}.")
        if not self.fused:
            return self._plain(x, idx, noise, batch, batch_size)
        rows, groups = x.reshape(-1, x.shape[-1]), neighbourhoods(global_idx(idx))
        channels = rows.shape[1]
        first = self._layers()[0].matrix()
        if len(self.layers) == 1:
            q = torch.cat([rows, torch.zeros_like(rows)], 1)
            p = torch.cat([-rows, rows], 1)
        else:
            near, central = first.weight[:, :channels], first.weight[:, channels:]
            exact = self._layers()[0].coordinates
            q, p = (linear(rows, of, coordinates=exact) for of in (near, central - near))
        batch_size = x.shape[0] if x.dim() == 3 else batch_size
        out = self._run(first, q, p, groups, noise, batch=batch, batch_size=batch_size)
        return out.view(*x.shape[:-1], out.shape[-1])

    def _plain(
        self, x: Tensor, idx: Tensor, noise: Noise | None, batch: Tensor | None, batch_size: int | None
    ) -> Tensor:
        rows, ptr = to_rows(x, batch, batch_size)
        idx = global_idx(idx)
        z = self._activated(edges(rows, idx), rows.shape[1])
        kept = None if noise is None else keep_mask(noise, ptr, len(rows), z.shape[2])[idx]
        return self.pool(z, kept).view(*x.shape[:-1], z.shape[-1])
