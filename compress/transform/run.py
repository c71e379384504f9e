"""The stages of a transformation: time, train the supernet, search, take, train on; each is kept as it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor

from dropfold.compress.cost.times import times_of
from dropfold.compress.run.channels import adapt, finish, test_figures
from dropfold.compress.run.record import FILE, Request, begun, example_of, figures, settle
from dropfold.compress.transform import page
from dropfold.compress.transform.architecture import key_of
from dropfold.compress.transform.costs import cost_of, least, time_table
from dropfold.compress.transform.families import Family, family_of, network_of
from dropfold.compress.transform.search import Search, blind, check_few, search
from dropfold.compress.transform.supernet import Supernet, TrainSupernet
from dropfold.data_scripts.work import atomic
from dropfold.models import reestimate_batch_norm
from dropfold.models.operations.replace import Operations
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.tasks.scene_prediction import progress

SUPERNET, ARCHITECTURE = "supernet", "architecture.json"
PENALTY = 5.0  # of the reward, for a cost twice the target
ADAPTED = 4  # batches on which the BatchNorms of an architecture are measured before it is scored
KEPT_EVERY = 10  # scores
TIMED = 8  # architectures that are timed before a target is given up

Weights = Literal["shared", "new"]


@dataclass(frozen=True)
class Asked:
    """What is asked for beside a `Request`: how to search, how many scores, the supernet's epochs and form, and whether the
    architecture that is found trains on from the shared weights or from new ones."""

    search: Search = "evolution"
    scores: int = 200
    supernet_epochs: int | None = None
    sandwich: bool = False
    weights: Weights = "shared"


def transform(request: Request, asked: Asked) -> dict[str, Any]:
    """Make the cheaper run in `out`, or go on with it, and return what its compression.json holds.

    Raises:
        ValueError: nothing in the network can be replaced, a target out of reach, or a folder of other options.
    """
    trained, out, what = request.trained, request.out, request.target[0]
    trained.split("validation")  # which scores: refused here if it is empty
    example = example_of(trained)
    family = family_of(trained.network, *example)
    epochs = trained.config.epochs
    from_new = asked.weights == "new"
    config = request.config(
        epochs if from_new else max(1, epochs // 3), trained.config.lr if from_new else trained.config.lr / 2
    )
    supernet_epochs = asked.supernet_epochs or max(1, epochs // 2)
    words = request.words(
        config, target=list(request.target), search=asked.search, scores_asked=asked.scores,
        supernet_epochs=supernet_epochs, sandwich=asked.sandwich, weights_from=asked.weights,
    )  # fmt: skip
    found = begun(out, words)
    if found is None:
        times = time_table(trained.network, family.space, example) if what == "latency" else None
        found = {**settle(words, trained), "times": times or {}, "architectures": {}}
        _check_reach(request, family, found, example)
        if asked.search == "all":
            check_few(family.space, asked.scores)
        atomic.make_folder(out)
        checkpoint.save_json(out / FILE, found)
    cost = cost_of(what, trained.network, example, found["times"] or None)
    supernet = _supernet(request, family, supernet_epochs, asked.sandwich)
    if "operations" not in found:
        scores = Scores(request, supernet, cost, found)
        _search(request, asked, family, scores)
        found["operations"] = _take(request, family, found, example)
        found["singles"] = _alone(family, scores, found["operations"])
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
    config = replace(config, operations=dict(operations))
    weights = None if from_new else small.state_dict()
    resuming = checkpoint.holds_run(out)
    summary = Run(replace(config, resume=out) if resuming else config, weights=weights).train()
    if "cost" not in found:
        found["scores"]["trained anew" if from_new else "trained on"] = test_figures(summary)
        original = family.space.original.operations()
        finish(trained, found, out, example, page.sections(found, original), page.command(found, out))
    return found


def _check_reach(request: Request, family: Family, found: dict[str, Any], example: Sequence[Tensor]) -> None:
    """ValueError if no architecture meets the target."""
    what, part = request.target
    if what == "latency":
        times = found["times"]
        reach = 1 + least(family.space, times["added"]) / times["original"]
    else:
        last = {name: options[-1] for name, options in family.space.options.items()}  # the cheapest come last
        reach = cost_of(what, request.trained.network, example, None)(family.space.canonical(last))
    if reach > part:
        raise ValueError(
            f"--target {what} {part:g} is out of reach: the least that transitions come to is {reach:.3f} of the original's."
        )


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


class Scores:
    """[mean log p(truth), the leading figure] on the validation split, and the part of the original's cost, of architectures
    with the shared weights, their BatchNorms measured on a few training batches.

    Each is scored once: what was kept before an interruption is not scored again.
    """

    def __init__(
        self,
        request: Request,
        supernet: Supernet,
        cost: Callable[[Operations], float],
        found: dict[str, Any],
    ) -> None:
        self.trained, self.supernet, self.cost, self.found = request.trained, supernet, cost, found
        self.kept: dict[str, list[float]] = found["architectures"]
        self.file = request.out / FILE
        self.split = self.trained.split("validation")
        device = next(self.trained.network.parameters()).device
        drawn = islice(self.trained.task.batches(self.trained.data.train, self.trained.config, 0), ADAPTED)
        self.batches = [tuple(value.to(device) for value in inputs) for inputs, _ in drawn]

    def __call__(self, operations: Operations) -> list[float]:
        """The three numbers."""
        key = key_of(operations)
        if key not in self.kept:
            self.kept[key] = [*self._score(operations), self.cost(operations)]
            if len(self.kept) % KEPT_EVERY == 0:
                checkpoint.save_json(self.file, self.found)
        return self.kept[key]

    def _score(self, operations: Operations) -> tuple[float, float]:
        trained, small = self.trained, self.supernet.restricted(operations)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            reestimate_batch_norm(small, self.batches, lambda inputs: small(*inputs))
            predictions = trained.task.predict_split(small.eval(), self.split, trained.config)
        scores = trained.task.scores(predictions, trained.signature)
        return -scores.loss, scores.leading


def _search(request: Request, asked: Asked, family: Family, scores: Scores) -> None:
    """Let the search ask for rewards: log p(truth) above the original's, less a penalty for what the cost exceeds the
    target by, relative to it."""
    part, space = request.target[1], family.space
    original = scores(space.canonical(space.original.operations()))[0]
    with progress("architectures", asked.scores) as advance:

        def reward(operations: Operations) -> float:
            log_p, _, cost = scores(operations)
            advance(1)
            return log_p - original - PENALTY * max(0.0, cost / part - 1)

        history: list[list[list[float]]] = []
        if asked.search == "blind":
            operations = blind(space, scores.cost, part, request.seed or 0)
            rewards = {key_of(operations): reward(operations)}
        else:
            searched, history = search(space, reward, asked.search, asked.scores, request.seed or 0)
            rewards = searched.rewards
    scores.found |= {"rewards": rewards, "probabilities": history, "vocabulary": space.vocabulary}


def _alone(family: Family, scores: Scores, operations: Operations) -> dict[str, list[float]]:
    """What each transition that was taken changes alone: [log p(truth), part of the cost]."""
    space = family.space
    whole = space.canonical(space.original.operations())
    before = scores(whole)
    singles = {}
    for edge in space.original.edges:
        if operations[edge.name] != edge.operation:
            after = scores(space.canonical({**whole, edge.name: operations[edge.name]}))
            singles[edge.name] = [after[0] - before[0], after[2] - before[2]]
    return singles


def _take(
    request: Request, family: Family, found: dict[str, Any], example: Sequence[Tensor]
) -> dict[str, str]:
    """The operations of the best reward that meet the target, and, for a latency, do so twice when timed beside the
    original."""
    (what, part), network = request.target, request.trained.network
    ranked = sorted(found["rewards"], key=found["rewards"].get, reverse=True)
    within = [key for key in ranked if found["architectures"][key][2] <= part]
    timed: list[list[float]] = []
    for key in within[:TIMED]:
        operations = dict(word.split("=", 1) for word in key.split(" "))
        if what != "latency":
            return operations
        small = network_of(network, operations)
        parts = [t[1].p50 / t[0].p50 for t in (times_of([network, small], *example) for _ in range(2))]
        timed.append([found["architectures"][key][2], max(parts)])
        if max(parts) <= part:
            found["timed"] = timed
            return operations
    if what == "latency" and timed:
        raise ValueError(
            f"--target latency {part:g}: of the {len(timed)} best architectures that meet it by the table, none does when "
            f"it is timed; the fastest took {min(t for _, t in timed):.2f} of the original's time. Ask for a larger part, "
            "or for more --scores."
        )
    raise ValueError(
        f"--target {what} {part:g}: none of the {len(ranked)} architectures that were scored meets it; give more --scores."
    )
