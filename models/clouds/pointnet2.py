"""PointNet++ (Qi et al. 2017): PointNets on balls around centres, level upon level, then one on all that is left.

    classification   x [B, N, 3] -> sa1: 512 centres -> sa2: 128 centres -> sa3: all -> fc1 512 -> fc2 256 -> fc3 classes

SSG has one radius a level, MSG several (their features side by side). 1,475,688 parameters (SSG) and 1,747,368 (MSG) for 40
classes and 3 channels, as yanx27/Pointnet_Pointnet2_pytorch has them. A level finds its centres by farthest point
sampling and its groups by ball query, in coordinates alone: noise never moves a group.

Carrying features back to more points interpolates: the first linear map of it commutes with the interpolation,
W [s ; sum_j w_j f_j] = W_s s + sum_j w_j W_f f_j, so it is applied to the fewer points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dropfold import kernels
from dropfold.kernels import Noise
from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.inputs import check_floating
from dropfold.kernels.noise.drop import reference as apply_noise
from dropfold.kernels.points import three_nn_interpolate
from dropfold.models.clouds.inputs import check_points
from dropfold.models.layers.grouped import GroupMLPMax
from dropfold.models.layers.linear_norm import (
    LinearNorm,
    LinearNormAct,
    LinearNormMax,
    add_to_points,
    linear,
    spread,
)
from dropfold.models.layers.noise import draw, place_noise
from dropfold.models.layers.wiring import Sources, Wiring, chain, perceptron
from dropfold.models.operations.balls import Balls, Scale

LAYERS = ("sa1", "sa2", "pool")
Grouping = Literal["ssg", "msg"]


class Level(NamedTuple):
    """How many centres, and the balls around them."""

    centres: int
    scales: tuple[Scale, ...]


CLASSIFICATION: dict[str, tuple[Level, ...]] = {
    "ssg": (
        Level(512, (Scale(0.2, 32, (64, 64, 128)),)),
        Level(128, (Scale(0.4, 64, (128, 128, 256)),)),
    ),
    "msg": (
        Level(512, (Scale(0.1, 16, (32, 32, 64)), Scale(0.2, 32, (64, 64, 128)), Scale(0.4, 128, (64, 96, 128)))),
        Level(128, (Scale(0.2, 32, (64, 64, 128)), Scale(0.4, 64, (128, 128, 256)), Scale(0.8, 128, (128, 128, 256)))),
    ),
}  # fmt: skip
ALL = (256, 512, 1024)  # widths of the level over all points


class Points(NamedTuple):
    """Where points are, dense [B, N, 3] or rows [M, 3] with `batch`, and their features, rows [M, C] or None."""

    pos: Tensor
    features: Tensor | None
    batch: Tensor | None = None
    clouds: int | None = None

    @classmethod
    def of(cls, pos: Tensor, features: Tensor | None, batch: Tensor | None, clouds: int | None) -> Points:
        """Of the input of a network; `clouds` is counted where it is not given.

        Raises:
            TypeError: pos or features are no tensors of floating point numbers.
            ValueError: pos is not [B, N, 3] or [M, 3], features are not of the same points, or on another device.
        """
        check_floating(pos=pos, features=features)
        if (
            pos.dim() not in (2, 3)
            or pos.shape[-1] != 3
            or (features is not None and features.shape[:-1] != pos.shape[:-1])
        ):
            given = "" if features is None else f" and features {describe(features)}"
            raise ValueError(
                f"pos must be [B, N, 3] or rows [M, 3], and features [.., C] of the same points; got pos {describe(pos)}"
                f"{given}."
            )
        if pos.dim() == 3:
            clouds = pos.shape[0]
        elif batch is None:
            clouds = 1
        elif clouds is None:
            clouds = int(batch[-1]) + 1
        return cls(pos, features if features is None else features.flatten(0, -2), batch, clouds)


def finite_positions(points: Points, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`(pos, factor)`: the positions with 0 for those that are not finite, and for each cloud [B] the factor that makes its
    results NaN if it had such a position, or such rows of `features`; otherwise 1.

    There is no farthest point and no nearest one of NaN: searches are given `pos`, and what follows from them is multiplied.
    """
    zeros = (points.pos.detach() * 0).sum(-1)  # or NaN
    if features is not None:
        zeros = zeros + (features.detach() * 0).sum(-1).to(zeros.dtype).view_as(zeros)
    if points.batch is None:
        factor = 1 + (zeros.sum(-1) if zeros.dim() == 2 else zeros.sum(-1, keepdim=True))
    else:
        assert points.clouds is not None
        factor = 1 + zeros.new_zeros(points.clouds).index_add_(0, points.batch, zeros)
    return torch.where(points.pos.isfinite(), points.pos, 0), factor


