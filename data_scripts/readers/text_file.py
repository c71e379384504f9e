"""A text table of points in a file: what its first lines say, how its numbers are written, and its rows.

Before the rows may stand comments (# or //), a line of names (`x y z r g b label`, quoted or not, also after # or //) and,
before or after it, the number of points, as in .pts files and CloudCompare's. Numbers are apart by blanks, tabs, commas or
semicolons; commas within numbers are decimal points where nothing else can be meant, and this is said.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from dropfold.data_scripts.readers import columns as naming
from dropfold.data_scripts.readers import text_table
from dropfold.data_scripts.readers.text_table import LONGEST_LINE, NEITHER, POINT, SEPARATOR
from dropfold.data_scripts.work.errors import ShapeError

HEAD = 1 << 16  # bytes whose lines show how numbers are written
MOST_COLUMNS = 256
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
NUMBER = re.compile(rb"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
DECIMAL_COMMA = re.compile(rb"[+-]?(\d+,?\d*|,\d+)([eE][+-]?\d+)?")


class TextTable(NamedTuple):
    """rows [n, columns] float64, the words of the header if there is one, and what to tell the user."""

    rows: np.ndarray
    names: list[str] | None
    notes: list[str]


class _Header(NamedTuple):
    """What stands before the rows: names and their line, the number of points, and the number of the first row's line."""

    names: list[str] | None
    at: int
    points: int | None
    line: int


def read_table(path: Path, named: bool = False) -> TextTable:
    """The table of a text file; a `ShapeError` names it, the line, and what is wrong.

    named: the user has named the columns, so a header that names no x, y and z is passed over.
    """
    with _open_text(path) as opened:
        header = _read_header(path, opened, named)
        file, sample = _look_ahead(path, opened)
        comma, notes = _what_commas_are(path, sample, header.line)
        columns = _count_fields(sample[0], comma)
        if columns > MOST_COLUMNS:
            raise ShapeError(
                f"{path}, line {header.line} holds {columns} numbers, {MOST_COLUMNS} is the most. Is the table transposed? "
                "Save it with a point a line."
            )
        if header.names and len(header.names) != columns and not named:
            raise ShapeError(
                f"{path}, line {header.line}: {columns} numbers, and the header names {len(header.names)} columns."
            )
        rows = _read_rows(path, file, columns, header.line, comma)
    if header.points is not None and header.points != len(rows):
        cut = " (truncated?)" if len(rows) < header.points else ""
        raise ShapeError(f"{path} announces {header.points} points and holds {len(rows)}{cut}.")
    return TextTable(rows, header.names, notes)


def read_labels(path: Path) -> np.ndarray:
    """The numbers [n] of a file with one a line."""
    with _open_text(path) as file:
        return _read_rows(path, file, 1, 1, NEITHER)[:, 0]


def _open_text(path: Path) -> BinaryIO:
    """The file behind its byte order mark. UTF-16 and the line breaks of old Macs become UTF-8 and \\n, in memory."""
    file = path.open("rb")
    try:
        head = file.read(HEAD)
        file.seek(3 if head.startswith(codecs.BOM_UTF8) else 0)
        coding = next((name for mark, name in MARKS if head.startswith(mark)), None)
        alone = re.search(rb"\r(?!\r*\n)", head[:-1])
        if coding is None and alone is None:
            if head.count(0) > len(head) // 8:
                raise ShapeError(f"{path} is no text, or UTF-16 without its mark; save it as UTF-8.")
            return file
        text = file.read()
        file.close()
        if coding:
            try:
                text = text.decode(coding).encode()
            except UnicodeDecodeError as error:
                raise ShapeError(f"{path} is not whole {coding} text ({error}); save it as UTF-8.") from None
        return io.BytesIO(re.sub(rb"\r\r*\n|\r", b"\n", text))
    except BaseException:
        file.close()
        raise


def _read_header(path: Path, file: BinaryIO, named: bool) -> _Header:
    """All before the first row, where the file then stands."""
    names, at, count, line = None, 0, None, 0
    while True:
        start = file.tell()
        text = file.readline(LONGEST_LINE + 1)
        line += 1
        if not text:
            raise ShapeError(f"{path} holds no rows: it holds no numbers.")
        if len(text) > LONGEST_LINE:
            raise ShapeError(
                f"{path}, line {line} is longer than {LONGEST_LINE >> 20} MiB; is it a table of points?"
            )
        plain = text.strip(b" \t\r\n,;")
        remark = plain.startswith((b"#", b"//"))
        words = re.split(rb"[\s,;\"']+", plain.lstrip(b"#/ \t").strip(b"\"'"))
        if not plain.strip(b"#/"):
            continue
        if all(map(NUMBER.fullmatch, words)):
            if remark:
                continue
            if plain.isdigit() and count is None:
                count = int(plain)
                continue
            file.seek(start)
            return _Header(names, at, count, line)
        found = _split_names(text.strip(b" \r\n").lstrip(b"#/ \t"))
        if naming.has_axes(found):
            if names:
                raise ShapeError(f"{path}, line {line}: a second line of names; line {at} was the first.")
            names, at = found, line
        elif not remark and not any(map(NUMBER.fullmatch, words)):
            quoted = plain[:60].decode("utf-8", "replace")
            if naming.are_degrees(found) and not named:
                raise ShapeError(
                    f"{path}, line {line}: {quoted!r} names longitude and latitude; project them to metres (to UTM, say), "
                    'or say what they are with --columns "x y z".'
                )
            if not named:
                raise ShapeError(
                    f"{path}, line {line}: {quoted!r} names no columns x, y and z; name the columns with "
                    '--columns "x y z ...".'
                )
        elif not remark:
            quoted = plain[:60].decode("utf-8", "replace")
            raise ShapeError(f"{path}, line {line}: {quoted!r} is not a row of {len(words)} numbers.")


