"""DGCNN for classification (Wang et al. 2019, figure 3): EdgeConv on graphs that are found anew in feature space.

    x [B, N, 3] -> edge1 64 -> edge2 64 -> edge3 128 -> edge4 256   (each on the k nearest neighbours of its own input)
                -> [edge1 .. edge4] 512 -> embed 1024 -> max and mean -> fc1 512 -> fc2 256 -> fc3 classes

1,809,576 parameters for 40 classes, as antao97/dgcnn.pytorch has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.models.clouds.inputs import check_points
from dropfold.models.layers.linear_norm import EdgeConv, LinearNormAct, LinearNormPool
from dropfold.models.layers.noise import draw, place_noise
from dropfold.models.layers.plain import neighbours
from dropfold.models.layers.unfused import HasPlainForm
from dropfold.models.layers.wiring import Sources, Wiring, chain

LAYERS = ("edge1", "edge2", "edge3", "edge4", "pool")
COORDINATES = (0, 1, 2)  # the channels of a point that are its coordinates


class DGCNN(HasPlainForm):
    """DGCNN.

    Args:
        num_classes: outputs.
        in_channels: 3, or more: the first three are coordinates.
        k: neighbours of a point, itself included.
        emb_dims: width of the embedding that is pooled.
        dropout: after fc1 and fc2.
        noise: a Drop module for the recommended position, inside the last pool ("pool"), or a mapping of layer name
            (edge1 .. edge4: dropped points are left out of the max over neighbours; pool) to module.
        sync_batch_norm: BatchNorm statistics over all processes.
        graph_channels: the channels whose distances make the first graph; default: the coordinates.

    Noise never moves a graph: neighbours are found in the layers' full output. (Dropped points, were they zeros,
    would all become each other's nearest neighbours.)

    Shapes: x [B, N, in_channels], or rows [M, in_channels] with `batch` [M]; logits [B, num_classes].
    """

    def __init__(
        self,
        num_classes: int = 40,
        in_channels: int = 3,
        k: int = 20,
        emb_dims: int = 1024,
        dropout: float = 0.5,
        noise: nn.Module | Mapping[str, nn.Module] | None = None,
        sync_batch_norm: bool = False,
        graph_channels: Sequence[int] = COORDINATES,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.k, sync = k, sync_batch_norm
        self.graph_channels = checked_channels(graph_channels, in_channels)
        self.edge1 = EdgeConv(in_channels, 64, sync=sync, coordinates=True)
        self.edge2 = EdgeConv(64, 64, sync=sync)
        self.edge3 = EdgeConv(64, 128, sync=sync)
        self.edge4 = EdgeConv(128, 256, sync=sync)
        self.embed = LinearNormPool(512, emb_dims, negative_slope=0.2, sync=sync)
        options: dict[str, Any] = {"negative_slope": 0.2, "sync": sync, "dropout": dropout}
        self.fc1 = LinearNormAct(2 * emb_dims, 512, **options)
        self.fc2 = LinearNormAct(512, 256, bias=True, **options)
        self.fc3 = nn.Linear(256, num_classes)
        self.noise = place_noise(noise, LAYERS, "pool", "DGCNN")

    def forward(self, x: Tensor, batch: Tensor | None = None, batch_size: int | None = None) -> Tensor:
        check_points(self, x, self.in_channels, batch)
        pos = x[..., :3]
        features: list[Tensor] = []
        clouds: dict[str, Any] = {"batch": batch, "batch_size": batch_size}
        graph = neighbours(take_channels(x, self.graph_channels), self.k, self.fused, **clouds)
        for layer in ("edge1", "edge2", "edge3", "edge4"):
            if features:
                graph = neighbours(x, self.k, self.fused, **clouds)
            noise = draw(self.noise, layer, pos, x, batch, graph)
            x = self.get_submodule(layer)(x, graph, noise=noise, **clouds)
            features.append(x)
        x = torch.cat(features, -1)
        noise = draw(self.noise, "pool", pos, x, batch, graph)
        x = torch.cat(self.embed(x, noise=noise, **clouds), -1)
        return self.fc3(self.fc2(self.fc1(x)))

    def wiring(self) -> Wiring:
        """Whose channels each matrix reads (see `dropfold.models.layers.wiring`)."""
        edges = "edge1", "edge2", "edge3", "edge4"
        columns: dict[str, Sources] = {"edge1": [2 * self.in_channels], "embed": edges}
        columns |= {layer: [before, before] for before, layer in pairwise(edges)}
        return Wiring(columns | chain(["embed", "embed"], "fc1", "fc2", "fc3"))


def checked_channels(channels: Sequence[int], in_channels: int) -> tuple[int, ...]:
    """The channels that make a graph; refused unless they are different channels of the input."""
    found = tuple(channels)
    if not found or len(set(found)) < len(found) or not all(0 <= c < in_channels for c in found):
        raise ValueError(
            f"graph_channels must be different channels from 0 to in_channels - 1 = {in_channels - 1}; got {list(found)}."
        )
    return found


def take_channels(x: Tensor, channels: tuple[int, ...]) -> Tensor:
    """These channels of x [..., C]."""
    first = channels[0]
    if channels == tuple(range(first, first + len(channels))):
        return x[..., first : first + len(channels)].contiguous()
    return torch.stack([x[..., c] for c in channels], -1)
