"""A smaller network trained from new weights: with filters fused from those of the whole one (DCFF), or as it is.

Both have the same sizes, the uniform share of channels that the target asks for, and train as the run did. The trained
weights of the run are not used: what it gives is the sizes and the figures to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dropfold.compress.apply.apply import able, apply
from dropfold.compress.cost.work import work_of
from dropfold.compress.methods.criteria import norm
from dropfold.compress.methods.dcff import ANNEALED, DCFF, RELEASED, Schedule, filters_of
from dropfold.compress.plan.channels import plan_channels
from dropfold.compress.run.channels import _choose, _costs, _test_figures
from dropfold.compress.run.record import FILE, begun, example_of, figures, settle
from dropfold.data_scripts.work import atomic
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.tasks.trained import Trained

SCHEDULES: dict[str, Schedule | None] = {"dcff": ANNEALED, "dcff_released": RELEASED, "scratch": None}


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
        "run": str(trained.run.resolve()), "method": method, "target": [what, part], "epochs": config.epochs,
        "lr": config.lr, "seed": config.seed,
    }  # fmt: skip
    found = begun(out, asked)
    example = example_of(trained)
    if found is None:
        sizes, times = _sizes(trained, what, part, example)
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
        found["scores"]["trained anew"] = _test_figures(summary)
        work = work_of(trained.network, *example)
        found["cost"] = _costs(trained.network, Trained.of(out).network, example, work)
        checkpoint.save_json(out / FILE, found)
    return found


def _sizes(
    trained: Trained, what: str, part: float, example: Sequence[Tensor]
) -> tuple[dict[str, list[int]], dict[str, float]]:
    """The sizes of the small network's layers, and the milliseconds of each share of channels, if the target is a time."""
    plan = plan_channels(trained.network, *example)
    if not hasattr(trained.network, "wiring"):
        plan = able(plan, *example)
    if not plan.groups:
        raise ValueError(
            f"no channels can be taken out of {trained.run}: {'; '.join(str(plan).splitlines())}."
        )
    scores = {group.name: norm(plan, group) for group in plan.groups}  # how many go is the same by any
    channels, times = _choose(plan, scores, what, part, work_of(trained.network, *example), example)
    return apply(plan, channels, *example)[1].sizes, times
