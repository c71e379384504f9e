"""Where a network is cut to be explained: the tensors that everything above is a function of, by their name in the account.

A full cut of a network of linear maps, BatchNorm, (Leaky)ReLU and max in evaluation gives its logits exactly:

    logit = <g, F> + <terms> + bias

F are the features at the layer, terms what goes past it (coordinates that re-enter, skips, the category, first
states), each times its gradient; bias is the effective biases above, each times its gradient (Fu et al. 2020, equation 5).
Products are no sums: a transform of PointNet and the gates of an LSTM are frozen, constants of the sample.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dropfold.explain.cut.inputs import Inputs
from dropfold.models import (
    DGCNN,
    DGCNNSegmentation,
    PointNet,
    PointNet2,
    PointNet2Segmentation,
    PointNetSegmentation,
)
from dropfold.models.clouds.pointnet2 import Points
from dropfold.models.layers.tensor_linear import scaled_input
from dropfold.models.recurrent.tensor_rnn import TensorRNN

EVIDENCE, COORDINATES = "evidence", "coordinates"  # names of terms
Leaf = Callable[[str, Tensor], Tensor]  # of a term's name and tensor: the tensor that takes its place
Leaves = dict[str, Tensor]


class Place(NamedTuple):
    """A module whose output, or `(args, kwargs)`, the cut goes through; `swap(value, leaf)` puts leaves in its place."""

    module: str
    side: Literal["in", "out"]
    swap: Callable[[Any, Leaf], Any]


@dataclass(frozen=True)
class Cut:
    """A cut at `layer`.

    The first axis of all leaves counts samples, or rows where the inputs are rows; `arrange` makes [B, *positions, C] or
    [M, C] of the features. `frozen` modules give constants; with `gates` so do sigmoids and the slopes of tanh.
    `plain`: the textbook form is run. `above(network, leaves, inputs)` is the rest of the network without what is below;
    without it the whole network runs. `levels` are the set abstractions that the positions went through: their scores are
    carried back to points.
    """

    layer: str
    places: tuple[Place, ...]
    arrange: Callable[[Tensor, Inputs], Tensor] = lambda f, inputs: f
    frozen: tuple[str, ...] = ()
    gates: bool = False
    plain: bool = False
    above: Callable[[Any, Leaves, Inputs], Tensor] | None = None
    levels: tuple[str, ...] = ()
    method: str = "xgrad_cam"
    channels: int = -1
    """The axis of channels in the features, before `arrange`."""


def cut_of(
    network: nn.Module, layer: str | None = None, channels: int | None = None, frozen: bool = True
) -> Cut:
    """The cut of a network at a layer, by default the one where its evidence is read best.

    Raises:
        ValueError: there is no such layer, it is frozen, or the layer or the axis of its channels must be said.
    """
    known = known_cuts(network)
    if layer is None and not known:
        raise ValueError(
            f"no layer of {type(network).__name__} is known to read its evidence at; give layer=, one of its modules "
            f"({_listed(network)}), and channels=, the axis of that module's output that holds the channels."
        )
    cut = next((one for one in known if layer in (None, one.layer)), None)
    if cut is not None and channels not in (None, cut.channels):
        raise ValueError(
            f"at {cut.layer!r} channels are the last axis; got channels={channels}, leave it out."
        )
    if cut is None:
        assert layer is not None
        check_layer(network, layer)
        ours = bool(known) and not known[0].plain
        if channels is None and not ours:
            raise ValueError(
                f"which axis of the output of {layer!r} holds its channels? Give channels=: 1 for images [B, C, H, W], -1 "
                "where they are last."
            )
        constant = known[0].frozen if ours else ()
        if frozen and (around := [name for name in constant if f"{layer}.".startswith(f"{name}.")]):
            raise ValueError(
                f"{around[0]!r} is frozen, a constant of the sample, and no evidence is read in it; give frozen=False, or "
                "a layer outside it."
            )
        axis = -1 if channels is None else channels
        place = Place(layer, "out", whole)
        cut = Cut(layer, (place,), lambda f, inputs: channels_last(f, axis, layer, inputs))
        cut = replace(cut, channels=axis, frozen=constant)
    return cut if frozen else replace(cut, frozen=(), gates=False)


def check_layer(network: nn.Module, layer: str) -> None:
    """Refuse a layer that the network does not have."""
    names = [name for name, _ in network.named_modules() if name]
    if layer not in names:
        near = difflib.get_close_matches(layer, names, n=3, cutoff=0.3) or names[:5]
        raise ValueError(
            f"{type(network).__name__} has no layer {layer!r}; the nearest are {', '.join(map(repr, near))}."
        )


def check_axis(f: Tensor, axis: int, layer: str) -> None:
    """Refuse an axis of channels that the output of a layer does not have, or its first."""
    if not -f.dim() <= axis < f.dim() or axis % f.dim() == 0:
        raise ValueError(
            f"channels must be an axis of the output of {layer!r}, {list(f.shape)}, other than its first, which counts "
            f"samples or rows; got {axis}."
        )


def channels_last(f: Tensor, axis: int, layer: str, inputs: Inputs) -> Tensor:
    """The output of a layer as [B, *positions, C], or rows [M, C] that `inputs.batch` counts."""
    check_axis(f, axis, layer)
    f = f.movedim(axis, -1)
    if inputs.batch is None and f.dim() == 2 and len(f) > inputs.samples and len(f) % inputs.samples == 0:
        return f.view(inputs.samples, -1, f.shape[1])  # rows of dense clouds
    return f


def whole(value: Any, leaf: Leaf) -> Any:
    """A module's output, a single tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"the layer's output must be a tensor; got a {type(value).__name__}. Take a module inside it."
        )
    return leaf(EVIDENCE, value)


