"""Layers: a linear map and a BatchNorm, held as plain `nn.Linear` and `nn.BatchNorm1d`, run by the fused kernels.

Every layer takes dense clouds [B, N, C], or rows [M, C] with PyG's `batch` [M], and one draw of noise or None. Its `linear`
may be any module that maps the last axis affinely (`dropfold.models.layers.matrix`); its plain form calls all its submodules
(`dropfold.models.layers.unfused`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dropfold import kernels
from dropfold.kernels import BatchNorm, Noise
from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gemm import COORDINATES
from dropfold.kernels.backend.inputs import check_tensors
from dropfold.kernels.noise.draw import keep_mask
from dropfold.kernels.points.clouds import check_neighbours, global_idx, to_rows
from dropfold.models.layers.low_rank import LowRank
from dropfold.models.layers.matrix import Affine, is_nn_linear, matrix_of, product_is_cheaper
from dropfold.models.layers.plain import (
    ApplyNoise,
    Dropout,
    activation,
    call_linear,
    call_norm,
    rounding_unless,
    slope_of,
)
from dropfold.models.layers.pools import Clouds, MaxMeanPool, MaxPool, masked_max
from dropfold.models.layers.unfused import HasPlainForm


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, coordinates: bool = False) -> Tensor:
    """`dropfold.kernels.linear` of features or of `coordinates` (few channels count as such), which autocast must not round:
    bfloat16 has three digits."""
    features = weight.shape[1] > COORDINATES and not coordinates
    with rounding_unless(not features, x):
        return kernels.linear(x, weight, bias)


class LinearNorm(HasPlainForm):
    """What the layers share: `linear`, `norm` and `activation`; each layer has a fused form, `operation`, and a `plain` one.

    `operation` gets the inputs and the BatchNorm; both get batch, batch_size and noise, and a layer's own options.
    With `coordinates` the input holds coordinates, which autocast must not round. Few channels always count as such.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bias: bool = False,
        negative_slope: float = 0.0,
        sync: bool = False,
        coordinates: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.coordinates = in_channels, coordinates
        self.linear: nn.Module = nn.Linear(in_channels, out_channels, bias=bias)
        self.norm = nn.BatchNorm1d(out_channels)
        self.activation = activation(negative_slope)
        self.sync = sync

    @property
    def negative_slope(self) -> float:
        """The activation's slope below 0."""
        return slope_of(self.activation)

    def forward(
        self,
        *inputs: Any,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        noise: Noise | None = None,
        **more: Any,
    ) -> Any:
        self.check_inputs(*inputs)
        options = {"batch": batch, "batch_size": batch_size, "noise": noise, **more}
        if not self.fused:
            return self.plain(*inputs, **options)
        return self.operation(*inputs, self.batch_norm(), negative_slope=self.negative_slope, **options)

    def check_inputs(self, x: Any, *_: Any) -> None:
        """Refuse what is no tensor; the fused and the plain form see to shapes, types and devices."""
        check_tensors(x=x)

    def operation(self, *inputs: Any, **options: Any) -> Any:
        """The fused form."""
        raise TypeError(f"{type(self).__name__} has no form of its own; use one of its subclasses.")

    def plain(self, *inputs: Any, **options: Any) -> Any:
        """The plain form."""
        raise TypeError(f"{type(self).__name__} has no form of its own; use one of its subclasses.")

    def matrix(self) -> Affine:
        """The matrix and bias of `linear`."""
        return matrix_of(self.linear, self.in_channels)

    def activated(self, x: Tensor, channels: int | None = None) -> Tensor:
        """The plain linear map, BatchNorm and activation of x [..., C_in], made of coordinates if of few `channels`."""
        return self.activation(call_norm(self.norm, self._called(x, channels), self.sync))

    def _called(self, x: Tensor, channels: int | None = None) -> Tensor:
        """`linear`, called as a module on x, which is made of so many `channels`."""
        return call_linear(self.linear, x, channels, coordinates=self.coordinates)

    def _last_matrix(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """`(x', weight, bias)` with linear(x) = x' weight^T + bias.

        x' is x, or, where a chain of maps is cheaper one by one, x after all of them but the last.
        """
        if product_is_cheaper(self.linear, rows_of(x)) is False:
            chain, channels = list(self.linear.children()), x.shape[-1]
            for part in chain[:-1]:
                x = call_linear(part, x, channels, coordinates=self.coordinates)
            return x, *matrix_of(chain[-1], x.shape[-1])
        return x, *self.matrix()

    def batch_norm(self) -> BatchNorm:
        """The BatchNorm as the fused operations take it; in training its count of batches moves."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        if norm.momentum is None:
            raise ValueError(
                "norm.momentum must be a number; the cumulative average (None) is not kept here."
            )
        if norm.training and norm.num_batches_tracked is not None:
            norm.num_batches_tracked += 1
        return BatchNorm(
            *(norm.weight, norm.bias, norm.running_mean, norm.running_var),
            *(norm.training, norm.momentum, norm.eps, self.sync),
        )


class LinearNormAct(LinearNorm):
    """linear -> BatchNorm -> LeakyReLU -> noise or dropout: x [..., C_in] to [..., C_out].

    With a second input g [B, C_g], the feature of a cloud stands beside each of its points: the weight acts on [g ; x],
    C_in is the width of both, and g is multiplied once a cloud and never repeated. Dropout is DropFeat, drawn in the same
    pass and not stored.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float = 0.0, **options: Any) -> None:
        super().__init__(in_channels, out_channels, **options)
        self.drop = ApplyNoise()
        self.dropout = Dropout(dropout) if dropout else None

    def operation(self, x: Tensor, *rest: Any, **options: Any) -> Tensor:
        *g, norm = rest
        options |= {"noise": self._dropout(x, options["noise"])}
        if g:
            return kernels.norm_act(self._beside(x, g[0], options["batch"]), norm, **options)
        if not is_nn_linear(self.linear) and product_is_cheaper(self.linear, rows_of(x)) is None:
            return kernels.norm_act(self._called(x), norm, **options)
        with rounding_unless(self.coordinates or x.shape[-1] <= COORDINATES, x):
            x, weight, bias = self._last_matrix(x)
            return kernels.linear_norm_act(x, weight, bias, norm, **options)

    def plain(self, x: Tensor, *g: Tensor, noise: Noise | None, **clouds: Any) -> Tensor:
        if g:
            x = torch.cat([spread(g[0], x, clouds["batch"]), x], -1)
        return self.dropped(self.activated(x), noise, clouds)

    def dropped(self, z: Tensor, noise: Noise | None, clouds: dict[str, Any]) -> Tensor:
        """The plain noise or dropout."""
        if self.dropout is None:
            return self.drop(z, noise, **clouds)
        self._check_noise(noise)
        return self.dropout(z)

    def _dropout(self, x: Tensor, noise: Noise | None) -> Noise | None:
        """The layer's dropout as noise, or the noise that was given."""
        if self.dropout is None or not (self.dropout.training and self.dropout.p):
            return noise
        self._check_noise(noise)
        return self.dropout.draw(x.device)

    def _check_noise(self, noise: Noise | None) -> None:
        assert self.dropout is not None
        if noise is not None and self.dropout.training and self.dropout.p:
            raise ValueError("a layer with dropout takes no noise: both would drop the same features.")

    def _beside(self, x: Tensor, g: Tensor, batch: Tensor | None) -> Tensor:
        if isinstance(self.linear, LowRank):
            (weight, bias), last = matrix_of(self.linear[0]), self.linear[1]
        else:
            (weight, bias), last = self.matrix(), None
        of_cloud, of_point = weight.split([g.shape[-1], x.shape[-1]], 1)
        y = add_to_points(
            linear(x, of_point, coordinates=self.coordinates), kernels.linear(g, of_cloud, bias), batch
        )
        return y if last is None else kernels.linear(y, *matrix_of(last))


