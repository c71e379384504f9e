"""Names of the weights in the peers' checkpoints, and ours; see `models/convert/clouds.py`.

A table maps a module of theirs to one of ours; a pair of a linear map and its BatchNorm becomes one of our layers.
"""

from __future__ import annotations

import re

from torch import nn


def pairs(linears: list[str], norms: list[str], ours: list[str]) -> dict[str, str]:
    """Linear maps and their BatchNorms, in order, as the layers `ours`."""
    names = {linear: f"{layer}.linear" for linear, layer in zip(linears, ours, strict=True)}
    return names | {norm: f"{layer}.norm" for norm, layer in zip(norms, ours, strict=True)}


def counted(name: str, first: int, last: int) -> list[str]:
    """`name` with the numbers from first to last in place of *."""
    return [name.replace("*", str(i)) for i in range(first, last + 1)]


# --- antao97/dgcnn.pytorch ---------------------------------------------------------------------------------------

ANTAO97 = {
    **pairs(
        ["conv1.0", "conv2.0", "conv3.0", "conv4.0", "conv5.0", "linear1", "linear2"],
        counted("bn*", 1, 7),
        [*counted("edge*", 1, 4), "embed", "fc1", "fc2"],
    ),
    "linear3": "fc3",
}  # DGCNN_cls
EDGES = ["edge1.layers.0", "edge1.layers.1", "edge2.layers.0", "edge2.layers.1", "edge3", "embed"]
ANTAO97_SCENES = {
    **pairs(counted("conv*.0", 1, 8), counted("conv*.1", 1, 8), [*EDGES, "head1", "head2"]),
    "conv9": "classes",
}  # DGCNN_semseg_s3dis
T_NET = "transform_net."
ANTAO97_PARTS = {
    **pairs(
        [T_NET + name for name in ("conv1.0", "conv2.0", "conv3.0", "linear1", "linear2")],
        [T_NET + name for name in ("conv1.1", "conv2.1", "conv3.1", "bn3", "bn4")],
        [f"input_transform.{name}" for name in ("edge.layers.0", "edge.layers.1", "embed", "fc1", "fc2")],
    ),
    T_NET + "transform": "input_transform.fc3",
    **pairs(
        counted("conv*.0", 1, 10),
        counted("conv*.1", 1, 10),
        [*EDGES, "category", "head1", "head2", "head3"],
    ),
    "conv11": "classes",
}  # DGCNN_partseg

# --- yanx27/Pointnet_Pointnet2_pytorch ---------------------------------------------------------------------------

TRANSFORM = {
    **pairs(
        [*counted("conv*", 1, 3), "fc1", "fc2"], counted("bn*", 1, 5), [*counted("conv*", 1, 3), "fc1", "fc2"]
    ),
    "fc3": "fc3",
}


def transforms(prefix: str) -> dict[str, str]:
    """The two T-Nets of a PointNet."""
    names = {"stn": "input_transform", "fstn": "feature_transform"}
    return {f"{prefix}{a}.{b}": f"{ours}.{c}" for a, ours in names.items() for b, c in TRANSFORM.items()}


FEATURES = pairs(counted("feat.conv*", 1, 3), counted("feat.bn*", 1, 3), counted("conv*", 1, 3))
FULLY_CONNECTED = {**pairs(["fc1", "fc2"], ["bn1", "bn2"], ["fc1", "fc2"]), "fc3": "fc3"}
YANX27 = {**transforms("feat."), **FEATURES, **FULLY_CONNECTED}  # pointnet_cls
YANX27_SCENES = {
    **transforms("feat."),
    **FEATURES,
    **pairs(counted("conv*", 1, 3), counted("bn*", 1, 3), counted("head*", 1, 3)),
    "conv4": "classes",
}  # pointnet_sem_seg
YANX27_PARTS = {
    **transforms(""),
    **pairs(counted("conv*", 1, 5), counted("bn*", 1, 5), counted("conv*", 1, 5)),
    **pairs(counted("convs*", 1, 3), counted("bns*", 1, 3), counted("head*", 1, 3)),
    "convs4": "classes",
}  # pointnet_part_seg


def pointnet2(model: nn.Module) -> dict[str, str]:
    """pointnet2_cls_*, pointnet2_part_seg_* and pointnet2_sem_seg*, by the layers that our network has."""
    names = {"conv1": "head.linear", "bn1": "head.norm", "conv2": "classes"}
    if hasattr(model, "fc3"):
        names = dict(FULLY_CONNECTED)
    state = model.state_dict()
    for key in state:
        found = re.fullmatch(r"((?:sa|fp)\d)(?:\.scales\.(\d))?\.layers\.(\d)\.linear\.weight", key)
        if not found:
            continue
        level, scale, layer = found.groups()
        several = f"{level}.scales.1.layers.0.linear.weight" in state
        lists = (f"conv_blocks.{scale}", f"bn_blocks.{scale}") if several else ("mlp_convs", "mlp_bns")
        ours = key.removesuffix(".linear.weight")
        names |= {
            f"{level}.{lists[0]}.{layer}": f"{ours}.linear",
            f"{level}.{lists[1]}.{layer}": f"{ours}.norm",
        }
    return names
