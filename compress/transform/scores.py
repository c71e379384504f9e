"""How good an architecture is with the shared weights, and what a transition changes alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from dropfold.compress.run.record import FILE, Request
from dropfold.compress.transform.architecture import Space, key_of
from dropfold.compress.transform.families import fixed_random
from dropfold.compress.transform.supernet import Supernet
from dropfold.models import reestimate_batch_norm
from dropfold.models.operations.replace import Operations
from dropfold.train.storage import checkpoint

ADAPTED = 4  # batches on which the BatchNorms of an architecture are measured before it is scored
KEPT_EVERY = 10  # scores


class Scores:
    """[mean log p(truth), the leading figure] on the validation split, and the part of the original's cost, of architectures
    with the shared weights, their BatchNorms measured on a few training batches.

    Each is scored once, and kept in `found`: what was scored before an interruption is not scored again.
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
        self.device = next(self.trained.network.parameters()).device
        drawn = islice(self.trained.task.batches(self.trained.data.train, self.trained.config, 0), ADAPTED)
        self.batches = [tuple(value.to(self.device) for value in inputs) for inputs, _ in drawn]

    def __call__(self, operations: Operations) -> list[float]:
        """The three numbers, kept."""
        key = key_of(operations)
        if key not in self.kept:
            self.kept[key] = self.measure(operations)
            if len(self.kept) % KEPT_EVERY == 0:
                checkpoint.save_json(self.file, self.found)
        return self.kept[key]

    def measure(self, operations: Operations) -> list[float]:
        """The three numbers."""
        trained, small = self.trained, self.supernet.restricted(operations)
        with fixed_random(small, 0):
            reestimate_batch_norm(small, self.batches, lambda inputs: small(*inputs))
            predictions = trained.task.predict_split(small.eval(), self.split, trained.config)
        scores = trained.task.scores(predictions, trained.signature)
        return [-scores.loss, scores.leading, self.cost(operations)]


def alone(space: Space, scores: Scores, operations: Operations) -> dict[str, list[float]]:
    """What each transition that was taken changes alone: [log p(truth), part of the cost]. One that another one brings with
    it, as a null those behind it, is not among them."""
    whole = space.canonical(space.original.operations())
    before, singles, brought = scores(whole), dict[str, list[float]](), set[str]()
    for name, operation in operations.items():
        if operation == whole[name] or name in brought:
            continue
        one = space.canonical({**whole, name: operation})
        brought |= {other for other in whole if other != name and one[other] != whole[other]}
        after = scores.kept.get(key_of(one)) or scores.measure(one)
        singles[name] = [after[0] - before[0], after[2] - before[2]]
    return singles
