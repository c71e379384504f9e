"""The operations on point clouds beside what does the same in PyTorch and in PyG, on the same data with the same weights.

Each function makes the step of one provider: it returns the step's result, and makes and drops its gradients if there
are any. "eager" is the textbook form in PyTorch; "eager compiled" is that through torch.compile, "dropfold graph" one
replayed CUDA graph. What PyG needs of pyg-lib or torch-cluster is left out where they are not installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import limits
from benchmarks.harness import Case, replayed
from dropfold import kernels
from dropfold.kernels import BatchNorm

Step = Callable[[], Any]


def knn(provider: str, clouds: int, points: int, channels: int, k: int, device: str) -> Step:
    """int64 [B, N, k] or, from PyG and torch-cluster, its edges; torch.cdist + topk makes all distances."""
    x = _randn(clouds, points, channels, device=device)
    if provider == "dropfold":
        return lambda: kernels.knn(x, k)
    if provider == "cdist + topk":
        return lambda: torch.cdist(x, x).topk(k, largest=False).indices
    if provider == "kd-tree":
        from scipy.spatial import cKDTree

        return lambda: [
            cKDTree(cloud).query(cloud, k, workers=torch.get_num_threads())[1] for cloud in x.numpy()
        ]
    rows = x.flatten(0, 1)
    batch = torch.arange(clouds, device=device).repeat_interleave(points)
    if provider == "torch-cluster":
        from torch_cluster import knn as nearest

        return lambda: nearest(rows, rows, k, batch, batch, batch_size=clouds)
    from torch_geometric.nn import knn as nearest

    return lambda: nearest(rows, rows, k, batch, batch, batch_size=clouds)


def edge_conv(
    provider: str, clouds: int, points: int, channels: int, k: int, dtype: str, device: str
) -> Step:
    """One EdgeConv layer in training, C to 64 channels, forward and backward."""
    x = _randn(clouds, points, channels, device=device).requires_grad_()
    weight = _randn(64, 2 * channels, device=device).requires_grad_()
    norm = _batch_norm(64, device)
    idx = kernels.knn(x.detach(), k)
    start = points * torch.arange(clouds, device=device)[:, None, None]
    rows = (idx + start).flatten()

    def ours() -> Any:
        return kernels.edge_conv(x, idx, weight, None, norm)

    def eager() -> Tensor:
        neighbours = x.flatten(0, 1)[rows].view(clouds, points, k, channels)
        centre = x[:, :, None].expand_as(neighbours)
        edges = nn.functional.linear(torch.cat([neighbours - centre, centre], -1), weight)
        normed = _normalised(edges.flatten(0, 2), norm)
        return nn.functional.leaky_relu(normed.view_as(edges), 0.2).amax(2)

    if provider == "pyg":
        conv, linear = _pyg_edge_conv(weight, device)
        edges = torch.stack([rows, torch.arange(clouds * points, device=device).repeat_interleave(k)])

        def of_pyg() -> Tensor:
            return conv(x.flatten(0, 1), edges).view(clouds, points, 64)

        return _forward_backward(of_pyg, "pyg", dtype, device, x, linear.weight)
    return _forward_backward(ours if "dropfold" in provider else eager, provider, dtype, device, x, weight)


def _pyg_edge_conv(weight: Tensor, device: str) -> tuple[Any, nn.Linear]:
    """PyG's layer, which acts on [x_i ; x_j - x_i]: the halves of the weight change places."""
    from torch_geometric.nn import EdgeConv

    width, twice = weight.shape
    linear = nn.Linear(twice, width, bias=False)
    conv = EdgeConv(nn.Sequential(linear, nn.BatchNorm1d(width), nn.LeakyReLU(0.2))).to(device)
    with torch.no_grad():
        linear.weight.copy_(torch.cat([weight[:, twice // 2 :], weight[:, : twice // 2]], 1))
    return conv, linear


def group_mlp_max(
    provider: str, clouds: int, points: int, channels: int, k: int, dtype: str, device: str
) -> Step:
    """An EdgeConv of two layers in training, C to 64 to 64 channels, forward and backward."""
    x = _randn(clouds, points, channels, device=device).requires_grad_()
    first, second = (_randn(64, c, device=device).requires_grad_() for c in (2 * channels, 64))
    norms = [_batch_norm(64, device) for _ in range(2)]
    start = points * torch.arange(clouds, device=device)[:, None, None]
    rows = (kernels.knn(x.detach(), k) + start).flatten()
    groups = kernels.Groups(torch.arange(clouds * points + 1, device=device) * k, rows)

    def ours() -> Any:
        near, central = first.split(channels, 1)
        flat = x.flatten(0, 1)
        q, p = kernels.linear(flat, near), kernels.linear(flat, central - near)
        return kernels.group_mlp_max(q, p, groups, [second], norms, negative_slope=0.2)

    def eager() -> Tensor:
        flat = x.flatten(0, 1)
        central = flat[:, None].expand(-1, k, -1)
        z = torch.cat([flat[rows].view_as(central) - central, central], -1).flatten(0, 1)
        for weight, norm in zip((first, second), norms, strict=True):
            z = nn.functional.leaky_relu(_normalised(nn.functional.linear(z, weight), norm), 0.2)
        return z.view(-1, k, 64).amax(1)

    return _forward_backward(
        ours if "dropfold" in provider else eager, provider, dtype, device, x, first, second
    )


def linear_norm_max(provider: str, clouds: int, points: int, channels: int, dtype: str, device: str) -> Step:
    """C to 8 C channels (PointNet: 128 to 1,024), BatchNorm, ReLU, max over points, in training, forward and backward."""
    x = _randn(clouds, points, channels, device=device).requires_grad_()
    weight = _randn(8 * channels, channels, device=device).requires_grad_()
    norm = _batch_norm(8 * channels, device)

    def ours() -> Any:
        return kernels.linear_norm_max(x, weight, None, norm)

    def eager() -> Tensor:
        y = nn.functional.linear(x, weight)
        return _normalised(y.flatten(0, 1), norm).view_as(y).relu().amax(1)

    return _forward_backward(ours if "dropfold" in provider else eager, provider, dtype, device, x, weight)


def noise(
    provider: str, operation: str, clouds: int, points: int, channels: int, dtype: str, device: str
) -> Step:
    """One noise of rate 0.3 forward and backward; eager is nn.Dropout for features, else a mask that is drawn and stored."""
    p = 0.3
    x = _randn(clouds, points, channels, device=device).to(getattr(torch, dtype)).requires_grad_()
    seed = torch.tensor(1, device=device)
    k = min(16, points)
    neighbours = torch.randint(points, (clouds, points, k), device=device)
    cloud = torch.arange(clouds, device=device)[:, None, None]

    def ours() -> Any:
        if operation == "drop_cluster":
            return kernels.drop_cluster(x, p, neighbours, seed=seed)
        return getattr(kernels, operation)(x, p, seed=seed)

    def eager() -> Tensor:
        if operation == "drop_feat":
            return nn.functional.dropout(x, p)
        # Each of a cluster's k centres is drawn so rarely that a point falls with p.
        keeps = torch.rand(clouds, points, device=device) < (
            (1 - p) ** (1 / k) if operation == "drop_cluster" else 1 - p
        )
        if operation == "drop_cluster":
            keeps = keeps[cloud, neighbours].all(-1)
        return x * keeps[..., None] * (1 / (1 - p))

    return _forward_backward(ours if "dropfold" in provider else eager, provider, "float32", device, x)


def _forward_backward(forward: Step, provider: str, dtype: str, device: str, *leaves: Tensor) -> Step:
    """The step of one provider: forward, under autocast if dtype is not float32, and backward of a fixed gradient."""
    amp = {
        "device_type": torch.device(device).type,
        "dtype": getattr(torch, dtype),
        "enabled": dtype != "float32",
    }
    run = torch.compile(forward) if provider.endswith(" compiled") else forward
    with torch.no_grad(), torch.autocast(**amp):
        dout = torch.randn_like(forward())

    def step() -> Tensor:
        with torch.autocast(**amp):
            y = run()
        y.backward(dout)
        for leaf in leaves:
            leaf.grad = None
        return y.detach()

    return replayed(step) if provider.endswith(" graph") else step


def _randn(*size: int, device: str) -> Tensor:
    """The same numbers for each provider and device; points and weights differ by their size."""
    return torch.randn(size, generator=torch.Generator().manual_seed(0)).to(device)


def _batch_norm(channels: int, device: str) -> BatchNorm:
    gamma, beta, mean, var = (f(channels, device=device) for f in (torch.ones, torch.zeros) * 2)
    return BatchNorm(gamma, beta, mean, var, training=True)


def _normalised(rows: Tensor, norm: BatchNorm) -> Tensor:
    return nn.functional.batch_norm(rows, norm.mean, norm.var, norm.gamma, norm.beta, training=True)


# --- comparisons -------------------------------------------------------------------------------------------------


def installed(provider: str) -> bool:
    """Whether the package that a provider needs is installed."""
    needs = {"pyg": "torch_geometric", "pyg + pyg-lib": "pyg_lib", "torch-cluster": "torch_cluster"}
    return provider not in needs or importlib.util.find_spec(needs[provider]) is not None


def compare(
    make: Callable[..., Step], arguments: tuple[Any, ...], providers: tuple[str, ...],
    operation: str, shape: str, dtype: str, least: int, device: str,
) -> list[Case]:  # fmt: skip
    """One comparison: `make(provider, *arguments)` of the providers that are installed, ours first, and the limits."""
    cases = [
        Case(operation, name, shape, dtype, partial(make, name, *arguments))
        for name in providers
        if installed(name)
    ]
    step = cases[0].make()
    step()
    return limits.with_limits(cases, least, device, step)


def knn_cases(clouds: int, points: int, channels: int, k: int, device: str) -> list[Case]:
    """Bytes: x in, indices out."""
    tree = ("kd-tree",) if channels == 3 and device == "cpu" else ()
    providers = ("dropfold", "cdist + topk", *tree, "pyg + pyg-lib", "torch-cluster")
    shape = f"B{clouds}-N{points}-C{channels}-k{k}"
    least = clouds * points * (4 * channels + 8 * k)
    arguments = (clouds, points, channels, k, device)
    return compare(knn, arguments, providers, "knn", shape, "float32", least, device)


def edge_conv_cases(
    clouds: int, points: int, channels: int, k: int, dtype: str, device: str, more: tuple[str, ...] = ()
) -> list[Case]:
    """Bytes: x and idx in, the result out; then they and its gradient in, that of x out."""
    shape = f"B{clouds}-N{points}-C{channels}-k{k}"
    result = 64 * getattr(torch, dtype).itemsize
    least = clouds * points * (2 * 8 * k + 3 * 4 * channels + 2 * result)
    arguments = (clouds, points, channels, k, dtype, device)
    providers = ("dropfold", "pyg", "eager", *more)
    return compare(edge_conv, arguments, providers, "edge_conv_fwd_bwd", shape, dtype, least, device)


def group_mlp_max_cases(
    clouds: int, points: int, channels: int, k: int, dtype: str, device: str, more: tuple[str, ...] = ()
) -> list[Case]:
    """Bytes: x and idx in, the result out; then they and its gradient in, that of x out."""
    shape = f"B{clouds}-N{points}-C{channels}-k{k}"
    result = 64 * getattr(torch, dtype).itemsize
    least = clouds * points * (2 * 8 * k + 3 * 4 * channels + 2 * result)
    arguments = (clouds, points, channels, k, dtype, device)
    providers = ("dropfold", "eager", *more)
    return compare(group_mlp_max, arguments, providers, "group_mlp_max_fwd_bwd", shape, dtype, least, device)


def linear_norm_max_cases(
    clouds: int, points: int, channels: int, dtype: str, device: str, more: tuple[str, ...] = ()
) -> list[Case]:
    """Bytes: x in; then x in and its gradient out; the weight twice in, and its gradient."""
    shape = f"B{clouds}-N{points}-C{channels}-to{8 * channels}"
    least = 4 * 3 * channels * (clouds * points + 8 * channels)
    arguments = (clouds, points, channels, dtype, device)
    providers = ("dropfold", "eager", *more)
    return compare(
        linear_norm_max, arguments, providers, "linear_norm_max_fwd_bwd", shape, dtype, least, device
    )


def noise_cases(
    operation: str, clouds: int, points: int, channels: int, dtype: str, device: str
) -> list[Case]:
    """Bytes: x in and out, its gradient in and out; drop_cluster's neighbours both times."""
    shape = f"B{clouds}-N{points}-C{channels}"
    neighbours = 8 * min(16, points) if operation == "drop_cluster" else 0
    least = clouds * points * (4 * channels * getattr(torch, dtype).itemsize + 2 * neighbours)
    arguments = (operation, clouds, points, channels, dtype, device)
    return compare(
        noise, arguments, ("dropfold", "eager"), f"{operation}_fwd_bwd", shape, dtype, least, device
    )
