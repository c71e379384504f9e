"""DGCNN for scenes (Wang et al. 2019, section 5.4) from the public operations: what the benchmark trains beside its peer.

    x [B, N, 9] -> two-layer EdgeConv 64, 64 on the graph of the last three channels (the position in the room)
                -> two-layer EdgeConv 64, 64 -> EdgeConv 64, each on the graph of its own input
                -> [all three] 192 -> embed 1024 -> max -> [its copy at each point ; all three] 1216 -> 512 -> 256 -> classes

Exact, with the peer's weights. The part of the global feature in the layer after it is applied to clouds, not points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import kernels
from kernels import BatchNorm
from models.grouped import EdgeConv2
from models.layers import EdgeConv, LinearNorm, LinearNormAct, LinearNormMax

# antao97's DGCNN_semseg_s3dis -> ours.
NAMES = {
    "conv1": "edge1.layers.0", "conv2": "edge1.layers.1", "conv3": "edge2.layers.0", "conv4": "edge2.layers.1",
    "conv5": "edge3", "conv6": "embed", "conv7": "wide", "conv8": "narrow",
}  # fmt: skip


class BesideGlobal(LinearNorm):
    """LeakyReLU(BatchNorm(W [g ; x])): the feature g [B, C_g] of a cloud beside each of its points x [B, N, C]."""

    def operation(self, g: Tensor, x: Tensor, norm: BatchNorm, **options: Any) -> Tensor:
        of_cloud, of_point = self.linear.weight.split([g.shape[1], x.shape[2]], 1)
        y = kernels.linear(x, of_point).add_(kernels.linear(g, of_cloud)[:, None])
        return kernels.norm_act(y, norm, negative_slope=self.negative_slope)


class SceneDGCNN(nn.Module):
    """x [B, N, 9] to logits [B, N, num_classes]."""

    def __init__(
        self, num_classes: int = 13, k: int = 20, emb_dims: int = 1024, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.k = k
        self.edge1, self.edge2 = EdgeConv2(9, (64, 64)), EdgeConv2(64, (64, 64))
        self.edge3 = EdgeConv(64, 64)
        self.embed = LinearNormMax(192, emb_dims, negative_slope=0.2)
        self.wide = BesideGlobal(emb_dims + 192, 512, negative_slope=0.2)
        self.narrow = LinearNormAct(512, 256, negative_slope=0.2)
        self.dropout = nn.Dropout(dropout)
        self.classes = nn.Linear(256, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.edge1(x, kernels.knn(x[..., 6:], self.k))
        x2 = self.edge2(x1, kernels.knn(x1, self.k))
        x3 = self.edge3(x2, kernels.knn(x2, self.k))
        local = torch.cat([x1, x2, x3], -1)
        return self.classes(self.dropout(self.narrow(self.wide(self.embed(local), local))))


def load_antao97(state: Mapping[str, Tensor], k: int = 20) -> SceneDGCNN:
    """Ours with the weights of antao97's DGCNN_semseg_s3dis, from its state dict."""
    ours = {"classes.weight": state["conv9.weight"].flatten(1)}
    for theirs, name in NAMES.items():
        ours[f"{name}.linear.weight"] = state[f"{theirs}.0.weight"].flatten(1)
        prefix = f"{theirs}.1."
        ours |= {
            f"{name}.norm.{key.removeprefix(prefix)}": v for key, v in state.items() if key.startswith(prefix)
        }
    model = SceneDGCNN(len(ours["classes.weight"]), k, len(ours["embed.linear.weight"]))
    model.load_state_dict(ours)
    return model