class LinearNormMax(LinearNorm):
    """linear -> BatchNorm -> LeakyReLU -> max over the points that noise leaves: x [B, N, C_in] to [B, C_out].

    With `return_argmax`, `(max, argmax)`: int64 [B, C_out], the first point with the largest value before the activation,
    counted within the cloud for dense x and a row number otherwise, and -1 where noise dropped all.
    """

    def __init__(self, in_channels: int, out_channels: int, **options: Any) -> None:
        super().__init__(in_channels, out_channels, **options)
        self.pool: nn.Module = MaxPool()

    def operation(self, x: Tensor, norm: BatchNorm, **options: Any) -> Any:
        with rounding_unless(self.coordinates, x):
            x, weight, bias = self._last_matrix(x)
            return kernels.linear_norm_max(x, weight, bias, norm, **options)

    def plain(self, x: Tensor, **options: Any) -> Any:
        return self.pooled(x, **options)[0]

    def pooled(
        self,
        x: Tensor,
        *,
        batch: Tensor | None,
        batch_size: int | None,
        noise: Noise | None,
        return_argmax: bool = False,
    ) -> tuple[Any, Tensor]:
        """The plain form, and the activations [..., C_out] that it pools."""
        clouds = Clouds(x, batch, batch_size)
        y = call_norm(self.norm, self._called(x), self.sync)
        z = self.activation(y)
        rows = z.reshape(-1, z.shape[-1])
        mask = clouds.mask(noise, rows.shape[1])
        top = self.pool(clouds.stack(rows), mask)
        if not return_argmax:
            return top, z
        ranked = z if isinstance(self.pool, MaxMeanPool) else y  # as the fused forms do
        argmax = clouds.points(masked_max(clouds.stack(ranked.detach().view_as(rows)), mask)[1])
        return (*top, argmax) if isinstance(top, tuple) else (top, argmax), z


