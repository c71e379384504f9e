"""The data that ships with the project: in a checkout the folder data/, in an installed wheel the folder dropfold/data."""

from __future__ import annotations

from pathlib import Path


def find_data(path: Path) -> Path:
    """`path` from the current folder; where it is not there, from the root of the checkout or of the package."""
    path = Path(path)
    return path if path.is_absolute() or path.exists() else Path(__file__).parents[2] / path
