"""Weights of other projects' networks in ours: checkpoints of antao97 and yanx27, layers of PyG.

Files are read with `weights_only=True`: nothing in a checkpoint is executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.dgcnn import DGCNN
from models.layers import EdgeConv
from models.pointnet import PointNet

# theirs -> ours; a pair of a linear map and its BatchNorm becomes one of our layers.
ANTAO97 = {
    **{f"conv{i}.0": f"edge{i}.linear" for i in range(1, 5)},
    **{f"bn{i}": f"edge{i}.norm" for i in range(1, 5)},
    "conv5.0": "embed.linear",
    "bn5": "embed.norm",
    "linear1": "fc1.linear",
    "bn6": "fc1.norm",
    "linear2": "fc2.linear",
    "bn7": "fc2.norm",
    "linear3": "fc3",
}
TRANSFORM = {
    **{f"conv{i}": f"conv{i}.linear" for i in range(1, 4)},
    **{f"bn{i}": f"conv{i}.norm" for i in range(1, 4)},
    "fc1": "fc1.linear",
    "bn4": "fc1.norm",
    "fc2": "fc2.linear",
    "bn5": "fc2.norm",
    "fc3": "fc3",
}
YANX27 = {
    **{f"feat.stn.{a}": f"input_transform.{b}" for a, b in TRANSFORM.items()},
    **{f"feat.fstn.{a}": f"feature_transform.{b}" for a, b in TRANSFORM.items()},
    **{f"feat.conv{i}": f"conv{i}.linear" for i in range(1, 4)},
    **{f"feat.bn{i}": f"conv{i}.norm" for i in range(1, 4)},
    "fc1": "fc1.linear",
    "bn1": "fc1.norm",
    "fc2": "fc2.linear",
    "bn2": "fc2.norm",
    "fc3": "fc3",
}


def load_antao97(source: str | Path | Mapping[str, Tensor], k: int = 20) -> DGCNN:
    """Our `DGCNN` with the weights of antao97/dgcnn.pytorch's `DGCNN_cls` (a .t7 file, or its state dict)."""
    state = _renamed(_state(source), ANTAO97, r"conv\d\.1\..*", "antao97's DGCNN_cls")
    classes, emb_dims = state["fc3.weight"].shape[0], state["embed.linear.weight"].shape[0]
    channels = state["edge1.linear.weight"].shape[1] // 2
    model = DGCNN(classes, channels, k=k, emb_dims=emb_dims)
    model.load_state_dict(state)
    return model


def load_yanx27(source: str | Path | Mapping[str, Tensor]) -> PointNet:
    """Our `PointNet` with the weights of yanx27/Pointnet_Pointnet2_pytorch's `pointnet_cls` (a .pth file, or its state
    dict). Theirs returns the logarithm of the softmax of our logits."""
    state = _renamed(_state(source), YANX27, "", "yanx27's pointnet_cls")
    model = PointNet(state["fc3.weight"].shape[0], state["conv1.linear.weight"].shape[1])
    model.load_state_dict(state)
    return model


def from_pyg(conv: nn.Module) -> EdgeConv:
    """Our `EdgeConv` with the weights of PyG's `EdgeConv` or `DynamicEdgeConv` around Linear, BatchNorm, (Leaky)ReLU.

    PyG's acts on [x_i ; x_j - x_i] and ours on [x_j - x_i ; x_i]: the halves of the weight change places.
    """
    network: Any = getattr(conv, "nn", None)
    aggregation = getattr(conv, "aggr", None)
    if not isinstance(network, nn.Module) or aggregation != "max":
        raise ValueError(
            f"expected PyG's EdgeConv or DynamicEdgeConv with aggr='max'; got {type(conv).__name__}."
        )
    parts: list[Any] = [m for m in network.modules() if not list(m.children())]
    kinds = ["LeakyReLU" if isinstance(m, nn.ReLU | nn.LeakyReLU) else type(m).__name__ for m in parts]
    if kinds not in (["Linear", "BatchNorm1d"], ["Linear", "BatchNorm1d", "LeakyReLU"]):
        raise ValueError(
            "only an edge network of Linear, BatchNorm1d and at most one (Leaky)ReLU, in this order, has an exact "
            f"counterpart; got {', '.join(kinds)}."
        )
    linear, norm = parts[:2]
    slope = 1.0 if len(parts) == 2 else getattr(parts[2], "negative_slope", 0.0)
    weight: Tensor = linear.weight.detach()
    channels = weight.shape[1] // 2
    ours = EdgeConv(channels, weight.shape[0], bias=linear.bias is not None, negative_slope=slope)
    state = {"linear.weight": torch.cat([weight[:, channels:], weight[:, :channels]], 1)}
    if linear.bias is not None:
        state["linear.bias"] = linear.bias.detach()
    state |= {f"norm.{name}": value for name, value in norm.state_dict().items()}
    ours.load_state_dict(state)
    ours.norm.eps, ours.norm.momentum = norm.eps, norm.momentum
    return ours


def _state(source: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    loaded: object = source
    if isinstance(source, str | Path):
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    if isinstance(loaded, Mapping) and "model_state_dict" in loaded:
        loaded = loaded["model_state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(
            f"{source if isinstance(source, str | Path) else 'the source'} holds no state dict of tensors."
        )
    return {name.removeprefix("module."): value for name, value in loaded.items()}


def _renamed(
    state: dict[str, Tensor], names: dict[str, str], aliases: str, network: str
) -> dict[str, Tensor]:
    """`state` under our names, convolutions of width 1 as matrices; what is missing or unknown is named."""
    ours = {}
    for name, value in state.items():
        if aliases and re.fullmatch(aliases, name):
            continue  # the same BatchNorm under its second name
        module, _, last = name.rpartition(".")
        if module not in names:
            raise ValueError(f"{name!r} is not a weight of {network}.")
        ours[f"{names[module]}.{last}"] = value.flatten(1) if last == "weight" and value.dim() > 2 else value
    missing = [theirs for theirs, new in names.items() if f"{new}.weight" not in ours]
    if missing:
        raise ValueError(f"the checkpoint lacks {', '.join(missing)} of {network}.")
    return ours
