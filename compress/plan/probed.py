"""Plans of any network, found by probing: NaN in a channel shows who reads it, however the code in between is written.

A leaf is a matrix, a convolution or a BatchNorm. Leaves give their usual outputs again, some channels of which are NaN, so
that NaN goes no farther than the leaves that read it. All channels of all leaves are numbered, and for each bit of the
numbers there is a run in which those with the bit are NaN and one in which the others are: an input that some runs reach
and others do not spells the number of the channel that it is. An input that more than one channel reaches is looked at with
one leaf changed at a time: channels of several leaves that add up in it belong together, and where it mixes the channels of
one leaf (attention, LayerNorm, a product of features) they stay.

All of it in evaluation, on a copy; what is found holds for the inputs that were tried.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from dropfold.compress.plan.plan import Group, Plan, Slices, tensors
from dropfold.models.layers.low_rank import CONVOLUTIONS
from dropfold.models.layers.sizes import NORMS, tied

MATRICES = (nn.Linear, *CONVOLUTIONS)
NONE, MIXED = -1, -2  # an input that no channel reaches, or more than one
Channel = tuple[str, int]  # of a leaf's output


@dataclass
class _Leaf:
    """A module with weights: how many channels it makes and reads, and whether each of them is its own (a BatchNorm)."""

    name: str
    module: nn.Module
    channelwise: bool
    made: int
    read: int

    @property
    def axis(self) -> int:
        """Of the channels in its inputs and outputs, which may come without a batch."""
        if isinstance(self.module, CONVOLUTIONS):
            return -1 - len(self.module.kernel_size)
        return -1 if isinstance(self.module, nn.Linear) else 1


@dataclass
class _Found:
    """Who reads the channels of a leaf."""

    inputs: dict[str, dict[int, int]] = field(
        default_factory=lambda: defaultdict(dict)
    )  # leaf -> its input -> channel
    mixed: set[str] = field(default_factory=set)  # leaves whose inputs mix the channels
    output: bool = False  # whether the network returns them


def plan_probed(model: nn.Module, *example: Any, **options: Any) -> Plan:
    """A group for all channels that can go, of any network; `example`, `options`: what it is called with.

    Raises:
        ValueError: the network holds no matrix or convolution.
    """
    probe = copy.deepcopy(model).eval()
    leaves, fixed = _leaves(probe)
    if not any(not leaf.channelwise for leaf in leaves.values()):
        raise ValueError(
            f"{type(model).__name__} holds no nn.Linear and no convolution to take channels from."
        )
    found = _Probe(probe, leaves, example, options).run()
    return _plan(model, leaves, found, fixed)


def _leaves(model: nn.Module) -> tuple[dict[str, _Leaf], dict[str, str]]:
    """The leaves, and the other modules with weights of their own, whose channels stay."""
    leaves, fixed = {}, {}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if any(isinstance(p, UninitializedParameter) for p in own):
            raise ValueError(
                f"{name} has no sizes yet: call the network once before its channels are planned."
            )
        if hasattr(module, "parametrizations"):
            fixed[name] = "its weight is parametrized"
        elif isinstance(module, MATRICES) and "weight" not in module._parameters:
            fixed[name] = "its weight is made anew at each call (weight_norm, spectral_norm, pruning)"
        elif isinstance(module, NORMS):
            leaves[name] = _Leaf(name, module, True, module.num_features, module.num_features)
        elif isinstance(module, CONVOLUTIONS):
            depthwise = module.groups == module.in_channels == module.out_channels and module.groups > 1
            if module.groups > 1 and not depthwise:
                fixed[name] = f"its {module.groups} groups tie channels to one another"
            elif module.transposed:
                fixed[name] = "a transposed convolution is not looked into"
            else:
                leaves[name] = _Leaf(name, module, depthwise, module.out_channels, module.in_channels)
        elif isinstance(module, nn.Linear):
            leaves[name] = _Leaf(name, module, False, module.out_features, module.in_features)
        elif own and "parametrizations" not in name:
            fixed[name or type(model).__name__] = (
                f"what {type(module).__name__} does with its weights is not known"
            )
    return leaves, fixed


class _Probe:
    """Runs of a network with NaN in some channels of its leaves' outputs."""

    def __init__(
        self,
        model: nn.Module,
        leaves: Mapping[str, _Leaf],
        example: Sequence[Any],
        options: Mapping[str, Any],
    ) -> None:
        self.model, self.leaves, self.example, self.options = model, leaves, example, options
        self.usual: dict[str, list[Tensor]] = {}  # each leaf's outputs, call by call
        self.changed: dict[str, Tensor] | None = None  # the channels that are NaN
        self.calls: dict[str, int] = {}
        self.reached: dict[str, Tensor] = {}

    @torch.no_grad()
    def run(self) -> dict[str, _Found]:
        """What was found of each leaf that is called."""
        for leaf in self.leaves.values():
            leaf.module.register_forward_hook(self._hook(leaf), with_kwargs=True)
        out = self.model(*self.example, **self.options)
        if not all(t.isfinite().all() for t in tensors(out)):
            raise ValueError(
                f"{type(self.model).__name__} returns NaN or infinities for this example; give it another one."
            )
        called = [leaf for leaf in self.leaves.values() if leaf.name in self.usual]
        found = {leaf.name: _Found() for leaf in called}
        reach: dict[str, set[str]] = {}  # reader -> leaves that it reads
        for leaf in called:
            found[leaf.name].output, reached = self._call(
                {leaf.name: torch.ones(leaf.made, dtype=torch.bool)}
            )
            for reader, inputs in reached.items():
                if inputs.any():
                    reach.setdefault(reader, set()).add(leaf.name)
        owners = [(leaf.name, channel) for leaf in called for channel in range(leaf.made)]
        several = set()
        for reader, numbers in self._spelled(called).items():
            if bool((numbers == MIXED).any()):
                several |= reach[reader]
            for i in (numbers >= 0).nonzero().flatten().tolist():
                name, channel = owners[int(numbers[i])]
                found[name].inputs[reader][i] = channel
        for leaf in called:
            if leaf.name not in several:
                continue
            found[leaf.name].inputs.clear()
            for reader, numbers in self._spelled([leaf]).items():
                if bool((numbers == MIXED).any()):
                    found[leaf.name].mixed.add(reader)
                elif bool((numbers >= 0).any()):
                    places = (numbers >= 0).nonzero().flatten().tolist()
                    found[leaf.name].inputs[reader] = {i: int(numbers[i]) for i in places}
        return found

    def _spelled(self, changed: Sequence[_Leaf]) -> dict[str, Tensor]:
        """For each leaf, the number among the channels of the `changed` ones that each of its inputs is, NONE or MIXED."""
        total = sum(leaf.made for leaf in changed)
        bits = max(1, (total - 1).bit_length())
        seen: dict[str, Tensor] = {}
        for bit in range(bits):
            for half in (0, 1):
                chosen = (torch.arange(total) >> bit & 1) == half
                masks = chosen.split([leaf.made for leaf in changed])
                _, reached = self._call({leaf.name: mask for leaf, mask in zip(changed, masks, strict=True)})
                for reader, inputs in reached.items():
                    either = torch.zeros(2, bits, len(inputs), dtype=torch.bool)
                    seen.setdefault(reader, either)[half, bit] = inputs
        spelled = {}
        for reader, (low, high) in seen.items():
            numbers = (high.long() << torch.arange(bits)[:, None]).sum(0)
            touched = (high | low).any(0)
            one = touched & ~(high & low).any(0) & (high | low).all(0)
            spelled[reader] = numbers.where(one, torch.where(touched, MIXED, NONE))
        return spelled

    def _hook(self, leaf: _Leaf) -> Callable[..., Any]:
        def hook(
            module: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
        ) -> Any:
            if self.changed is None:
                self.usual.setdefault(leaf.name, []).append(
                    output.clone()
                )  # what comes after may work in place
                return None
            (x,) = (*args, *named.values())
            bad = x.movedim(leaf.axis, 0).flatten(1).isnan().any(1)
            seen = self.reached.setdefault(leaf.name, torch.zeros_like(bad))
            seen |= bad
            call = self.calls[leaf.name] = self.calls.get(leaf.name, -1) + 1
            calls = self.usual[leaf.name]
            usual = calls[min(call, len(calls) - 1)].clone()
            if (channels := self.changed.get(leaf.name)) is not None:
                usual.movedim(leaf.axis, 0)[channels] = torch.nan
            return usual

        return hook

    def _call(self, changed: dict[str, Tensor]) -> tuple[bool, dict[str, Tensor]]:
        """One run: whether what the network returns holds NaN, and the inputs of each leaf that do."""
        self.changed, self.calls, self.reached = changed, {}, {}
        out = self.model(*self.example, **self.options)
        returned = any(t.is_floating_point() and bool(t.isnan().any()) for t in tensors(out))
        return returned, self.reached


