"""`dropfold transform RUN --target latency 0.6`: operations of a trained network replaced by cheaper ones (NAT++).

Each layer may become a cheaper operation by the table of transitions: an EdgeConv with fewer neighbours, the graph that is
there already, fewer channels, no neighbours, a skip, nothing; a convolution a smaller, separable or dilated one, a pool, a
skip, nothing. All architectures share one set of weights, trained from the run's by drawing one in each step. A search
scores some of them on the validation split, and the best one that meets the target is trained on, as a run of its own.

What was measured and scored is kept in the new run's compression.json; the same command again goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dropfold.compress.run.command import Target, beside, check_start


@dataclass
class Options:
    """Transform a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    target: Target = ("latency", 0.6)
    """What shrinks, and to which part of the original's: milliseconds of one sample measured here (latency), multiply-adds,
    parameters."""
    search: Literal["all", "policy", "policy-released", "evolution", "random", "blind"] = "evolution"
    """Every architecture (all, if they are no more than --scores); NAT++'s policy with its gradient estimate (policy;
    policy-released as its authors' code has it); regularised evolution; the best of some that are drawn (random); or the
    first that is drawn and costs nine tenths of the target or more, but not more than the target (blind)."""
    scores: int = 200
    """Architectures that are scored at most."""
    supernet_epochs: int | None = None
    """Epochs for the shared weights; default: half of the run's."""
    sandwich: bool = False
    """Train the shared weights with three architectures a step, the original one among them."""
    keep: tuple[str, ...] = ()
    """Layers that stay as they are."""
    weights: Literal["shared", "new"] = "shared"
    """The architecture that is found trains on from the shared weights, or is trained anew."""
    epochs: int | None = None
    """Of the architecture that is found; default: a third of the run's, from new weights as many as the run's."""
    lr: float | None = None
    """At the start; default: half of the run's, from new weights the run's."""
    seed: int | None = None
    """Of the search and of training; default: the run's."""
    out: Path | None = None
    """The new run's folder; default: the run's with the target in its name, beside it."""


def main(options: Options) -> None:
    from rich.console import Console

    from dropfold.compress.run.page import table
    from dropfold.compress.run.record import Request, going_on
    from dropfold.compress.transform.run import Asked, transform
    from dropfold.data_scripts.work.notes import say
    from dropfold.train.tasks.trained import Trained

    _check(options)
    learnt = Trained.of(options.run).config.train_on_validation
    if learnt:
        say(
            "the run has learnt its validation split, on which architectures are scored: shared weights begin from it, and "
            "the scores flatter what is near to the original. The last training learns it again."
        )
    trained = Trained.of(options.run, train_on_validation=False)
    if trained.config.sizes or trained.config.operations:
        word = "compressed" if trained.config.sizes else "transformed"
        raise ValueError(f"{options.run} is {word} already; transform the run that it was made of.")
    what, part = options.target
    out = options.out or beside(options.run, f"transform-{what}-{part:g}")
    seed = trained.config.seed if options.seed is None else options.seed
    request = Request(trained, out, "transform", options.target, options.epochs, options.lr, seed)
    asked = Asked(
        options.search,
        options.scores,
        options.supernet_epochs,
        options.sandwich,
        options.weights,
        options.keep,
        learnt,
    )
    with going_on(out):
        found = transform(request, asked)
    Console().print(table(found))
    print(f"run: {out}")


def _check(options: Options) -> None:
    """Refuse values out of range, and several processes."""
    check_start("transform", options.target)
    for name in ("scores", "supernet_epochs", "epochs", "lr"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} must be above 0; got {value:g}.")
