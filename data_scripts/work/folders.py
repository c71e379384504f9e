"""What the folders of one's own data say: which files belong to it, and the split that a folder is named for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dropfold.data_scripts.schemas.h5_file import TEST, TRAIN, VALIDATION

SPLIT_OF = {"train": TRAIN, "val": VALIDATION, "validation": VALIDATION, "valid": VALIDATION, "test": TEST}


def hidden(parts: Iterable[str]) -> bool:
    """Whether a path is of what file managers and their archives leave behind."""
    return any(part.startswith((".", "__MACOSX")) for part in parts)


def files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """All files under `folder` with one of the suffixes, in lower or upper case, sorted; no hidden ones."""
    wanted = set(suffixes)
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in wanted and path.is_file() and not hidden(path.relative_to(folder).parts)
    ]