class _Union:
    """Channels that belong together."""

    def __init__(self) -> None:
        self.parent: dict[Channel, Channel] = {}

    def root(self, channel: Channel) -> Channel:
        """What stands for all channels together with this one."""
        parent = self.parent.setdefault(channel, channel)
        if parent == channel:
            return channel
        self.parent[channel] = self.root(parent)
        return self.parent[channel]

    def join(self, a: Channel, b: Channel) -> None:
        """Two channels go or stay together."""
        self.parent[self.root(b)] = self.root(a)


def _plan(
    model: nn.Module, leaves: Mapping[str, _Leaf], found: Mapping[str, _Found], fixed: dict[str, str]
) -> Plan:
    """Groups of channels that go together, and why others stay."""
    fed: dict[Channel, list[Channel]] = defaultdict(
        list
    )  # an input of a leaf, and the channels that it is the sum of
    for name, of in found.items():
        for reader, inputs in of.inputs.items():
            for position, channel in inputs.items():
                fed[reader, position].append((name, channel))
    union = _Union()
    for place, channels in fed.items():
        for other in channels[1:]:
            union.join(channels[0], other)
        if leaves[place[0]].channelwise:  # the channels that it makes are those that it reads
            union.join(channels[0], place)
    made: dict[Channel, list[Channel]] = defaultdict(list)
    read: dict[Channel, list[Channel]] = defaultdict(list)
    for name in found:
        for channel in range(leaves[name].made):
            made[union.root((name, channel))].append((name, channel))
    for place, channels in fed.items():
        if not leaves[place[0]].channelwise:
            read[union.root(channels[0])].append(place)
    alike: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Channel]] = defaultdict(list)
    for root, channels in made.items():
        makers = tuple(sorted({name for name, _ in channels}, key=list(leaves).index))
        why = _why_they_stay(model, makers, leaves, found)
        if why is None and not read[root]:
            why = "nothing that could be made smaller reads its channels"
        if why is None:
            alike[makers, tuple(sorted({name for name, _ in read[root]}))].append(root)
        else:
            fixed.setdefault(makers[0], why)
    groups = [
        _group(
            next(name for name in makers if not leaves[name].channelwise),
            [made[root] for root in roots],
            [read[root] for root in roots],
            leaves,
        )
        for (makers, _), roots in alike.items()
    ]
    for group in list(groups):
        if (why := _shared_beyond(model, group)) is not None:
            groups.remove(group)
            fixed.setdefault(group.name, why)
    grouped = {s.tensor.rpartition(".")[0] for group in groups for s in group.slices if s.axis == 0}
    fixed |= {name: "it was not called" for name in leaves if name not in found}
    return Plan(model, _named(groups), {name: why for name, why in fixed.items() if name not in grouped})


