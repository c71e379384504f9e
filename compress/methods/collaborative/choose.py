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

NOTHING = 1e-12  # of the largest loss: what is no more than rounding
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

    The curve of a layer is that of the options along its path. What loses nothing, as channels that are always 0, goes from
    the start. A layer whose loss does not rise beyond that is not taken further.
    """
    whole = ledger.cost(())
    every = [options_of(layer, steps) for layer, steps in paths]
    nothing = NOTHING * max((option.loss for options in every for option in options), default=0.0)
    free, layers, curves, work = [], [], [], []
    for options in every:
        saved = [whole - ledger.cost([ledger.entry(option.choice)]) for option in options]
        lossless = [i for i, option in enumerate(options) if option.loss <= nothing]
        start = max(lossless, key=lambda i: saved[i])
        free.append(options[start])
        rest = [
            i for i in range(len(options)) if i == start or (saved[i] > saved[start] and i not in lossless)
        ]
        options, saved = [options[i] for i in rest], [saved[i] - saved[start] for i in rest]
        full = max(saved) / MOST  # what the layer itself costs, as far as its channels and ranks reach
        rates = torch.tensor([own / full if full else 0.0 for own in saved]).double()
        if len(rates[rates > 0].unique()) < 2:
            continue
        p, q = fit_exponential(rates, torch.tensor([o.loss for o in options]).double(), released)
        if p > 0 and q > 0:
            layers.append((len(free) - 1, options, saved))
            curves.append((p, q))
            work.append(full)
    found = [Choice({}), merged(free, ledger)]
    for share in SHARES if layers else []:
        chosen = list(free)
        for (place, options, saved), asked in zip(
            layers, allocate(work, curves, share * sum(work), released), strict=True
        ):
            chosen[place] = _first(options, saved, asked)
        found.append(merged(chosen, ledger))
    return found


def _first(options: Sequence[Option], saved: Sequence[float], asked: float) -> Option:
    """The option of least loss that saves what is asked; the one that saves most if none does."""
    enough = [option for option, own in zip(options, saved, strict=True) if own >= asked * (1 - 1e-9)]
    return min(enough, key=lambda option: option.loss) if enough else options[saved.index(max(saved))]
