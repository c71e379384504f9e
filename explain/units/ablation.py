"""Unit ablation: what a network says without some channels of a layer (Zhou et al. 2018, arXiv 1806.02891).

A unit is a channel of a layer's output, everywhere. It is set to 0, or to its mean, which leaves what follows near the
values that it was trained on. `ablate` removes units together. `each_unit` removes every unit of a layer in turn: where
the layer is pooled and feeds a linear map, z = W p + b, a removed unit changes z by (r_u - p_u) W[:, u], rank one, so that
only what follows is computed anew; at the network's own cut what is above it is replayed; elsewhere each unit is a pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dropfold.explain.cut.cuts import EVIDENCE, check_axis, check_layer, known_cuts
from dropfold.explain.cut.inputs import Given, Inputs
from dropfold.explain.cut.passes import Pass, as_it_was, detached
from dropfold.models import DGCNN, EdgeConv, PointNet, PointNet2
from dropfold.models.clouds.pointnet2 import Points

POOLED: dict[type[nn.Module], str] = {PointNet: "conv3", DGCNN: "embed", PointNet2: "sa3"}
"""The layer of a network whose pooled output feeds fc1."""
VALUES_AT_ONCE = 2**24  # of the widest tensor of a chunk of units: 64 MiB in float32
To = Literal["zero", "mean"]


@dataclass(frozen=True)
class Units:
    """What a layer gave: values [B or M, .., C], or several side by side, each with all channels (max and mean)."""

    parts: tuple[Tensor, ...]

    @property
    def count(self) -> int:
        return self.parts[0].shape[-1]

    def means(self) -> tuple[Tensor, ...]:
        """Over all samples and positions, [C] of each part."""
        return tuple(part.flatten(0, -2).mean(0) for part in self.parts)


@torch.no_grad()
def ablate(
    network: nn.Module,
    inputs: Given,
    layer: str | None = None,
    units: Sequence[int] | Tensor = (),
    to: To | tuple[Tensor, ...] = "zero",
    *,
    graph: Literal["anew", "kept"] = "anew",
    channels: int | None = None,
) -> Tensor:
    """The logits of `inputs` without `units` of a layer.

    Args:
        layer: a module's name, or "edge1..4", DGCNN's own cut; default: the pooled layer.
        units: their numbers, or bool [C].
        to: "zero", "mean" over these inputs, or the values that replace all channels, [C] of each part of the output, as of
            training data: `unit_values(network, training, layer).means()`.
        graph: of a DGCNN, whether the graphs above the layer are found anew in what is left, or kept.
        channels: the axis of channels, if it is not the last.

    Raises:
        ValueError: no such layer, unit, graph or axis.
    """
    given = Inputs.of(network, inputs)
    layer = layer or pooled_layer(network)
    _check_graph(network, graph)
    with as_it_was(network):
        if run := _own_cut(network, given, layer, channels):
            leaves = run.capture(gradients=False)[0]
            own = Units((leaves[EVIDENCE],))
            removed = torch.where(_chosen(units, own, layer), _replacement(own, to)[0], own.parts[0])
            return run.above(leaves | {EVIDENCE: removed}).detach()
        check_layer(network, layer)
        values = _watch(network, given, layer, channels)
        chosen = _chosen(units, values, layer)
        replacement = _replacement(values, to)

        def change(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(torch.where(chosen, r, p) for p, r in zip(parts, replacement, strict=True))

        with _graphs(network, given, graph):
            return _run(network, given, layer, channels, change)


@torch.no_grad()
def unit_values(
    network: nn.Module, inputs: Given, layer: str | None = None, channels: int | None = None
) -> Units:
    """What a layer gives, channels last."""
    given = Inputs.of(network, inputs)
    layer = layer or pooled_layer(network)
    with as_it_was(network):
        if run := _own_cut(network, given, layer, channels):
            return Units((run.capture(gradients=False)[0][EVIDENCE],))
        check_layer(network, layer)
        return _watch(network, given, layer, channels)


@torch.no_grad()
def each_unit(
    network: nn.Module,
    inputs: Given,
    layer: str | None = None,
    to: To | tuple[Tensor, ...] = "zero",
    *,
    graph: Literal["anew", "kept"] = "anew",
    channels: int | None = None,
) -> Tensor:
    """The logits [C, B, classes] without each unit of a layer in turn; arguments as `ablate`.

    Of the pooled layer of PointNet, PointNet++ and DGCNN in one pass; at the network's own cut (conv2, sa2, "edge1..4", with
    no graph above) what is above is replayed; of another layer, or with channels on another axis, a pass a unit.
    """
    given = Inputs.of(network, inputs)
    layer = layer or pooled_layer(network)
    _check_graph(network, graph)
    cuts = [cut for cut in known_cuts(network) if cut.layer == layer and cut.above is not None]
    with as_it_was(network):
        if cuts and channels in (None, -1):
            run = Pass(network, cuts[0], given)
            leaves = run.capture(gradients=False)[0]
            (value,) = _replacement(Units((leaves[EVIDENCE],)), to)
            return torch.cat(list(run.without_each_channel(leaves, value)))
        if layer == _known_pool(network) and channels in (None, -1):
            return each_pooled_unit(network, _watch(network, given, layer, None), to)
    count = unit_values(network, inputs, layer, channels).count
    return torch.stack(
        [ablate(network, inputs, layer, [u], to, graph=graph, channels=channels) for u in range(count)]
    )


@torch.no_grad()
def each_pooled_unit(network: nn.Module, values: Units, to: To | tuple[Tensor, ...] = "zero") -> Tensor:
    """`each_unit` of the pooled layer, whose `values` are known."""
    with as_it_was(network):
        return rank_one(network, values, _replacement(values, to))


def rank_one(network: Any, values: Units, replacement: tuple[Tensor, ...]) -> Tensor:
    """`each_unit` of the pooled values of a network with fc1, fc2 and fc3.

    BatchNorm in evaluation is affine, so it is applied to z and to the columns of W once.
    """
    fc1 = network.fc1
    pooled = torch.cat(values.parts, -1)
    weight = fc1.matrix().weight.detach().view(-1, len(values.parts), values.count)  # [H, parts, C]
    norm = fc1.norm
    scale = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
    base = norm(fc1.linear(pooled))  # [B, H]
    change = torch.stack([r - p for p, r in zip(values.parts, replacement, strict=True)])  # [parts, B, C]
    found = []
    step = max(1, VALUES_AT_ONCE // base.numel())
    for first in range(0, values.count, step):
        some = slice(first, first + step)
        columns = weight[:, :, some] * scale[:, None, None]
        z = base + torch.einsum("pbc,hpc->cbh", change[..., some], columns)
        hidden = fc1.activation(z).flatten(0, 1)
        found.append(network.fc3(network.fc2(hidden)).view(-1, len(base), network.fc3.out_features))
    return torch.cat(found)


def head(network: Any, values: Units) -> Tensor:
    """The logits of pooled values."""
    return network.fc3(network.fc2(network.fc1(torch.cat(values.parts, -1))))


def pooled_layer(network: nn.Module) -> str:
    """The layer whose units are ablated by default; ValueError if none is known."""
    layer = _known_pool(network)
    if layer is None:
        raise ValueError(
            f"give layer=, the name of a module of {type(network).__name__} whose output's last axis are units."
        )
    return layer


def _known_pool(network: nn.Module) -> str | None:
    return next((layer for kind, layer in POOLED.items() if isinstance(network, kind)), None)


def _own_cut(network: nn.Module, given: Inputs, layer: str, channels: int | None) -> Pass | None:
    """At a cut that a network has a name for and no module, as DGCNN's "edge1..4"; None: the layer is a module."""
    modules = dict(network.named_modules())
    cuts = [cut for cut in known_cuts(network) if cut.layer == layer and cut.above is not None]
    if not cuts or layer in modules:
        return None
    if channels not in (None, -1):
        raise ValueError(f"at {layer!r} channels are the last axis; got channels={channels}, leave it out.")
    return Pass(network, cuts[0], given)


