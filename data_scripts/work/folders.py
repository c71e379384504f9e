"""The one walk over a folder of data: links are followed, every file is found once, and what is not read has its reason.

A file of the folder is read, lies beside one that is read (a texture, a list), or is an `Unread` with its reason; `account`
says so in a few lines, whose figures add up to all files of the folder.
"""

from __future__ import annotations

import heapq
import os
import stat
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

MOST_NAMED = 10  # files of one line; of more the number
LONGEST_NAME = 160  # characters of a name that a line shows

HIDDEN = "hidden"
NOWHERE = "links that lead nowhere"
SPECIAL = "neither files nor folders"
FORBIDDEN = "no permission to read them"
SAME = "the same as a file that is read"
TWICE = "in the archive again under the same name; the last one is read"
UNLISTED = "folders that cannot be listed"
CIRCLE = "links to a folder that they lie in"
AGAIN = "links to a folder that is read already"
OF_FOLDERS = (UNLISTED, CIRCLE, AGAIN)  # reasons of folders, which the number of files leaves out
OTHER_KIND = "of kinds that are not read"

BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # turn the rest of a line round


class File(NamedTuple):
    """A file of a folder or of an archive."""

    name: str
    """Its path within the source, parts apart by /, as the file system has it; `printable` makes text of it."""
    size: int
    stamp: int
    """Changes with the content: of a folder's file the time of its last change, of an archive's its checksum."""


class Unread(NamedTuple):
    """A file or folder that is not read, and why."""

    name: str
    reason: str
    same_as: str = ""
    """Of a link or a file that is reached twice: what it leads to."""


class Listing(NamedTuple):
    """All that a folder or an archive holds."""

    files: list[File]
    """Sorted by their parts."""
    folders: list[str]
    """Without the folder itself and hidden ones, sorted by their parts."""
    unread: list[Unread]


def is_hidden(parts: Iterable[str]) -> bool:
    """Whether a path is of what file managers and their archives leave behind."""
    return any(part.startswith((".", "__MACOSX")) for part in parts)


def in_order(name: str) -> list[str]:
    """The key that sorts names by their parts."""
    return name.split("/")


def walk(root: Path, once: bool = True) -> Listing:
    """All files and folders under `root`.

    Links are followed after all that is no link, so that a file reached twice has its own name. A link to a folder that it
    lies in, or to one that was walked already, ends the way. once: a file reached twice (a link, a hard link) is found once.
    """
    found = Listing([], [], [])
    names_of: dict[object, str] = {}  # of each file and folder that was reached, its first name
    real_root = os.path.realpath(root)
    folders = [""]
    links: list[tuple[list[str], str]] = []  # a heap in the order of names
    plain: list[tuple[str, os.stat_result]] = []  # files that no link leads to
    while folders or plain or links:
        if folders:
            _list_folder(root, folders.pop(), found, names_of, folders, links, plain)
            continue
        for name, about in sorted(plain, key=lambda one: in_order(one[0])):
            _add_file(root, name, about, found, names_of, once)
        plain.clear()
        if not links:
            break
        name = heapq.heappop(links)[1]
        path = os.path.join(root, name)
        try:
            about = os.stat(path)
        except OSError:
            found.unread.append(Unread(name, NOWHERE, _target(path)))
            continue
        if not stat.S_ISDIR(about.st_mode):
            _add_file(root, name, about, found, names_of, once)
            continue
        target, parent = os.path.realpath(path), os.path.realpath(os.path.dirname(path))
        if any(_is_within(place, target) for place in (parent, real_root)):
            found.unread.append(Unread(name, CIRCLE, _target(path)))
        elif (known := names_of.get(_identity(path, about))) is not None:
            found.unread.append(Unread(name, AGAIN, known or str(root)))
        else:
            folders.append(name)
    found.files.sort(key=lambda file: in_order(file.name))
    found.folders.sort(key=in_order)
    found.unread.sort(key=lambda one: in_order(one.name))
    return found


def _list_folder(
    root: Path,
    name: str,
    found: Listing,
    names_of: dict[object, str],
    folders: list[str],
    links: list[tuple[list[str], str]],
    plain: list[tuple[str, os.stat_result]],
) -> None:
    """One folder: its files go to `found`, its folders and links to the lists of what is to be walked."""
    place = os.path.join(root, name) if name else os.fspath(root)
    hidden = is_hidden(name.split("/"))
    try:
        identity = (name,) if hidden else _identity(place, os.stat(place))  # a link may lead to a hidden one
        if identity in names_of:  # a folder that a link led to before
            found.unread.append(Unread(name, AGAIN, names_of[identity] or str(root)))
            return
        names_of[identity] = name
        with os.scandir(place) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        found.unread.append(Unread(name, UNLISTED))
        return
    if name and not hidden:
        found.folders.append(name)
    for entry in inside:
        inner = f"{name}/{entry.name}" if name else entry.name
        try:
            if entry.is_dir(follow_symlinks=False):
                folders.append(inner)
            elif hidden or is_hidden([entry.name]):
                found.unread.append(Unread(inner, HIDDEN))
            elif entry.is_symlink():
                heapq.heappush(links, (in_order(inner), inner))
            else:
                # Not entry.stat(), which knows no identity on Windows.
                plain.append((inner, os.stat(entry.path)))
        except OSError:  # gone in this moment
            found.unread.append(Unread(inner, FORBIDDEN))