def _why_they_stay(
    model: nn.Module, makers: Sequence[str], leaves: Mapping[str, _Leaf], found: Mapping[str, _Found]
) -> str | None:
    if all(leaves[name].channelwise for name in makers):
        return f"its channels are inputs of {type(model).__name__}"
    for name in makers:
        where = "" if name == makers[0] else f"with {name}: "
        if found[name].output:
            return f"{where}{type(model).__name__} returns its channels"
        if found[name].mixed:
            return f"{where}its channels are mixed on the way to {', '.join(sorted(found[name].mixed))}"
    return None


def _shared_beyond(model: nn.Module, group: Group) -> str | None:
    """A sentence if a parameter of the group is another layer's too, and would lose other channels there."""
    shared = tied(model)
    places = {(s.tensor, s.axis): s.positions for s in group.slices}
    for tensor, axis in places:
        for other in shared if tensor in shared else ():
            if shared[other] != shared[tensor] or other == tensor:
                continue
            same = places.get((other, axis))
            if same is None or not torch.equal(same.sort(1)[0], places[tensor, axis].sort(1)[0]):
                return f"{tensor} is {other} too, whose channels are others"
    return None


def _named(groups: list[Group]) -> tuple[Group, ...]:
    """Groups of one maker are told apart by a number."""
    count: dict[str, int] = defaultdict(int)
    for group in groups:
        count[group.name] += 1
    seen: dict[str, int] = defaultdict(int)
    named = []
    for group in groups:
        name = group.name
        if count[name] > 1:
            seen[name] += 1
            name = f"{name}#{seen[group.name]}"
        named.append(Group(name, group.slices))
    return tuple(named)


def _group(
    name: str,
    made: Sequence[Sequence[Channel]],
    read: Sequence[Sequence[tuple[str, int]]],
    leaves: Mapping[str, _Leaf],
) -> Group:
    places: dict[tuple[str, int], list[list[int]]] = defaultdict(lambda: [[] for _ in made])
    for c, (makers, readers) in enumerate(zip(made, read, strict=True)):
        for leaf, channel in makers:
            for tensor in _tensors_by_row(leaves[leaf]):
                places[tensor, 0][c].append(channel)
        for leaf, position in readers:
            places[f"{leaf}.weight", 1][c].append(position)
    slices = []
    for (tensor, axis), positions in places.items():
        longest = max(map(len, positions))
        padded = [(own * longest)[:longest] for own in positions]  # a position may stand twice
        slices.append(Slices(tensor, axis, torch.tensor(padded)))
    return Group(name, tuple(slices))


def _tensors_by_row(leaf: _Leaf) -> list[str]:
    kinds = ("weight", "bias", "running_mean", "running_var")
    return [f"{leaf.name}.{kind}" for kind in kinds if isinstance(getattr(leaf.module, kind, None), Tensor)]
