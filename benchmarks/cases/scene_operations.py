"""Sampling, grouping and interpolation of points beside scipy's k-d tree, eager PyTorch, torch-cluster and yanx27's.

As in cloud_operations.py each function makes the step of one provider. "kd-tree" builds scipy's tree and makes
the same result from what it finds; "eager" makes all distances. Clouds are drawn from spheres of radius 1; a scene is the
walls, floor and ceiling of a room of 6 by 5 by 3 metres, its points some centimetres apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cases.cloud_operations import compare
from benchmarks.cases.limits import GEMMS, ONEDNN
from benchmarks.cases.peers import load_module
from benchmarks.harness import Case
from dropfold import kernels
from dropfold.kernels import Groups
from dropfold.models.clouds.pointnet2 import Level, Points, Scale, SetAbstraction

Step = Callable[[], Any]
WIDTHS = (64, 64, 128)  # of the first level of PointNet++ (SSG)
SAME = 1e-4  # of the spread of interpolated features: yanx27's product form rounds distances that are near 0


class Size(NamedTuple):
    """`clouds` of `points`, of which `samples` are sampled; balls of `radius` with at most `k`; interpolated `channels`."""

    clouds: int
    points: int
    samples: int
    radius: float
    k: int
    channels: int
    scene: bool = False

    def __str__(self) -> str:
        return f"B{self.clouds}-N{self.points}-S{self.samples}"


def points(size: Size, device: str) -> Tensor:
    """The same [B, N, 3] for each provider."""
    generator = torch.Generator().manual_seed(0)
    if not size.scene:
        x = torch.randn(size.clouds, size.points, 3, generator=generator)
        return (x / x.norm(dim=-1, keepdim=True)).to(device)
    room = torch.tensor([6.0, 5.0, 3.0])
    x = torch.rand(size.clouds, size.points, 3, generator=generator) * room
    wall = torch.randint(6, (size.clouds, size.points, 1), generator=generator)
    x.scatter_(2, wall // 2, wall % 2 * room[wall // 2])
    return x.to(device)


def centres(size: Size, device: str) -> tuple[Tensor, Tensor]:
    """Points, and their farthest points [B, S, 3]."""
    x = points(size, device)
    return x, gathered(x, kernels.farthest_point_sample(x, size.samples))


def gathered(x: Tensor, idx: Tensor) -> Tensor:
    return x.gather(1, idx[..., None].expand(-1, -1, x.shape[-1]))


def rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """PyG's form."""
    return x.flatten(0, 1), torch.arange(x.shape[0], device=x.device).repeat_interleave(x.shape[1])


def functions(checkout: Path) -> Any:
    return load_module(checkout, "models/pointnet2_utils.py")


def farthest_point_sample(provider: str, size: Size, device: str, checkout: Path | None) -> Step:
    """int64 [B, S]; from torch-cluster [B * S]. yanx27's first point is drawn."""
    x = points(size, device)
    if provider == "dropfold":
        return lambda: kernels.farthest_point_sample(x, size.samples)
    if provider == "yanx27":
        assert checkout is not None
        sample = functions(checkout).farthest_point_sample
        return lambda: sample(x, size.samples)
    if provider == "torch-cluster":
        from torch_cluster import fps

        flat, batch = rows(x)
        ratio = size.samples / size.points
        return lambda: fps(flat, batch, ratio=ratio, random_start=False, batch_size=size.clouds)

    def eager() -> Tensor:
        found = torch.zeros(size.clouds, size.samples, dtype=torch.int64, device=device)
        least = x.new_full((size.clouds, size.points), torch.inf)
        for t in range(1, size.samples):
            least = torch.minimum(least, (x - gathered(x, found[:, t - 1 : t])).square().sum(-1))
            found[:, t] = least.argmax(1)
        return found

    return eager


def ball_query(provider: str, size: Size, device: str, checkout: Path | None) -> Step:
    """Groups; from eager PyTorch and yanx27 the padded form, from torch-cluster edges."""
    (x, middles), radius, k = centres(size, device), size.radius, size.k
    if provider == "dropfold":
        return lambda: kernels.ball_query(x, middles, radius, k)
    if provider == "kd-tree":
        return lambda: _balls_of_tree(x.numpy(), middles.numpy(), radius, k)
    if provider == "yanx27":
        assert checkout is not None
        query = functions(checkout).query_ball_point
        return lambda: query(radius, k, x, middles)
    if provider == "torch-cluster":
        from torch_cluster import radius as within

        (flat, batch), (queries, of_query) = rows(x), rows(middles)
        return lambda: within(flat, queries, radius, batch, of_query, k, batch_size=size.clouds)

    def eager() -> Tensor:
        far = torch.cdist(middles, x) > radius
        numbers = torch.arange(size.points, device=device).expand(far.shape).masked_fill(far, size.points)
        idx = numbers.topk(min(k, size.points), largest=False).values
        return torch.where(idx == size.points, idx[..., :1], idx)

    return eager


