"""Running a network at a cut: forward with leaves in place, the rest above the cut, gradients, and the bias terms.

Nothing is left behind: parameters are given to the forward detached, so none is asked for a gradient; every module's
training flag comes back, hooks are removed, also after an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from dropfold.explain.cut.biases import effective_biases, noting_winners, winners_alone
from dropfold.explain.cut.cuts import EVIDENCE, Cut, Leaf, Leaves, Place
from dropfold.explain.cut.inputs import Inputs
from dropfold.models import unfused
from dropfold.models.layers.unfused import HasPlainForm

VALUES_AT_ONCE = 2**22  # features that are replayed together
KEPT = "_transform"  # PointNet's own memory of its last forward
SMOOTH = (
    nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.CELU, nn.Mish, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.LayerNorm,
    nn.GroupNorm, nn.MultiheadAttention, nn.modules.instancenorm._InstanceNorm, nn.RNNBase, nn.RNNCellBase,
)  # fmt: skip
PIECEWISE = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.modules.pooling._MaxPoolNd)


@contextmanager
def as_it_was(network: nn.Module) -> Iterator[None]:
    """Evaluation mode; all flags, and what a network remembers of its last forward, come back."""
    modes = {module: module.training for module in network.modules()}
    kept = {module: getattr(module, KEPT) for module in modes if hasattr(module, KEPT)}
    try:
        network.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for module, value in kept.items():
            setattr(module, KEPT, value)


@contextmanager
def differentiable(network: nn.Module) -> Iterator[None]:
    """While it is open, PyTorch's own RNNs run without cuDNN, whose backward pass needs training mode, and without oneDNN,
    which has no forward mode of differentiation."""
    if not any(isinstance(module, nn.RNNBase) for module in network.modules()):
        yield
        return
    before = torch.backends.mkldnn.set_flags(_enabled=False)
    try:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before[0])


class FrozenGates(TorchFunctionMode):
    """sigmoid(z) is a constant, and tanh(z) is z times the constant tanh(z) / z: an RNN is then linear in its frames."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "sigmoid":
            return out.detach()
        if name == "tanh":
            z = args[0]
            return z * torch.where(z == 0, 1, out / z).detach()
        return out


