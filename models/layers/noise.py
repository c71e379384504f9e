"""Noise as modules: DropFeat, DropPoint, DropCluster, their schedules, and how a network takes them by layer name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dropfold import kernels
from dropfold.kernels import Noise, draw_seed
from dropfold.kernels.backend.inputs import check_floating
from dropfold.kernels.noise.draw import Level, Reading, Scaling, check, keep_by_nearest
from dropfold.kernels.noise.drop import drop
from dropfold.kernels.noise.drop import reference as drop_reference
from dropfold.kernels.points.clouds import global_idx, to_rows
from dropfold.models.layers.unfused import HasPlainForm


class Drop(HasPlainForm):
    """The base of the three noises: the drop probability and its schedule.

    Args:
        p: drop probability, 0 <= p < 1; 0 and evaluation mode are the identity.
        scaling: of the kept values (not inside a max): "unbiased" 1 / (1 - p), "count" N / kept, or "none".
        schedule: "constant", or "linear": the drop probability grows from 0 to p over `warmup_steps` draws, as DropBlock's.
        warmup_steps: draws (training steps) until the drop probability is p.

    The buffers `rate` (float32, the current drop probability) and `step` (int64) are part of the state dict, so a resumed
    run goes on where it was.
    """

    level: Level
    rate: Tensor
    step: Tensor

    def __init__(
        self,
        p: float,
        *,
        scaling: Scaling = "unbiased",
        schedule: Literal["constant", "linear"] = "constant",
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        check(self.level, p, scaling)
        if schedule not in ("constant", "linear"):
            raise ValueError(f"schedule must be 'constant' or 'linear'; got {schedule!r}.")
        if schedule == "linear" and warmup_steps < 1:
            raise ValueError(f"a linear schedule needs warmup_steps of at least 1; got {warmup_steps}.")
        self.p, self.scaling, self.schedule, self.warmup_steps = p, scaling, schedule, warmup_steps
        self.register_buffer("rate", torch.tensor(0.0 if schedule == "linear" else p, dtype=torch.float32))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def draw(
        self, pos: Tensor, features: Tensor, batch: Tensor | None = None, graph: Tensor | None = None
    ) -> Noise | None:
        """One draw for clouds at `pos` [..., 3] with `features` [..., C]; None where nothing can be dropped.

        `graph` is the network's own neighbour list, if it has one. In training each draw is a step of the schedule.
        """
        if not self.training or self.p == 0:
            return None
        rate = self._advance()
        neighbours = self._neighbours(pos, features, batch, graph)
        return Noise(self.level, rate, draw_seed(pos.device), neighbours, scaling=self.scaling)

    def _advance(self) -> Tensor:
        """One step of the schedule, and its drop probability: a copy, because backward must see what forward saw."""
        self.step += 1
        if self.schedule == "linear":
            self.rate.copy_(self.p * (self.step / self.warmup_steps).clamp(max=1))
        return self.rate.clone()

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Drop:
        """`.double()`, `.bfloat16()` and the like leave the rate in float32."""
        rate = self.rate
        super()._apply(fn, recurse)
        if self.rate.dtype != rate.dtype:
            self.rate = rate.to(self.rate.device)
        return self

    def _neighbours(
        self, pos: Tensor, features: Tensor, batch: Tensor | None, graph: Tensor | None
    ) -> Tensor | None:
        """Row numbers [M, k] of each point's neighbourhood, where the level is "cluster"."""
        return None

    def forward(
        self, x: Tensor, pos: Tensor | None = None, batch: Tensor | None = None, graph: Tensor | None = None
    ) -> Tensor:
        """The noise on its own, on x [B, N, C] or [M, C] with `batch`; clusters are found in `pos` (default: x)."""
        check_floating(x=x, pos=pos)
        noise = self.draw(x if pos is None else pos, x, batch, graph)
        if noise is None:
            return x
        return (drop if self.fused else drop_reference)(x, noise, batch=batch)

    def extra_repr(self) -> str:
        warmup = f", linear over {self.warmup_steps} steps" if self.schedule == "linear" else ""
        return f"p={self.p}, scaling={self.scaling}{warmup}"


class DropFeat(Drop):
    """Drops single features; see `drop_feat`. `per` = "channel" drops a channel of a whole cloud (forward only)."""

    level = "feat"

    def __init__(
        self, p: float, *, per: Literal["element", "channel"] = "element", **options: object
    ) -> None:
        super().__init__(p, **options)  # type: ignore[arg-type]
        if per not in ("element", "channel"):
            raise ValueError(f"per must be 'element' or 'channel'; got {per!r}.")
        self.per = per

    def draw(
        self, pos: Tensor, features: Tensor, batch: Tensor | None = None, graph: Tensor | None = None
    ) -> Noise | None:
        if self.per == "channel":
            raise ValueError(
                "DropFeat(per='channel') cannot be fused into a layer; call it on the layer's output, or use "
                "per='element'."
            )
        return super().draw(pos, features, batch, graph)

    def forward(
        self, x: Tensor, pos: Tensor | None = None, batch: Tensor | None = None, graph: Tensor | None = None
    ) -> Tensor:
        if self.per == "element":
            return super().forward(x, pos, batch, graph)
        if not self.training or self.p == 0:
            return x
        return kernels.drop_feat(x, self._advance(), per="channel", scaling=self.scaling, batch=batch)


class DropPoint(Drop):
    """Drops whole points; see `dropfold.kernels.noise.drop_point`."""

    level = "point"


