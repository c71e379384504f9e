"""An architecture as a value: a DAG whose edges carry operations, and the operations that may stand in their places.

first, short = Edge("first", "x", "y", "conv_3x3"), Edge("short", "x", "y", "skip_connect")
space = Space(Architecture((first, short)), {"first": ("conv_3x3", "conv_1x1"), "short": ("skip_connect", "null")})
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from dropfold.models.operations.names import unknown
from dropfold.models.operations.replace import Operations


@dataclass(frozen=True)
class Edge:
    """An operation from one node to another, named by its layer."""

    name: str
    source: str
    target: str
    operation: str


@dataclass(frozen=True)
class Architecture:
    """A DAG of edges; a node is the sum, or whatever its network makes, of the edges that lead to it."""

    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        names = [edge.name for edge in self.edges]
        if any(" " in word or "=" in word for edge in self.edges for word in (edge.name, edge.operation)):
            raise ValueError(f"names of edges and operations hold no spaces and no =; got {names}.")
        if len(set(names)) < len(names) or not names:
            raise ValueError(f"the edges of an architecture need names of their own; got {names}.")
        _ = self.nodes

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """All nodes, each after those that lead to it; ValueError if they run in a circle."""
        waiting = dict.fromkeys(n for edge in self.edges for n in (edge.source, edge.target))
        found: list[str] = []
        while waiting:
            ready = [n for n in waiting if all(e.source not in waiting for e in self.edges if e.target == n)]
            if not ready:
                raise ValueError(f"the nodes {', '.join(waiting)} lead to each other in a circle.")
            found += ready
            for n in ready:
                del waiting[n]
        return tuple(found)

    def operations(self) -> dict[str, str]:
        """The operation of each edge by its name."""
        return {edge.name: edge.operation for edge in self.edges}

    def with_operations(self, operations: Operations) -> Architecture:
        """The same DAG with other operations on some edges; KeyError for an edge that is not there."""
        known = self.operations()
        for name in operations:
            if name not in known:
                raise KeyError(unknown("edge", name, known))
        return Architecture(
            tuple(Edge(e.name, e.source, e.target, operations.get(e.name, e.operation)) for e in self.edges)
        )

    def to_json(self) -> str:
        """The architecture as text, an edge a line."""
        lines = ",\n".join(f"  {json.dumps([e.name, e.source, e.target, e.operation])}" for e in self.edges)
        return f"[\n{lines}\n]\n"

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """An architecture from its text; ValueError if it is none."""
        try:
            rows = json.loads(text)
            if not all(len(row) == 4 and all(isinstance(word, str) for word in row) for row in rows):
                raise TypeError
            return cls(tuple(Edge(*row) for row in rows))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                "an architecture is a JSON list of [name, source, target, operation]."
            ) from error


def _same(operations: Operations) -> dict[str, str]:
    return dict(operations)


@dataclass(frozen=True)
class Space:
    """An architecture, what each edge may become (its own operation among it, the cheapest last), and the standard form of
    architectures that differ in words alone."""

    original: Architecture
    options: Mapping[str, tuple[str, ...]]
    canonical: Callable[[Operations], dict[str, str]] = field(default=_same)

    def __post_init__(self) -> None:
        for edge in self.original.edges:
            if edge.operation not in self.options.get(edge.name, ()):
                raise ValueError(
                    f"{edge.name} must be able to stay {edge.operation}; its options are "
                    f"{list(self.options.get(edge.name, ()))}."
                )
        if all(len(options) < 2 for options in self.options.values()):
            raise ValueError(
                "no edge of this architecture has a valid transition: there is nothing to choose."
            )

    def keeping(self, names: Iterable[str]) -> Space:
        """The space in which these edges stay as they are; ValueError for one that is not there."""
        operations, names = self.original.operations(), list(names)
        for name in names:
            if name not in operations:
                raise ValueError(unknown("layer", name, operations))
        names, whole = set(names), self.canonical(operations)

        def leaves(name: str, option: str) -> bool:
            """Whether an option brings no change to those that stay, as a null does to what is behind it."""
            one = self.canonical({**whole, name: option})
            return all(one[other] == whole[other] for other in names - {name})

        options = {
            name: (operations[name],) if name in names else tuple(o for o in found if leaves(name, o))
            for name, found in self.options.items()
        }
        return replace(self, options=options)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """All operations of all edges."""
        return tuple(dict.fromkeys(name for options in self.options.values() for name in options))

    @property
    def size(self) -> int:
        """How many combinations of options there are; some are the same architecture."""
        return math.prod(len(options) for options in self.options.values())

    def all(self) -> Iterator[dict[str, str]]:
        """Each architecture once."""
        seen: set[str] = set()
        names = [edge.name for edge in self.original.edges]
        for combination in itertools.product(*(self.options[name] for name in names)):
            found = self.canonical(dict(zip(names, combination, strict=True)))
            if (key := key_of(found)) not in seen:
                seen.add(key)
                yield found

    def draw(self, generator: torch.Generator | None = None) -> dict[str, str]:
        """Each edge by itself, uniformly from its options."""
        drawn = {
            edge.name: options[int(torch.randint(len(options), (), generator=generator))]
            for edge in self.original.edges
            if (options := self.options[edge.name])
        }
        return self.canonical(drawn)

    def mutate(self, operations: Operations, generator: torch.Generator) -> dict[str, str]:
        """Another operation on one edge."""
        open_edges = [name for name, options in self.options.items() if len(options) > 1]
        name = open_edges[int(torch.randint(len(open_edges), (), generator=generator))]
        others = [option for option in self.options[name] if option != operations[name]]
        chosen = others[int(torch.randint(len(others), (), generator=generator))]
        return self.canonical({**operations, name: chosen})


def key_of(operations: Operations) -> str:
    """One line for an architecture's operations."""
    return " ".join(f"{name}={operation}" for name, operation in operations.items())


def parse_key(key: str) -> dict[str, str]:
    """The operations of such a line."""
    return dict(word.split("=", 1) for word in key.split(" "))