def _check_graph(network: nn.Module, graph: str) -> None:
    if graph not in ("anew", "kept"):
        raise ValueError(f"graph must be 'anew' or 'kept'; got {graph!r}.")
    if graph == "kept" and not any(isinstance(m, EdgeConv) for m in network.modules()):
        raise ValueError(f"graph='kept' is for DGCNN; {type(network).__name__} has no graphs.")


# Hooks


def _watch(network: nn.Module, given: Inputs, layer: str, channels: int | None) -> Units:
    seen: list[tuple[Tensor, ...]] = []

    def note(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(parts)
        return parts

    _run(network, given, layer, channels, note)
    if len(seen) != 1:
        raise ValueError(
            f"{layer!r} was called {len(seen)} times in a forward, and its units are those of one call; inside a fused "
            "layer nothing is called: name the layer itself, or run `with unfused(network): ...`."
        )
    return Units(seen[0])


def _run(
    network: nn.Module,
    given: Inputs,
    layer: str,
    channels: int | None,
    change: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]],
) -> Tensor:
    """The logits with what the layer gives changed, channels last."""
    axis = -1 if channels is None else channels

    def after(module: nn.Module, args: Any, out: Any) -> Any:
        if isinstance(out, Points):
            assert out.features is not None
            if axis != -1:
                raise ValueError(
                    f"channels of {layer!r} are the last axis; got channels={channels}, leave it out."
                )
            return out._replace(features=change((out.features,))[0])
        parts = out if isinstance(out, tuple) else (out,)
        if not all(isinstance(part, Tensor) for part in parts):
            raise ValueError(f"the output of {layer!r} is no tensor; name a module inside it.")
        for part in parts:
            check_axis(part, axis, layer)
        changed = tuple(part.movedim(-1, axis) for part in change(tuple(p.movedim(axis, -1) for p in parts)))
        return changed if isinstance(out, tuple) else changed[0]

    handle = network.get_submodule(layer).register_forward_hook(after)
    try:
        return functional_call(network, detached(network), given.args, given.kwargs)
    finally:
        handle.remove()


