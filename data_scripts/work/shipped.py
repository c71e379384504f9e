"""The data that ships with the project, in a checkout in data/ and in an installed wheel in dropfold/data, with its credits:
CREDITS.md has one section a file, written by the script that makes the file."""

from __future__ import annotations

import re
from pathlib import Path

from dropfold.data_scripts.work import atomic

TITLE = "# Credits of the data that ships with the project\n"


def find_data(path: Path) -> Path:
    """`path`; a relative one that does not exist is looked for in the checkout, or in the installed package."""
    path = Path(path)
    return path if path.is_absolute() or path.exists() else Path(__file__).parents[2] / path


def write_section(path: Path, file: str, text: str) -> None:
    """Write `text` as the section `## file` of the credits at `path`; the other sections stay as they are."""
    found = path.read_text(encoding="utf-8") if path.is_file() else TITLE
    title, *sections = re.split(r"^(?=## )", found, flags=re.M)
    kept = {section.split("\n", 1)[0].removeprefix("## "): section.rstrip() for section in sections}
    kept[file] = f"## {file}\n\n{text.strip()}"
    whole = [title.rstrip(), *kept.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, ("\n\n".join(whole) + "\n").encode())
