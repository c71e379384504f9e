"""DCFF, dynamic-coded filter fusion: a small network whose filters are fused from those of a large one while it is trained.

Lin et al. 2021 (arXiv 2107.06916). A layer of m filters holds n of them, n > m, over the inputs that the small network has.
At the start of epoch e of E, with D the Euclidean distances of the n filters:

    P = softmax(-T(e) D) along rows                                  row j: the proxy of filter j
    I_j = sum over k of mean over i of P_ji log(P_ji / P_ki)         its importance
    W' = P_top W [m, ...]                                            P_top: the rows of the m largest; the bias too
    T(e) = T_s + (T_e - T_s) tanh(k e / 2) / tanh(k E / 2)           T(0) = T_s, T(E) = T_e

(T is the authors' A / (1 + exp(-k e)) + T_s - A / 2, written with tanh.) P stays for an epoch and takes no gradient; the
gradient of W' reaches all n filters. In the end the fused filters are the small network's.

Two schedules:

- `RELEASED`, the authors' code (lmbxmu/DCFF): k = 1, T_s = 1, T_e = 10,000, log(P_ji / (P_ki + 1e-7)) in float32, and where
  an importance is not finite, all of a layer's stay as they were. T(1) is 4,622 if E is not small, so with the usual initial
  weights P is one-hot from epoch 1 on in float32, 0 log 0 makes the importances NaN, and the choice of epoch 0, of random
  weights, stays: it is the small network trained from scratch, with one epoch of fusion before.
- `ANNEALED`: k = 5 / E, T_e = 50, distances divided by their median, in log space. So filters are ranked anew at each epoch.
  Of filters that are about equally far from each other, as random ones are, P is one-hot as soon as exp(T) is far above n,
  T(E / 10) is 13; later on near ones alone are fused. `DCFF` logs the mean weight of a filter in its own proxy.

Residual streams: each of the layers whose outputs add up chooses and fuses for itself, and all that they agree in is m. No
filter of one has a partner in another, as all are trained from scratch. (Published are, for ResNets, widths of the first
convolution of each block, and of the three stages, the streams.) A filter that stays chosen keeps its row, and new ones take
the rows that became free, so that what reads a channel is not given another one without need. (The authors' rows are in
order of importance.)

Filters of a depthwise convolution read a channel each and are not fused: such a layer has m filters of its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dropfold.models.layers.sizes import CONVOLUTIONS, Sizes, resize, sizes_of
from dropfold.train.engine.method import Batches, Method

FUSED = ("weight", "bias")


@dataclass(frozen=True)
class Schedule:
    """Temperatures from `start` to `end`, with `rate` k (None: 5 / E), and what they are applied to.

    relative: distances are divided by their median (the lower one of an even number).
    exact: the importance in float64 and log space; otherwise as released.
    """

    start: float = 1.0
    end: float = 50.0
    rate: float | None = None
    relative: bool = True
    exact: bool = True

    def temperature(self, epoch: int, epochs: int) -> float:
        """T of an epoch, counted from 0; ValueError unless there is one at least."""
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1; got {epochs}.")
        k = 5 / epochs if self.rate is None else self.rate
        part = math.tanh(k * epoch / 2) / math.tanh(k * epochs / 2)
        return self.start + (self.end - self.start) * part


ANNEALED = Schedule()
RELEASED = Schedule(end=1e4, rate=1.0, relative=False, exact=False)


def log_proxies(filters: Tensor, temperature: float, relative: bool = True) -> Tensor:
    """log P [n, n] of filters [n, ...], in float64."""
    rows = filters.detach().flatten(1).double()
    distances = torch.cdist(rows, rows).fill_diagonal_(0)
    if relative:
        pairs = torch.triu_indices(len(rows), len(rows), 1)
        numbers = torch.finfo(torch.float64)
        least = max(numbers.eps * float(distances.max()), numbers.tiny)  # where most filters are equal
        distances = distances / distances[pairs[0], pairs[1]].median().clamp(min=least)
    return torch.log_softmax(-temperature * distances, 1)


def importance(log_p: Tensor, exact: bool = True) -> Tensor:
    """I [n] of the proxies; not `exact`: in float32 with 1e-7, as released, NaN where a P_ji is 0."""
    n = len(log_p)
    if exact:
        p = log_p.exp()
        return (p * log_p).sum(1) - p @ log_p.mean(0)
    p = log_p.exp().float()
    return (p * p.log()).sum(1) - p @ (p + 1e-7).log().sum(0) / n


class Fusion(nn.Module):
    """The parametrization of a weight [m, ...] or bias [m] by n filters: P_top times them.

    `matrix` [m, n] is P_top, `chosen` [m] the filter of each of its rows, `importance` [n]; all are kept with the weights.
    """

    matrix: Tensor
    chosen: Tensor
    importance: Tensor

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(m, n))
        self.register_buffer("chosen", torch.arange(m))
        self.register_buffer("importance", torch.zeros(n, dtype=torch.float64))

    def forward(self, filters: Tensor) -> Tensor:
        with torch.autocast(filters.device.type, enabled=False):  # what it makes is a weight
            return torch.tensordot(self.matrix.to(filters.dtype), filters, 1)

    @torch.no_grad()
    def choose(self, filters: Tensor, temperature: float, schedule: Schedule) -> None:
        """P_top of the filters [n, ...] as they are now."""
        log_p = log_proxies(filters, temperature, schedule.relative)
        found = importance(log_p, schedule.exact)
        if bool(found.isfinite().all()):
            self.importance.copy_(found)
        top = self.importance.argsort(descending=True, stable=True)[: len(self.chosen)]
        self.chosen[~torch.isin(self.chosen, top)] = top[~torch.isin(top, self.chosen)]
        self.matrix.copy_(log_p[self.chosen].exp())

    def own_share(self) -> Tensor:
        """The mean weight of the chosen filters in their own proxies; 1 if P is one-hot."""
        return self.matrix.gather(1, self.chosen[:, None]).mean()


def filters_of(network: nn.Module, sizes: Sizes) -> dict[str, int]:
    """How many filters `network` has in each layer that has fewer in `sizes`, as `DCFF` takes them: linear layers and
    convolutions of one group. T-Nets' last layers, whose outputs are a matrix and no channels, are left out."""
    whole = sizes_of(network)
    wiring: Any = getattr(network, "wiring", None)
    squares = wiring().squares if wiring is not None else {}
    found = {}
    for name, size in sizes.items():
        module = network.get_submodule(name)
        if len(size) > 1 and size[0] < whole[name][0] and getattr(module, "groups", 1) == 1:
            found[name] = whole[name][0]
    return {name: n for name, n in found.items() if name not in squares}


