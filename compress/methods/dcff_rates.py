"""DCFF's published rates of removed filters (lmbxmu/DCFF, README), and the sizes of the small networks that they make.

A layer of n filters keeps int(n (1 - rate)), in floating point as published. With 10 classes at 32 x 32 the convolutions
of VGG-16 then have 72.348 M multiply-adds (published are 72.77 M, which fits with three for each output of a BatchNorm),
those of ResNet-56 55.056 M, with 384,316 parameters in all (published are 55.84 M, which fits with two for each such output,
the average and the linear layer).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dropfold.models import VGG16, ResNet
from dropfold.models.images.resnet import BasicBlock

RATES: dict[str, list[float]] = {
    "vgg16": [0.5] * 2 + [0.4] * 2 + [0.35] * 3 + [0.85] * 6,
    # The first convolution of each of the 27 blocks, and the widths of the three stages.
    "resnet56": [0.7] * 2 + [0.5] * 3 + [0.3] * 2 + [0.4, 0.8]
    + [0.7] * 2 + [0.8] * 4 + [0.4] + [0.2] * 2
    + [0.7, 0.3, 0.8] + [0.4] * 2 + [0.7, 0.3, 0.4, 0.8]
    + [0.0] * 3,
}  # fmt: skip


def sizes_at(network: nn.Module, rates: Sequence[float]) -> dict[str, list[int]]:
    """The sizes (`dropfold.models.layers.sizes`) of a `ResNet` or `VGG16` without these parts of its filters.

    Args:
        rates: of a VGG-16, one a convolution; of a ResNet, one for the first convolution of each block and three for the
            stages' widths, which must be 0: the shortcuts rely on them.

    Raises:
        ValueError: another network, another number of rates, or a rate that leaves no filter.
    """
    sizes: dict[str, list[int]] = {}
    if isinstance(network, VGG16):
        names = [f"features.{i}" for i, m in enumerate(network.features) if isinstance(m, nn.Conv2d)]
        columns = network.in_channels
        for name, rate in zip(names, _checked(rates, len(names), "convolutions"), strict=True):
            columns = _shrink(network, sizes, name, f"features.{int(name[9:]) + 1}", columns, rate)
        sizes["fc"] = [network.fc.out_features, columns]
    elif isinstance(network, ResNet):
        blocks = [name for name, module in network.named_modules() if isinstance(module, BasicBlock)]
        *first, one, two, three = _checked(rates, len(blocks) + 3, "blocks and stages")
        if one or two or three:
            raise ValueError(
                f"the stages' widths of a ResNet stay: its last three rates must be 0; got {[one, two, three]}."
            )
        for name, rate in zip(blocks, first, strict=True):
            before = network.get_submodule(f"{name}.conv1").in_channels
            width = _shrink(network, sizes, f"{name}.conv1", f"{name}.norm1", int(before), rate)  # type: ignore[arg-type]
            sizes[f"{name}.conv2"] = [int(network.get_submodule(f"{name}.conv2").out_channels), width]  # type: ignore[arg-type]
    else:
        raise ValueError(
            f"rates are published for the ResNet and VGG16 here; got a {type(network).__name__}."
        )
    return sizes


def _checked(rates: Sequence[float], count: int, what: str) -> Sequence[float]:
    if len(rates) != count or not all(0 <= rate < 1 for rate in rates):
        raise ValueError(f"give {count} rates from 0 to below 1, for the {what}; got {list(rates)}.")
    return rates


def _shrink(
    network: nn.Module, sizes: dict[str, list[int]], conv: str, norm: str, columns: int, rate: float
) -> int:
    """Enter the sizes of a convolution and its BatchNorm; returns how many filters stay."""
    filters = int(network.get_submodule(conv).out_channels)  # type: ignore[arg-type]
    kept = int(filters * (1 - rate))
    if not kept:
        raise ValueError(f"a rate of {rate:g} leaves none of the {filters} filters of {conv}.")
    sizes |= {conv: [kept, columns], norm: [kept]}
    return kept