def _split_names(text: bytes) -> list[str]:
    """The words of a header, apart by what parts them: tabs, semicolons, commas or blanks."""
    line = text.decode("utf-8", "replace")
    apart = next((one for one in "\t;," if one in line), None)
    if apart is None:
        return [word.strip("\"'") for word in line.split()]
    words = [word.strip() for word in next(csv.reader([line], delimiter=apart, skipinitialspace=True))]
    while words and not words[-1]:
        words.pop()
    return words


def _look_ahead(path: Path, file: BinaryIO) -> tuple[BinaryIO, list[bytes]]:
    """The file where it stands, and the lines that follow, without comments. Quotes around numbers are taken away."""
    start = file.tell()
    text = file.read(HEAD)
    if b"\n" not in text:  # the first row is longer
        text += file.readline(LONGEST_LINE)
    file.seek(start)
    if b'"' in text:
        whole = file.read()
        if re.search(rb'"[^"\n,]*\d,\d[^"\n]*"\s*,', whole):
            raise ShapeError(
                f"{path} holds quoted numbers with commas; write decimal points, without quotes."
            )
        file, text = io.BytesIO(whole.replace(b'"', b"")), text.replace(b'"', b"")
    lines = text.split(b"\n")
    lines = [line.strip() for line in (lines[:-1] if len(text) >= HEAD and len(lines) > 1 else lines)]
    return file, [line for line in lines if line.strip(b",; \t") and not line.startswith((b"#", b"//"))]


def _what_commas_are(path: Path, lines: list[bytes], first: int) -> tuple[int, list[str]]:
    """What a comma is in some lines of numbers, and what to tell the user.

    A comma parts numbers where nothing else does (or blanks beside it alone). Where blanks, tabs or semicolons part them, a
    comma within is a decimal point, if every number has one at most and no other point.
    """
    with_commas = [line for line in lines if b"," in line]
    if not with_commas:
        return NEITHER, []
    found, example = set(), {}
    for line in with_commas:
        loose = re.sub(rb"\s*,\s+|\s+,\s*", b" ", line)
        words = re.split(rb"\s*;\s*|\s+", loose.strip(b" \t;,"))
        tight = any(b"," in word for word in words)
        if not tight or len(words) == 1:
            kind = "separator"
        elif loose == line and all(map(DECIMAL_COMMA.fullmatch, words)):
            kind = "point"
        else:
            kind = "both"
        found.add(kind)
        example[kind] = line[:60].decode("latin-1")
    unclear = example.get("both") or (example["point"] if len(found) > 1 else None)
    if found == {"separator"} and b"." not in b"".join(lines):
        zeros = next((line for line in with_commas if re.search(rb"(^|,)[+-]?\d+,0\d+(,|$)", line)), None)
        unclear = None if zeros is None else zeros[:60].decode("latin-1")
    if unclear:
        raise ShapeError(
            f"{path}, line {first} or after: in {unclear!r} a comma may part numbers or be a decimal point; write decimal "
            "points, and one separator between the numbers."
        )
    if found == {"point"}:
        return POINT, [f"commas are read as decimal points ({example['point']!r})"]
    return SEPARATOR, []


def _count_fields(line: bytes, comma: int) -> int:
    """The numbers of a row, and its empty fields but one at the end."""
    apart = rb"\s*[,;]\s*|\s+" if comma == SEPARATOR else rb"\s*;\s*|\s+"
    fields = re.split(apart, line.strip())
    return len(fields) - (not fields[-1])


def _read_rows(path: Path, file: BinaryIO, columns: int, line: int, comma: int) -> np.ndarray:
    """The rest of the file [n, columns]."""
    rows: list[np.ndarray] = []
    pieces = text_table.read_pieces(
        file, columns, comments=True, line=line, comma=comma, missing=True, exact=True
    )
    for piece in pieces:
        for bad in piece.bad[:1]:
            quoted = bad.text.strip()[:60].decode("utf-8", "replace")
            raise ShapeError(f"{path}, line {bad.line}: {quoted!r} is not a row of {columns} numbers.")
        rows.append(piece.rows)
    return rows[0] if len(rows) == 1 else np.concatenate([np.empty((0, columns)), *rows])
