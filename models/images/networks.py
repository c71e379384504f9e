"""The networks for images by the name that a configuration has for them; torchvision's, where it is installed, among them.

Adding one means one file and one line in NETWORKS.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.kernels.backend.inputs import check_tensors
from dropfold.models.images.cells import CellNetwork
from dropfold.models.images.resnet import ResNet
from dropfold.models.images.vgg import VGG16

CELLS = {"resnet": "ResNet", "vgg": "VGG", "darts": "DARTS"}
NETWORKS: dict[str, tuple[str, Callable[..., nn.Module]]] = {
    **{f"resnet{depth}": (f"ResNet-{depth}", partial(ResNet, depth=depth)) for depth in (20, 32, 56, 110)},
    "vgg16": ("VGG-16 with BatchNorm", VGG16),
    **{
        f"cells-{plan}": (f"{title} of cells", partial(CellNetwork, plan=plan))
        for plan, title in CELLS.items()
    },
}
"""(name in print, network); each takes `num_classes`, `in_channels` and `dropout`."""
THEIRS = "torchvision:"
# What makes networks of torchvision give logits alone in training, too.
ALONE = {"aux_logits": False, "init_weights": True}
WITHOUT_AUXILIARY = {"googlenet": ALONE, "inception_v3": ALONE}


def title_of(name: str) -> str:
    """A network as it is written."""
    return NETWORKS[name][0] if name in NETWORKS else f"torchvision's {name.removeprefix(THEIRS)}"


def image_network(name: str, num_classes: int, in_channels: int = 3, dropout: float = 0.0) -> nn.Module:
    """A network for images [B, in_channels, H, W] by its name, as "resnet20" or "torchvision:resnet18", with new weights.

    Raises:
        ValueError: there is no such network, or torchvision's has another dropout than its own, or no first convolution.
        ImportError: torchvision is asked for and not installed.
    """
    if name in NETWORKS:
        return NETWORKS[name][1](num_classes=num_classes, in_channels=in_channels, dropout=dropout)
    if not name.startswith(THEIRS):
        near = difflib.get_close_matches(name, NETWORKS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"there is no network {name!r} for images.{hint} There are {', '.join(NETWORKS)}, and {THEIRS}NAME."
        )
    if dropout:
        raise ValueError(f"{name} has the dropout of its authors; dropout must be 0, got {dropout:g}.")
    network = _torchvision(name.removeprefix(THEIRS), num_classes)
    return network if in_channels == 3 else _with_channels(network, name, in_channels)


def _torchvision(name: str, num_classes: int) -> nn.Module:
    try:
        models: Any = importlib.import_module("torchvision.models")
    except ImportError:
        raise ImportError(
            f"{THEIRS}{name} needs torchvision: pip install torchvision, in the version that fits torch {torch.__version__}."
        ) from None
    known = models.list_models(module=models)  # those that classify
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or known[:3]
        raise ValueError(
            f"torchvision has no network {name!r} that classifies; the nearest are {', '.join(near)}."
        )
    return models.get_model(name, weights=None, num_classes=num_classes, **WITHOUT_AUXILIARY.get(name, {}))


def _with_channels(network: nn.Module, name: str, channels: int) -> nn.Module:
    """A network for images of three channels with a new first convolution, for another number of them: its weights are drawn
    as torch draws a convolution's, whatever law the network has for its own."""
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            same: Any = {
                n: getattr(module, n)
                for n in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
            }
            other = nn.Conv2d(channels, module.out_channels, bias=module.bias is not None, **same)
            parent, _, own = path.rpartition(".")
            setattr(network.get_submodule(parent), own, other)
            return network
    raise ValueError(
        f"{name} has no convolution of three channels to take {channels} by; give images in colour."
    )


class ImageClassifier(nn.Module):
    """Logits [B, classes] of images [B, H, W, C], bytes or numbers from 0 to 1, by a network for [B, C, H, W].

    Args:
        network: maps [B, C, H, W] to logits.
        mean, std: of each channel over the training images, as numbers from 0 to 1; the network sees (x - mean) / std. They
            are kept with the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean and std must be a number a channel, std above 0; got {mean} and {std}.")
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        channels = len(self.mean)
        check_tensors(mean=self.mean, images=images)
        if not (images.dtype == torch.uint8 or images.is_floating_point()):
            raise ValueError(f"images must be bytes or floating point numbers; got {images.dtype}.")
        if images.dim() != 4 or images.shape[3] != channels:
            raise ValueError(f"images must be [B, H, W, {channels}]; got {list(images.shape)}.")
        x = images.to(self.mean.dtype) / 255 if images.dtype == torch.uint8 else images
        return self.network(((x - self.mean) / self.std).movedim(3, 1))


def multiply_adds(network: nn.Module, x: Tensor) -> int:
    """Multiply-adds of the convolutions and linear layers of a network in a forward of x, for each of its samples.
    BatchNorm, activations, pools and sums are not counted."""
    count = 0

    def add(module: Any, args: Any, out: Tensor) -> None:
        nonlocal count
        count += module.weight[0].numel() * out[0].numel()

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(add) for layer in layers]
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            network.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return count
