"""`python -m benchmarks.importance RUN...`: does a criterion know which channels matter?

For each group of channels of a run, the rank correlation (Spearman's) of what each criterion says of a channel with the rise
of the training loss when that channel alone is masked, measured on batches that the criteria have seen, too. `fisher` and
`mean` are what Collaborative Compression takes a channel's loss of information for: the sum of g^2 W^2 over the columns that
read it, with the mean of g^2 over batches, or, as published, the square of the mean of g.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import tyro
from rich.progress import Progress
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.harness import RESULTS, append
from dropfold.compress import Plan
from dropfold.compress.methods.ablation import ablation
from dropfold.compress.methods.collaborative.layers import Energy, energies, layers_of
from dropfold.compress.methods.criteria import CRITERIA
from dropfold.compress.methods.taylor import Loss, taylor
from dropfold.compress.run.channels import losses_of, plan_of
from dropfold.compress.run.record import example_of
from dropfold.data_scripts.work.notes import say
from dropfold.train.storage.provenance import commit, machine
from dropfold.train.tasks.trained import Trained


@dataclass
class Options:
    """Compare criteria with what they stand for."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    batches: int = 4
    """Training batches of the loss."""
    out: Path | None = RESULTS / "importance.csv"
    """A CSV file to append a row for each run, group and criterion to; None: none."""


@dataclass(frozen=True)
class Row:
    """The rank correlation of a criterion with the measured rise of the loss over the channels of a group."""

    commit: str
    machine: str
    run: str
    batches: int
    group: str
    channels: int
    criterion: str
    rank_correlation: float


def information(plan: Plan, losses: Sequence[Loss], kind: Energy) -> dict[str, Tensor]:
    """Each channel's loss of information, sum g^2 W^2 over the columns that read it, by group."""
    found: dict[str, Tensor] = {}
    for layer in layers_of(plan, energies(plan, losses, kind)):
        total = torch.zeros(layer.channels, dtype=torch.float64)
        for matrix in layer.matrices:
            where = matrix.channel >= 0
            columns = (matrix.energy * matrix.weight.square()).sum(0)
            total.index_add_(0, matrix.channel[where], columns[where])
        found |= dict(zip(layer.groups, total.split(list(layer.groups.values())), strict=True))
    return found


def said_by(plan: Plan, losses: Sequence[Loss]) -> dict[str, dict[str, Tensor]]:
    """What each criterion says of the channels of each group, but of those that it is not for, as without a BatchNorm."""
    said: dict[str, dict[str, Tensor]] = {name: {} for name in CRITERIA}
    for name, of in CRITERIA.items():
        for group in plan.groups:
            try:
                said[name][group.name] = of(plan, group)
            except ValueError as error:
                say(f"{name} is left out for {group.name}: {error}")
    said |= {"taylor": taylor(plan, losses)}
    return said | {kind: information(plan, losses, kind) for kind in ("fisher", "mean")}


def rows_of(run: Path, batches: int) -> list[Row]:
    """The rows of a run."""
    trained = Trained.of(run)
    plan = plan_of(trained, example_of(trained))
    losses = list(islice(losses_of(trained), batches))
    said = said_by(plan, losses)  # before what takes minutes
    with Progress(transient=True) as bar:
        task = bar.add_task(run.name, total=sum(group.size for group in plan.groups))
        measured = ablation(plan, losses, lambda count: bar.advance(task, count))
    where = commit(), machine(next(trained.network.parameters()).device)
    return [
        Row(
            *where, trained.config.recipe, batches, group.name, group.size, name,
            round(float(spearmanr(scores[group.name], measured[group.name]).statistic), 4),
        )
        for group in plan.groups
        for name, scores in said.items()
        if group.name in scores
    ]  # fmt: skip


def main(options: Options) -> None:
    for run in options.runs:
        rows = rows_of(run, options.batches)
        names = list(dict.fromkeys(row.criterion for row in rows))
        print(f"{run}, {options.batches} batches")
        print(f"{'group':>20} channels " + " ".join(f"{name:>9}" for name in names))
        for group in dict.fromkeys(row.group for row in rows):
            own = {row.criterion: row for row in rows if row.group == group}
            values = " ".join(
                f"{own[name].rank_correlation:9.2f}" if name in own else f"{'':9}" for name in names
            )
            print(f"{group:>20} {next(iter(own.values())).channels:8} {values}")
        if options.out is not None:
            append(rows, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