class Pass:
    """Forwards of a network in which tensors at a cut are replaced.

    `plain` runs the textbook form, in which inner modules of fused layers are called.
    """

    def __init__(self, network: nn.Module, cut: Cut, inputs: Inputs) -> None:
        self.network, self.cut, self.inputs = network, cut, inputs
        self.plain = cut.plain
        self.winners: dict[nn.Module, Tensor] = {}

    def capture(self, gradients: bool = True) -> tuple[Leaves, Tensor]:
        """`(leaves, logits)`: copies of the tensors at the cut, and the logits as a function of them."""
        leaves: Leaves = {}

        def leaf(term: str, value: Tensor) -> Tensor:
            if term not in leaves:
                leaves[term] = value.detach().clone().requires_grad_(gradients)
            return leaves[term].clone()  # what follows may work in place

        with noting_winners(self.network) as self.winners:
            logits = self._forward(leaf)
        if not logits.is_floating_point() or logits.dim() not in (2, 3):
            raise ValueError(
                f"{type(self.network).__name__} must give logits [B, classes], or [B, N, classes] of points; got "
                f"{list(logits.shape)}."
            )
        given = self.inputs
        if len(logits) != given.samples and (given.batch is None or len(logits) != len(given.batch)):
            rows = "" if given.batch is None else f", or one for each of {len(given.batch)} rows"
            raise ValueError(
                f"{type(self.network).__name__} must give logits of each of {given.samples} samples{rows}; got "
                f"{list(logits.shape)}. The first axis of the first input counts samples, or with batch= rows."
            )
        if gradients and not logits.requires_grad:
            raise ValueError(
                f"no gradient goes from the logits to {self.cut.layer!r}: they do not depend on it, or on its values as "
                "constants alone. Take another layer."
            )
        return leaves, logits

    def above(self, leaves: Leaves, parameters: dict[str, Tensor] | None = None) -> Tensor:
        """The logits of other tensors at the cut; `parameters` replace the network's own."""
        if self.cut.above is not None:
            given = detached(self.network) | (parameters or {})
            above = _Above(self.network, self.cut.above)
            return functional_call(
                above, {f"network.{k}": v for k, v in given.items()}, (leaves, self.inputs)
            )
        return self._forward(lambda term, value: leaves[term].clone(), parameters)

    @torch.no_grad()
    def without_each_channel(self, leaves: Leaves, value: Tensor | None = None) -> Iterator[Tensor]:
        """The logits [u, ..] of some channels after others, each channel of the features 0 everywhere, or its `value` [C].

        What is above the cut is replayed for several channels at once, where it is known and the inputs are dense.
        """
        f, axis = leaves[EVIDENCE], self.cut.channels
        count = f.shape[axis]
        value = f.new_zeros(count) if value is None else value
        together = self.cut.above is not None and self.inputs.batch is None
        step = max(1, VALUES_AT_ONCE // f.numel()) if together else 1
        for first in range(0, count, step):
            some = range(first, min(first + step, count))
            changed = f.repeat(len(some), *[1] * f.dim()) if together else f[None].clone()
            changed = changed.view(len(some), *f.shape)
            for i, k in enumerate(some):
                changed[i].movedim(axis, -1)[..., k] = value[k]
            if not together:
                yield self.above(leaves | {EVIDENCE: changed[0]}).detach()[None]
                continue
            many = {term: t.repeat(len(some), *[1] * (t.dim() - 1)) for term, t in leaves.items()}
            inputs = replace(self.inputs, samples=len(some) * self.inputs.samples)
            out = Pass(self.network, self.cut, inputs).above(many | {EVIDENCE: changed.flatten(0, 1)})
            yield out.view(len(some), self.inputs.samples, *out.shape[1:])

    def bias_terms(self, leaves: Leaves) -> Tensor:
        """What the effective biases add to every logit at the leaves of `capture`: the tangent of the logits along them, in
        one forward pass."""
        # A layer that the cut goes through shows all its points at the cut.
        names = {module: name for name, module in self.network.named_modules()}
        winners = {
            layer: rows
            for layer, rows in self.winners.items()
            if not any(place.module.startswith(f"{names[layer]}.") for place in self.cut.places)
        }
        with unfused(self.network), winners_alone(self.network, winners), forward_ad.dual_level():
            duals = {n: forward_ad.make_dual(*pair) for n, pair in effective_biases(self.network).items()}
            plain, self.plain = self.plain, True
            try:
                out = self.above({term: value.detach() for term, value in leaves.items()}, duals)
            finally:
                self.plain = plain
            tangent = forward_ad.unpack_dual(out).tangent
            return torch.zeros_like(out).detach() if tangent is None else tangent.detach()

    def _forward(self, leaf: Leaf, parameters: dict[str, Tensor] | None = None) -> Tensor:
        """The whole network; a layer inside a fused one shows in the plain form alone."""
        logits, calls = self._run(leaf, parameters)
        if not self.plain and not all(calls.values()):
            self.plain = True
            logits, calls = self._run(leaf, parameters)
        for place, count in calls.items():
            if count != 1:
                raise ValueError(
                    f"{place.module!r} was called {count} times in a forward, and a cut needs one call: take the module "
                    "that stands around it, or an inner one."
                )
        return logits

    def _run(self, leaf: Leaf, parameters: dict[str, Tensor] | None) -> tuple[Tensor, dict[Place, int]]:
        calls = dict.fromkeys(self.cut.places, 0)
        with ExitStack() as stack, torch.enable_grad():
            for part in [self.network] if self.plain else self._fused_around():
                stack.enter_context(unfused(part))
            for place in self.cut.places:
                module = self.network.get_submodule(place.module)
                handle = _hook(module, place, leaf, calls)
                stack.callback(handle.remove)
            for name in self.cut.frozen:
                module = self.network.get_submodule(name)
                stack.callback(module.register_forward_hook(lambda m, a, out: out.detach()).remove)
            if self.cut.gates:
                stack.enter_context(FrozenGates())
            given = detached(self.network) | (parameters or {})
            return functional_call(self.network, given, self.inputs.args, self.inputs.kwargs), calls

    def _fused_around(self) -> list[nn.Module]:
        """The fused layers that the cut goes through: modules inside are called in their plain form alone."""
        found: list[nn.Module] = []
        for place in self.cut.places:
            outer = accumulate(place.module.split(".")[:-1], "{}.{}".format)
            layers = (self.network.get_submodule(name) for name in outer)
            found += [layer for layer in layers if isinstance(layer, HasPlainForm)][:1]
        return found


class _Above(nn.Module):
    """A function of a network as a module, whose parameters can be replaced."""

    def __init__(self, network: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.function = network, function

    def forward(self, leaves: Leaves, inputs: Inputs) -> Tensor:
        return self.function(self.network, leaves, inputs)


def _hook(module: nn.Module, place: Place, leaf: Leaf, calls: dict[Place, int]) -> Any:
    if place.side == "out":

        def after(module: nn.Module, args: Any, out: Any) -> Any:
            calls[place] += 1
            return place.swap(out, leaf)

        return module.register_forward_hook(after)

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        calls[place] += 1
        return place.swap((args, kwargs), leaf)

    return module.register_forward_pre_hook(before, with_kwargs=True)


def detached(network: nn.Module) -> dict[str, Tensor]:
    """The parameters by name, none of which asks for a gradient."""
    return {name: value.detach() for name, value in network.named_parameters()}


def smooth_modules(network: nn.Module) -> tuple[list[str], bool]:
    """`(names of the kinds of modules that are not piecewise linear, whether some are)`."""
    kinds = sorted({type(module).__name__ for module in network.modules() if _is_smooth(module)})
    return kinds, any(isinstance(module, PIECEWISE) for module in network.modules())


def _is_smooth(module: nn.Module) -> bool:
    """Not piecewise linear in evaluation; a BatchNorm without running statistics divides by those of its input."""
    batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return isinstance(module, SMOOTH) or (batch_norm and module.running_mean is None)
