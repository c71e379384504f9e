"""What the networks of each kind may become, and how all of that shares one set of weights.

A family knows, for a trained network: its space, and which part of the shared weights an architecture has. Every
architecture is the network of its own that `replace_operations` builds: nothing is masked.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dropfold.compress.methods.criteria import norm
from dropfold.compress.plan.channels import plan_channels
from dropfold.compress.plan.choice import kept_positions
from dropfold.compress.transform.architecture import Architecture, Edge, Space
from dropfold.compress.transform.transitions import CONVOLUTIONS, ball_transitions, edge_transitions
from dropfold.data_scripts.work.notes import say
from dropfold.models.clouds.dgcnn import DGCNN, EDGES
from dropfold.models.clouds.pointnet2 import PointNet2
from dropfold.models.images.cells import NORMAL, REDUCTION, Cell, CellNetwork
from dropfold.models.operations.balls import Balls
from dropfold.models.operations.convolutions import make_operation, multiply_adds
from dropfold.models.operations.edges import EdgeOperation
from dropfold.models.operations.replace import Operations, operations_of, replace_operations

State = Mapping[str, Tensor]


class Family(Protocol):
    """What a network may become."""

    space: Space
    own: nn.ModuleDict
    """Weights that the network does not have: of operations that share none of its."""

    def share(self, operations: Operations, state: State, own: State) -> dict[str, Tensor]:
        """The state of an architecture's network: parts of the network's `state` and of those of `own`, so that gradients
        reach them."""
        ...


def family_of(network: nn.Module, *example: Any) -> Family:
    """The family of a network.

    Raises:
        ValueError: nothing in it can be replaced.
    """
    if isinstance(network, DGCNN):
        return EdgeConvs(network, *example)
    if isinstance(network, PointNet2):
        return SetAbstractions(network)
    if isinstance(inner := getattr(network, "network", network), CellNetwork):
        return Cells(inner, "" if inner is network else "network.")
    if operations_of(network):
        return Convolutions(network, *example)
    raise ValueError(
        f"nothing in {type(network).__name__} can be replaced: there are transitions for the EdgeConvs of DGCNN, the levels "
        "of PointNet++ that classifies, and convolutions of 1 x 1, 3 x 3 or 5 x 5 (one group, padded to keep the size)."
    )


def network_of(network: nn.Module, operations: Operations) -> nn.Module:
    """A copy with these operations; what has another form has fresh weights. The random state stays as it was."""
    with fixed_random(network):
        return replace_operations(copy.deepcopy(network), operations)


@contextmanager
def fixed_random(network: nn.Module, seed: int | None = None) -> Iterator[None]:
    """The random state of the CPU and of the network's device, put back at the end; in between from a seed, if there is
    one."""
    device = next(network.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if seed is not None:
            torch.manual_seed(seed)
        yield


class EdgeConvs:
    """DGCNN: all neighbours, graphs and widths share a layer's matrix.

    Its columns for [x_j - x_i ; x_i] are those of an EdgeConv with any k, the second half alone those of pointwise. Of w
    channels it is the w that matter most in the trained network, by the squares of all weights that make and read them.
    """

    def __init__(self, network: DGCNN, *example: Any) -> None:
        if network.operations() != dict.fromkeys(EDGES, f"edge_conv_{network.k}"):
            raise ValueError("this network is transformed already; transform the one that it was made of.")
        noises: list[Any] = list(network.noise.values())
        if any(getattr(noise, "space", "") == "graph" for noise in noises):
            raise ValueError(
                "this network's noise drops the neighbours of its graphs, and transitions change those: it would be another "
                "noise. Train with --noise.space coordinates or features to transform it."
            )
        plan = plan_channels(network, *example)
        self.plan, self.channels = plan, network.in_channels
        self.order = {name: norm(plan, plan[name]).argsort(descending=True, stable=True) for name in EDGES}
        self.own = nn.ModuleDict()
        edges, options, before = [], {}, "points"
        for i, (name, width) in enumerate(EDGES.items()):
            edges.append(Edge(name, before, f"features of {name}", f"edge_conv_{network.k}"))
            # What would leave out noise is none of the options, nor is a skip of more channels than there are columns for.
            ends = any(other in network.noise for other in list(EDGES)[i:])
            out = {"null"} if ends else set()
            out |= {"skip"} if name in network.noise or (i == 0 and self.channels > width) else set()
            found = edge_transitions(network.k, width, first=i == 0)
            options[name] = tuple(option for option in found if option not in out)
            before = edges[-1].target
        self.space = Space(Architecture(tuple(edges)), options, canonical)

    def share(self, operations: Operations, state: State, own: State) -> dict[str, Tensor]:
        """See `Family`."""
        kept, channels = {}, self.channels
        for layer, name in operations.items():
            operation = EdgeOperation.parse(name)
            if operation.kind in ("skip", "null"):
                channels = channels if operation.kind == "skip" else 1
                kept[layer] = list(range(channels))
            else:
                channels = operation.width or EDGES[layer]
                kept[layer] = sorted(self.order[layer][:channels].tolist())
        left = kept_positions(
            self.plan, {layer: some for layer, some in kept.items() if len(some) < EDGES[layer]}
        )
        small = {name: _part(value, left.get(name, {})) for name, value in state.items()}
        for layer, name in operations.items():
            kind, weight = EdgeOperation.parse(name).kind, f"{layer}.linear.weight"
            if kind == "pointwise":
                small[weight] = small[weight][:, small[weight].shape[1] // 2 :]
            elif kind in ("skip", "null"):
                small = {key: value for key, value in small.items() if not key.startswith(f"{layer}.")}
        return small


def canonical(operations: Operations) -> dict[str, str]:
    """Edge operations as they are carried out: a graph that is not there, or has too few neighbours, is found anew; and
    where nothing is left to read, all that follow are null."""
    found: dict[str, str] = {}
    graph, nothing = 0, False
    for layer, name in operations.items():
        operation = EdgeOperation.parse(name)
        nothing = nothing or operation.kind == "null"
        if nothing:
            operation = EdgeOperation("null")
        elif operation.kind == "edge_conv":
            if operation.reused and graph < operation.k:
                operation = EdgeOperation("edge_conv", operation.k, False, operation.width)
            graph = operation.k
        found[layer] = str(operation)
    return found


class SetAbstractions:
    """PointNet++: a scale's perceptron serves balls of any radius and number of members, and what reads a level that has one
    scale left reads the columns of that scale. Without a layer that keeps the width, its neighbours keep their matrices."""

    def __init__(self, network: PointNet2) -> None:
        if any(balls != Balls() for balls in network.balls.values()):
            raise ValueError("this network is transformed already; transform the one that it was made of.")
        self.levels, self.own = network.levels, nn.ModuleDict()
        edges = (Edge("sa1", "points", "centres", "balls"), Edge("sa2", "centres", "fewer centres", "balls"))
        options = {name: ball_transitions(level.scales) for name, level in self.levels.items()}
        self.space = Space(Architecture(edges), options)

    def share(self, operations: Operations, state: State, own: State) -> dict[str, Tensor]:
        """See `Family`."""
        small = dict(state)
        for level, reader in (("sa1", "sa2"), ("sa2", "sa3")):
            balls, scales = Balls.parse(operations[level]), self.levels[level].scales
            left = list(range(len(scales))) if balls.scale is None else [balls.scale - 1]
            names = {
                f"{level}.scales.{i}.layers.{j}.": f"{level}.scales.{new}.layers.{k}."
                for new, i in enumerate(left)
                for k, j in enumerate(balls.layers(scales[i]))
            }
            moved = {
                names[head] + name.removeprefix(head): value
                for name, value in small.items()
                if (head := ".".join(name.split(".")[:5]) + ".") in names
            }
            small = {name: v for name, v in small.items() if not name.startswith(f"{level}.scales.")} | moved
            if balls.scale is not None:
                widths = [scale.widths[-1] for scale in scales]
                start = 3 + sum(widths[: balls.scale - 1])
                columns = torch.tensor([0, 1, 2, *range(start, start + widths[balls.scale - 1])])
                for name, value in small.items():
                    if name.startswith(f"{reader}.") and name.endswith("layers.0.linear.weight"):
                        small[name] = value[:, columns.to(value.device)]
        return small


class Convolutions:
    """Any network with convolutions, its own modules or a user's: each operation in a convolution's place has weights of its
    own, and smaller kernels begin as the middle of the trained one.

    The DAG is the chain of the convolutions in the order in which the network lists them.
    """

    def __init__(self, network: nn.Module, *example: Any) -> None:
        operations = operations_of(network)
        options = {}
        for name, operation in operations.items():
            conv: Any = network.get_submodule(name)
            options[name] = _no_dearer(operation, conv.in_channels, conv.out_channels)
            if example and (why := _fails_without(network, name, example)):
                options[name] = tuple(option for option in options[name] if option.startswith("conv_"))
                say(f"{name} stays a convolution: without one, {type(network).__name__} fails ({why}).")
        edges, before = [], "image"
        for name, operation in operations.items():
            edges.append(Edge(name, before, f"features of {name}", operation))
            before = edges[-1].target
        self.space = Space(Architecture(tuple(edges)), options)
        self.own = nn.ModuleDict()
        for name, operation in operations.items():
            conv = network.get_submodule(name)
            others = {other: make_operation(other, conv) for other in options[name] if other != operation}
            self.own[_key(name)] = nn.ModuleDict(others)
            for module in network.modules():
                if hasattr(module, "draw_weights"):
                    module.draw_weights(self.own[_key(name)].named_modules())  # type: ignore[operator]
            for other in others.values():
                _cut_kernel(other, conv)

    def share(self, operations: Operations, state: State, own: State) -> dict[str, Tensor]:
        """See `Family`."""
        small = dict(state)
        for edge in self.space.original.edges:
            if (operation := operations[edge.name]) != edge.operation:
                small = _exchanged(small, f"{edge.name}.", own, f"{_key(edge.name)}.{operation}.")
        return small


def _no_dearer(operation: str, *widths: int) -> tuple[str, ...]:
    """The published transitions of an operation that need no more multiply-adds than it at these widths."""
    most = multiply_adds(operation, *widths)
    return tuple(option for option in CONVOLUTIONS[operation] if multiply_adds(option, *widths) <= most)


def _fails_without(network: nn.Module, name: str, example: Sequence[Any]) -> str | None:
    """Why a network does not run with zeros in the place of a convolution; None: it does."""
    try:
        with torch.no_grad():
            network_of(network, {name: "null"}).eval()(*example)
    except Exception as error:  # a user's own code may raise anything
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None


class Cells:
    """A network of cells: all cells of a kind have one plan, and each its own weights for each operation of each edge."""

    def __init__(self, network: CellNetwork, prefix: str) -> None:
        self.network, self.prefix, self.own = network, prefix, nn.ModuleDict()
        operations, edges, self.kinds = network.operations(), [], []
        for kind, plan in network.plans.items():
            for i, edge in enumerate(plan.edges):
                source, target = f"{kind} {edge.source}", f"{kind} {edge.target}"
                edges.append(Edge(f"{kind}.{i}", source, target, edge.operation))
        widths = dict.fromkeys(network.plans, 0)
        for cell in network.cells:
            assert isinstance(cell, Cell)
            kind = REDUCTION if cell.halves else NORMAL
            widths[kind] = widths[kind] or cell.channels
        options = {
            name: _no_dearer(operation, *[widths[name.partition(".")[0]]] * 2)
            for name, operation in operations.items()
        }
        for i, edge in enumerate(network.plans[REDUCTION].edges):
            name = f"{REDUCTION}.{i}"  # a skip of an input is two convolutions there
            if (
                edge.source < 2
                and not multiply_adds(edge.operation, 1, 1)
                and edge.operation != "skip_connect"
            ):
                options[name] = tuple(option for option in options[name] if option != "skip_connect")
        self.space = Space(Architecture(tuple(edges)), options)
        weight = network.fc.weight
        for i, cell in enumerate(network.cells):
            assert isinstance(cell, Cell)
            self.kinds.append(REDUCTION if cell.halves else NORMAL)
            for j in range(len(cell.edges)):
                name = f"{self.kinds[-1]}.{j}"
                others = {o: cell.make(j, o) for o in options[name] if o != operations[name]}
                self.own[f"{i}/{j}"] = nn.ModuleDict(others).to(weight.device, weight.dtype)

    def share(self, operations: Operations, state: State, own: State) -> dict[str, Tensor]:
        """See `Family`."""
        before, small = self.space.original.operations(), dict(state)
        for i, kind in enumerate(self.kinds):
            for j in range(len(self.network.plans[kind].edges)):
                if (operation := operations[f"{kind}.{j}"]) != before[f"{kind}.{j}"]:
                    small = _exchanged(
                        small, f"{self.prefix}cells.{i}.edges.{j}.", own, f"{i}/{j}.{operation}."
                    )
        return small


def _exchanged(state: State, place: str, own: State, prefix: str) -> dict[str, Tensor]:
    """A state with what `own` has under `prefix` in the place of what it has under `place`."""
    kept = {name: value for name, value in state.items() if not name.startswith(place)}
    return kept | {
        place + name.removeprefix(prefix): value for name, value in own.items() if name.startswith(prefix)
    }


def _key(name: str) -> str:
    return name.replace(".", "/")


@torch.no_grad()
def _cut_kernel(smaller: nn.Module, conv: nn.Module) -> None:
    """The middle of a trained kernel, for a smaller convolution."""
    if isinstance(smaller, nn.Conv2d) and isinstance(conv, nn.Conv2d):
        k, margin = smaller.kernel_size[0], (conv.kernel_size[0] - smaller.kernel_size[0]) // 2
        smaller.weight.copy_(conv.weight[:, :, margin : margin + k, margin : margin + k])
        if conv.bias is not None and smaller.bias is not None:
            smaller.bias.copy_(conv.bias)


def _part(tensor: Tensor, left: Mapping[int, Tensor]) -> Tensor:
    for axis, kept in left.items():
        tensor = tensor.index_select(axis, kept.nonzero().flatten().to(tensor.device))
    return tensor
