"""DGCNN for classification (Wang et al. 2019, figure 3): EdgeConv on graphs that are found anew in feature space.

    x [B, N, 3] -> edge1 64 -> edge2 64 -> edge3 128 -> edge4 256   (each on the k nearest neighbours of its own input)
                -> [edge1 .. edge4] 512 -> embed 1024 -> max and mean -> fc1 512 -> fc2 256 -> fc3 classes

1,809,576 parameters for 40 classes, as antao97/dgcnn.pytorch has it. Other operations can stand in the EdgeConvs' places
(`dropfold.models.operations.edges`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.models.clouds.inputs import check_points
from dropfold.models.layers.linear_norm import EdgeConv, LinearNormAct, LinearNormPool
from dropfold.models.layers.noise import draw, place_noise
from dropfold.models.layers.plain import neighbours
from dropfold.models.layers.unfused import HasPlainForm
from dropfold.models.layers.wiring import Sources, Wiring, chain
from dropfold.models.operations.edges import EdgeOperation, Null, Skip

EDGES = {"edge1": 64, "edge2": 64, "edge3": 128, "edge4": 256}  # their widths
LAYERS = (*EDGES, "pool")
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
        self.edges = dict.fromkeys(EDGES, EdgeOperation("edge_conv", k))
        self.edge1: nn.Module = EdgeConv(in_channels, 64, sync=sync, coordinates=True)
        self.edge2: nn.Module = EdgeConv(64, 64, sync=sync)
        self.edge3: nn.Module = EdgeConv(64, 128, sync=sync)
        self.edge4: nn.Module = EdgeConv(128, 256, sync=sync)
        self.embed = LinearNormPool(512, emb_dims, negative_slope=0.2, sync=sync)
        options: dict[str, Any] = {"negative_slope": 0.2, "sync": sync, "dropout": dropout}
        self.fc1 = LinearNormAct(2 * emb_dims, 512, **options)
        self.fc2 = LinearNormAct(512, 256, bias=True, **options)
        self.fc3 = nn.Linear(256, num_classes)
        self.noise = place_noise(noise, LAYERS, "pool", "DGCNN")

    def forward(self, x: Tensor, batch: Tensor | None = None, batch_size: int | None = None) -> Tensor:
        check_points(self, x, self.in_channels, batch)
        pos, points = x[..., :3], x
        features: list[Tensor] = []
        clouds: dict[str, Any] = {"batch": batch, "batch_size": batch_size}
        graph: Tensor | None = None
        for layer, operation in self.edges.items():
            module = self.get_submodule(layer)
            if operation.kind == "edge_conv":
                space = take_channels(x, self.graph_channels) if x is points else x
                graph = self._graph(operation, space, graph, clouds)
                noise = draw(self.noise, layer, pos, x, batch, graph)
                x = module(x, graph, noise=noise, **clouds)
            elif operation.kind == "pointwise":
                x = module(x, noise=draw(self.noise, layer, pos, x, batch, graph), **clouds)
            else:
                x = module(x)
            features.append(x)
        x = torch.cat(features, -1)
        noise = draw(self.noise, "pool", pos, x, batch, graph)
        x = torch.cat(self.embed(x, noise=noise, **clouds), -1)
        return self.fc3(self.fc2(self.fc1(x)))

    def _graph(
        self, operation: EdgeOperation, x: Tensor, before: Tensor | None, clouds: Mapping[str, Any]
    ) -> Tensor:
        """The neighbours of a layer: found in x, or the first of the graph that is there."""
        if operation.reused and before is not None and before.shape[-1] >= operation.k:
            return before if before.shape[-1] == operation.k else before[..., : operation.k].contiguous()
        return neighbours(x, operation.k, self.fused, **clouds)

    def operations(self) -> dict[str, str]:
        """What stands in the place of each EdgeConv, by its name; without a width where it is the usual one."""
        return {layer: str(operation) for layer, operation in self.edges.items()}

    def replace_operations(self, operations: Mapping[str, str]) -> None:
        """Put other operations in the EdgeConvs' places; layers of other kinds or sizes than before get fresh weights.

        A reused graph that is not there, or has fewer neighbours than are asked for, is found anew.

        Raises:
            ValueError: no such operation; more neighbours than k; or a skip or null where a layer carries noise.
        """
        parsed = {layer: EdgeOperation.parse(name) for layer, name in operations.items()}
        for layer, operation in parsed.items():
            if operation.k > self.k:
                raise ValueError(f"{layer}: {operation} has more neighbours than the network's k = {self.k}.")
            if layer in self.noise and operation.kind in ("skip", "null"):
                raise ValueError(f"{layer} carries noise, which {operation} would leave out.")
        self.edges = self.edges | parsed
        made, channels, raw = 0, self.in_channels, True
        for layer, operation in self.edges.items():
            channels = self._place(layer, operation, channels, raw)
            made, raw = made + channels, raw and operation.kind == "skip"
        if self.embed.in_channels != made:
            out, slope, sync = self.embed.norm.num_features, self.embed.negative_slope, self.embed.sync
            self._put("embed", LinearNormPool(made, out, negative_slope=slope, sync=sync))

    def _place(self, layer: str, operation: EdgeOperation, channels: int, raw: bool) -> int:
        """Put an operation on so many channels, the points' own if `raw`, in a layer's place; how many it makes."""
        module: Any = self.get_submodule(layer)
        kind = operation.kind
        if kind in ("skip", "null"):
            self._put(layer, Skip() if kind == "skip" else Null())
            return channels if kind == "skip" else 1
        width = operation.width or EDGES[layer]
        wanted = EdgeConv if kind == "edge_conv" else LinearNormAct
        columns = 2 * channels if kind == "edge_conv" else channels
        size = (
            getattr(module, "in_channels", None),
            getattr(getattr(module, "norm", None), "num_features", None),
        )
        if type(module) is not wanted or size != (columns, width):
            options: dict[str, Any] = {"negative_slope": 0.2, "sync": self.embed.sync, "coordinates": raw}
            self._put(layer, wanted(channels, width, **options))
        return width

    def _put(self, name: str, module: nn.Module) -> None:
        weight = self.fc3.weight
        setattr(self, name, module.to(weight.device, weight.dtype).train(self.training))

    def wiring(self) -> Wiring:
        """Whose channels each matrix reads (see `dropfold.models.layers.wiring`)."""
        columns: dict[str, Sources] = {}
        source: list[str | int] = [self.in_channels]
        made: list[str | int] = []
        for layer, operation in self.edges.items():
            if operation.kind == "null":
                source = [1]
            elif operation.kind != "skip":
                columns[layer] = [*source, *source] if operation.kind == "edge_conv" else source
                source = [layer]
            made += source
        return Wiring(columns | {"embed": made} | chain(["embed", "embed"], "fc1", "fc2", "fc3"))


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
