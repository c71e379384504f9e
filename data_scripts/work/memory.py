"""A file that does not fit into memory is a sentence that names it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from dropfold.data_scripts.work.errors import ShapeError


@contextlib.contextmanager
def name_if_too_large(path: Path) -> Iterator[None]:
    """Turn a MemoryError within into a `ShapeError` that names the file."""
    try:
        yield
    except MemoryError as error:
        size = path.stat().st_size if path.is_file() else 0
        raise ShapeError(
            f"{path} ({size:,} bytes) does not fit into memory ({error or 'no more is free'}); cut it into pieces, or read "
            "it on a larger machine."
        ) from None