class LinearNormPool(LinearNormMax):
    """linear -> BatchNorm -> LeakyReLU -> max and mean over the points that noise leaves: to ([B, C_out], [B, C_out]).

    With `return_argmax`, `(max, mean, argmax)`, as `LinearNormMax`; of equal activations the first point.
    """

    def __init__(self, in_channels: int, out_channels: int, **options: Any) -> None:
        super().__init__(in_channels, out_channels, **options)
        self.pool = MaxMeanPool()

    def operation(self, x: Tensor, norm: BatchNorm, **options: Any) -> Any:
        with rounding_unless(self.coordinates, x):
            x, weight, bias = self._last_matrix(x)
            return kernels.linear_norm_pool(x, weight, bias, norm, **options)


class EdgeConv(LinearNorm):
    """max over neighbours j of LeakyReLU(BatchNorm(W [x_j - x_i ; x_i])): x [B, N, C_in], idx [B, N, k] to [B, N, C_out].

    Wang et al. 2019, equation 8. `linear.weight` is [C_out, 2 C_in] on [x_j - x_i ; x_i].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bias: bool = False,
        negative_slope: float = 0.2,
        sync: bool = False,
        coordinates: bool = False,
    ) -> None:
        options: dict[str, Any] = {"negative_slope": negative_slope, "sync": sync, "coordinates": coordinates}
        super().__init__(2 * in_channels, out_channels, bias=bias, **options)
        self.pool = MaxPool()

    def operation(self, x: Tensor, idx: Tensor, norm: BatchNorm, **options: Any) -> Any:
        with rounding_unless(self.coordinates, x):
            if isinstance(self.linear, LowRank):  # the first map meets points, before they are gathered
                x = linear(x, self.linear[0].weight, coordinates=self.coordinates)  # type: ignore[arg-type]
                return kernels.edge_conv(x, idx, *matrix_of(self.linear[1]), norm, **options)
            return kernels.edge_conv(x, idx, *self.matrix(), norm, **options)

    def plain(
        self, x: Tensor, idx: Tensor, *, batch: Tensor | None, batch_size: int | None, noise: Noise | None
    ) -> Tensor:
        rows, ptr = to_rows(x, batch, batch_size)
        check_neighbours(idx, x)
        idx = global_idx(idx)
        z = self.activated(edges(rows, idx), rows.shape[1])
        kept = None if noise is None else keep_mask(noise, ptr, len(rows), z.shape[2])[idx]
        return self.pool(z, kept).view(*x.shape[:-1], z.shape[-1])


def rows_of(x: Tensor) -> int:
    """How many rows x [..., C] has."""
    return x.numel() // x.shape[-1]


def edges(rows: Tensor, idx: Tensor) -> Tensor:
    """[x_j - x_i ; x_i] of rows x [M, C] and their neighbours idx [M, k]: [M, k, 2 C]."""
    central = rows[:, None].expand(-1, idx.shape[1], -1)
    return torch.cat([rows[idx] - central, central], -1)


def add_to_points(y: Tensor, g: Tensor, batch: Tensor | None) -> Tensor:
    """y [B, N, C] or rows [M, C], fresh from a product and changed in place, plus g [B, C] of each point's cloud."""
    return y.add_(g[batch] if batch is not None else g[:, None] if y.dim() == 3 else g)


def spread(g: Tensor, x: Tensor, batch: Tensor | None) -> Tensor:
    """g [B, C] of clouds at each point of x, dense [B, N, ..] or rows [M, ..] with `batch`."""
    if batch is not None:
        return g[batch]
    return g[:, None].expand(-1, x.shape[1], -1) if x.dim() == 3 else g.expand(len(x), -1)


def one_hot(
    category: Tensor | None,
    categories: int | None,
    x: Tensor,
    batch: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor | None:
    """The category of each cloud [B] of x as a feature [B, categories]; None where a network takes no categories.

    Raises:
        TypeError: category is no tensor.
        ValueError: a category is missing, not asked for, or out of range; there is not one a cloud, or on another device.
    """
    if (category is None) != (categories is None):
        expected = (
            "takes no category" if categories is None else f"takes one of {categories} categories a cloud"
        )
        given = "none" if category is None else describe(category)
        raise ValueError(f"this network {expected}; got {given}.")
    if category is None or categories is None:
        return None
    check_tensors(x=x, category=category)
    if category.dim() != 1 or category.dtype != torch.int64:
        raise ValueError(f"category must be int64 [B], one number a cloud; got {describe(category)}.")
    clouds = x.shape[0] if x.dim() == 3 else 1 if batch is None else batch_size
    if clouds is None and batch is not None and batch.is_cpu and not torch.compiler.is_compiling():
        clouds = int(batch[-1]) + 1 if batch.numel() else 0
    if clouds is not None and category.shape[0] != clouds:
        raise ValueError(f"category must be int64 [{clouds}], one number a cloud; got {describe(category)}.")
    if (
        category.is_cpu
        and not torch.compiler.is_compiling()
        and category.numel()
        and not 0 <= int(category.min()) <= int(category.max()) < categories
    ):
        raise ValueError(
            f"category must be from 0 to {categories - 1}; got {int(category.min())} to {int(category.max())}."
        )
    return nn.functional.one_hot(category, categories).to(x.dtype)
