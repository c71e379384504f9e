"""PCD files, as the Point Cloud Library writes them: text, binary and compressed, every field by its name.

The header's numbers are held against the file's size before anything is read. `rgb` and `rgba`, which pack a colour into the
bits of one number, become red, green and blue.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numba import njit

from dropfold.data_scripts.readers import text_table
from dropfold.data_scripts.work.errors import ShapeError

TYPES = {
    (letter, size): f"{kind}{size}" for letter, kind in (("I", "i"), ("U", "u")) for size in (1, 2, 4, 8)
}
TYPES |= {("F", 4): "f4", ("F", 8): "f8"}
LONGEST_HEADER_LINE = 4096
MOST_GROWTH = 100  # LZF makes at most 264 bytes of 3
UPRIGHT = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]


class _Field(NamedTuple):
    name: str
    kind: str
    width: int
    """Numbers of each point."""


class _Header(NamedTuple):
    fields: list[_Field]
    points: int
    height: int
    form: str
    viewpoint: list[float]
    line: int
    """Of the first line after it."""

    @property
    def columns(self) -> int:
        return sum(field.width for field in self.fields)

    @property
    def bytes_per_point(self) -> int:
        return sum(np.dtype(field.kind).itemsize * field.width for field in self.fields)


def read_points(path: Path) -> tuple[dict[str, np.ndarray], bool, list[str]]:
    """The fields, each [n]; whether the cloud is organised, rows of a picture with holes that are NaN; and what to tell the
    user."""
    with path.open("rb") as file:
        header = _read_header(path, file)
        left = os.fstat(file.fileno()).st_size - file.tell()
        read = {"ascii": _text, "binary": _binary, "binary_compressed": _compressed}[header.form]
        columns = read(path, file, header, left)
    for name in ("rgb", "rgba"):
        if name in columns and "r" not in columns:
            columns |= _unpack_colour(columns.pop(name))
    notes = (
        []
        if header.viewpoint == UPRIGHT
        else ["its VIEWPOINT is not applied; coordinates are as in the file"]
    )
    return columns, header.height > 1, notes


def _read_header(path: Path, file: BinaryIO) -> _Header:
    entries: dict[str, list[str]] = {}
    line = 0
    while "DATA" not in entries:
        text = file.readline(LONGEST_HEADER_LINE)
        line += 1
        if not text.endswith(b"\n"):
            raise ShapeError(f"{path}, line {line}: the header of a PCD file has no end (truncated?).")
        words = text.partition(b"#")[0].decode("latin-1").split()
        if not words:
            continue
        known = (
            "VERSION",
            "FIELDS",
            "COLUMNS",
            "SIZE",
            "TYPE",
            "COUNT",
            "WIDTH",
            "HEIGHT",
            "VIEWPOINT",
            "POINTS",
            "DATA",
        )
        if words[0].upper() not in known:
            raise ShapeError(f"{path}, line {line}: {' '.join(words)[:60]!r} is no line of a PCD header.")
        entries[words[0].upper().replace("COLUMNS", "FIELDS")] = words[1:]
    missing = [name for name in ("FIELDS", "SIZE", "TYPE", "WIDTH") if name not in entries]
    if missing:
        raise ShapeError(f"{path} has no line {missing[0]} in its PCD header.")
    names = entries["FIELDS"]
    try:
        sizes = [int(word) for word in entries["SIZE"]]
        counts = [int(word) for word in entries.get("COUNT", ["1"] * len(names))]
        width, height = int(entries["WIDTH"][0]), int(entries.get("HEIGHT", ["1"])[0])
        points = int(entries["POINTS"][0]) if "POINTS" in entries else width * height
        viewpoint = [float(word) for word in entries.get("VIEWPOINT", UPRIGHT)]
        if not len(names) == len(sizes) == len(entries["TYPE"]) == len(counts):
            raise ShapeError(
                f"{path}: FIELDS, SIZE, TYPE and COUNT of the PCD header differ in their number of words."
            )
        if min([*counts, width, height, points]) < 0 or max(counts, default=0) > 4096:
            raise ValueError("a number out of bounds")
        fields = [
            _Field(name, TYPES[kind.upper(), size], count)
            for name, kind, size, count in zip(names, entries["TYPE"], sizes, counts)
        ]
    except (ValueError, IndexError, OverflowError) as error:
        raise ShapeError(f"{path} has a broken PCD header ({error}).") from None
    except KeyError as error:
        raise ShapeError(f"{path} has a field of type and size {error}, which PCD does not know.") from None
    if width * height != points:
        raise ShapeError(f"{path}: {width} x {height} is not {points}, the POINTS of the PCD header.")
    form = (entries["DATA"] or [""])[0].lower()
    if form not in ("ascii", "binary", "binary_compressed"):
        raise ShapeError(f"{path} has DATA {form!r}; expected ascii, binary or binary_compressed.")
    used = [name for name in names if name != "_"]
    if twice := {name for name in used if used.count(name) > 1}:
        raise ShapeError(f"{path} has the field {min(twice)!r} twice.")
    return _Header(fields, points, height, form, viewpoint, line + 1)


def _text(path: Path, file: BinaryIO, header: _Header, left: int) -> dict[str, np.ndarray]:
    if 2 * header.columns * header.points > left + 1:  # a digit and what follows it
        raise ShapeError(f"{path} is too short for its {header.points} points (truncated?).")
    columns, rows = header.columns, [np.empty((0, header.columns))]
    for piece in text_table.read_pieces(file, columns, line=header.line, missing=True, exact=True):
        for bad in piece.bad[:1]:
            quoted = bad.text.strip()[:60].decode("latin-1")
            raise ShapeError(f"{path}, line {bad.line}: {quoted!r} is not a row of {columns} numbers.")
        rows.append(piece.rows)
    table = np.concatenate(rows)
    if len(table) != header.points:
        cut = " (truncated?)" if len(table) < header.points else ""
        raise ShapeError(f"{path} announces {header.points} points and holds {len(table)}{cut}.")
    found, start = {}, 0
    for field in header.fields:
        if field.width == 1 and field.name != "_":
            values = table[:, start]
            if field.kind[0] in "iu" and field.name not in ("rgb", "rgba"):
                values = _whole(path, field, values)
            elif field.kind[0] == "f":
                with np.errstate(over="ignore"):
                    values = values.astype(field.kind)
            found[field.name] = values
        start += field.width
    return found


def _whole(path: Path, field: _Field, values: np.ndarray) -> np.ndarray:
    limits = np.iinfo(field.kind)
    odd = ~((values >= limits.min) & (values <= limits.max) & (values == np.floor(values)))
    if odd.any():
        first = int(np.argmax(odd))
        raise ShapeError(
            f"{path}: {field.name} of point {first} is {values[first]}, expected a whole number of {field.kind}."
        )
    return values.astype(field.kind)


def _binary(path: Path, file: BinaryIO, header: _Header, left: int) -> dict[str, np.ndarray]:
    size = header.bytes_per_point
    if left < size * header.points:
        raise ShapeError(f"{path} ends after {left // max(size, 1)} of {header.points} points (truncated?).")
    kinds = [
        (str(i), f"<{field.kind}", (field.width,)) if field.width != 1 else (str(i), f"<{field.kind}")
        for i, field in enumerate(header.fields)
    ]
    table = np.fromfile(file, np.dtype(kinds), header.points)
    return {
        field.name: table[str(i)].astype(field.kind)
        for i, field in enumerate(header.fields)
        if field.width == 1 and field.name != "_"
    }


def _compressed(path: Path, file: BinaryIO, header: _Header, left: int) -> dict[str, np.ndarray]:
    sizes = np.frombuffer(file.read(8) if left >= 8 else b"", "<u4")
    expected = header.bytes_per_point * header.points
    if len(sizes) < 2 or left - 8 < sizes[0]:
        raise ShapeError(f"{path} ends within its compressed points (truncated?).")
    packed, whole = sizes.tolist()
    if whole != expected or whole > MOST_GROWTH * packed:
        raise ShapeError(
            f"{path} holds {packed} compressed bytes of {whole}, expected {expected} for {header.points} points."
        )
    target = np.empty(whole, np.uint8)
    if _decompress(np.frombuffer(file.read(packed), np.uint8), target) != whole:
        raise ShapeError(f"{path}: its compressed points are damaged.")
    found, stream = {}, io.BytesIO(target.data)
    for field in header.fields:  # field by field, each of all points
        values = np.frombuffer(
            stream.read(np.dtype(field.kind).itemsize * field.width * header.points), f"<{field.kind}"
        )
        if field.width == 1 and field.name != "_":
            found[field.name] = values.astype(field.kind)
    return found


@njit(cache=True, nogil=True)
def _decompress(source: np.ndarray, target: np.ndarray) -> int:
    """Unpack LZF, the compression of liblzf; returns the number of bytes that were made, -1 of damaged ones.

    A byte c below 32 stands before c + 1 bytes as they are. Any other stands for a copy of 2 + (c >> 5) bytes, or 9 and the
    next byte, that begin 1 + (c & 31) * 256 + the last byte before the end of what was made.
    """
    i, o, n, room = 0, 0, len(source), len(target)
    while i < n:
        control = np.int64(source[i])
        i += 1
        if control < 32:
            length = control + 1
            if i + length > n or o + length > room:
                return -1
            for _ in range(length):
                target[o] = source[i]
                o += 1
                i += 1
            continue
        length = control >> 5
        if length == 7:
            if i >= n:
                return -1
            length += np.int64(source[i])
            i += 1
        if i >= n:
            return -1
        start = o - (((control & 31) << 8) + np.int64(source[i]) + 1)
        i += 1
        length += 2
        if start < 0 or o + length > room:
            return -1
        for k in range(length):
            target[o] = target[start + k]
            o += 1
    return o


def _unpack_colour(values: np.ndarray) -> dict[str, np.ndarray]:
    """Red, green and blue from the bits 0xRRGGBB of a number, which of a float32 are its own."""
    if values.dtype.kind == "f" and values.dtype.itemsize == 4:
        bits = values.view(np.uint32)
    else:
        with np.errstate(invalid="ignore"):
            bits = np.nan_to_num(values.astype(np.float64)).astype(np.int64).astype(np.uint32)
    return {
        name: (bits >> shift & 255).astype(np.uint8)
        for name, shift in (("red", 16), ("green", 8), ("blue", 0))
    }
