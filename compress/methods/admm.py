"""ADMM on tensor formats: a dense network is trained until its matrices are nearly of a format, and then cut.

Yin et al. 2021 (arXiv 2107.12422):

    min  loss(W) + rho / 2 |W - Z + U|^2       W by the usual steps, in the dense network     (their equation 9)
    Z <- the matrix of the format nearest to W + U                                           (equation 10)
    U <- U + W - Z                                                                           (equation 11)

Z and U move once an epoch, at its start, as in the authors' code. There the penalty is that of the bare numbers, with rho
1e-3; here it is relative, rho / 2 |W - Z + U|^2 / |W_0|^2 with W_0 the matrix at the start, so that one rho serves matrices
of any size and scale. `relative=False` is theirs.

Truncated TT, HT and Tucker are near the best (the error is at most that of the largest unfolding times the root of the
number of cuts); CP, TR and BT are fitted by alternating least squares from the last Z, with no such promise. What is left
between W and Z, the residual, is logged.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.models import TensorLinear
from dropfold.models.formats import Dense, Format, FormatSpec
from dropfold.train.engine.method import Method
from dropfold.train.engine.step import Step

FITTED = ("cp", "tr", "bt")  # by alternating least squares
SWEEPS = 20  # of these, from the last Z


def nearest(weight: Tensor, spec: FormatSpec, gates: int = 1, last: Format | None = None) -> Format:
    """The matrix of a format that is nearest to `weight` [rows, gates columns]; fits start from the `last` one."""
    weight = weight.detach()
    if last is not None and spec.format in FITTED:
        return copy.deepcopy(last).fit(weight, sweeps=SWEEPS)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)  # of the fits' first starts
        return spec.fitted(weight, gates)


class ADMM(Method):
    """Draws the dense matrices of `specs` (module -> the format that it will have) to these formats.

    Args:
        specs: of `TensorLinear`s whose weight is dense, by their names in the network.
        gates: how often each one's output modes are repeated: 4 for an LSTM, 3 for a GRU.
        rho: strength of the penalty, relative to each matrix's own |W_0|^2 or, as published, absolute.
    """

    def __init__(
        self, specs: Mapping[str, FormatSpec], gates: int = 1, rho: float = 1.0, relative: bool = True
    ) -> None:
        self.specs, self.gates, self.rho, self.relative = dict(specs), gates, rho, relative
        self.z: dict[str, Format] = {}
        self.dual: dict[str, Tensor] = {}
        self.scale: dict[str, float] = {}

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network itself; ValueError for a matrix that is not dense, or a format that does not fit it."""
        for name, spec in self.specs.items():
            weight = dense_weight(network, name)
            self.z[name] = nearest(weight, spec, self.gates)
            self.dual[name] = torch.zeros_like(weight)
            self.scale[name] = float(weight.detach().square().sum()) if self.relative else 1.0
        return network

    def before_epoch(self, network: nn.Module, epoch: int) -> None:
        """Move Z and U; before the first epoch Z is the nearest matrix already, and U is 0."""
        if epoch == 0:
            return
        with torch.no_grad():
            for name, spec in self.specs.items():
                weight, dual = dense_weight(network, name), self._dual(network, name)
                self.z[name] = nearest(weight + dual, spec, self.gates, self.z[name])
                dual += weight - self.z[name].to_dense().to(weight)

    def loss(self, step: Step, logits: Tensor) -> Tensor:
        """rho / 2 sum of |W - Z + U|^2 over the matrices."""
        total = logits.new_zeros((), dtype=torch.float32)
        for name, z in self.z.items():
            weight = dense_weight(step.network, name)
            apart = weight - z.to_dense().detach().to(weight) + self._dual(step.network, name)
            total = total + apart.square().sum() / self.scale[name]
        return self.rho / 2 * total

    def after_epoch(self, network: nn.Module, epoch: int) -> dict[str, float]:
        """The residual |W - Z| / |W| of each matrix, Z the nearest of the format to W itself."""
        with torch.no_grad():
            return {
                f"admm/{name}": residual(dense_weight(network, name), self.z[name]) for name in self.specs
            }

    def state_dict(self) -> dict[str, Any]:
        """Z, U and the scales."""
        return {
            "z": {name: z.state_dict() for name, z in self.z.items()},
            "dual": {name: dual.cpu().clone() for name, dual in self.dual.items()},
            "scale": self.scale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them up."""
        for name, z in self.z.items():
            z.load_state_dict(state["z"][name])
        self.dual = {name: dual.clone() for name, dual in state["dual"].items()}
        self.scale = dict(state["scale"])

    def _dual(self, network: nn.Module, name: str) -> Tensor:
        weight = dense_weight(network, name)
        if self.dual[name].device != weight.device:
            self.dual[name] = self.dual[name].to(weight.device)
        return self.dual[name]


def residual(weight: Tensor, near: Format) -> float:
    """|W - Z| / |W|."""
    weight, z = weight.detach(), near.to_dense().detach().to(weight)
    return float((weight - z).norm() / weight.norm().clamp(min=torch.finfo(weight.dtype).tiny))


def dense_weight(network: nn.Module, name: str) -> Tensor:
    """The matrix [in, out] of a dense `TensorLinear`; ValueError if the module is none."""
    module = dict(network.named_modules()).get(name)
    if not isinstance(module, TensorLinear) or not isinstance(module.weight, Dense):
        what = "there is none" if module is None else f"it is {module}"
        raise ValueError(
            f"{name} must be a dense TensorLinear, as of a dense TensorLSTM or TensorGRU; {what}."
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
        weight = dense_weight(network, name)
        near = nearest(weight, spec, gates)
        errors[name] = residual(weight, near)
        state = {key: value for key, value in state.items() if not key.startswith(f"{name}.weight.")}
        state |= {f"{name}.weight.{key}": value for key, value in near.state_dict().items()}
    into.load_state_dict(state)
    return errors
