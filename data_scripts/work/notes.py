"""What a reader guessed or left out, in a line on standard error, where no list of notes goes with the result."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

_said: set[str] = set()


def say(text: str) -> None:
    """One line, by the logger `dropfold`, which a program may silence or send elsewhere; once, also of a file that is read
    several times."""
    if text not in _said:
        _said.add(text)
        logging.getLogger("dropfold").warning("note: %s", text.encode(errors="backslashreplace").decode())


def tell(path: Path, lines: Iterable[str], notes: list[str] | None) -> None:
    """Add `PATH: line` to `notes`; where no one collects them each is said."""
    for line in lines:
        if notes is not None:
            notes.append(f"{path}: {line}")
        else:
            say(f"{path}: {line}")
