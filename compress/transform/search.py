"""Which architecture of a space: all of them where that is affordable, and ways with a number of scores.

A score is dear: an architecture is scored once, and a search ends after so many different ones. The same seed finds the
same, so that a search that is interrupted comes to the same result from the scores that were kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch

from dropfold.compress.transform.architecture import Space, key_of
from dropfold.compress.transform.policy import Policy, Reinforce
from dropfold.models.operations.replace import Operations

Reward = Callable[[Operations], float]
Search = Literal["all", "policy", "policy-released", "evolution", "random", "blind"]
SEARCHES: tuple[str, ...] = get_args(Search)
DRAWS = 50  # for each score: a search that finds nothing new for so long has found what it will
POPULATION, RIVALS = 16, 4
PROBABILITIES_EVERY = 10  # steps of the policy
BLIND = 2_000  # draws for some that meet the target


class Found:
    """The rewards of different architectures by their keys, in the order in which they were asked for."""

    def __init__(self, reward: Reward, limit: int) -> None:
        self.reward, self.limit = reward, limit
        self.rewards: dict[str, float] = {}
        self.operations: dict[str, dict[str, str]] = {}

    @property
    def full(self) -> bool:
        """Whether so many were scored."""
        return len(self.rewards) >= self.limit

    def __call__(self, operations: Operations) -> float:
        """The reward of an architecture, asked for once."""
        key = key_of(operations)
        if key not in self.rewards:
            self.rewards[key] = self.reward(operations)
            self.operations[key] = dict(operations)
        return self.rewards[key]


def search(
    space: Space, reward: Reward, how: Search, scores: int, seed: int = 0
) -> tuple[Found, list[list[list[float]]]]:
    """The rewards of at most so many different architectures, the original among them, and, of a policy, the probabilities
    [edges, vocabulary] from time to time.

    Raises:
        ValueError: "all" are more than that.
    """
    found, generator = Found(reward, scores), torch.Generator().manual_seed(seed)
    original = space.canonical(space.original.operations())
    if how == "all":
        check_few(space, scores)
        for operations in space.all():
            found(operations)
        return found, []
    found(original)
    if how in ("policy", "policy-released"):
        return found, _policy(space, found, generator, how == "policy-released", seed)
    for operations in _evolution(space, found, generator) if how == "evolution" else _drawn(space, generator):
        if found.full:
            break
        found(operations)
    return found, []


def blind(space: Space, cost: Reward, target: float, count: int, seed: int = 0) -> list[dict[str, str]]:
    """The first ones drawn that cost at most `target` of the original and at least nine tenths of that, `count` or fewer, in
    the order in which they were drawn: what any search has to beat. ValueError if there is none."""
    generator, found = torch.Generator().manual_seed(seed), dict[str, dict[str, str]]()
    for _ in range(BLIND):
        operations = space.draw(generator)
        if 0.9 * target <= cost(operations) <= target:
            found[key_of(operations)] = operations
        if len(found) == count:
            break
    if not found:
        raise ValueError(
            f"--search blind: none of {BLIND:,} drawn architectures costs {0.9 * target:.2g} to {target:.2g} of the "
            "original's."
        )
    return list(found.values())


def check_few(space: Space, scores: int) -> None:
    """ValueError if there are more architectures than scores."""
    if any(i == scores for i, _ in enumerate(space.all())):
        raise ValueError(
            f"all architectures are more than {scores}; give more --scores, or search by policy, evolution or random."
        )


def _policy(
    space: Space, found: Found, generator: torch.Generator, released: bool, seed: int
) -> list[list[list[float]]]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        policy = Policy(space, released=released)
    learner = Reinforce(policy, released=released)
    history, since, step = [], 0, 0
    while not found.full and since < DRAWS:
        if step % PROBABILITIES_EVERY == 0:
            history.append(policy().detach().tolist())
        before = len(found.rewards)
        learner.step(found, generator)
        since = 0 if len(found.rewards) > before else since + 1
        step += 1
    return [*history, policy().detach().tolist()]


def _drawn(space: Space, generator: torch.Generator) -> Iterator[dict[str, str]]:
    """Uniformly drawn ones, each once."""
    seen: set[str] = set()
    since = 0
    while since < DRAWS:
        operations = space.draw(generator)
        since = since + 1 if (key := key_of(operations)) in seen else 0
        if since == 0:
            seen.add(key)
            yield operations


def _evolution(space: Space, found: Found, generator: torch.Generator) -> Iterator[dict[str, str]]:
    """Regularised evolution (Real et al. 2019): the best of a few of the population changes one operation, and its child
    takes the place of the oldest."""
    first = _drawn(space, generator)
    population: deque[dict[str, str]] = deque(maxlen=POPULATION)
    population.extend(found.operations.values())
    for operations in first:
        if len(population) == POPULATION:
            break
        population.append(operations)
        yield operations
    since = 0
    while since < DRAWS:
        some = torch.randperm(len(population), generator=generator)[:RIVALS].tolist()
        parent = max((population[i] for i in some), key=found)
        child = space.mutate(parent, generator)
        since = since + 1 if key_of(child) in found.rewards else 0
        yield child
        population.append(child)
