"""NAT++'s thirteen operations (Guo et al. 2021; guoyongcs/NATv2, commit e50c9ec), each in a convolution's place.

From x [B, C, H, W] to [B, C', H / s, W / s], rounded up, s the convolution's stride; multiply-adds of an output position:

| name | what | multiply-adds |
|---|---|---|
| conv_1x1, conv_3x3, conv_5x5 | a convolution of k x k | k^2 C C' |
| sep_conv_3x3, sep_conv_5x5 | twice: a filter a channel, then 1 x 1; BatchNorm, ReLU between | 2 k^2 C + C^2 + C C' |
| dil_conv_3x3, dil_conv_5x5 | one k x k filter a channel, every other position, then 1 x 1 | k^2 C + C C' |
| max_pool_3x3, max_pool_5x5, avg_pool_3x3, avg_pool_5x5 | a pool of k x k; a mean is over the positions that are there | 0 |
| skip_connect | every s-th row and column | 0 |
| null | zeros | 0 |

Where a pool or a skip has another number of channels than the convolution, they are fitted as the shortcuts of a ResNet
without parameters (option A): zeros for half of the channels that are missing on either side, or the first C'. A
convolution's bias stays with what is a linear map; pools, skips and zeros have none. ReLUs and BatchNorms around a
convolution are the network's own and stay (in the authors' cells they are inside).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dropfold.models.operations.names import unknown

OPERATIONS = (
    "max_pool_3x3", "max_pool_5x5", "avg_pool_3x3", "avg_pool_5x5", "skip_connect", "sep_conv_3x3", "sep_conv_5x5",
    "dil_conv_3x3", "dil_conv_5x5", "conv_1x1", "conv_3x3", "conv_5x5", "null",
)  # fmt: skip
KERNELS = (1, 3, 5)
DILATION = 2


def split_name(name: str) -> tuple[str, int]:
    """("sep_conv", 3) of "sep_conv_3x3", ("null", 1) of "null".

    Raises:
        ValueError: no such operation; the nearest names.
    """
    if name not in OPERATIONS:
        raise ValueError(unknown("operation", name, OPERATIONS))
    kind, _, size = name.rpartition("_")
    return (kind, int(size[0])) if size[0].isdigit() else (name, 1)


def operation_of(module: nn.Module) -> str | None:
    """The name of a convolution that others can stand in for; None: it is none, or has a form that has no name here."""
    if type(module) is not nn.Conv2d:
        return None
    k, s = module.kernel_size[0], module.stride[0]
    plain = k in KERNELS and module.kernel_size == (k, k) and module.stride == (s, s) and module.groups == 1
    padded = module.padding in ((k // 2, k // 2), "same") and module.padding_mode == "zeros"
    return f"conv_{k}x{k}" if plain and padded and module.dilation == (1, 1) else None


def make_operation(name: str, conv: nn.Conv2d) -> nn.Module:
    """The operation in the place of `conv`: itself, if that is what it does, or a module with weights of its own.

    Raises:
        ValueError: no such operation.
    """
    if name == operation_of(conv):
        return conv
    kind, k = split_name(name)
    stride = conv.stride[0]
    options: dict[str, Any] = {"device": conv.weight.device, "dtype": conv.weight.dtype}
    widths, bias = (conv.in_channels, conv.out_channels), conv.bias is not None
    if kind == "conv":
        return nn.Conv2d(*widths, k, stride, padding=k // 2, bias=bias, **options)
    if kind == "sep_conv":
        return Separable(*widths, k, stride, bias=bias, **options)
    if kind == "dil_conv":
        return Dilated(*widths, k, stride, bias=bias, **options)
    if kind in ("max_pool", "avg_pool"):
        return Pool(kind, k, stride, conv.out_channels)
    return Skip(stride, conv.out_channels) if kind == "skip_connect" else Null(stride, conv.out_channels)


def depthwise(channels: int, k: int, stride: int = 1, dilation: int = 1, **options: Any) -> nn.Conv2d:
    """One k x k filter a channel."""
    padding = dilation * (k // 2)
    return nn.Conv2d(channels, channels, k, stride, padding, dilation, groups=channels, bias=False, **options)


class Separable(nn.Sequential):
    """depthwise k x k -> 1 x 1 -> BatchNorm -> ReLU -> depthwise k x k -> 1 x 1."""

    def __init__(
        self, in_channels: int, out_channels: int, k: int, stride: int, *, bias: bool = False, **options: Any
    ) -> None:
        super().__init__(
            depthwise(in_channels, k, stride, **options),
            nn.Conv2d(in_channels, in_channels, 1, bias=False, **options),
            nn.BatchNorm2d(in_channels, **options),
            nn.ReLU(),
            depthwise(in_channels, k, **options),
            nn.Conv2d(in_channels, out_channels, 1, bias=bias, **options),
        )


class Dilated(nn.Sequential):
    """depthwise k x k with a dilation of 2 -> 1 x 1."""

    def __init__(
        self, in_channels: int, out_channels: int, k: int, stride: int, *, bias: bool = False, **options: Any
    ) -> None:
        super().__init__(
            depthwise(in_channels, k, stride, DILATION, **options),
            nn.Conv2d(in_channels, out_channels, 1, bias=bias, **options),
        )


class Pool(nn.Module):
    """The largest ("max_pool") or the mean ("avg_pool") of k x k positions, those beside the image left out."""

    def __init__(self, kind: str, k: int, stride: int, out_channels: int) -> None:
        super().__init__()
        size = k, stride, k // 2
        self.pool = (
            nn.MaxPool2d(*size) if kind == "max_pool" else nn.AvgPool2d(*size, count_include_pad=False)
        )
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        return fit_channels(self.pool(x), self.out_channels)


class Skip(nn.Module):
    """Every `stride`-th row and column of x."""

    def __init__(self, stride: int, out_channels: int) -> None:
        super().__init__()
        self.stride, self.out_channels = stride, out_channels

    def forward(self, x: Tensor) -> Tensor:
        return fit_channels(x[:, :, :: self.stride, :: self.stride], self.out_channels)

    def extra_repr(self) -> str:
        return f"stride={self.stride}, out_channels={self.out_channels}"


class Null(nn.Module):
    """Zeros."""

    def __init__(self, stride: int, out_channels: int) -> None:
        super().__init__()
        self.stride, self.out_channels = stride, out_channels

    def forward(self, x: Tensor) -> Tensor:
        height, width = (-(-size // self.stride) for size in x.shape[2:])
        return x.new_zeros(len(x), self.out_channels, height, width)

    def extra_repr(self) -> str:
        return f"stride={self.stride}, out_channels={self.out_channels}"


def fit_channels(x: Tensor, channels: int) -> Tensor:
    """x [B, C, H, W] with so many channels: the first ones, or zeros for half of the missing ones on either side."""
    missing = channels - x.shape[1]
    if missing <= 0:
        return x[:, :channels]
    before = missing // 2
    return nn.functional.pad(x, (0, 0, 0, 0, before, missing - before))


def multiply_adds(name: str, in_channels: int, out_channels: int) -> int:
    """Of an output position (see the table); ReLUs, BatchNorms and pools count nothing."""
    kind, k = split_name(name)
    c, d = in_channels, out_channels
    return {
        "conv": k * k * c * d,
        "sep_conv": 2 * k * k * c + c * c + c * d,
        "dil_conv": k * k * c + c * d,
    }.get(kind, 0)
