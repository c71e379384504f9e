"""A smaller network trained from new weights: with filters fused from those of the whole one (DCFF), or as it is.

Both have the same sizes, the uniform share of channels that the target asks for, and train as the run did. The trained
weights of the run are not used: what it gives is the sizes and the figures to compare with.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dropfold.compress.apply.apply import apply
from dropfold.compress.methods.dcff import ANNEALED, DCFF, RELEASED, Schedule, filters_of
from dropfold.compress.run.channels import choose, finish, plan_of, test_figures
from dropfold.compress.run.record import FILE, begun, example_of, figures, of_run, settle
from dropfold.data_scripts.work import atomic
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.tasks.trained import Trained

SCHEDULES: dict[str, Schedule | None] = {"dcff": ANNEALED, "dcff-released": RELEASED, "scratch": None}


def train_smaller(
    trained: Trained,
    out: Path,
    method: str,
    what: str,
    part: float,
    epochs: int | None,
    lr: float | None,
    seed: int | None,
) -> dict[str, Any]:
    """Make the smaller run in `out`, or go on with it, and return what its compression.json holds.

    Raises:
        ValueError: a network without channels to take, a target out of reach, or a folder of other options.
    """
    config = replace(
        trained.config, out=out, start=None, resume=None, epochs=epochs or trained.config.epochs,
        lr=trained.config.lr if lr is None else lr, seed=trained.config.seed if seed is None else seed,
    )  # fmt: skip
    asked = {
        **of_run(trained), "method": method, "target": [what, part], "epochs": config.epochs,
        "lr": config.lr, "seed": config.seed,
    }  # fmt: skip
    found = begun(out, asked)
    example = example_of(trained)
    if found is None:
        plan = plan_of(trained, example)
        choice, times = choose(
            trained, plan, "norm", what, part, config.seed, example
        )  # which ones go is all the same
        sizes = apply(plan, choice, *example)[1].sizes
        scores = {"original": figures(trained, trained.network)}
        found = {**settle(asked, trained), "times": times, "sizes": sizes, "scores": scores}
        atomic.make_folder(out)
        checkpoint.save_json(out / FILE, found)
    config = replace(config, sizes=found["sizes"])
    schedule = SCHEDULES[method]
    filters = filters_of(trained.network, config.sizes)
    methods = [] if schedule is None else [DCFF(filters, config.epochs, schedule)]
    resuming = checkpoint.holds_run(out)
    summary = Run(replace(config, resume=out) if resuming else config, methods).train()
    if "cost" not in found:
        found["scores"]["trained anew"] = test_figures(summary)
        finish(trained, found, out, example)
    return found
