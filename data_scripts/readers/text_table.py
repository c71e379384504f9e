"""Large text tables of numbers: millions of lines a second and core, and each bad line known by its number.

A line holds one row, its numbers apart by spaces, tabs, commas or semicolons. Blank lines and, if asked, comments are no
rows. A number of up to 15 digits without an exponent is read to the last bit, any other to two units in the last place.
The loop runs without the interpreter's lock: threads share the cores.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from numba import njit

BYTES_PER_PIECE = 1 << 25  # of text in memory at a time
MOST_BAD_LINES = 100  # of a piece, that are listed; in a file of another kind every line is bad
TENS = 10.0 ** np.arange(23)  # exact in float64: a quotient by one of them is rounded once
WRITTEN = b"0123456789+-.eE ,;\t\r"  # what a row is written with
NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class BadLine(NamedTuple):
    """A line that is no row of the table."""

    row: int
    """Its place in the piece's rows, which holds NaN."""
    line: int
    """Its number in the file, from 1."""
    text: bytes


class Piece(NamedTuple):
    """Some rows of the table [k, columns], and those of them that could not be read."""

    rows: np.ndarray
    bad: list[BadLine]


def read_pieces(
    file: BinaryIO, columns: int, colour: int = -1, comments: bool = False, line: int = 1
) -> Iterator[Piece]:
    """The table in pieces. `colour`: the first of three columns that must be whole numbers 0 .. 255, or -1.

    comments: lines that begin with # or // are no rows. line: the number of the file's next line.
    """
    rest = b""
    while True:
        read = file.read(BYTES_PER_PIECE)
        text = rest + read
        if read:
            text, end, rest = text.rpartition(b"\n")
            if not end:  # no line ends in what was read
                rest, text = text + rest, b""
                continue
            text += end
        if text:
            data = np.frombuffer(text, dtype=np.uint8)
            rows = np.empty((int(np.count_nonzero(data == 10)) + 1, columns))
            bad = np.empty((MOST_BAD_LINES, 4), dtype=np.int64)
            count, faults, line = _parse(data, rows, bad, line, colour, comments)
            found = [BadLine(int(r), int(l), text[a:b]) for r, l, a, b in bad[:faults]]
            yield Piece(rows[:count], found)
        if not read:
            return


def mend_line(text: bytes, columns: int, colour: int = -1) -> list[float] | None:
    """The row of a bad line with one or two bytes that no number has, if it is one by a flipped bit in each of them.

    So are the known faults of S3DIS: `185\\x00187` was `185 187`, `-9.1\\x160` was `-9.160`, `103.0\\x100000` was
    `103.000000`; each has lost the bit 0x20.
    """
    strange = [i for i, byte in enumerate(text) if byte not in WRITTEN]
    if not 1 <= len(strange) <= 2:
        return None
    choices = [
        [flip for bit in range(8) if (flip := text[i] ^ (1 << bit)) in b"0123456789.- "] for i in strange
    ]
    rows = []
    for flips in itertools.product(*choices):
        line = bytearray(text)
        for i, flip in zip(strange, flips):
            line[i] = flip
        row = _row(bytes(line), columns, colour)
        if row and row not in rows:
            rows.append(row)
    return rows[0] if len(rows) == 1 else None


def split_words(text: bytes) -> list[bytes]:
    """The words of a line, without separators."""
    return re.split(rb"[\s,;]+", text.strip(b" \t\r\n,;"))


def _row(text: bytes, columns: int, colour: int) -> list[float] | None:
    found = split_words(text)
    if len(found) != columns or not all(NUMBER.fullmatch(word) for word in found):
        return None
    row = [float(word) for word in found]
    if colour >= 0 and not all(v == int(v) and 0 <= v <= 255 for v in row[colour : colour + 3]):
        return None
    return row


@njit(cache=True, nogil=True)
def _parse(
    text: np.ndarray, rows: np.ndarray, bad: np.ndarray, line: int, colour: int, comments: bool
) -> tuple[int, int, int]:
    """Fill `rows` and `bad` (row, line, first and last byte); returns how many of each, and the next line's number."""
    n, columns = len(text), rows.shape[1]
    row, faults, i = 0, 0, 0
    while i < n:
        start, column, whole, remark = i, 0, True, False
        while i < n and text[i] != 10:
            byte = text[i]
            if byte == 32 or byte == 9 or byte == 13 or byte == 44 or byte == 59:
                i += 1
                continue
            if comments and column == 0 and (byte == 35 or (byte == 47 and i + 1 < n and text[i + 1] == 47)):
                remark = True
                break
            negative = byte == 45
            if negative or byte == 43:
                i += 1
            mantissa, digits, power = np.uint64(0), 0, 0
            seen, point = False, False
            while i < n:
                byte = text[i]
                if 48 <= byte <= 57:
                    seen = True
                    if digits < 18:
                        mantissa = mantissa * np.uint64(10) + np.uint64(byte - 48)
                        digits += 1 if mantissa > 0 else 0
                        power -= 1 if point else 0
                    else:
                        power += 0 if point else 1
                elif byte == 46 and not point:
                    point = True
                else:
                    break
                i += 1
            if seen and i < n and (text[i] == 101 or text[i] == 69):
                i += 1
                minus = i < n and text[i] == 45
                if i < n and (text[i] == 45 or text[i] == 43):
                    i += 1
                seen, exponent = False, 0
                while i < n and 48 <= text[i] <= 57:
                    seen = True
                    exponent = min(exponent * 10 + int(text[i]) - 48, 9999)
                    i += 1
                power += -exponent if minus else exponent
            ends = i == n or text[i] == 10 or text[i] == 32 or text[i] == 9 or text[i] == 13
            ends = ends or text[i] == 44 or text[i] == 59
            if not seen or not ends or column == columns:
                whole = False
                break
            value = np.float64(mantissa)
            if power < 0:
                value = value / TENS[-power] if power >= -22 else value * 10.0**power
            elif power > 0:
                value *= TENS[power] if power <= 22 else 10.0**power
            if value == np.inf:
                whole = False
                break
            rows[row, column] = -value if negative else value
            column += 1
        while i < n and text[i] != 10:
            i += 1
        if not remark and (column > 0 or not whole):
            if colour >= 0 and whole and column == columns:
                for c in range(colour, colour + 3):
                    value = rows[row, c]
                    whole = whole and value >= 0.0 and value <= 255.0 and value == np.floor(value)
            if not whole or column < columns:
                rows[row] = np.nan
                if faults < len(bad):
                    bad[faults, 0], bad[faults, 1], bad[faults, 2], bad[faults, 3] = row, line, start, i
                    faults += 1
            row += 1
        i += 1
        line += 1
    return row, faults, line
