"""Two thin linear maps in place of a matrix: W [out, in] ~ B A with A [rank, in] and B [out, rank].

    W = U S V^T,   A = sqrt(S_r) V_r^T,   B = U_r sqrt(S_r)        (the r largest singular values; Eckart and Young 1936)

A convolution of window k is its matrix [out, in k]: a convolution to `rank` channels, then one of window 1. An EdgeConv's
W = [W_1 W_2] on [x_j - x_i ; x_i] is the matrix [W_1 ; W_2], [2 out, in]: A reads each point once, before its neighbours are
gathered, and the EdgeConv that is left has `rank` channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Halves(nn.Module):
    """The same linear map of both halves of x [.., 2 in]: to [.., 2 out]. weight [out, in]."""

    def __init__(self, in_features: int, out_features: int, **options: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = 2 * in_features, 2 * out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, **options))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As an `nn.Linear` begins."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        halves = x.unflatten(-1, (2, -1))
        return nn.functional.linear(halves, self.weight).flatten(-2)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class LowRank(nn.Sequential):
    """The two maps, one after the other; the second one has the bias."""

    @property
    def rank(self) -> int:
        """How many channels stand between them."""
        return int(self.get_parameter("0.weight").shape[0])

    @property
    def in_features(self) -> int:
        """How many channels go in."""
        return self.size[1]

    @property
    def out_features(self) -> int:
        """How many channels come out."""
        return int(self.get_parameter("1.weight").shape[0])

    @property
    def size(self) -> list[int]:
        """[channels out, channels in, rank]; of an EdgeConv the matrix as it was, [out, 2 in]."""
        down: Any = self[0]
        inputs = down.in_features if isinstance(down, Halves | nn.Linear) else down.in_channels
        return [self.out_features, int(inputs), self.rank]


def low_rank(module: nn.Module, out: int, inputs: int, rank: int, edges: bool = False) -> LowRank:
    """Two maps of these sizes with fresh weights in place of a matrix or convolution, on its device and in its type.

    Args:
        edges: whether the matrix is an EdgeConv's, on [x_j - x_i ; x_i].

    Raises:
        ValueError: the rank is larger than the matrix has, or the module is no matrix or has groups of channels.
    """
    check_rank(module, out, inputs, rank, edges)
    some: Any = module
    made = _pair(some, out, inputs, rank, edges).train(module.training)
    made[0].weight.requires_grad_(some.weight.requires_grad)
    made[1].requires_grad_(some.weight.requires_grad)
    if some.bias is not None:
        made[1].bias.requires_grad_(some.bias.requires_grad)
    return made


def _pair(some: Any, out: int, inputs: int, rank: int, edges: bool) -> Any:
    module = some
    options = {"device": some.weight.device, "dtype": some.weight.dtype}
    bias = some.bias is not None
    if isinstance(module, CONVOLUTIONS):
        kept = {key: getattr(module, key) for key in ("stride", "padding", "dilation", "padding_mode")}
        convolution: Any = type(module)
        down = convolution(inputs, rank, module.kernel_size, bias=False, **kept, **options)
        return LowRank(down, convolution(rank, out, 1, bias=bias, **options))
    if edges:
        return LowRank(Halves(inputs // 2, rank, **options), nn.Linear(2 * rank, out, bias=bias, **options))
    return LowRank(nn.Linear(inputs, rank, bias=False, **options), nn.Linear(rank, out, bias=bias, **options))


def check_rank(module: nn.Module, out: int, inputs: int, rank: int, edges: bool = False) -> None:
    """ValueError for a rank that the matrix does not have, or a module that is none."""
    if type(rank) is not int:
        raise ValueError(f"a rank is a whole number; got {rank!r}.")
    if isinstance(module, CONVOLUTIONS) and module.groups == 1:
        rows, columns = out, inputs * module.weight[0, 0].numel()
    elif isinstance(module, nn.Linear):
        rows, columns = (2 * out, inputs // 2) if edges else (out, inputs)
    else:
        raise ValueError(
            f"low rank is for nn.Linear and convolutions without groups; got {type(module).__name__}."
        )
    if not 1 <= rank <= min(rows, columns):
        raise ValueError(
            f"rank {rank} is not one of a matrix of {rows} x {columns}: from 1 to {min(rows, columns)}."
        )


def flat(weight: Tensor, edges: bool = False) -> Tensor:
    """The matrix of a weight: [out, in k] of a convolution, [2 out, in] of an EdgeConv."""
    return torch.cat(weight.chunk(2, 1)) if edges else weight.flatten(1)


def unflat(matrix: Tensor, like: Tensor, edges: bool = False) -> Tensor:
    """The weight, of the shape of `like`, of its `flat` matrix."""
    return torch.cat(matrix.chunk(2), 1) if edges else matrix.view_as(like)


def factors(weight: Tensor, rank: int, edges: bool = False) -> tuple[Tensor, Tensor]:
    """(down, up): the weights of the two maps nearest to `weight`."""
    u, s, v = torch.linalg.svd(flat(weight, edges).double(), full_matrices=False)
    root = s[:rank].sqrt()
    a, b = (root[:, None] * v[:rank]).to(weight), (u[:, :rank] * root).to(weight)
    if edges:
        return a, torch.cat(b.chunk(2), 1)
    return a.view(rank, *weight.shape[1:]), b.view(*b.shape, *[1] * (weight.dim() - 2))


def product(down: Tensor, up: Tensor, edges: bool = False) -> Tensor:
    """The weight that two maps are together."""
    if edges:
        half = down.shape[0]
        return torch.cat([up[:, :half] @ down, up[:, half:] @ down], 1)
    return (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])
