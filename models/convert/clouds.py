"""Weights of other projects' networks in ours: checkpoints of antao97 and yanx27, layers of PyG.

    dropfold convert model_1.t7 --out scenes.safetensors

Which network a checkpoint is of, its widths and its classes are read off its weights, wherever a training script has put
them (`WRAPPERS`, `PREFIXES`). Files are read with `weights_only=True`: nothing in a checkpoint is executed.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.models.clouds.dgcnn import DGCNN
from dropfold.models.clouds.dgcnn_segmentation import DGCNNSegmentation
from dropfold.models.clouds.pointnet import PointNet
from dropfold.models.clouds.pointnet2 import ALL, Grouping, PointNet2
from dropfold.models.clouds.pointnet2_segmentation import PointNet2Segmentation
from dropfold.models.clouds.pointnet_segmentation import PointNetSegmentation
from dropfold.models.convert.names import (
    ANTAO97,
    ANTAO97_PARTS,
    ANTAO97_SCENES,
    YANX27,
    YANX27_PARTS,
    YANX27_SCENES,
    pointnet2,
)
from dropfold.models.layers.linear_norm import EdgeConv

Network = TypeVar("Network", bound=nn.Module)

# A NumPy number, which yanx27's training saves beside the weights, and the name that NumPy 1 has for it.
_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
NUMBERS: list[Any] = [
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8")),
]

WRAPPERS = (
    "model_state_dict",
    "state_dict",
    "model_state",
    "model",
    "network",
    "net",
)  # entries that hold the weights
PREFIXES = ("module.", "model.", "network.", "net.")  # that all weights have, from training loops

# A project, and what only the names of its weights look like.
LOOKS: dict[str, str] = {
    "dropfold itself, which needs no conversion": r".*\.(linear|norm)\.(weight|running_mean)",
    "antao97/dgcnn.pytorch": r"(transform_net\.)?conv\d+\.0\.weight",
    "yanx27/Pointnet_Pointnet2_pytorch": r"(feat\.|stn\.|fstn\.|convs\d|sa\d\.(mlp_convs|conv_blocks)).*",
    "torch_geometric": r".*\.(nn|local_nn|global_nn)\.(lins\.)?\d+\..*",
    "open-mmlab, OpenPoints or Pointcept": r"(encoder|backbone|decode_head|seg_head|cls_head)\..*",
}


def load_antao97(
    source: str | Path | Mapping[str, Tensor], k: int | None = None
) -> DGCNN | DGCNNSegmentation:
    """Our network with the weights of one of antao97/dgcnn.pytorch's (a .t7 file, or its state dict): `DGCNN` of DGCNN_cls,
    `DGCNNSegmentation` of DGCNN_partseg and DGCNN_semseg_s3dis. k is not in the file; None: the published one.

    The first graph is theirs: of all channels, and in scenes of those from the seventh on, whatever their number."""
    state = _state(source, "antao97/dgcnn.pytorch")
    if "transform_net.transform.weight" in state:
        state = _renamed(
            state, ANTAO97_PARTS, r"(transform_net\.bn[12]|bn\d+)\..*", "antao97's DGCNN_partseg"
        )
        channels = state["edge1.layers.0.linear.weight"].shape[1] // 2
        categories = state["category.linear.weight"].shape[1]
        emb_dims = len(state["embed.linear.weight"])
        return _loaded(
            DGCNNSegmentation(
                *(len(state["classes.weight"]), channels, categories, k, emb_dims),
                graph_channels=range(channels),
            ),
            state,
        )
    if "conv9.weight" in state:
        state = _renamed(state, ANTAO97_SCENES, r"bn\d\..*", "antao97's DGCNN_semseg_s3dis")
        channels = state["edge1.layers.0.linear.weight"].shape[1] // 2
        emb_dims = len(state["embed.linear.weight"])
        return _loaded(
            DGCNNSegmentation(
                *(len(state["classes.weight"]), channels, None, k, emb_dims),
                graph_channels=range(6, channels),
            ),
            state,
        )
    state = _renamed(state, ANTAO97, r"conv\d\.1\..*", "antao97's DGCNN_cls")
    classes, emb_dims = state["fc3.weight"].shape[0], state["embed.linear.weight"].shape[0]
    channels = state["edge1.linear.weight"].shape[1] // 2
    k = 20 if k is None else k
    return _loaded(DGCNN(classes, channels, k, emb_dims, graph_channels=range(channels)), state)


def load_yanx27(
    source: str | Path | Mapping[str, Tensor],
) -> PointNet | PointNetSegmentation | PointNet2 | PointNet2Segmentation:
    """Our network with the weights of one of yanx27/Pointnet_Pointnet2_pytorch's (a .pth file, or its state dict):
    `PointNet` of pointnet_cls, `PointNetSegmentation` of pointnet_part_seg and pointnet_sem_seg, `PointNet2` of
    pointnet2_cls_*, `PointNet2Segmentation` of pointnet2_part_seg_* and pointnet2_sem_seg*.

    Theirs return the logarithm of the softmax of our logits. Theirs begin farthest point sampling at a random point, in
    evaluation too; ours begin at the first (in training, at a random one with `random_start`).
    """
    state = _state(source, "yanx27/Pointnet_Pointnet2_pytorch")
    if any(name.startswith("sa1.") for name in state):
        return _pointnet2(state)
    if "convs1.weight" in state:
        state = _renamed(state, YANX27_PARTS, "", "yanx27's pointnet_part_seg")
        # [max 2048 ; category ; 64 + 128 + 128 + 512 + 2048 of the point]
        categories = state["head1.linear.weight"].shape[1] - 2 * 2048 - 832
        channels = state["conv1.linear.weight"].shape[1]
        return _loaded(PointNetSegmentation(len(state["classes.weight"]), channels, categories), state)
    if "conv4.weight" in state:
        state = _renamed(state, YANX27_SCENES, "", "yanx27's pointnet_sem_seg")
        channels = state["conv1.linear.weight"].shape[1]
        return _loaded(PointNetSegmentation(len(state["classes.weight"]), channels), state)
    state = _renamed(state, YANX27, "", "yanx27's pointnet_cls")
    return _loaded(PointNet(len(state["fc3.weight"]), state["conv1.linear.weight"].shape[1]), state)


def _pointnet2(state: dict[str, Tensor]) -> PointNet2 | PointNet2Segmentation:
    """MSG joins a group as [x_j ; p_j - c] and ours always is [p_j - c ; x_j]; a feature carried to all points of a cloud
    comes last there and first here."""
    msg = "sa1.conv_blocks.0.0.weight" in state
    grouping: Grouping = "msg" if msg else "ssg"
    network = f"yanx27's pointnet2 ({grouping})"

    def width(name: str, side: int) -> int:
        if name not in state:
            raise ValueError(f"the checkpoint lacks {name.removesuffix('.weight')} of {network}.")
        return state[name].shape[side]

    joined = width("sa1.conv_blocks.0.0.weight" if msg else "sa1.mlp_convs.0.weight", 1)
    model: PointNet2 | PointNet2Segmentation
    if "fc3.weight" in state:
        model = PointNet2(width("fc3.weight", 0), joined, grouping)
    else:
        channels, categories = joined - 3, None
        if "sa4.mlp_convs.0.weight" not in state and "sa4.conv_blocks.0.0.weight" not in state:
            categories = width("fp1.mlp_convs.0.weight", 1) - (3 + channels) - 128
        model = PointNet2Segmentation(width("conv2.weight", 0), channels, categories, grouping)
    ours = _renamed(state, pointnet2(model), "", network)
    for name, weight in ours.items():
        if msg and re.fullmatch(r"sa\d\.scales\.\d\.layers\.0\.linear\.weight", name):
            ours[name] = weight.roll(3, 1)
        elif name == "fp3.layers.0.linear.weight" and getattr(model, "categories", None) is not None:
            ours[name] = weight.roll(ALL[-1], 1)
    return _loaded(model, ours)


def _loaded(model: Network, state: Mapping[str, Tensor]) -> Network:
    """The model with these weights, in their type."""
    model.to(next(value.dtype for value in state.values() if value.is_floating_point()))
    model.load_state_dict(state)
    return model


def load(source: str | Path | Mapping[str, Tensor], k: int | None = None) -> nn.Module:
    """`load_antao97` or `load_yanx27`, whichever the names of the weights are of."""
    state = _state(source)
    project = _project(state)
    if project == "antao97/dgcnn.pytorch":
        return load_antao97(state, k)
    if project == "yanx27/Pointnet_Pointnet2_pytorch":
        return load_yanx27(state)
    raise ValueError(
        _say_what_it_is(source, state, "antao97/dgcnn.pytorch or yanx27/Pointnet_Pointnet2_pytorch")
    )


def _project(state: Mapping[str, Tensor]) -> str | None:
    """The project whose weights have such names; of several the one with most of them."""
    counts = {name: sum(bool(re.fullmatch(look, key)) for key in state) for name, look in LOOKS.items()}
    found = max(counts, key=lambda name: counts[name])
    return found if counts[found] else None


def _say_what_it_is(source: object, state: Mapping[str, Tensor], wanted: str) -> str:
    name = source if isinstance(source, str | Path) else "the source"
    first = ", ".join(list(state)[:3])
    project = _project(state)
    looks = "of no project that is known here" if project is None else f"of {project}"
    return f"{name} holds no network of {wanted}: its weights ({first}, ...) have names {looks}."


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
    ours = EdgeConv(channels, weight.shape[0], bias=linear.bias is not None, negative_slope=slope).to(weight)
    state = {"linear.weight": torch.cat([weight[:, channels:], weight[:, :channels]], 1)}
    if linear.bias is not None:
        state["linear.bias"] = linear.bias.detach()
    state |= {f"norm.{name}": value for name, value in norm.state_dict().items()}
    ours.load_state_dict(state)
    ours.norm.eps, ours.norm.momentum = norm.eps, norm.momentum
    return ours


def _state(source: str | Path | Mapping[str, Tensor], project: str | None = None) -> dict[str, Tensor]:
    """The weights in a file or a mapping, without what training scripts put around them; of `project` alone."""
    loaded: object = source
    if isinstance(source, str | Path):
        try:
            with torch.serialization.safe_globals(NUMBERS):
                loaded = _read_file(source)
        except pickle.UnpicklingError as error:
            # torch's own text advises to load such a file without this protection.
            found = re.search(r"Unsupported [^\n]*", str(error))
            what = f" ({found[0]})" if found else ""
            raise ValueError(
                f"{source} holds more than tensors and numbers, or is no checkpoint{what}: nothing "
                "else is read, for a pickle can run code. Save the weights only, where they were trained: "
                "torch.save(network.state_dict(), FILE)."
            ) from None
    while isinstance(loaded, Mapping):
        inside = [name for name in WRAPPERS if isinstance(loaded.get(name), Mapping)]
        if not inside:
            break
        loaded = loaded[inside[0]]
    if (
        not isinstance(loaded, Mapping)
        or not loaded
        or not all(isinstance(value, Tensor) for value in loaded.values())
    ):
        name = source if isinstance(source, str | Path) else "the source"
        held = (
            f"; it holds {', '.join(map(str, loaded))}"[:200]
            if isinstance(loaded, Mapping) and loaded
            else ""
        )
        raise ValueError(
            f"{name} holds no state dict of tensors, neither itself nor in {', '.join(WRAPPERS)}{held}."
        )
    state: dict[str, Tensor] = {
        str(name).replace("_orig_mod.", "").removeprefix("module."): value for name, value in loaded.items()
    }
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    if project is not None and _project(state) not in (project, None):
        raise ValueError(_say_what_it_is(source, state, project))
    return state


def _read_file(source: str | Path) -> object:
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, MemoryError):
        raise
    except Exception as error:  # the unpickler raises what it likes on broken data
        if isinstance(error, OSError) and error.filename is not None:  # it cannot be opened
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{source} is no whole checkpoint ({said}); copy or download it again.") from None


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