def hold_filters(network: nn.Module, filters: Mapping[str, int]) -> nn.Module:
    """Give layers of a small network new weights of so many filters each, out of which theirs are fused, and return it.

    Until `choose_filters` is called they are the first ones.

    Raises:
        ValueError: a layer that is not there, is no linear layer or convolution of one group, is parametrized already, or
            has as many filters already.
    """
    small = sizes_of(network)
    for name, n in filters.items():
        module = dict(network.named_modules()).get(name)
        why = None
        if not isinstance(module, (nn.Linear, *CONVOLUTIONS)):
            why = "there is none" if module is None else f"it is a {type(module).__name__}"
        elif getattr(module, "groups", 1) > 1:
            why = f"its filters are in {module.groups} groups, which read different channels"
        elif parametrize.is_parametrized(module):
            why = "it is parametrized already"
        elif n <= small[name][0]:
            why = f"it has {small[name][0]} filters, to be fused from more, and not from {n}"
        if why is not None:
            raise ValueError(
                f"filters are fused in nn.Linear and nn.Conv layers; {name!r} of {type(network).__name__}: {why}."
            )
    resize(network, {name: [n, small[name][1]] for name, n in filters.items()})
    for name, n in filters.items():
        layer: Any = network.get_submodule(name)
        fusion = Fusion(n, small[name][0]).to(layer.weight)
        fusion.importance = fusion.importance.double()
        for kind in FUSED:
            if getattr(layer, kind) is not None:
                parametrize.register_parametrization(layer, kind, fusion, unsafe=True)
        setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", small[name][0])
    return resize(network, {})  # what layers know of each other's sizes


