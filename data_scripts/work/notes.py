"""What a reader guessed or left out, for the user: collected by the caller, or printed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

_printed: set[str] = set()


def tell(path: Path, lines: Iterable[str], notes: list[str] | None) -> None:
    """Add `PATH: line` to `notes`. Where no one collects them they are printed to stderr, each line for the first file that
    it is true of: of a thousand files of a kind one is enough."""
    for line in lines:
        if notes is not None:
            notes.append(f"{path}: {line}")
        elif line not in _printed:
            _printed.add(line)
            print(f"note: {path}: {line}", file=sys.stderr)
