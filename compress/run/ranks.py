"""The stages of a compression into low ranks: draw near (ADMM), decompose, adapt the BatchNorms, fine-tune, measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from dropfold.compress.apply.apply import apply
from dropfold.compress.cost.ledger import Ledger
from dropfold.compress.cost.work import parameters_of, work_of
from dropfold.compress.methods.admm import onto_ranks, residual, weight_of
from dropfold.compress.methods.uniform import uniform_ranks
from dropfold.compress.plan.choice import Choice
from dropfold.compress.plan.plan import Plan
from dropfold.compress.run.channels import CHOICE, adapt
from dropfold.compress.run.record import FILE, Request, begin, example_of, figures, keeping, show_again
from dropfold.compress.run.target import Keep, first_within, say_what_stays
from dropfold.compress.run.training import draw_near, train_and_finish
from dropfold.data_scripts.work import atomic
from dropfold.train.storage import checkpoint


def compress_into_ranks(request: Request) -> dict[str, Any]:
    """Make the run in `out`, or go on with it, and return what its compression.json holds.

    `admm` spends half of the epochs on the dense network with the penalty and half on the thin maps; `decompose` all on the
    thin maps. So both take equally long, and both have the same ranks.

    Raises:
        ValueError: no matrix can be two thin ones, a target out of reach, or a folder of other options.
    """
    trained, out, method = request.trained, request.out, request.method
    config = request.config(max(2, trained.config.epochs // 2), trained.config.lr / 5)
    rho = {"rho": request.rho} if method == "admm" else {}
    asked = request.words(config, target=list(request.target), **rho)
    found = begin(out, asked, trained)
    if "cost" in found:
        return show_again(out, found)
    example = example_of(trained)
    if "ranks" not in found:
        choice = _choose(request, example, keeping(out, found))
        found |= {"ranks": choice.ranks, "errors": {}, "scores": {}}
        atomic.make_folder(out)
        checkpoint.save_json(out / FILE, found)
    ranks, scores = found["ranks"], found["scores"]
    small, choice = apply(Plan(trained.network, ()), Choice({}, ranks), *example)
    if not scores:
        atomic.write_bytes(out / CHOICE, choice.to_json().encode())
        found["errors"]["of the original"] = errors(trained.network, ranks)
        scores |= {"original": figures(trained, trained.network), "decomposed": figures(trained, small)}
        checkpoint.save_json(out / FILE, found)
    if method == "admm":
        near = draw_near(trained, config, onto_ranks(trained.network, ranks), request.rho)
        small, _ = apply(Plan(near, ()), Choice({}, ranks), *example)
        config = replace(config, epochs=config.epochs - config.epochs // 2)
        if "dense after ADMM" not in scores:
            found["errors"]["after ADMM"] = errors(near, ranks)
            scores["dense after ADMM"] = figures(trained, near)
            scores["decomposed after ADMM"] = figures(trained, small)
            checkpoint.save_json(out / FILE, found)
    adapt(trained, small)
    if "BatchNorm adapted" not in scores:
        scores["BatchNorm adapted"] = figures(trained, small)
        checkpoint.save_json(out / FILE, found)
    config = replace(config, sizes=choice.sizes)
    return train_and_finish(trained, found, config, "fine-tuned", example, weights=small.state_dict())


def errors(network: nn.Module, ranks: Mapping[str, int]) -> dict[str, float]:
    """|W - Z| / |W| of each matrix, Z the nearest of its rank."""
    projections = onto_ranks(network, ranks)
    weights = {name: weight_of(network, name) for name in ranks}
    return {name: residual(weight, projections[name](weight, None)) for name, weight in weights.items()}


def _choose(request: Request, example: Sequence[Tensor], keep: Keep) -> Choice:
    """The ranks that meet the target; `keep` has what is timed for it."""
    network, (what, part) = request.trained.network, request.target
    plan = Plan(network, ())
    work = parameters_of(network) if what == "parameters" else work_of(network, *example)
    choices = uniform_ranks(Ledger(plan, work))
    if len(choices) == 1:
        raise ValueError(
            f"{request.trained.run} has no matrix that two thin ones of rank 8 or more can replace at less cost "
            "(perceptrons on groups keep theirs): take channels out, --method norm."
        )
    if what == "latency":
        say_what_stays(plan, part, example, keep)
    return first_within(plan, choices, what, part, example, keep)