def _add_file(
    root: Path, name: str, about: os.stat_result, found: Listing, names_of: dict[object, str], once: bool
) -> None:
    path = os.path.join(root, name)
    if not stat.S_ISREG(about.st_mode):
        found.unread.append(Unread(name, SPECIAL))
        return
    if not os.access(path, os.R_OK):
        found.unread.append(Unread(name, FORBIDDEN))
        return
    identity = _identity(path, about), suffix_of(name)  # a.bak and a.xyz may be one: a.xyz is read
    if once and (known := names_of.get(identity)) is not None:
        found.unread.append(Unread(name, SAME, known))
    else:
        names_of[identity] = name
        found.files.append(File(name, about.st_size, about.st_mtime_ns))


def _identity(path: str, about: os.stat_result) -> object:
    """What two names of one file have in common; some file systems number no files."""
    return (about.st_dev, about.st_ino) if about.st_ino else os.path.realpath(path)


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return "?"


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def list_files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """All files under `folder` with one of the suffixes, in lower or upper case, sorted; no hidden ones."""
    wanted = set(suffixes)
    return [folder / file.name for file in walk(folder).files if suffix_of(file.name) in wanted]


def suffix_of(name: str) -> str:
    """The suffix in lower case; empty if there is none."""
    return os.path.splitext(name)[1].lower()


def printable(name: str) -> str:
    """A file's name as text of one line: bytes that are not UTF-8 and control characters become escapes (\\xe9, \\n)."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(_escaped(letter) if _is_control(letter) else letter for letter in text)


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in BIDIRECTIONAL


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte that is not UTF-8, as the file system gives it
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def print_line(line: str) -> None:
    """Print a line whatever it holds: names that are no text, control characters, letters that the terminal lacks. Notes go
    to standard error, so that a pipe gets results alone."""
    text = "".join(_escaped(a) if _is_control(a) and a != "\n" else a for a in line)
    stream = sys.stderr if line.startswith("note: ") else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)


def shorten(name: str) -> str:
    """`printable`, and of a very long name its beginning and end."""
    text = printable(name)
    half = LONGEST_NAME // 2
    return text if len(text) <= LONGEST_NAME else f"{text[:half]} ... {text[-half:]}"


def name_some(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """`a, b and 3 more`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def in_number(count: int, one: str, more: str) -> str:
    """`1 class`, `2 classes`."""
    return f"{count:,} {one if count == 1 else more}"


def count_kinds(names: Iterable[str]) -> str:
    """`9 .jpg, 3 .mtl, 1 without suffix`, the most first."""
    kinds = Counter(printable(suffix_of(name)) or "without suffix" for name in names)
    return ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items(), key=lambda one: (-one[1], one[0])))


def account(
    read: int, unread: Sequence[Unread], beside: Collection[str] = (), failed: int = 0, left_out: int = 0
) -> list[str]:
    """What became of the files of a folder, a line a reason, then the figures of all; nothing if all were read.

    beside: files that belong to those that are read. failed: files that are no whole ones, each with a sentence elsewhere.
    left_out: files that an option leaves out.
    """
    lines, files = [], 0
    for reason in dict.fromkeys(one.reason for one in unread):
        some = [one for one in unread if one.reason == reason]
        kinds, most = "", MOST_NAMED
        if reason == OTHER_KIND:
            kinds = f" ({count_kinds(one.name for one in some)})"
            some = _kinds_in_turn(some)
            most = max(most, kinds.count(",") + 1)
        named = name_some(
            [shorten(one.name) + (f" -> {shorten(one.same_as)}" if one.same_as else "") for one in some], most
        )
        noun = "folder" if reason in OF_FOLDERS else "file"
        files += 0 if reason in OF_FOLDERS else len(some)
        verb = f"{noun} was" if len(some) == 1 else f"{noun}s were"
        lines.append(f"{len(some)} {verb} not read, {reason}{kinds}: {named}")
    if lines or beside or failed or left_out:
        parts = [f"{read} read"]
        parts += [f"{len(beside)} beside them ({count_kinds(beside)})"] if beside else []
        parts += [f"{left_out} left out as asked"] if left_out else []
        parts += [f"{files + failed} not read"] if files + failed else []
        total = read + len(beside) + left_out + failed + files
        lines.append(f"{total} {'file' if total == 1 else 'files'} in all: {', '.join(parts)}")
    return lines


def _kinds_in_turn(unread: Sequence[Unread]) -> list[Unread]:
    """The first of each kind, the second of each, ...: a rare kind is named beside 1,000 pictures."""
    turns: Counter[str] = Counter()
    keyed = []
    for i, one in enumerate(unread):
        turns[suffix_of(one.name)] += 1
        keyed.append((turns[suffix_of(one.name)], i, one))
    return [one for _, _, one in sorted(keyed)]


def note_alike(names: Iterable[str], what: str) -> list[str]:
    """A sentence for names that differ by case or by the form of their accents alone; what: e.g. classes."""
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        alike.setdefault(unicodedata.normalize("NFKC", name).casefold(), []).append(name)
    return [
        f"the {what} {' and '.join(ascii(one) for one in some)} differ by case or by the form of their letters alone: "
        "are they one? Both are kept."
        for some in alike.values()
        if len(some) > 1
    ]
