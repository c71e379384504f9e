"""The choices of Collaborative Compression for a network, ever smaller."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dropfold.compress.cost.ledger import Ledger
from dropfold.compress.methods.collaborative.layers import Layer, layers_of
from dropfold.compress.methods.collaborative.options import Option, Path, merged, options_of
from dropfold.compress.methods.collaborative.rates import MOST, allocate, fit_exponential
from dropfold.compress.methods.collaborative.steps import STEP, path
from dropfold.compress.plan.choice import Choice
from dropfold.compress.plan.plan import Plan

SHARES = [i / 64 for i in range(1, 61)]  # of all work, up to 0.95


def paths_of(
    plan: Plan,
    energy: Mapping[str, Tensor],
    advance: Callable[[int], object] = lambda _: None,
    step: float = STEP,
) -> list[tuple[Layer, Path]]:
    """Each layer of the network and its path, in steps of such a part; `advance` is called with 1 after each."""
    found: list[tuple[Layer, Path]] = []
    for layer in layers_of(plan, energy):
        found.append((layer, path(layer, step=step)))
        advance(1)
    return found


def collaborative(
    paths: Sequence[tuple[Layer, Path]], ledger: Ledger, released: bool = False
) -> list[Choice]:
    """Choices for ever more saved work, shared out over the layers by exponential fits: see `rates`.

    The curve of a layer is that of the options along its path. A layer of which fewer than two save work, or whose loss does
    not rise, keeps its form.
    """
    layers, curves, work = [], [], []
    whole = ledger.cost(())
    for layer, steps in paths:
        options = options_of(layer, steps)
        saved = torch.tensor([whole - ledger.cost([ledger.entry(o.choice)]) for o in options]).double()
        losses = torch.tensor([option.loss for option in options]).double()
        full = (
            float(saved.max()) / MOST
        )  # what the layer itself costs, as far as its channels and ranks reach
        if len(saved[saved > 0].unique()) < 2:
            continue
        p, q = fit_exponential(saved / full, losses, released)
        if p > 0 and q > 0:
            layers.append((options, saved))
            curves.append((p, q))
            work.append(full)
    found = [Choice({})]
    for share in SHARES if layers else []:
        shares = allocate(work, curves, share * sum(work), released)
        chosen = [_first(options, own, asked) for (options, own), asked in zip(layers, shares, strict=True)]
        found.append(merged(chosen, ledger))
    return found


def _first(options: Sequence[Option], saved: Tensor, asked: float) -> Option:
    """The option of least loss that saves what is asked; the one that saves most if none does."""
    enough = [
        option for option, own in zip(options, saved.tolist(), strict=True) if own >= asked * (1 - 1e-9)
    ]
    return min(enough, key=lambda option: option.loss) if enough else options[int(saved.argmax())]