def _listed(network: nn.Module) -> str:
    names = [name for name, _ in network.named_children()]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


# The networks of dropfold


def known_cuts(network: nn.Module) -> list[Cut]:
    """The cuts that are defined for a network, its default first; none for a network that is not known."""
    for kind, make in NETWORKS.items():
        if isinstance(network, kind):
            return make(network)
    rnns = [(name, module) for name, module in network.named_modules() if isinstance(module, TensorRNN)]
    return [_recurrent(*rnns[0])] if len(rnns) == 1 else []


def _pointnet(network: PointNet) -> list[Cut]:
    def above(network: PointNet, leaves: Leaves, inputs: Inputs) -> Tensor:
        return _head(network, network.conv3(leaves[EVIDENCE], **inputs.clouds))

    return [Cut("conv2", (Place("conv2", "out", whole),), frozen=_transforms(network), above=above)]


def _dgcnn(network: DGCNN) -> list[Cut]:
    def above(network: DGCNN, leaves: Leaves, inputs: Inputs) -> Tensor:
        return _head(network, torch.cat(network.embed(leaves[EVIDENCE], **inputs.clouds), -1))

    return [Cut("edge1..4", (Place("embed", "in", _argument(0, EVIDENCE)),), above=above)]


def _pointnet2(network: PointNet2) -> list[Cut]:
    def above(network: PointNet2, leaves: Leaves, inputs: Inputs) -> Tensor:
        centres = Points(leaves[COORDINATES], leaves[EVIDENCE].flatten(0, 1), None, inputs.samples)
        return _head(network, network.sa3(centres))

    def swap(points: Points, leaf: Leaf) -> Points:
        return _features(EVIDENCE)(points, leaf)._replace(pos=leaf(COORDINATES, points.pos))

    return [
        Cut("sa2", (Place("sa2", "out", swap),), above=above, levels=("sa2", "sa1")),
        Cut("sa1", (Place("sa1", "out", swap),), levels=("sa1",)),
    ]


def _pointnet_segmentation(network: PointNetSegmentation) -> list[Cut]:
    places = [Place("conv2", "out", whole), Place("conv1", "out", _named("skip of conv1"))]
    if network.categories:
        places.append(Place("head1", "in", _category(network.categories)))
    return [Cut("conv2", tuple(places), frozen=_transforms(network))]


def _dgcnn_segmentation(network: DGCNNSegmentation) -> list[Cut]:
    # embed and head1 take the same features: both are given one leaf.
    places = [Place(name, "in", _argument(0, EVIDENCE)) for name in ("embed", "head1")]
    if network.categories:
        places.append(Place("category", "in", _argument(0, "category")))
    return [Cut("edge1..3", tuple(places), frozen=_transforms(network))]


