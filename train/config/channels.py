"""What the input channels of a network over points mean."""

from __future__ import annotations

from dataclasses import asdict, dataclass


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

    @property
    def total(self) -> int:
        """Channels of a point."""
        return sum(asdict(self).values())

    @property
    def slices(self) -> dict[str, slice]:
        """The channels of each kind: `x[..., channels.slices["normal"]]`; empty for a kind that is left out."""
        slices, start = {}, 0
        for kind, count in asdict(self).items():
            slices[kind] = slice(start, start + count)
            start += count
        return slices

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in asdict(self).items() if count)
