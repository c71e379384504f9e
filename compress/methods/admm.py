"""ADMM: a network is trained until its matrices are nearly of a form, a tensor format or a low rank, and then cut.

Yin et al. 2021 (arXiv 2107.12422):

    min  loss(W) + rho / 2 |W - Z + U|^2       W by the usual steps, in the dense network     (their equation 9)
    Z <- the matrix of the form nearest to W + U                                             (equation 10)
    U <- U + W - Z                                                                           (equation 11)

Z and U move once an epoch, at its start, as in the authors' code. There the penalty is that of the bare numbers, with rho
1e-3; here it is relative, rho / 2 |W - Z + U|^2 / |W|^2, so that one rho serves matrices of any size and scale.
`relative=False` is theirs.

|W| is that of each step, and takes no gradient. The loss does not know the scale of a matrix whose output goes straight into
a BatchNorm: c W gets the gradient of W divided by c. So does c (W - Z + U) / |c W|^2, and the two keep their balance while
|W| drifts; over |W_0|^2 the penalty would win as |W| grows, and fade as weight decay lets it shrink. With a gradient through
|W| a matrix could escape the penalty by growing. U is of W's scale: before each move it is multiplied by what |W| has become
since the last one.

Low rank and truncated TT, HT and Tucker: the first is the nearest (Eckart and Young 1936), the others are near it (the error
is at most that of the largest unfolding times the root of the number of cuts). CP, TR and BT are fitted by alternating least
squares from the last Z, with no such promise. What is left between W and Z, the residual, is logged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.models import TensorLinear
from dropfold.models.formats import Dense, Format, FormatSpec
from dropfold.models.layers.low_rank import CONVOLUTIONS, check_rank, factors, product
from dropfold.models.layers.sizes import edge_matrices
from dropfold.train.engine.method import Method
from dropfold.train.engine.step import Step

FITTED = ("cp", "tr", "bt")  # by alternating least squares
SWEEPS = 20  # of these, from the last Z


class OfRank(nn.Module):
    """The weight of a rank nearest to `weight`, as the two thin maps that it is the product of."""

    down: Tensor
    up: Tensor

    def __init__(self, weight: Tensor, rank: int, edges: bool = False) -> None:
        super().__init__()
        self.edges = edges
        for name, factor in zip(("down", "up"), factors(weight, rank, edges), strict=True):
            self.register_buffer(name, factor)

    def to_dense(self) -> Tensor:
        """The weight, of the shape that it had."""
        return product(self.down, self.up, self.edges)


Near = Format | OfRank
Projection = Callable[[Tensor, Any], Near]  # of W, with the last Z of the same projection or None


def nearest(weight: Tensor, spec: FormatSpec, gates: int = 1, last: Format | None = None) -> Format:
    """The matrix of a format that is nearest to `weight` [rows, gates columns]; fits start from the `last` one."""
    weight = weight.detach()
    if last is not None and spec.format in FITTED:
        return copy.deepcopy(last).to(weight.device).fit(weight, sweeps=SWEEPS)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)  # of the fits' first starts
        return spec.fitted(weight, gates)


def onto_formats(specs: Mapping[str, FormatSpec], gates: int = 1) -> dict[str, Projection]:
    """Projections of the matrices of dense `TensorLinear`s, by the format that each will have.

    gates: how often each one's output modes are repeated: 4 for an LSTM, 3 for a GRU.
    """

    def onto(spec: FormatSpec) -> Projection:
        return lambda weight, last: nearest(weight, spec, gates, last)

    return {name: onto(spec) for name, spec in specs.items()}


def onto_ranks(network: nn.Module, ranks: Mapping[str, int]) -> dict[str, Projection]:
    """Projections of weights of a network by the rank that each will have as `dropfold.models.layers.low_rank` has it: of
    `nn.Linear` [out, in], of an EdgeConv [2 out, in], of a convolution of window k [out, in k].

    Raises:
        ValueError: a module without such a weight, or a rank that its matrix does not have.
    """
    edges = edge_matrices(network)

    def onto(name: str, rank: int) -> Projection:
        out, inputs = weight_of(network, name).shape[:2]
        try:
            check_rank(network.get_submodule(name), out, inputs, rank, name in edges)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return lambda weight, _: OfRank(weight.detach(), rank, name in edges)

    return {name: onto(name, rank) for name, rank in ranks.items()}


class ADMM(Method):
    """Draws weights of the network to the forms that their projections lead to.

    Args:
        projections: of `weight_of` each module, by its name in the network (`onto_formats`, `onto_ranks`).
        rho: strength of the penalty, relative to each matrix's own |W|^2 or, as published, absolute.
    """

    def __init__(
        self, projections: Mapping[str, Projection], rho: float = 1.0, relative: bool = True
    ) -> None:
        self.projections, self.rho, self.relative = dict(projections), rho, relative
        self.z: dict[str, Near] = {}
        self.dual: dict[str, Tensor] = {}
        self.norms: dict[str, float] = {}  # |W| when U was last moved
        self.aim: dict[str, Tensor] = {}  # Z - U

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network itself; ValueError for a module without such a weight, or a form that does not fit it."""
        for name, project in self.projections.items():
            weight = weight_of(network, name)
            self.z[name] = project(weight, None)
            self.dual[name] = torch.zeros_like(weight.detach())
            self.norms[name] = float(weight.detach().norm())
        self._take_aim(network)
        return network

    @torch.no_grad()
    def before_epoch(self, network: nn.Module, epoch: int) -> None:
        """Move Z and U; before the first epoch Z is the nearest matrix already, and U is 0."""
        for name, project in self.projections.items() if epoch else ():
            weight = weight_of(network, name)
            norm, before = float(weight.norm()), self.norms.get(name, 0.0)
            dual = self.dual[name].to(weight.device)
            if self.relative and before:
                dual = dual * (norm / before)
            self.norms[name] = norm
            self.z[name] = project(weight + dual, self.z[name])
            self.dual[name] = dual + weight - self.z[name].to_dense().to(weight)
        self._take_aim(network)

    def loss(self, step: Step, logits: Tensor) -> Tensor:
        """The penalty of the network in training."""
        return self.penalty(step.network)

    def penalty(self, network: nn.Module) -> Tensor:
        """rho / 2 sum of |W - Z + U|^2 / |W|^2 over the matrices; for a loop of one's own."""
        total = torch.zeros(())
        for name, aim in self.aim.items():
            weight = weight_of(network, name)
            apart = (weight - aim).square().sum()
            if self.relative:
                apart = apart / weight.detach().square().sum().clamp(min=torch.finfo(weight.dtype).tiny)
            total = total.to(apart.device) + apart
        return self.rho / 2 * total

    def after_epoch(self, network: nn.Module, epoch: int) -> dict[str, float]:
        """The residual |W - Z| / |W| of each matrix, Z this epoch's."""
        return {f"admm/{name}": residual(weight_of(network, name), z) for name, z in self.z.items()}

    def state_dict(self) -> dict[str, Any]:
        """Z and U, and |W| of that time."""
        return {
            "z": {name: z.state_dict() for name, z in self.z.items()},
            "dual": {name: dual.cpu().clone() for name, dual in self.dual.items()},
            "norms": dict(self.norms),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them up."""
        for name, z in self.z.items():
            z.load_state_dict(state["z"][name])
        self.dual = {name: dual.clone() for name, dual in state["dual"].items()}
        self.norms = dict(state.get("norms", {}))  # checkpoints had none before U was scaled

    @torch.no_grad()
    def _take_aim(self, network: nn.Module) -> None:
        """Z - U, where the weights are."""
        for name, z in self.z.items():
            weight = weight_of(network, name)
            self.aim[name] = z.to_dense().to(weight) - self.dual[name].to(weight)


@torch.no_grad()
def residual(weight: Tensor, near: Near) -> float:
    """|W - Z| / |W|."""
    z = near.to_dense().to(weight)
    return float((weight - z).norm() / weight.norm().clamp(min=torch.finfo(weight.dtype).tiny))


def weight_of(network: nn.Module, name: str) -> Tensor:
    """The weight of a matrix or convolution, or the matrix [in, out] of a dense `TensorLinear`; ValueError for others."""
    module: Any = dict(network.named_modules()).get(name)
    if isinstance(module, (nn.Linear, *CONVOLUTIONS)):
        return module.weight
    if not isinstance(module, TensorLinear) or not isinstance(module.weight, Dense):
        what = "there is none" if module is None else f"it is {module}"
        raise ValueError(
            f"{name} must be a dense TensorLinear, as of a dense TensorLSTM or TensorGRU, an nn.Linear or a convolution; "
            f"{what}."
        )
    return module.weight.cores[0]


@torch.no_grad()
def decomposed(
    network: nn.Module, into: nn.Module, specs: Mapping[str, FormatSpec], gates: int
) -> dict[str, float]:
    """Give `into`, a network of these formats, the weights of the dense one: each matrix the nearest of its format, all else
    as it is. Returns the error |W - Z| / |W| of each."""
    state, errors = dict(network.state_dict()), {}
    for name, spec in specs.items():
        weight = weight_of(network, name)
        near = nearest(weight, spec, gates)
        errors[name] = residual(weight, near)
        state = {key: value for key, value in state.items() if not key.startswith(f"{name}.weight.")}
        state |= {f"{name}.weight.{key}": value for key, value in near.state_dict().items()}
    into.load_state_dict(state)
    return errors
