"""PLY files: points and faces, text and both binary forms, every property of an element by its name.

Read by NumPy and a small compiled loop: plyfile is GPL, and trimesh knows no binary lists of several lengths. A count in the
header is held against the size of the file before anything is read; what follows the last element is left, and said.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numba import njit

from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.errors import ShapeError
from dropfold.data_scripts.work.notes import say

TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
NAMES = {np.dtype(TYPES[name]): name for name in ("uchar", "ushort", "int", "uint", "float", "double")}
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
BYTES_PER_LINE = 1 << 16  # of a header: a longer one is no header's
BLANK = b" \t\r\n\0\x1a"  # may follow the last element
ROWS = {"vertex": "points", "face": "faces"}  # what the rows of an element are called


@dataclass(frozen=True)
class Property:
    """A column of an element. `count` is the type of the length before each list, "" of a number."""

    name: str
    kind: str
    count: str = ""


@dataclass(frozen=True)
class Element:
    """A table of the file: its name, its number of rows, and its columns."""

    name: str
    count: int
    properties: list[Property]

    @property
    def listed(self) -> bool:
        return any(one.count for one in self.properties)

    def bytes_of(self, rows: int) -> int:
        """The fewest bytes that `rows` rows take in a binary file."""
        return rows * sum(np.dtype(one.count or one.kind).itemsize for one in self.properties)


class Lists(NamedTuple):
    """A list for each row: their lengths [n], and all values one after the other."""

    length: np.ndarray
    values: np.ndarray


Columns = dict[str, np.ndarray | Lists]


def read_vertices(path: Path) -> dict[str, np.ndarray]:
    """The properties of the element `vertex` that are numbers, each [n]; a `ShapeError` names the file and what is wrong."""
    columns = read_elements(path, ("vertex",))["vertex"]
    return {name: values for name, values in columns.items() if not isinstance(values, Lists)}


def read_elements(path: Path, wanted: tuple[str, ...]) -> dict[str, Columns]:
    """The elements of the names `wanted` that the file has, all of which must have `vertex`. The others are walked over."""
    with path.open("rb") as file:
        order, elements, line = _header(path, file)
        if not any(element.name == "vertex" for element in elements):
            raise ShapeError(f"{path} has no element 'vertex'.")
        if order == "":
            return _read_text(path, file, elements, wanted, line)
        return _read_binary(path, file, order, elements, wanted)


def write_vertices(path: Path, columns: dict[str, np.ndarray]) -> None:
    """A binary file of the properties, each [n] and of a type in `NAMES`."""
    kinds = [(name, values.dtype.newbyteorder("<")) for name, values in columns.items()]
    table = np.empty(len(next(iter(columns.values()))), kinds)
    for name, values in columns.items():
        table[name] = values
    properties = [f"property {NAMES[values.dtype]} {name}" for name, values in columns.items()]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment {atomic.WRITER}",
        f"element vertex {len(table)}",
        *properties,
        "end_header",
    ]
    with path.open("wb") as file:
        file.write("\n".join(header).encode() + b"\n")
        file.write(table.data)


# --- the header --------------------------------------------------------------------------------------------------


def _header(path: Path, file: BinaryIO) -> tuple[str, list[Element], int]:
    """Byte order ("" of text), the elements, and the number of the first line after the header."""
    begin = file.read(64)
    match = re.match(rb"ply[ \t]*(\r?\n|\r)", begin)
    if match is None:
        raise ShapeError(f"{path} does not begin with ply.")
    end = match[1][-1:]  # a line break of old Macintoshes is a single \r
    file.seek(match.end())
    order, line = None, 1
    elements: list[Element] = []
    while True:
        text = _read_line(file, end)
        line += 1
        words = text.decode("latin-1").split()
        if not text.endswith(end):
            raise ShapeError(f"{path}, line {line}: the header has no end (truncated?).")
        if words[:1] == ["end_header"]:
            break
        try:
            if words[:1] == ["format"]:
                order = ORDERS[words[1]]
            elif words[:1] == ["element"]:
                elements.append(Element(words[1], int(words[2]), []))
                if int(words[2]) < 0:
                    raise ValueError
            elif words[:2] == ["property", "list"]:
                if TYPES[words[2]][0] == "f":
                    raise ValueError
                elements[-1].properties.append(Property(words[4], TYPES[words[3]], TYPES[words[2]]))
            elif words[:1] == ["property"]:
                elements[-1].properties.append(Property(words[2], TYPES[words[1]]))
            elif words and words[0] not in ("comment", "obj_info"):
                raise KeyError
        except (KeyError, IndexError, ValueError):
            raise ShapeError(
                f"{path}, line {line}: {' '.join(words)[:60]!r} is no line of a PLY header."
            ) from None
    if order is None:
        raise ShapeError(f"{path} has no line 'format' in its header.")
    if (twice := _first_twice([element.name for element in elements])) is not None:
        raise ShapeError(f"{path} has the element {twice!r} twice.")
    for element in elements:
        if (twice := _first_twice([one.name for one in element.properties])) is not None:
            raise ShapeError(f"{path}: element {element.name!r} has the property {twice!r} twice.")
    return order, elements, line + 1


def _read_line(file: BinaryIO, end: bytes) -> bytes:
    if end == b"\n":
        return file.readline(BYTES_PER_LINE)
    text = bytearray()
    while len(text) < BYTES_PER_LINE and (byte := file.read(1)):
        text += byte
        if byte == end:
            break
    return bytes(text)


def _first_twice(names: list[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def _rows(element: Element) -> str:
    return f"{element.count} {ROWS.get(element.name, f'rows of {element.name!r}')}"


def _cut(path: Path, element: Element, rows: int) -> ShapeError:
    return ShapeError(f"{path} ends after {rows} of {_rows(element)} (truncated?).")


# --- binary ------------------------------------------------------------------------------------------------------


def _read_binary(
    path: Path, file: BinaryIO, order: str, elements: list[Element], wanted: tuple[str, ...]
) -> dict[str, Columns]:
    size = os.fstat(file.fileno()).st_size
    found: dict[str, Columns] = {}
    for element in elements:
        left = size - file.tell()
        least = element.bytes_of(1)
        if element.bytes_of(element.count) > left:
            raise _cut(path, element, left // least)
        if element.listed:
            start = file.tell()
            data = np.fromfile(file, np.uint8, left)
            columns, end = _read_lists(path, data, order, element, element.name in wanted)
            file.seek(start + end)
        elif element.name in wanted:
            kind = np.dtype([(one.name, order + one.kind) for one in element.properties])
            table = np.fromfile(file, kind, element.count)
            columns = {
                name: table[name].astype(table[name].dtype.newbyteorder("=")) for name in kind.names or ()
            }
        else:
            file.seek(element.bytes_of(element.count), os.SEEK_CUR)
            continue
        if element.name in wanted:
            found[element.name] = columns
    while rest := file.read(1 << 20):
        if rest.strip(BLANK):
            say(f"{path}: what follows the {_rows(elements[-1])} that its header counts is left")
            break
    return found


def _read_lists(
    path: Path, data: np.ndarray, order: str, element: Element, wanted: bool
) -> tuple[Columns, int]:
    """The columns of an element with lists, and the place after it."""
    n, properties = element.count, element.properties
    size = np.array([np.dtype(one.count or one.kind).itemsize for one in properties], np.int64)
    item = np.array([np.dtype(one.kind).itemsize if one.count else 0 for one in properties], np.int64)
    signed = np.array([one.count.startswith("i") for one in properties])
    begin = np.empty((n, len(properties)), np.int64)
    length = np.empty((n, len(properties)), np.int64)
    rows, end, negative = _walk(data, size, item, signed, order == ">", begin, length)
    if negative:
        raise ShapeError(f"{path}: row {rows} of element {element.name!r} has a list of fewer than 0 items.")
    if rows < n:
        raise _cut(path, element, rows)
    columns: Columns = {}
    for p, one in enumerate(properties if wanted else []):
        kind = np.dtype(order + one.kind)
        width = length[:, p] * kind.itemsize
        values = np.empty(int(width.sum()), np.uint8)
        _copy(data, begin[:, p], width, values)
        numbers = values.view(kind).astype(kind.newbyteorder("="))
        columns[one.name] = Lists(length[:, p].copy(), numbers) if one.count else numbers
    return columns, int(end)


@njit(cache=True, nogil=True)
def _walk(
    data: np.ndarray,
    size: np.ndarray,
    item: np.ndarray,
    signed: np.ndarray,
    big: bool,
    begin: np.ndarray,
    length: np.ndarray,
) -> tuple[int, int, bool]:
    """Fill `begin`, the byte at which each value or list begins, and `length`, its number of items, [rows, properties].

    size: bytes of a value, or of a list's length. item: bytes of a list's item, 0 of no list. Returns the number of rows
    that the data hold whole, the byte after them, and whether a list of the next one has a length below 0.
    """
    at, whole, n = 0, 0, len(data)
    for row in range(len(begin)):
        for p in range(len(size)):
            if at + size[p] > n:
                return row, whole, False
            begin[row, p], length[row, p] = at, 1
            if item[p] > 0:
                count = np.int64(0)
                for b in range(size[p]):
                    count = count * 256 + np.int64(data[at + (b if big else size[p] - 1 - b)])
                if signed[p] and count >= 1 << (8 * size[p] - 1):
                    return row, whole, True
                begin[row, p], length[row, p] = at + size[p], count
                if at + size[p] + count * item[p] > n:
                    return row, whole, False
                at += count * item[p]
            at += size[p]
        whole = at
    return len(begin), whole, False


@njit(cache=True, nogil=True)
def _copy(data: np.ndarray, begin: np.ndarray, width: np.ndarray, out: np.ndarray) -> None:
    """The bytes [begin, begin + width) of each row, one after the other."""
    at = 0
    for row in range(len(begin)):
        for byte in range(width[row]):
            out[at] = data[begin[row] + byte]
            at += 1


# --- text --------------------------------------------------------------------------------------------------------


def _read_text(
    path: Path, file: BinaryIO, elements: list[Element], wanted: tuple[str, ...], line: int
) -> dict[str, Columns]:
    text = file.read()
    if b"\r" in text and b"\n" not in text:
        text = text.replace(b"\r", b"\n")
    data = np.frombuffer(text, np.uint8)
    found: dict[str, Columns] = {}
    at = 0
    for element in elements:
        if not element.properties:
            continue
        # A row has a digit and a blank or a line break at the least; the last may have no break.
        if 2 * element.count > len(text) - at + 1:
            rows, _, _ = _split_rows(data, at, line, np.empty(len(text) - at, np.int32))
            raise _cut(path, element, min(rows, element.count))
        words = np.empty(element.count, np.int32)
        rows, end, after = _split_rows(data, at, line, words)
        part = text[at:end]
        if rows < element.count:
            raise _cut(path, element, rows)
        columns = _columns_of(path, part, element, words, line)
        if element.name in wanted:
            found[element.name] = columns
        at, line = end, after
    if text[at:].strip(BLANK):
        say(f"{path}, line {line}: what follows the {_rows(elements[-1])} that its header counts is left")
    return found


@njit(cache=True, nogil=True)
def _split_rows(data: np.ndarray, at: int, line: int, words: np.ndarray) -> tuple[int, int, int]:
    """Fill `words`, the number of words of each line that is not blank. Returns how many lines there were, the byte
    after the last of them, and the number of the line that begins there."""
    row, n = 0, len(data)
    while row < len(words) and at < n:
        count, inside = 0, False
        while at < n and data[at] != 10:
            blank = data[at] == 32 or data[at] == 9 or data[at] == 13 or data[at] == 11 or data[at] == 12
            if not blank and not inside:
                count += 1
            inside = not blank
            at += 1
        if at < n:
            at += 1
        line += 1
        if count:
            words[row] = count
            row += 1
    return row, at, line


def _columns_of(path: Path, text: bytes, element: Element, words: np.ndarray, line: int) -> Columns:
    """The columns of an element from its lines, which have so many words each."""
    properties = element.properties
    if not element.listed:
        if (odd := words != len(properties)).any():
            raise _bad_row(path, text, int(np.argmax(odd)), line, f"{len(properties)} numbers")
        table = _numbers(path, text, len(properties), line).reshape(-1, len(properties))
        return {one.name: _typed(path, element, one, table[:, p]) for p, one in enumerate(properties)}
    values = _numbers(path, text, 1, line)
    start = (
        np.concatenate([[0], np.cumsum(words)[:-1]]).astype(np.int64) if len(words) else np.empty(0, np.int64)
    )
    at, end = start.copy(), start + words
    columns: Columns = {}
    for one in properties:
        whole = at < end
        length = np.ones(len(words), np.int64)
        if one.count and whole.all():
            stated = values[at] if len(at) else np.empty(0)
            whole = (stated >= 0) & (stated == np.floor(stated)) & (stated <= end - at - 1)
            at = at + 1
            length = np.where(whole, stated, 0).astype(np.int64)
        if not whole.all():
            raise _bad_row(path, text, int(np.argmin(whole)), line, f"a row of element {element.name!r}")
        taken = np.repeat(at - np.concatenate([[0], np.cumsum(length)[:-1]]), length) + np.arange(
            length.sum()
        )
        numbers = _typed(path, element, one, values[taken.astype(np.int64)])
        columns[one.name] = Lists(length, numbers) if one.count else numbers
        at = at + length
    if (odd := at != end).any():
        raise _bad_row(path, text, int(np.argmax(odd)), line, f"a row of element {element.name!r}")
    return columns


def _numbers(path: Path, text: bytes, columns: int, line: int) -> np.ndarray:
    """All words as numbers; `columns` of them stand in each line, or 1: any number."""
    from dropfold.data_scripts.readers import text_table

    lines = text if columns > 1 else text.translate(bytes.maketrans(b" \t\r\v\f", b"\n\n\n\n\n"))
    pieces = list(text_table.read_pieces(io.BytesIO(lines), columns))
    if not any(piece.bad for piece in pieces):
        return np.concatenate([piece.rows.ravel() for piece in pieces]) if pieces else np.empty(0)
    try:  # words that are numbers all the same: nan, inf, 1e999
        return np.array(text.split()).astype(np.float64)
    except ValueError:
        for row, one in enumerate(filter(bytes.strip, text.split(b"\n"))):
            try:
                np.array(one.split()).astype(np.float64)
            except ValueError:
                raise _bad_row(path, text, row, line, "numbers") from None
        raise


def _typed(path: Path, element: Element, one: Property, values: np.ndarray) -> np.ndarray:
    """Numbers in the property's type; an error if it cannot hold one of them."""
    kind = np.dtype(one.kind)
    if kind.kind != "f":
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        fits = (values >= low) & (values <= high) & (values == np.floor(values))
        if not fits.all():
            wrong = values[np.argmin(fits)]
            raise ShapeError(
                f"{path}: {one.name} of element {element.name!r} is {wrong:g}, expected a whole number {low} .. {high}."
            )
    with np.errstate(over="ignore"):
        return values.astype(kind)


def _bad_row(path: Path, text: bytes, row: int, line: int, expected: str) -> ShapeError:
    """The row-th line that is not blank is not what was expected."""
    lines = ((number, one) for number, one in enumerate(text.split(b"\n"), line) if one.strip())
    number, found = next(one for i, one in enumerate(lines) if i == row)
    quoted = found.strip()[:60].decode("latin-1")
    kind = expected if expected.startswith("a row") else f"a row of {expected}"
    return ShapeError(f"{path}, line {number}: {quoted!r} is not {kind}.")