def fusions_of(network: nn.Module) -> dict[str, tuple[Tensor, Fusion]]:
    """The filters [n, ...] of each layer that holds more than it has, and how they are fused."""
    return {
        name: (module.parametrizations.weight.original, module.parametrizations.weight[0])
        for name, module in network.named_modules()
        if parametrize.is_parametrized(module, "weight")
        and isinstance(module.parametrizations.weight[0], Fusion)
    }


def choose_filters(network: nn.Module, epoch: int, epochs: int, schedule: Schedule = ANNEALED) -> None:
    """Choose and fuse anew in all layers, at the start of an epoch, counted from 0, of so many.

    Raises:
        FloatingPointError: filters or biases that are not finite, by the name of their layer; nothing is chosen.
    """
    _check_filters(network)
    for filters, fusion in fusions_of(network).values():
        fusion.choose(filters, schedule.temperature(epoch, epochs), schedule)


def _check_filters(network: nn.Module) -> None:
    """Refuse NaN and infinities: one filter's would be in all that are fused, as 0 times NaN is NaN."""
    for name in fusions_of(network):
        held: Any = network.get_submodule(name).parametrizations
        for kind in FUSED:
            values = held[kind].original.detach() if kind in held else torch.zeros(1)
            if bad := int((~values.isfinite().reshape(len(values), -1).all(1)).sum()):
                raise FloatingPointError(
                    f"the {kind} of {bad} of the {len(values)} filters that {name} holds is not finite, and would be in all "
                    "that are fused: training has diverged. A lower learning rate may help."
                )


@torch.no_grad()
def fused(network: nn.Module) -> nn.Module:
    """A copy whose weights are the fused filters: the small network, without parametrizations.

    Raises:
        FloatingPointError: as `choose_filters`.
    """
    _check_filters(network)
    small = copy.deepcopy(network)
    for name in fusions_of(small):
        layer = small.get_submodule(name)
        weights = {kind: getattr(layer, kind) for kind in FUSED if parametrize.is_parametrized(layer, kind)}
        # parametrize.remove_parametrizations would take `weight` from the class that the copy shares with the network
        layer.__class__ = parametrize.type_before_parametrizations(layer)
        del layer.parametrizations
        for kind, weight in weights.items():
            layer.register_parameter(kind, nn.Parameter(weight))
    return small


class DCFF(Method):
    """Trains a small network, as a run with `config.sizes` builds it, with its filters fused from more.

    Args:
        filters: of each layer, how many are held (`filters_of`).
        epochs: of the run.
        schedule: `ANNEALED` or `RELEASED`, or another one.

    What it keeps is in buffers of the network.
    """

    def __init__(self, filters: Mapping[str, int], epochs: int, schedule: Schedule = ANNEALED) -> None:
        self.filters, self.epochs, self.schedule = dict(filters), epochs, schedule

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network, with new weights of all filters in the layers that fuse them."""
        return hold_filters(network, self.filters)

    def before_epoch(self, network: nn.Module, epoch: int) -> None:
        """Choose and fuse anew."""
        choose_filters(network, epoch, self.epochs, self.schedule)

    def after_epoch(self, network: nn.Module, epoch: int) -> dict[str, float]:
        """The mean, over the layers, of a filter's weight in its own proxy: 1 where nothing is fused."""
        shares = [float(fusion.own_share()) for _, fusion in fusions_of(network).values()]
        return {"dcff/own_share": sum(shares) / max(1, len(shares))}

    def evaluated(self, network: nn.Module, batches: Batches) -> nn.Module:
        """The small network."""
        return fused(network)
