"""A smaller network trained from new weights: with filters fused from those of the whole one (DCFF), or as it is.

Both have the same sizes, the uniform share of channels that the target asks for, and train as the run did. The trained
weights of the run are not used: what it gives is the sizes and the figures to compare with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dropfold.compress.apply.apply import apply
from dropfold.compress.methods.dcff import ANNEALED, DCFF, RELEASED, Schedule, filters_of
from dropfold.compress.run.channels import choose, plan_of
from dropfold.compress.run.record import FILE, Request, begin, example_of, figures, keeping, show_again
from dropfold.compress.run.training import train_and_finish
from dropfold.data_scripts.work import atomic
from dropfold.train.storage import checkpoint

SCHEDULES: dict[str, Schedule | None] = {"dcff": ANNEALED, "dcff-released": RELEASED, "scratch": None}


def train_smaller(request: Request) -> dict[str, Any]:
    """Make the smaller run in `out`, or go on with it, and return what its compression.json holds.

    Raises:
        ValueError: a network without channels to take, a target out of reach, or a folder of other options.
    """
    trained, out = request.trained, request.out
    config = request.config(trained.config.epochs, trained.config.lr)
    asked = request.words(config, target=list(request.target))
    found = begin(out, asked, trained)
    if "cost" in found:
        return show_again(out, found)
    example = example_of(trained)
    if "sizes" not in found:
        plan = plan_of(trained, example)
        # Which channels go is all the same here, how many is not.
        choice = choose(request, plan, "norm", config.seed, example, keeping(out, found))
        sizes = apply(plan, choice, *example)[1].sizes
        found |= {"sizes": sizes, "scores": {"original": figures(trained, trained.network)}}
        atomic.make_folder(out)
        checkpoint.save_json(out / FILE, found)
    config = replace(config, sizes=found["sizes"])
    schedule = SCHEDULES[request.method]
    filters = filters_of(trained.network, config.sizes)
    methods = [] if schedule is None else [DCFF(filters, config.epochs, schedule)]
    return train_and_finish(trained, found, config, "trained anew", example, methods)