def _balls_of_tree(x: Any, middles: Any, radius: float, k: int) -> Groups:
    """Groups like ours; every ball here holds its centre."""
    from scipy.spatial import cKDTree

    lists: list[Any] = []
    for b, (cloud, own) in enumerate(zip(x, middles)):
        found = cKDTree(cloud).query_ball_point(
            own, radius, workers=torch.get_num_threads(), return_sorted=True
        )
        lists += [np.array(one[:k]) + b * len(cloud) for one in found]
    size = np.array([len(one) for one in lists])
    ptr = np.concatenate([[0], size.cumsum()])
    count = np.ones(ptr[-1], np.int64)
    count[ptr[:-1]] += k - size
    return Groups(*(torch.from_numpy(a) for a in (ptr, np.concatenate(lists), count)))


def three_nn_interpolate(provider: str, size: Size, device: str, checkout: Path | None) -> Step:
    """[B, N, C] from S points of each cloud; forward, and backward to the features."""
    x, pos = centres(size, device)
    generator = torch.Generator().manual_seed(1)
    shape = (size.clouds, size.samples, size.channels)
    features = torch.randn(shape, generator=generator).to(device).requires_grad_()
    dout = torch.randn((size.clouds, size.points, size.channels), generator=generator).to(device)

    def weighted(d: Tensor, idx: Tensor) -> Tensor:
        weight = 1 / (d + 1e-8)
        weight = weight / weight.sum(-1, keepdim=True)
        cloud = torch.arange(size.clouds, device=device)[:, None, None]
        return (features[cloud, idx] * weight[..., None]).sum(2)

    def eager() -> Tensor:
        d, idx = torch.cdist(x, pos).square().topk(3, largest=False)
        return weighted(d, idx)

    def of_tree() -> Tensor:
        from scipy.spatial import cKDTree

        pairs = [
            cKDTree(own).query(cloud, 3, workers=torch.get_num_threads())
            for own, cloud in zip(pos.numpy(), x.numpy())
        ]
        d, idx = (torch.from_numpy(np.stack(both)) for both in zip(*pairs))
        return weighted(d.float().square(), idx)

    forward: Step = lambda: kernels.three_nn_interpolate(features, pos, x)  # noqa: E731
    if provider == "yanx27":
        assert checkout is not None
        layer = functions(checkout).PointNetFeaturePropagation(0, [])
        points_first, samples_first = x.transpose(1, 2), pos.transpose(1, 2)
        forward = lambda: layer(points_first, samples_first, None, features.transpose(1, 2)).transpose(1, 2)  # noqa: E731
    elif provider != "dropfold":
        forward = of_tree if provider == "kd-tree" else eager

    def step() -> tuple[Tensor, ...]:
        out = forward()
        return out.detach(), *torch.autograd.grad(out, features, dout)

    return step


def set_abstraction(provider: str, size: Size, device: str, checkout: Path | None) -> Step:
    """A level of PointNet++ in training, [B, S, 128] of points without features: samples, balls, three layers and the max;
    forward, and backward to the weights. Eager PyTorch and yanx27 make padded groups and all layers of them."""
    x, middles = centres(size, device)
    torch.manual_seed(0)
    layer: Any = SetAbstraction(0, Level(size.samples, (Scale(size.radius, size.k, WIDTHS),)))
    sample, query = (make("eager", size, device, None) for make in (farthest_point_sample, ball_query))
    cloud = torch.arange(size.clouds, device=device)[:, None, None]

    def eager() -> Tensor:
        sample()  # the same as `middles`
        z = (x[cloud, query()] - middles[:, :, None]).flatten(0, 2)
        for of in layer.scales[0].layers:
            norm = of.norm
            z = nn.functional.linear(z, of.linear.weight, of.linear.bias)
            z = nn.functional.batch_norm(
                z, None, None, norm.weight, norm.bias, training=True, eps=norm.eps
            ).relu()
        return z.view(size.clouds, size.samples, size.k, -1).amax(2)

    def ours() -> Tensor:
        return layer(Points(x, None, None, size.clouds)).features.view(size.clouds, size.samples, -1)

    forward: Step = ours if provider == "dropfold" else eager
    if provider == "yanx27":
        assert checkout is not None
        module = functions(checkout).PointNetSetAbstraction
        layer = module(size.samples, size.radius, size.k, 3, list(WIDTHS), False)
        forward = lambda: layer(x.transpose(1, 2), None)[1].transpose(1, 2)  # noqa: E731
    layer.to(device)
    with torch.no_grad():
        dout = torch.randn(forward().shape, generator=torch.Generator().manual_seed(1)).to(device)

    def step() -> tuple[Tensor, ...]:
        out = forward()
        return out.detach(), *torch.autograd.grad(out, list(layer.parameters()), dout)

    return step


