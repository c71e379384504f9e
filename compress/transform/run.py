"""The stages of a transformation: time, train the supernet, search, take, train on; each is kept as it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from dropfold.compress.cost.times import times_of
from dropfold.compress.run.channels import adapt
from dropfold.compress.run.record import (
    FILE,
    Request,
    begun,
    example_of,
    figures,
    refuse_others,
    settle,
    show,
)
from dropfold.compress.run.training import finish, test_figures
from dropfold.compress.transform import page
from dropfold.compress.transform.architecture import key_of, parse_key
from dropfold.compress.transform.costs import cheapest, cost_of, time_table
from dropfold.compress.transform.families import Family, family_of, fixed_random, network_of
from dropfold.compress.transform.scores import Scores, alone
from dropfold.compress.transform.search import Search, blind, check_few, search
from dropfold.compress.transform.supernet import Supernet, TrainSupernet
from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.notes import say
from dropfold.models.operations.replace import Operations
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.tasks.scene_prediction import progress
from dropfold.train.tasks.trained import Trained

SUPERNET, ARCHITECTURE = "supernet", "architecture.json"
PENALTY = 5.0  # of the reward, for a cost twice the target
TIMED = 8  # architectures that are timed before a target is given up

Weights = Literal["shared", "new"]


@dataclass(frozen=True)
class Asked:
    """What is asked for beside a `Request`: how to search, how many scores, the supernet's epochs and form, whether the
    architecture that is found trains on from the shared weights or from new ones, which layers stay as they are, and whether
    the last training learns the validation split, too, as the run did."""

    search: Search = "evolution"
    scores: int = 200
    supernet_epochs: int | None = None
    sandwich: bool = False
    weights: Weights = "shared"
    keep: tuple[str, ...] = ()
    train_on_validation: bool = False


def transform(request: Request, asked: Asked) -> dict[str, Any]:
    """Make the cheaper run in `out`, or go on with it, and return what its compression.json holds.

    Raises:
        ValueError: nothing in the network can be replaced, a target out of reach, or a folder of other options.
    """
    trained, out = request.trained, request.out
    trained.split("validation")  # which scores: refused here if it is empty
    example = example_of(trained)
    with fixed_random(trained.network, request.seed or 0):  # weights that operations begin with
        family = family_of(trained.network, *example)
    family.space = family.space.keeping(asked.keep)
    if asked.search != "all" and family.space.size <= asked.scores:
        say(
            f"all {family.space.size} architectures can be scored; --search all does, and needs no other search."
        )
    epochs, from_new = trained.config.epochs, asked.weights == "new"
    config = request.config(
        epochs if from_new else max(1, epochs // 3), trained.config.lr if from_new else trained.config.lr / 2
    )
    supernet_epochs = asked.supernet_epochs or max(1, epochs // 2)
    found = _begin(request, asked, family, config, supernet_epochs, example)
    supernet = _supernet(request, family, supernet_epochs, asked.sandwich)
    if "operations" not in found:
        cost = cost_of(request.target[0], trained.network, family.space, example, found["times"])
        scores = Scores(request, supernet, cost, found)
        _search(request, asked, family, scores)
        found["operations"] = _take(request, family, found, example)
        found["singles"] = alone(family.space, scores, found["operations"])
        checkpoint.save_json(out / FILE, found)
    operations = found["operations"]
    small = network_of(trained.network, operations) if from_new else supernet.restricted(operations)
    if "scores" not in found:
        architecture = family.space.original.with_operations(operations)
        atomic.write_bytes(out / ARCHITECTURE, architecture.to_json().encode())
        found["scores"] = {"original": figures(trained, trained.network)}
        if not from_new:
            adapt(trained, small)
            found["scores"]["shared weights"] = figures(trained, small)
        checkpoint.save_json(out / FILE, found)
    elif not from_new:
        adapt(trained, small)
    config = replace(config, operations=dict(operations), train_on_validation=asked.train_on_validation)
    weights = None if from_new else small.state_dict()
    resuming = checkpoint.holds_run(out)
    summary = Run(replace(config, resume=out) if resuming else config, weights=weights).train()
    shown = page.sections(found, family.space.original), page.command(found, out)
    if "cost" not in found:
        found["scores"]["trained anew" if from_new else "trained on"] = test_figures(summary)
        finish(trained, found, out, example, *shown)
    else:  # the run has written its own page again
        show(Trained.of(out), found, *shown, again=True)
    return found


def _begin(
    request: Request,
    asked: Asked,
    family: Family,
    config: Any,
    supernet_epochs: int,
    example: Sequence[Tensor],
) -> dict[str, Any]:
    """What is kept in the folder: of an earlier start, or what is asked for, and the table of times."""
    trained, out, (what, part) = request.trained, request.out, request.target
    words = request.words(
        config, counted=what, supernet_epochs=supernet_epochs, sandwich=asked.sandwich, weights_from=asked.weights,
        keep=list(asked.keep), own_validation=asked.train_on_validation,
    )  # fmt: skip
    how = {"target": list(request.target), "search": asked.search, "scores_at_most": asked.scores}
    found = begun(out, words)
    if found is not None:
        if "operations" in found:  # until then another search goes on from what was scored
            refuse_others(out, found, how)
        elif {name: found[name] for name in how} != how:
            found |= how
            for name in ("order", "timed"):
                found.pop(name, None)
    else:
        times = time_table(trained.network, family.space, example) if what == "latency" else {}
        found = {**settle(words, trained), **how, "times": times, "architectures": {}}
    cost = cost_of(what, trained.network, family.space, example, found["times"])
    reach = cost(cheapest(family.space))
    if reach > part:
        raise ValueError(
            f"--target {what} {part:g} is out of reach: the least that transitions come to is {reach:.3f} of the original's."
        )
    if asked.search == "all":
        check_few(family.space, asked.scores)
    if asked.search == "blind" and "order" not in found:
        drawn = blind(family.space, cost, part, TIMED, request.seed or 0)
        found["order"] = [key_of(operations) for operations in drawn]
    atomic.make_folder(out)
    checkpoint.save_json(out / FILE, found)
    return found


def _supernet(request: Request, family: Family, epochs: int, sandwich: bool) -> Supernet:
    """The supernet, trained; of a run that has ended, as it was kept."""
    trained, out = request.trained, request.out / SUPERNET
    own = request.config(epochs, trained.config.lr / 2)
    config = replace(own, out=out, epochs=epochs, validate_every=epochs, wandb="disabled")
    resuming = checkpoint.holds_run(out)
    run = Run(
        replace(config, resume=out) if resuming else config,
        [TrainSupernet(family, sandwich)],
        weights=trained.network.state_dict(),
    )
    run.train()
    supernet = run.network
    assert isinstance(supernet, Supernet)
    return supernet.eval()


def reward_of(
    scores: Callable[[Operations], Sequence[float]], original: float, part: float
) -> Callable[[Operations], float]:
    """log p(truth) above the original's, less a penalty for what the cost exceeds the target by, relative to it."""

    def reward(operations: Operations) -> float:
        log_p, _, cost = scores(operations)
        return log_p - original - PENALTY * max(0.0, cost / part - 1)

    return reward