def _pointnet2_segmentation(network: PointNet2Segmentation) -> list[Cut]:
    *skips, last = ("sa1", "sa2") if network.categories else ("sa1", "sa2", "sa3", "sa4")
    places = [Place(name, "out", _features(f"skip of {name}")) for name in skips]
    places.append(Place(last, "out", _features(EVIDENCE)))
    if network.categories:

        def swap(points: Points, leaf: Leaf) -> Points:
            return _features(EVIDENCE)(points, leaf)._replace(pos=leaf("coordinates of centres", points.pos))

        def own(value: Any, leaf: Leaf) -> Any:
            (points, below, category), kwargs = value
            return (_features(COORDINATES)(points, leaf), below, leaf("category", category)), kwargs

        places[-1:] = [Place(last, "out", swap), Place("fp1", "in", own)]
    return [Cut(last, tuple(places), levels=(last, *reversed(skips)))]


def _recurrent(name: str, rnn: TensorRNN) -> Cut:
    """The frames as the RNN sees them, scaled, and the first states that it is given."""

    def swap(value: Any, leaf: Leaf) -> Any:
        (x, *rest), kwargs = value
        options = dict(zip(("state",), rest)) | kwargs
        if not isinstance(x, Tensor) or x.dim() != 3:
            raise ValueError(
                "the RNN must be given a batch of sequences in a tensor, with lengths= instead of packing; got a "
                f"{type(x).__name__}."
            )
        dtype = next(rnn.parameters()).dtype
        seen = scaled_input(x, options.pop("scale", 1.0), options.pop("shift", 0.0), dtype)
        if (state := options.get("state")) is not None:  # [layers, B, H]: samples first, as all leaves
            many = isinstance(state, tuple | list)
            parts = zip("hc", state if many else [state])
            named = [leaf(f"first state {n}", s.transpose(0, 1)).transpose(0, 1) for n, s in parts]
            options["state"] = tuple(named) if many else named[0]
        if rnn.batch_first:
            return (leaf(EVIDENCE, seen),), options
        return (leaf(EVIDENCE, seen.transpose(0, 1)).transpose(0, 1),), options

    def arrange(f: Tensor, inputs: Inputs) -> Tensor:
        """[B, T, H, W, C] where the inputs are frames of pixels."""
        pixels = inputs.x.shape[2:]
        return f.view(*f.shape[:2], *pixels) if len(pixels) > 1 and pixels.numel() == f.shape[2] else f

    return Cut(
        name, (Place(name, "in", swap),), arrange, gates=True, plain=True, method="gradient_x_activation"
    )


NETWORKS: dict[type[nn.Module], Callable[[Any], list[Cut]]] = {
    PointNet: _pointnet,
    PointNet2: _pointnet2,
    DGCNN: _dgcnn,
    PointNetSegmentation: _pointnet_segmentation,
    PointNet2Segmentation: _pointnet2_segmentation,
    DGCNNSegmentation: _dgcnn_segmentation,
}


def _head(network: Any, g: Tensor) -> Tensor:
    """The logits of a cloud's feature."""
    return network.fc3(network.fc2(network.fc1(g)))


def _transforms(network: nn.Module) -> tuple[str, ...]:
    """The T-Nets that a network has."""
    return tuple(n for n in ("input_transform", "feature_transform") if getattr(network, n, None) is not None)


def _named(term: str) -> Callable[[Any, Leaf], Any]:
    return lambda value, leaf: leaf(term, value)


def _features(term: str) -> Callable[[Points, Leaf], Points]:
    """The features of points, [B, M, C] where the points are dense."""

    def swap(points: Points, leaf: Leaf) -> Points:
        assert points.features is not None
        f = points.features
        if points.pos.dim() == 3:
            return points._replace(features=leaf(term, f.view(*points.pos.shape[:2], -1)).flatten(0, 1))
        return points._replace(features=leaf(term, f))

    return swap


def _argument(i: int, term: str) -> Callable[[Any, Leaf], Any]:
    def swap(value: Any, leaf: Leaf) -> Any:
        args, kwargs = value
        return (*args[:i], leaf(term, args[i]), *args[i + 1 :]), kwargs

    return swap


def _category(categories: int) -> Callable[[Any, Leaf], Any]:
    """The category at the end of the cloud's feature g, the second argument of the head."""

    def swap(value: Any, leaf: Leaf) -> Any:
        (x, g, *rest), kwargs = value
        g = torch.cat([g[..., :-categories], leaf("category", g[..., -categories:])], -1)
        return (x, g, *rest), kwargs

    return swap