class SetAbstraction(nn.Module):
    """One level: centres by farthest point sampling, and for each radius the perceptron's max over each ball, side by side.

    With `random_start` the first centre is drawn in training; otherwise it is the first point. One draw of noise serves all
    scales. With `coordinates` the features are coordinates too, which autocast must not round. In a cloud with a position
    that is not finite all features of the level are NaN; with `coordinates` also where a feature of a point is NaN, whether
    or not a ball holds the point.
    """

    def __init__(
        self,
        in_channels: int,
        level: Level,
        sync: bool = False,
        random_start: bool = False,
        coordinates: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.level = in_channels, level
        self.random_start, self.coordinates = random_start, coordinates
        options: dict[str, Any] = {"bias": True, "sync": sync, "coordinates": coordinates}
        self.scales = nn.ModuleList(
            GroupMLPMax(in_channels, scale.widths, **options) for scale in level.scales
        )
        self.out_channels = sum(scale.widths[-1] for scale in level.scales)

    def forward(self, points: Points, noise: Noise | None = None) -> Points:
        batch = points.batch
        check_floating(weight=next(self.parameters()), pos=points.pos)
        pos, factor = finite_positions(points, points.features if self.coordinates else None)
        clouds: dict[str, Any] = {"batch": batch, "batch_size": points.clouds}
        m, start = self.level.centres, self._start(points)
        if batch is None:  # clouds in rows keep their m: a small one must not change what the others give
            m = min(m, pos.shape[-2])
        chosen = kernels.farthest_point_sample(pos, m, start=start, **clouds)
        found, centres_batch = [], None
        if pos.dim() == 3:
            centres = pos.gather(1, chosen[..., None].expand(-1, -1, 3))
        else:
            centres = pos[chosen]
            if batch is not None:
                centres_batch = torch.arange(chosen.shape[0] // m, device=pos.device).repeat_interleave(m)
        assert points.clouds is not None
        about = (centres.view(points.clouds, m, 3) * factor[:, None, None]).view(-1, 3)
        for mlp, scale in zip(self.scales, self.level.scales, strict=True):
            groups = kernels.ball_query(
                *(pos, centres, scale.radius, scale.k), centres_batch=centres_batch, **clouds
            )
            rows = points.features, pos.reshape(-1, 3), about
            found.append(mlp(*rows, groups, noise=noise, **clouds))
        # Every cloud has as many centres: from here on clouds are dense.
        return Points(centres.view(points.clouds, m, 3), torch.cat(found, -1), None, points.clouds)

    def columns(self, name: str, sources: Sources) -> tuple[dict[str, Sources], list[str]]:
        """What its matrices read, under its `name` in a network, and the layers that it ends with, side by side."""
        columns: dict[str, Sources] = {}
        ends: list[str] = []
        mlp: Any
        for i, mlp in enumerate(self.scales):
            found, last = perceptron(mlp.layers, f"{name}.scales.{i}", [3, *sources])
            columns |= found
            ends.append(last)
        return columns, ends

    def _start(self, points: Points) -> Tensor | None:
        if not (self.random_start and self.training):
            return None
        assert points.clouds is not None
        pos, batch = points.pos, points.batch
        sizes: Any = pos.shape[-2]
        if batch is not None:
            sizes = torch.bincount(batch, minlength=points.clouds)
        return (torch.rand(points.clouds, device=pos.device) * sizes).long().clamp(max=sizes - 1)


class GlobalAbstraction(nn.Module):
    """The last level: a perceptron on [p ; x] of all points, then the max over each cloud; the wide layer is not stored."""

    def __init__(self, in_channels: int, widths: Sequence[int] = ALL, sync: bool = False) -> None:
        super().__init__()
        self.in_channels = in_channels
        sizes = [3 + in_channels, *widths]
        *first, last = pairwise(sizes)
        options: dict[str, Any] = {"bias": True, "sync": sync}
        self.layers = nn.ModuleList(
            LinearNormAct(*pair, coordinates=i == 0, **options) for i, pair in enumerate(first)
        )
        self.layers.append(LinearNormMax(*last, coordinates=not first, **options))
        self.out_channels = sizes[-1]

    def forward(self, points: Points, noise: Noise | None = None) -> Tensor:
        """[B, C] of dense points."""
        x = points.pos.reshape(-1, 3)
        if points.features is not None:
            x = torch.cat([x, points.features.to(x.dtype)], -1)
        *first, last = self.layers
        for layer in first:
            x = layer(x)
        return last(x.view(*points.pos.shape[:2], x.shape[-1]), noise=noise)


class Interpolated(LinearNorm):
    """linear -> BatchNorm -> LeakyReLU of [g ; skip ; f], f carried from the level below by `three_nn_interpolate`.

    The weight is applied to f before it is carried, and to g [B, C_g] once a cloud; g and skip may be None.
    """

    def check_inputs(self, x: Any, *_: Any) -> None:
        """The points of two levels; what becomes of them is checked."""

    def operation(self, points: Points, below: Points, *rest: Any, **options: Any) -> Tensor:
        g, norm = rest
        assert below.features is not None
        skip, f = points.features, below.features
        sizes = [0 if x is None else x.shape[-1] for x in (g, skip, f)]
        weight, bias = self.matrix()
        of_cloud, of_skip, of_below = weight.split(sizes, 1)
        y = kernels.linear(f, of_below, bias)  # the weights of an interpolation add up to one
        y = _carry(y, points, below, kernels.three_nn_interpolate)
        if g is not None:
            y = add_to_points(y, kernels.linear(g, of_cloud), points.batch)
        y = y.reshape(-1, y.shape[-1])
        if skip is not None:
            y = linear(skip, of_skip, coordinates=self.coordinates).add_(y)
        return kernels.norm_act(y, norm, **options)

    def plain(self, points: Points, below: Points, g: Tensor | None, **options: Any) -> Tensor:
        """Features are carried as they are, and the linear map is that of [g ; skip ; f]."""
        assert below.features is not None
        carried = _carry(below.features, points, below, three_nn_interpolate.reference).flatten(0, -2)
        parts = [] if g is None else [spread(g, points.pos, points.batch).flatten(0, -2)]
        parts += [] if points.features is None else [points.features]
        return apply_noise(self.activated(torch.cat([*parts, carried], -1)), **options)


def _carry(f: Tensor, points: Points, below: Points, interpolate: Callable[..., Tensor]) -> Tensor:
    """Rows f [S, C] of the points `below`, which are dense, at `points`, dense [B, N, C] or rows [M, C] as these are.

    NaN in a cloud with a position that is not finite.
    """
    (pos, factor), (pos_below, factor_below) = finite_positions(points), finite_positions(below)
    f = f.view(*below.pos.shape[:-1], f.shape[-1]) * (factor * factor_below).to(f.dtype)[:, None, None]
    if pos.dim() == 3:
        return interpolate(f, pos_below, pos)
    clouds: dict[str, Any] = {}
    if points.batch is not None:
        of = torch.arange(below.pos.shape[0], device=f.device).repeat_interleave(below.pos.shape[1])
        clouds = {"batch": of, "query_batch": points.batch, "batch_size": points.clouds}
    return interpolate(f.flatten(0, 1), pos_below.reshape(-1, 3), pos, **clouds)


class FeaturePropagation(nn.Module):
    """Features of a level carried to the level above, beside its own, and a perceptron on both.

    Args:
        in_channels: of [g ; skip ; f] together.
        widths: of the perceptron.
        carried: whether the level below has points to interpolate between; otherwise it is one feature g a cloud.
        coordinates: whether the level's own features hold coordinates, which autocast must not round.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        carried: bool = True,
        sync: bool = False,
        coordinates: bool = False,
    ) -> None:
        super().__init__()
        sizes = [in_channels, *widths]
        first, *others = pairwise(sizes)
        options: dict[str, Any] = {"bias": True, "sync": sync}
        kind = Interpolated if carried else LinearNormAct
        self.layers = nn.ModuleList([kind(*first, coordinates=coordinates, **options)])
        self.layers.extend(LinearNormAct(*pair, **options) for pair in others)
        self.out_channels = sizes[-1]

    def forward(self, points: Points, below: Points | None, g: Tensor | None = None) -> Points:
        self._check(points, below, g)
        first, *others = self.layers
        if below is None:
            assert points.features is not None
            dense = points.features.view(*points.pos.shape[:2], points.features.shape[-1])
            x = first(dense, g).flatten(0, 1)
        else:
            x = first(points, below, g)
        for layer in others:
            x = layer(x)
        return points._replace(features=x)

    def _check(self, points: Points, below: Points | None, g: Tensor | None) -> None:
        """Refuse levels of other clouds, or of other widths than the layer was made for."""
        weight, level = next(self.parameters()), below or Points(points.pos, None)
        check_floating(weight=weight, g=g, features=points.features, pos=level.pos, below=level.features)
        widths = [0 if x is None else x.shape[-1] for x in (g, points.features, level.features)]
        first: Any = self.layers[0]
        if sum(widths) != first.in_channels:
            raise ValueError(
                f"g, the level's features and those from below must have {first.in_channels} channels together; got "
                f"{' + '.join(map(str, widths))}."
            )
        if below is not None and (below.pos.dim() != 3 or below.pos.shape[0] != points.clouds):
            raise ValueError(
                f"the level below must be dense and of the same {points.clouds} clouds; got {describe(below.pos)}."
            )


class PointNet2(nn.Module):
    """PointNet++ for classification.

    Args:
        num_classes: outputs.
        in_channels: 3, or more: the first three are coordinates, the rest features.
        grouping: "ssg", one radius a level, or "msg", three.
        radius: factor of all radii.
        dropout: after fc1 and fc2.
        noise: a Drop module for the recommended position, inside the last pool ("pool"), or a mapping of layer name
            (sa1, sa2: dropped points are left out of the max over a ball, in all scales alike; pool) to
            module.
        sync_batch_norm: BatchNorm statistics over all processes.
        random_start: in training, the first centre of each cloud is drawn; otherwise it is its first point.

    The radii are for clouds in the unit sphere. In a cloud of fewer points than a level has centres every point is one, in
    rows with `batch` each cloud has at least 512.

    Shapes: x [B, N, in_channels], or rows [M, in_channels] with `batch` [M]; logits [B, num_classes].
    """

    def __init__(
        self,
        num_classes: int = 40,
        in_channels: int = 3,
        grouping: Grouping = "ssg",
        radius: float = 1.0,
        dropout: float = 0.4,
        noise: nn.Module | Mapping[str, nn.Module] | None = None,
        sync_batch_norm: bool = False,
        random_start: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        sync = sync_batch_norm
        first, second = levels(CLASSIFICATION, grouping, radius)
        self.levels, self.balls = {"sa1": first, "sa2": second}, {"sa1": Balls(), "sa2": Balls()}
        self.sa1 = SetAbstraction(in_channels - 3, first, sync, random_start, coordinates=True)
        self.sa2 = SetAbstraction(self.sa1.out_channels, second, sync, random_start)
        self.sa3 = GlobalAbstraction(self.sa2.out_channels, sync=sync)
        self.fc1 = LinearNormAct(1024, 512, bias=True, sync=sync, dropout=dropout)
        self.fc2 = LinearNormAct(512, 256, bias=True, sync=sync, dropout=dropout)
        self.fc3 = nn.Linear(256, num_classes)
        self.noise = place_noise(noise, LAYERS, "pool", "PointNet2")

    def forward(self, x: Tensor, batch: Tensor | None = None, batch_size: int | None = None) -> Tensor:
        check_points(self, x, self.in_channels, batch)
        features = x[..., 3:] if x.shape[-1] > 3 else None
        points = Points.of(x[..., :3].contiguous(), features, batch, batch_size)
        points = self.sa1(points, draw_noise(self.noise, "sa1", points))
        points = self.sa2(points, draw_noise(self.noise, "sa2", points))
        x = self.sa3(points, draw_noise(self.noise, "pool", points))
        return self.fc3(self.fc2(self.fc1(x)))

    def operations(self) -> dict[str, str]:
        """What stands in the place of each level with balls, by its name."""
        return {level: str(balls) for level, balls in self.balls.items()}

    def replace_operations(self, operations: Mapping[str, str]) -> None:
        """Put other operations in the places of sa1 and sa2 (`dropfold.models.operations.balls`); layers of other sizes than
        before get fresh weights.

        Raises:
            ValueError: no such operation, or a scale that the level does not have.
        """
        parsed = {level: Balls.parse(name) for level, name in operations.items()}
        found = {
            level: usual._replace(scales=(parsed.get(level) or self.balls[level]).of(usual.scales))
            for level, usual in self.levels.items()
        }
        self.balls = self.balls | parsed
        weight, sync = self.fc3.weight, self.fc1.sync
        channels = self.in_channels - 3
        for name, level in found.items():
            module: SetAbstraction = self.get_submodule(name)  # type: ignore[assignment]
            widths = [channels, *(scale.widths for scale in level.scales)]
            before = [module.in_channels, *(scale.widths for scale in module.level.scales)]
            if widths != before:
                options = sync, module.random_start, module.coordinates
                fresh = SetAbstraction(channels, level, *options)
                setattr(self, name, fresh.to(weight.device, weight.dtype).train(self.training))
            module = self.get_submodule(name)  # type: ignore[assignment]
            module.level = level
            channels = module.out_channels
        if self.sa3.in_channels != channels:
            fresh_last = GlobalAbstraction(channels, sync=sync)
            self.sa3 = fresh_last.to(weight.device, weight.dtype).train(self.training)

    def wiring(self) -> Wiring:
        """Whose channels each matrix reads (see `dropfold.models.layers.wiring`)."""
        first, ends = self.sa1.columns("sa1", [self.in_channels - 3])
        second, ends = self.sa2.columns("sa2", ends)
        third, last = perceptron(self.sa3.layers, "sa3", [3, *ends])
        return Wiring(first | second | third | chain([last], "fc1", "fc2", "fc3"))


def levels(of: Mapping[str, tuple[Level, ...]], grouping: str, radius: float = 1.0) -> tuple[Level, ...]:
    """The levels of a grouping, their radii times `radius`."""
    if grouping not in of:
        raise ValueError(f"grouping must be one of {', '.join(map(repr, of))}; got {grouping!r}.")
    if not 0 < radius < float("inf"):
        raise ValueError(f"radius must be a positive factor; got {radius}.")
    return tuple(
        Level(centres, tuple(scale._replace(radius=radius * scale.radius) for scale in scales))
        for centres, scales in of[grouping]
    )


def draw_noise(noise: nn.ModuleDict, layer: str, points: Points) -> Noise | None:
    """One draw of the noise at `layer`, for the points that its groups are made of."""
    features = points.pos
    if points.features is not None:
        features = points.features.view(*points.pos.shape[:-1], points.features.shape[-1])
    return draw(noise, layer, points.pos, features, points.batch)