def _search(request: Request, asked: Asked, family: Family, scores: Scores) -> None:
    """Score what the search asks for, and keep in which order architectures are to be tried: the best rewards first."""
    found, space = scores.found, family.space
    original = scores(space.canonical(space.original.operations()))[0]
    reward = reward_of(scores, original, request.target[1])
    if asked.search == "blind":
        found |= {"rewards": {key: reward(parse_key(key)) for key in found["order"]}, "probabilities": []}
    else:
        with progress("architectures", asked.scores) as advance:

            def counted(operations: Operations) -> float:
                advance(1)
                return reward(operations)

            searched, history = search(space, counted, asked.search, asked.scores, request.seed or 0)
        ranked = sorted(searched.rewards, key=searched.rewards.__getitem__, reverse=True)
        found |= {"rewards": searched.rewards, "probabilities": history, "order": ranked}
    found["vocabulary"] = space.vocabulary
    checkpoint.save_json(scores.file, found)


def _take(
    request: Request, family: Family, found: dict[str, Any], example: Sequence[Tensor]
) -> dict[str, str]:
    """The operations of the first architecture that meets the target, and, for a latency, does so twice when it is timed
    beside the original. What was timed is kept."""
    (what, part), network = request.target, request.trained.network
    within = [key for key in found["order"] if found["architectures"][key][2] <= part]
    if not within:
        raise ValueError(
            f"--target {what} {part:g}: none of the {len(found['order'])} architectures that were scored meets it; give "
            "more --scores."
        )
    if what != "latency":
        return parse_key(within[0])
    timed: dict[str, float] = found.setdefault("timed", {})
    for key in within[:TIMED]:
        if key not in timed:
            small = network_of(network, parse_key(key))
            twice = (times_of([network, small], *example) for _ in range(2))
            timed[key] = max(after.p50 / before.p50 for before, after in twice)
            checkpoint.save_json(request.out / FILE, found)
        if timed[key] <= part:
            return parse_key(key)
    raise ValueError(
        f"--target latency {part:g}: of the {len(timed)} best architectures that meet it by the table, none does when it is "
        f"timed; the fastest took {min(timed.values()):.2f} of the original's time. Ask for a larger part, or for more "
        "--scores."
    )
