"""PLY files of points: text and both binary forms, every property of the vertices by its name."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dropfold.data_scripts.work.errors import ShapeError

TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
NAMES = {np.dtype(TYPES[name]): name for name in ("uchar", "ushort", "int", "uint", "float", "double")}
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}

Element = tuple[str, int, list[tuple[str, str]]]  # name, count, (property, type); a list's type is "list"


def read_vertices(path: Path) -> dict[str, np.ndarray]:
    """The properties of the element `vertex`, each [n]; a `ShapeError` names the file and what is wrong."""
    with path.open("rb") as file:
        order, elements, line = _header(path, file)
        for name, count, properties in elements:
            listed = any(kind == "list" for _, kind in properties)
            if name == "vertex":
                break
            if order == "":
                for _ in range(count):
                    file.readline()
                line += count
            elif listed:
                raise ShapeError(
                    f"{path}: lists of element {name!r} come before the vertices; write the vertices first."
                )
            else:
                file.seek(count * np.dtype([(p, order + k) for p, k in properties]).itemsize, os.SEEK_CUR)
        else:
            raise ShapeError(f"{path} has no element 'vertex'.")
        if listed:
            raise ShapeError(f"{path}: a list is a property of the vertices, expected numbers.")
        if order == "":
            return _text(path, file, count, properties, line)
        kind = np.dtype([(name, order + kind) for name, kind in properties])
        left = os.fstat(file.fileno()).st_size - file.tell()
        if left < count * kind.itemsize:
            raise ShapeError(f"{path} ends after {left // kind.itemsize} of {count} points (truncated?).")
        table = np.fromfile(file, kind, count)
    return {name: table[name].astype(table[name].dtype.newbyteorder("=")) for name, _ in properties}


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
        f"element vertex {len(table)}",
        *properties,
        "end_header",
    ]
    with path.open("wb") as file:
        file.write("\n".join(header).encode() + b"\n")
        file.write(table.data)


def _header(path: Path, file: BinaryIO) -> tuple[str, list[Element], int]:
    """Byte order ("" of text), the elements, and the number of the first line after the header."""
    order, line = None, 0
    elements: list[Element] = []
    while True:
        text = file.readline(4096)
        line += 1
        words = text.decode("latin-1").split()
        if line == 1 and words != ["ply"]:
            raise ShapeError(f"{path} does not begin with ply.")
        if not text.endswith(b"\n"):
            raise ShapeError(f"{path}, line {line}: the header has no end (truncated?).")
        if words[:1] == ["end_header"]:
            break
        try:
            if words[:1] == ["format"]:
                order = ORDERS[words[1]]
            elif words[:1] == ["element"]:
                elements.append((words[1], int(words[2]), []))
                if int(words[2]) < 0:
                    raise ValueError
            elif words[:2] == ["property", "list"]:
                elements[-1][2].append((words[4], "list"))
            elif words[:1] == ["property"]:
                elements[-1][2].append((words[2], TYPES[words[1]]))
            elif words and words[0] not in ("ply", "comment", "obj_info"):
                raise KeyError
        except (KeyError, IndexError, ValueError):
            raise ShapeError(
                f"{path}, line {line}: {' '.join(words)[:60]!r} is no line of a PLY header."
            ) from None
    if order is None:
        raise ShapeError(f"{path} has no line 'format' in its header.")
    for element, _, properties in elements:
        names = [name for name, _ in properties]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ShapeError(f"{path}: element {element!r} has the property {min(twice)!r} twice.")
    return order, elements, line + 1


def _text(
    path: Path, file: BinaryIO, count: int, properties: list[tuple[str, str]], line: int
) -> dict[str, np.ndarray]:
    from dropfold.data_scripts.readers import text_table

    text = file.read()
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 10)
    if len(ends) > count:  # faces follow
        text = text[: ends[count - 1] + 1] if count else b""
    pieces = list(text_table.read_pieces(io.BytesIO(text), len(properties), line=line))
    for piece in pieces:
        for bad in piece.bad[:1]:
            quoted = bad.text.decode("latin-1").strip()[:60]
            raise ShapeError(
                f"{path}, line {bad.line}: {quoted!r} is not a row of {len(properties)} numbers."
            )
    rows = np.concatenate([piece.rows for piece in pieces]) if pieces else np.empty((0, len(properties)))
    if len(rows) < count:
        raise ShapeError(f"{path} ends after {len(rows)} of {count} points (truncated?).")
    return {name: rows[:, i].astype(kind) for i, (name, kind) in enumerate(properties)}
