"""The data that ships with the project: in a checkout the folder data/, in an installed wheel the folder dropfold/data."""

from __future__ import annotations

from pathlib import Path


def find_data(path: Path) -> Path:
    """`path`; a relative one that does not exist is looked for in the checkout, or in the installed package."""
    path = Path(path)
    return path if path.is_absolute() or path.exists() else Path(__file__).parents[2] / path
