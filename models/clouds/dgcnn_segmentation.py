"""DGCNN for segmentation (Wang et al. 2019, sections 5.3 and 5.4): three EdgeConvs, and the whole cloud beside each point.

    scenes  x [B, N, 9] -> edge1 64, 64 -> edge2 64, 64 -> edge3 64      (each on the k nearest neighbours of its own
            input; edge1's graph is that of the place in the room, the last three channels)
            [edge1 .. edge3] 192 -> embed 1024 -> max;   [max ; edge1 .. edge3] -> head 512, 256 -> classes
    parts   x [B, N, 3] -> input transform 3x3 -> the same EdgeConvs and embedding
            [max ; category 64 ; edge1 .. edge3] -> head 256, 256, 128 -> parts

983,552 parameters for 13 classes of scenes, and 1,460,361 for 50 parts in 16 categories, as antao97/dgcnn.pytorch has
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dropfold.models.clouds.dgcnn import COORDINATES, checked_channels, take_channels
from dropfold.models.clouds.inputs import check_points
from dropfold.models.clouds.pointnet import last_layer, transform
from dropfold.models.layers.grouped import EdgeConv2
from dropfold.models.layers.linear_norm import EdgeConv, LinearNormAct, LinearNormMax, one_hot
from dropfold.models.layers.noise import draw, place_noise
from dropfold.models.layers.plain import neighbours
from dropfold.models.layers.unfused import HasPlainForm
from dropfold.models.layers.wiring import Sources, Wiring, chain, perceptron

LAYERS = ("edge1", "edge2", "edge3", "pool")
BLOCK = 9  # channels of a block of a scene, as published: centred on the block, colour, place in the room
PLACE = (6, 7, 8)  # of these the place


class EdgeTransform(nn.Module):
    """A [B, 3, 3] matrix from a cloud and its graph; the identity before training."""

    in_full_precision: ClassVar = {"fc3": "its matrix moves coordinates"}

    def __init__(self, in_channels: int, sync: bool = False) -> None:
        super().__init__()
        options: dict[str, Any] = {"negative_slope": 0.2, "sync": sync}
        self.edge = EdgeConv2(in_channels, (64, 128), coordinates=True, **options)
        self.embed = LinearNormMax(128, 1024, **options)
        self.fc1 = LinearNormAct(1024, 512, **options)
        self.fc2 = LinearNormAct(512, 256, **options)
        self.fc3 = nn.Linear(256, 9)
        self.draw_weights(self.named_modules())

    def forward(self, x: Tensor, graph: Tensor, **clouds: Any) -> Tensor:
        x = self.embed(self.edge(x, graph, **clouds), **clouds)
        return last_layer(self.fc3, self.fc2(self.fc1(x)), coordinates=True).view(-1, 3, 3)

    def draw_weights(self, layers: Iterable[tuple[str, nn.Module]]) -> None:
        """Let the last layer make the identity, if it is one of these."""
        if any(layer is self.fc3 for _, layer in layers):
            nn.init.zeros_(self.fc3.weight)
            self.fc3.bias.data.copy_(torch.eye(3).flatten())


class DGCNNSegmentation(HasPlainForm):
    """DGCNN with an output a point.

    Args:
        num_classes: outputs of a point.
        in_channels: 3, or more: the first three are coordinates.
        categories: None for scenes; for parts, how many categories there are, the category being an input.
        k: neighbours of a point, itself included; None: 20 for scenes and 40 for parts, as published.
        emb_dims: width of the embedding that is pooled.
        dropout: for scenes before the last layer, for parts after the first two layers of the head.
        noise: a Drop module for the recommended position, inside the max over points ("pool"), or a mapping of layer name
            (edge1, edge2, edge3: dropped points are left out of the max over neighbours; pool) to module.
        sync_batch_norm: BatchNorm statistics over all processes.
        graph_channels: the channels whose distances make the first graph (and that of the input transform). None: as
            published, the place in the room (6, 7, 8) for scenes of 9 channels, the coordinates (0, 1, 2) otherwise.

    Noise never moves a graph: neighbours are found in the layers' full output.

    Shapes: x [B, N, in_channels], or rows [M, in_channels] with `batch` [M]; category int64 [B]; logits
    [B, N, num_classes] or [M, num_classes].
    """

    def __init__(
        self,
        num_classes: int = 13,
        in_channels: int = 9,
        categories: int | None = None,
        k: int | None = None,
        emb_dims: int = 1024,
        dropout: float = 0.5,
        noise: nn.Module | Mapping[str, nn.Module] | None = None,
        sync_batch_norm: bool = False,
        graph_channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        if graph_channels is None:
            graph_channels = PLACE if categories is None and in_channels == BLOCK else COORDINATES
        self.graph_channels = checked_channels(graph_channels, in_channels)
        self.k = k if k is not None else 20 if categories is None else 40
        self.categories = categories
        options: dict[str, Any] = {"negative_slope": 0.2, "sync": sync_batch_norm}
        if categories is not None:
            self.input_transform = EdgeTransform(in_channels, sync_batch_norm)
            self.category = LinearNormAct(categories, 64, **options)
        self.edge1 = EdgeConv2(in_channels, (64, 64), coordinates=True, **options)
        self.edge2 = EdgeConv2(64, (64, 64), **options)
        self.edge3 = EdgeConv(64, 64, **options)
        self.embed = LinearNormMax(192, emb_dims, **options)
        widths = [512, 256] if categories is None else [256, 256, 128]
        beside = emb_dims + (0 if categories is None else 64)
        self.head1 = LinearNormAct(
            beside + 192, widths[0], dropout=0.0 if categories is None else dropout, **options
        )
        self.head2 = LinearNormAct(*widths[:2], dropout=dropout, **options)
        if categories is not None:
            self.head3 = LinearNormAct(*widths[1:], **options)
        self.classes = nn.Linear(widths[-1], num_classes, bias=False)
        self.noise = place_noise(noise, LAYERS, "pool", "DGCNNSegmentation")

    def forward(
        self,
        x: Tensor,
        category: Tensor | None = None,
        batch: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        check_points(self, x, self.in_channels, batch)
        pos, of_category = x[..., :3], one_hot(category, self.categories, x, batch, batch_size)
        clouds: dict[str, Any] = {"batch": batch, "batch_size": batch_size}
        if of_category is not None:
            matrices = self.input_transform(x, self._graph(self._place(x), clouds), **clouds)
            moved = transform(pos, matrices, batch)
            x = torch.cat([moved, x[..., 3:]], -1) if x.shape[-1] > 3 else moved
        features: list[Tensor] = []
        for layer in ("edge1", "edge2", "edge3"):
            graph = self._graph(x if features else self._place(x), clouds)
            noise = draw(self.noise, layer, pos, x, batch, graph)
            x = self.get_submodule(layer)(x, graph, noise=noise, **clouds)
            features.append(x)
        local = torch.cat(features, -1)
        g = self.embed(local, noise=draw(self.noise, "pool", pos, local, batch, graph), **clouds)
        if of_category is not None:
            g = torch.cat([g, self.category(of_category)], -1)
        x = self.head2(self.head1(local, g, **clouds), **clouds)
        return self.classes(x if of_category is None else self.head3(x, **clouds))

    def wiring(self) -> Wiring:
        """Whose channels each matrix reads (see `dropfold.models.layers.wiring`)."""
        columns: dict[str, Sources] = {}
        beside: list[str | int] = ["embed"]
        head = ["head1", "head2", "classes"]
        if self.categories is not None:
            edge, last = perceptron(
                self.input_transform.edge.layers, "input_transform.edge", [2 * self.in_channels]
            )
            columns |= edge | {"category": [self.categories]}
            columns |= chain(
                [last], *(f"input_transform.{layer}" for layer in ("embed", "fc1", "fc2", "fc3"))
            )
            beside.append("category")
            head.insert(2, "head3")
        first, edge1 = perceptron(self.edge1.layers, "edge1", [2 * self.in_channels])
        second, edge2 = perceptron(self.edge2.layers, "edge2", [edge1, edge1])
        local = [edge1, edge2, "edge3"]
        columns |= first | second | {"edge3": [edge2, edge2], "embed": local}
        return Wiring(columns | chain([*beside, *local], *head))

    def _graph(self, x: Tensor, clouds: dict[str, Any]) -> Tensor:
        return neighbours(x.contiguous(), self.k, self.fused, **clouds)

    def _place(self, x: Tensor) -> Tensor:
        """The channels of x [..., C] that make the first graph."""
        return take_channels(x, self.graph_channels)
