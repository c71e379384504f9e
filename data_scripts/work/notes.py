"""What a reader guessed or left out, in a line on standard error, where no list of notes goes with the result."""

from __future__ import annotations

import logging


def say(text: str) -> None:
    """One line, by the logger `dropfold`, which a program may silence or send elsewhere."""
    logging.getLogger("dropfold").warning("note: %s", text.encode(errors="backslashreplace").decode())
