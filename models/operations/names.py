"""The sentence for a name that is none."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """`what` 'name' is not known; the nearest ones, or all."""
    names = list(known)
    near = get_close_matches(name, names, 3) or names
    return f"{what} {name!r} is not known; there are {', '.join(near)}."
