"""The trainings of a compression, which go on where they were interrupted, and what is measured after the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dropfold.compress.methods.admm import ADMM, Projection
from dropfold.compress.run.measures import measured
from dropfold.compress.run.record import FILE, show
from dropfold.train.config.configs import Config
from dropfold.train.engine.method import Method
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.tasks.section import Section
from dropfold.train.tasks.trained import Trained

DENSE_RUN = "dense"  # the folder of the network that is drawn near to what its matrices will be


def draw_near(
    trained: Trained, config: Config, projections: Mapping[str, Projection], rho: float
) -> nn.Module:
    """The run's network after the first half of the epochs, with ADMM's penalty; kept as a run in the new one's folder."""
    assert config.out is not None
    out = config.out / DENSE_RUN
    if not (out / checkpoint.SUMMARY).exists():
        config = replace(config, out=out, epochs=config.epochs // 2)
        _train(config, [ADMM(projections, rho)], trained.network.state_dict())
    return Trained.of(out).network


def train_and_finish(
    trained: Trained, found: dict[str, Any], config: Config, stage: str, example: Sequence[Tensor],
    methods: Sequence[Method] = (), weights: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train the smaller run in its folder and return what was found, with the figures of this stage and the costs."""
    assert config.out is not None
    found["scores"][stage] = test_figures(_train(config, methods, weights))
    finish(trained, found, config.out, example)
    return found


def finish(
    trained: Trained, found: dict[str, Any], out: Path, example: Sequence[Tensor], more: Sequence[Section] = (),
    made_by: str | None = None,
) -> None:  # fmt: skip
    """Measure what became of a run, keep it with what was found, and show it (see `show`)."""
    fine = Trained.of(out)
    found |= measured(trained, fine, example)
    checkpoint.save_json(out / FILE, found)
    show(fine, found, more, made_by)


def test_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    return {name.removeprefix("test/"): value for name, value in summary.items() if name.startswith("test/")}


def _train(config: Config, methods: Sequence[Method], weights: Mapping[str, Tensor] | None) -> dict[str, Any]:
    """The summary of the run in `config.out`, begun or gone on with."""
    assert config.out is not None
    config = replace(config, resume=config.out) if checkpoint.holds_run(config.out) else config
    return Run(config, methods, weights=weights).train()