@contextmanager
def _graphs(network: nn.Module, given: Inputs, graph: str) -> Iterator[None]:
    """With "kept", each EdgeConv is given the graph that it has in the whole network."""
    layers = [m for m in network.modules() if isinstance(m, EdgeConv)] if graph == "kept" else []
    kept: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, args: Any) -> None:
        kept[module] = args[1]

    def give(module: nn.Module, args: Any) -> Any:
        return (args[0], kept[module], *args[2:])

    with ExitStack() as stack:
        for hook in (note, give):
            if layers and hook is give:
                functional_call(network, detached(network), given.args, given.kwargs)
                stack.pop_all().close()
            for layer in layers:
                stack.callback(layer.register_forward_pre_hook(hook).remove)
        yield


def _replacement(values: Units, to: To | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a unit becomes, [C] of each part."""
    if isinstance(to, tuple):
        shapes = [tuple(t.shape) for t in to]
        if shapes != [(values.count,)] * len(values.parts):
            raise ValueError(
                f"the values that replace units must be {len(values.parts)} of [{values.count}]; got {shapes}."
            )
        return tuple(t.to(part) for t, part in zip(to, values.parts, strict=True))
    if to == "zero":
        return tuple(part.new_zeros(values.count) for part in values.parts)
    if to == "mean":
        return values.means()
    raise ValueError(f"to must be 'zero', 'mean' or a tuple of tensors; got {to!r}.")


def _chosen(units: Sequence[int] | Tensor, values: Units, layer: str) -> Tensor:
    """bool [C] of the units."""
    count, device = values.count, values.parts[0].device
    try:
        chosen = torch.as_tensor(units, device=device)
    except (TypeError, ValueError, RuntimeError):  # names, say
        chosen = torch.tensor(math.nan)
    if chosen.dim() != 1:
        raise ValueError(
            f"units of {layer!r} are a list of numbers from 0 to {count - 1}, or bool [{count}]; got {units!r}."
        )
    if not len(chosen):
        return torch.zeros(count, dtype=torch.bool, device=device)
    if chosen.dtype == torch.bool:
        if chosen.shape != (count,):
            raise ValueError(f"{layer!r} has {count} units; got bool {list(chosen.shape)}.")
        return chosen
    if chosen.is_floating_point() or (
        len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < count
    ):
        raise ValueError(f"units of {layer!r} are numbers from 0 to {count - 1}; got {chosen.tolist()[:8]}.")
    return torch.zeros(count, dtype=torch.bool, device=device).index_fill(0, chosen.long(), True)
