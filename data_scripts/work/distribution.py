"""What unpacked distributions have in common: a root somewhere inside, lists in text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.folders import OTHER_KIND, Unread, account, walk


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
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SchemaError(f"{path} is no list in UTF-8 ({error}); fetch the distribution again.") from None
    return [line.strip() for line in lines if line.strip()]


def account_files(
    folder: Path, read: Iterable[Path], lists: Iterable[Path], reason: str = OTHER_KIND
) -> list[str]:
    """What is said of a distribution's files that are neither read nor lists of those; nothing if there are none.

    reason: why those are not read whose place or list decides.
    """
    tree = walk(folder, once=False)
    names = {file.name for file in tree.files}
    of_read, of_lists = ({path.relative_to(folder).as_posix() for path in paths} for paths in (read, lists))
    unread = [*tree.unread, *(Unread(name, reason) for name in sorted(names - of_read - of_lists))]
    return account(len(names & of_read), unread, sorted(names & of_lists)) if unread else []