OPERATIONS = {
    "farthest_point_sample": farthest_point_sample,
    "ball_query": ball_query,
    "three_nn_interpolate_fwd_bwd": three_nn_interpolate,
    "set_abstraction_fwd_bwd": set_abstraction,
}


def cases(operation: str, size: Size, device: str, checkout: Path | None) -> list[Case]:
    """One operation at one size. What would make all distances of a scene is left out of it."""
    searched = operation in ("ball_query", "three_nn_interpolate_fwd_bwd")
    tree = ("kd-tree",) if device == "cpu" and searched else ()
    others = ("torch-cluster",) if not operation.endswith("_fwd_bwd") else ()
    peer = ("yanx27",) if checkout else ()
    padded = ("eager", *peer) if not size.scene else ()
    shape = str(size)
    if operation in ("ball_query", "set_abstraction_fwd_bwd"):
        shape += f"-r{size.radius}-k{size.k}"
    elif operation != "farthest_point_sample":
        shape += f"-C{size.channels}"
    arguments = (size, device, checkout)
    providers = ("dropfold", *tree, *others, *padded)
    least = bytes_least(operation, size, device)
    found = compare(OPERATIONS[operation], arguments, providers, operation, shape, "float32", least, device)
    if operation != "set_abstraction_fwd_bwd":
        return found
    # Of its products only that of the first layer is seen outside its operators: no limit.
    return [replace(case, flops_least=None) for case in found if case.provider not in (GEMMS, ONEDNN)]


def bytes_least(operation: str, size: Size, device: str) -> int:
    """Positions in, the result out; features and the gradient of the result in, and theirs out; no weights."""
    both = 12 * size.clouds * (size.points + size.samples)
    if operation == "farthest_point_sample":
        return 12 * size.clouds * size.points + 8 * size.clouds * size.samples
    if operation == "ball_query":
        groups = ball_query("dropfold", size, device, None)()
        return both + 8 * sum(part.numel() for part in groups)
    if operation == "set_abstraction_fwd_bwd":
        return both + 2 * 4 * size.clouds * size.samples * WIDTHS[-1]
    return both + 2 * 4 * size.clouds * (size.points + size.samples) * size.channels


def all_cases(sizes: tuple[Size, ...], device: str, checkout: Path | None) -> Iterator[list[Case]]:
    for operation in OPERATIONS:
        for size in sizes:
            yield cases(operation, size, device, checkout)


def distance(checkout: Path) -> float:
    """How far yanx27's results are from ours on small clouds: 0 for points chosen, else of interpolated features.

    Its distances are rounded otherwise, so farthest points and balls are of a lattice, where both are exact.
    """
    module, generator = functions(checkout), torch.Generator().manual_seed(0)
    x = torch.randint(-8, 9, (2, 300, 3), generator=generator) / 4.0
    first = torch.zeros(2, dtype=torch.int64)
    with mock.patch.object(torch, "randint", return_value=first):
        sampled = module.farthest_point_sample(x, 60)
    if not torch.equal(sampled, kernels.farthest_point_sample(x, 60)):
        return torch.inf
    padded = kernels.ball_query(x, x[:, :50].contiguous(), 0.75, 16).padded(16).view(2, 50, 16)
    theirs = module.query_ball_point(0.75, 16, x, x[:, :50])
    if not torch.equal(theirs + 300 * torch.arange(2)[:, None, None], padded):
        return torch.inf
    size = Size(2, 200, 40, 0.2, 16, 5)
    both = (three_nn_interpolate(name, size, "cpu", checkout)() for name in ("dropfold", "yanx27"))
    return max(float((ours - theirs).abs().max() / ours.std()) for ours, theirs in zip(*both))


CPU = (
    Size(8, 1024, 512, 0.2, 32, 128),
    Size(4, 4096, 1024, 0.1, 32, 128),
    Size(1, 100_000, 4096, 0.1, 32, 64, True),
    Size(1, 1_000_000, 16_384, 0.1, 32, 64, True),
)
QUICK = (Size(2, 256, 64, 0.2, 8, 16), Size(1, 4096, 256, 0.2, 16, 16, True))
GPU = (
    Size(32, 1024, 512, 0.2, 32, 128),
    Size(4, 4096, 1024, 0.1, 32, 128),
    Size(1, 100_000, 4096, 0.1, 32, 64, True),
)
SMALL = (Size(2, 16, 4, 0.5, 4, 8),)
