"""What the input channels of a network over points mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KINDS = ("pos", "colour", "place", "normal", "shape")
Graph = Literal["pos", "place"]


@dataclass(frozen=True)
class Channels:
    """How many channels of each kind a point has; they stand in this order, whatever is left out."""

    pos: int = 3
    """Coordinates."""
    colour: int = 0
    """Red, green and blue, 0 .. 1."""
    place: int = 0
    """The place in the room, 0 .. 1 along each axis."""
    normal: int = 0
    """Unit normals."""
    shape: int = 0
    """How the points around a point lie (`dropfold.train.data.local_shape`)."""
    graph: Graph = "place"
    """The kind that makes the first graph of a network with graphs (DGCNN); the coordinates where there is no place."""

    @property
    def total(self) -> int:
        """Channels of a point."""
        return sum(self.counts.values())

    @property
    def counts(self) -> dict[str, int]:
        """The number of channels of each kind."""
        return {kind: getattr(self, kind) for kind in KINDS}

    @property
    def graph_channels(self) -> tuple[int, ...]:
        """The channels that make the first graph."""
        chosen = self.slices[self.graph if self.place else "pos"]
        return tuple(range(chosen.start, chosen.stop))

    @property
    def slices(self) -> dict[str, slice]:
        """The channels of each kind: `x[..., channels.slices["normal"]]`; empty for a kind that is left out."""
        slices, start = {}, 0
        for kind, count in self.counts.items():
            slices[kind] = slice(start, start + count)
            start += count
        return slices

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self.counts.items() if count)


def graph_before_it_was_said(channels: Channels) -> Graph:
    """The kind that made the graph in runs that do not say which: the place of 9 channels, else the coordinates."""
    return "place" if channels.place and channels.total == 9 else "pos"
