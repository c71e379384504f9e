"""What unpacked distributions have in common: a root somewhere inside, lists in text."""

from __future__ import annotations

from pathlib import Path

from dropfold.data_scripts.work.errors import SchemaError


def find_root(folder: Path, marker: str, hint: str = "") -> Path:
    """The folder that holds `marker`: the one given, or one inside it."""
    for candidate in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if any(candidate.glob(marker)):
            return candidate
    raise SchemaError(f"{folder} holds no {marker}: is it another distribution?{' ' * bool(hint)}{hint}")


def read_lines(path: Path) -> list[str]:
    """The lines of a list that are not blank."""
    if not path.is_file():
        raise SchemaError(f"{path} is not there; the distribution is not whole.")
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]