class DropCluster(Drop):
    """Drops points with their neighbourhood; see `dropfold.kernels.noise.drop_cluster`.

    Args:
        p: drop probability of a point.
        k: points in a neighbourhood; at most as many as the smallest cloud of the batch has.
        reading: "gather" (a point is dropped with its neighbours) or "scatter" (a seed drops its neighbours).
        space: where neighbours are found: "coordinates", "features", or "graph", the network's own neighbour lists.
        radius: neighbours farther away than this are left out (a ball of at most k points), in units of the space.
    """

    level = "cluster"

    def __init__(
        self,
        p: float,
        k: int = 32,
        *,
        reading: Reading = "gather",
        space: Literal["coordinates", "features", "graph"] = "coordinates",
        radius: float | None = None,
        **options: object,
    ) -> None:
        super().__init__(p, **options)  # type: ignore[arg-type]
        check("cluster", p, self.scaling, reading)
        if k < 1:
            raise ValueError(f"k, the points of a cluster, must be at least 1; got {k}.")
        if space not in ("coordinates", "features", "graph"):
            raise ValueError(f"space must be 'coordinates', 'features' or 'graph'; got {space!r}.")
        self.k, self.reading, self.space, self.radius = k, reading, space, radius

    def draw(
        self, pos: Tensor, features: Tensor, batch: Tensor | None = None, graph: Tensor | None = None
    ) -> Noise | None:
        noise = super().draw(pos, features, batch, graph)
        if noise is None:
            return None
        noise = noise._replace(reading=self.reading)
        if noise.neighbours is not None:
            return noise
        points = pos if self.space == "coordinates" else features
        return keep_by_nearest(noise, *to_rows(points, batch), min(self.k, smallest_cloud(points, batch)))

    @torch.no_grad()
    def _neighbours(
        self, pos: Tensor, features: Tensor, batch: Tensor | None, graph: Tensor | None
    ) -> Tensor | None:
        """Row numbers [M, k] of the nearest points; with a radius [M, 1 + k], the point itself first.

        None where what falls is found without lists.
        """
        if self.space == "graph":
            if graph is None:
                raise ValueError(
                    "DropCluster(space='graph') reuses the network's neighbour lists, and this layer has none; "
                    "use space='coordinates' or 'features'."
                )
            return global_idx(graph)
        if self.fused and self.reading == "gather" and self.radius is None:
            return None
        points = pos if self.space == "coordinates" else features
        idx = global_idx(kernels.knn(points, min(self.k, smallest_cloud(points, batch)), batch=batch))
        if self.radius is None:
            return idx
        rows = points.flatten(0, -2).float()
        far = (rows[idx] - rows[:, None]).square().sum(-1) > self.radius**2
        own = torch.arange(idx.shape[0], device=idx.device)[:, None]
        # Points outside the ball are replaced by the first entry.
        return torch.cat([own, torch.where(far, own, idx)], 1)

    def extra_repr(self) -> str:
        ball = "" if self.radius is None else f", radius={self.radius}"
        return f"{super().extra_repr()}, k={self.k}, reading={self.reading}, space={self.space}{ball}"


def smallest_cloud(points: Tensor, batch: Tensor | None) -> int:
    """Points in the smallest cloud of a batch."""
    sizes = None if batch is None else torch.bincount(batch, minlength=1)
    least = points.shape[-2] if sizes is None else int(sizes.min())
    if not least:
        empty = 0 if sizes is None else int(sizes.argmin())
        raise ValueError(f"cloud {empty} of the batch has no points; clusters need some in each.")
    return least


def place_noise(
    noise: nn.Module | Mapping[str, nn.Module] | None, layers: Iterable[str], recommended: str, network: str
) -> nn.ModuleDict:
    """Noise by layer name: a single module goes to the recommended position; unknown names are refused."""
    if noise is None:
        return nn.ModuleDict()
    if isinstance(noise, nn.Module) and not isinstance(noise, nn.ModuleDict):
        noise = {recommended: noise}
    layers = list(layers)
    for name in noise:
        if name not in layers:
            raise ValueError(
                f"{network} has no layer {name!r} for noise; its layers are {', '.join(layers)}."
            )
    return nn.ModuleDict(dict(noise))


def draw(
    noise: nn.ModuleDict,
    layer: str,
    pos: Tensor,
    features: Tensor,
    batch: Tensor | None,
    graph: Tensor | None = None,
) -> Noise | None:
    """One draw of the noise at `layer`, None where it has none."""
    if layer not in noise:
        return None
    module = noise[layer]
    if not isinstance(module, Drop):
        raise ValueError(
            f"noise at {layer!r} must be a DropFeat, DropPoint or DropCluster; got {type(module).__name__}."
        )
    return module.draw(pos, features, batch, graph)


def needs_reestimation(model: nn.Module) -> bool:
    """Whether a BatchNorm of `model` has seen noisy points in training, so that its running statistics are theirs.

    After noise inside a last pool over the cloud only the head has BatchNorms, and they see pooled features, whose size
    noise does not change. A network whose "pool" is over parts of the cloud has `pool_is_global = False`.
    """
    noise = getattr(model, "noise", None) or {}
    whole = getattr(model, "pool_is_global", True)
    return any((name != "pool" or not whole) and module.p > 0 for name, module in noise.items())


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module, batches: Iterable[Any], run: Callable[..., object] | None = None
) -> None:
    """Set every BatchNorm's running statistics to the plain mean over `batches`, with noise and dropout off.

    Noise before a BatchNorm shifts its running statistics away from those of clean values (variance shift, Li et al.
    2019), and the network fails in evaluation although it learnt well. Re-estimation repairs this; weights do not change.
    """
    run = model if run is None else run
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    modes = {module: module.training for module in model.modules()}
    model.train()
    for module in model.modules():
        if isinstance(module, Drop | nn.Dropout):
            module.eval()
    try:
        for i, batch in enumerate(batches):
            for norm in norms:
                norm.momentum = 1 / (i + 1)
            run(batch)
    finally:
        for norm, momentum in zip(norms, before):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training
