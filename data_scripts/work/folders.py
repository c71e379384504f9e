"""The files of a folder of data, without what file managers leave behind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def is_hidden(parts: Iterable[str]) -> bool:
    """Whether a path is of what file managers and their archives leave behind."""
    return any(part.startswith((".", "__MACOSX")) for part in parts)


def list_files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """All files under `folder` with one of the suffixes, in lower or upper case, sorted; no hidden ones."""
    wanted = set(suffixes)
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in wanted and path.is_file() and not is_hidden(path.relative_to(folder).parts)
    ]
