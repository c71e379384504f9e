"""Large text tables of numbers: millions of lines a second and core, and each bad line known by its number.

A line holds one row, its numbers apart by spaces, tabs, commas or semicolons. Blank lines and, if asked, comments are no
rows. A number of up to 15 digits without an exponent is read to the last bit, any other to two units in the last place,
or, if asked, to the last bit by Python's own `float`. The loop runs without the interpreter's lock: threads share the
cores.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from numba import njit

BYTES_PER_PIECE = 1 << 25  # of text in memory at a time
LONGEST_LINE = 1 << 24  # bytes; what is longer is no row, and no more of it is held in memory
MOST_BAD_LINES = 100  # of a piece, that are listed; in a file of another kind every line is bad
TENS = 10.0 ** np.arange(23)  # exact in float64: a quotient by one of them is rounded once
WRITTEN = b"0123456789+-.eE ,;\t\r"  # what a row is written with
EXACT = np.uint64(1 << 53)  # up to here whole numbers are exact in float64
SEPARATOR, POINT, NEITHER = 0, 1, 2  # what a comma may be
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
    file: BinaryIO,
    columns: int,
    colour: int = -1,
    comments: bool = False,
    line: int = 1,
    comma: int = SEPARATOR,
    missing: bool = False,
    exact: bool = False,
) -> Iterator[Piece]:
    """The table in pieces. `colour`: the first of three columns that must be whole numbers 0 .. 255, or -1.

    comments: lines that begin with # or // are no rows. line: the number of the file's next line. comma: SEPARATOR,
    POINT (of decimals) or NEITHER, a fault. missing: nan, inf and the like are numbers, and nothing between two commas or
    semicolons is NaN. exact: every number is read to the last bit. A line longer than LONGEST_LINE is the last piece.
    """
    rest = b""
    size = max(BYTES_PER_PIECE // max(columns // 8, 1), 1)  # a piece's rows take some times its bytes
    while True:
        read = file.read(size)
        text = rest + read
        if read:
            text, end, rest = text.rpartition(b"\n")
            if not end:  # no line ends in what was read
                if len(rest) > LONGEST_LINE:
                    yield Piece(np.full((1, columns), np.nan), [BadLine(0, line, rest[:50] + b"...")])
                    return
                continue
            text += end
        if text:
            data = np.frombuffer(text, dtype=np.uint8)
            rows = np.empty((int(np.count_nonzero(data == 10)) + 1, columns))
            bad = np.empty((MOST_BAD_LINES, 4), dtype=np.int64)
            doubtful = np.empty((0, 4), dtype=np.int64)
            options = (colour, comments, comma, missing)
            count, faults, end_line, doubts = _parse(data, rows, bad, doubtful, line, *options)
            if exact and doubts:
                doubtful = np.empty((doubts, 4), dtype=np.int64)
                _parse(data, rows, bad, doubtful, line, *options)
                for row, column, a, b in doubtful.tolist():
                    if not np.isnan(rows[row, column]):  # it is not of a bad line
                        rows[row, column] = float(text[a:b].replace(b",", b"."))
            line = end_line
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
def _ends_word(byte: int, comma: int) -> bool:
    """Whether a byte stands between the numbers of a row, or ends it."""
    return byte == 10 or byte == 32 or byte == 9 or byte == 13 or byte == 59 or (byte == 44 and comma == 0)


@njit(cache=True, nogil=True)
def _is_missing(text: np.ndarray, start: int, end: int) -> bool:
    """Whether a word, without its sign, is na, nan, nan(...), null, inf or infinity, in letters of any case."""
    length = end - start
    first = text[start] | 32
    second = text[start + 1] | 32 if length > 1 else 0
    third = text[start + 2] | 32 if length > 2 else 0
    if first == 110 and second == 97:  # na
        return length == 2 or (third == 110 and (length == 3 or text[start + 3] == 40))
    if first == 110 and second == 117:  # nu
        return length == 4 and third == 108
    return first == 105 and second == 110 and third == 102 and (length == 3 or length == 8)


@njit(cache=True, nogil=True)
def _parse(
    text: np.ndarray,
    rows: np.ndarray,
    bad: np.ndarray,
    doubtful: np.ndarray,
    line: int,
    colour: int,
    comments: bool,
    comma: int,
    missing: bool,
) -> tuple[int, int, int, int]:
    """Fill `rows`, `bad` (row, line, first and last byte) and `doubtful` (row, column, first and last byte of numbers that
    may be off in their last bits); returns how many of rows and of bad, the next line's number, and how many doubtful."""
    n, columns = len(text), rows.shape[1]
    row, faults, i, doubts = 0, 0, 0, 0
    while i < n:
        start, column, whole, remark = i, 0, True, False
        gap, filled = True, False  # nothing stands since the last comma; something stands in the row
        while i < n and text[i] != 10:
            byte = text[i]
            if byte == 32 or byte == 9 or byte == 13:
                i += 1
                continue
            if byte == 59 or (byte == 44 and comma == 0):
                if missing and gap:
                    if column == columns:
                        whole, filled = False, True
                        break
                    rows[row, column] = np.nan
                    column += 1
                gap = True
                i += 1
                continue
            if comments and column == 0 and (byte == 35 or (byte == 47 and i + 1 < n and text[i + 1] == 47)):
                remark = True
                break
            gap, filled = False, True
            word = i
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
                elif (byte == 46 or (byte == 44 and comma == 1)) and not point:
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
            if not seen or not (i == n or _ends_word(text[i], comma)) or column == columns:
                # 1.#QNAN and 1.#INF are how old C libraries of Windows write what is not finite
                hashed = seen and mantissa == 1 and point and i + 1 < n and text[i] == 35 and text[i + 1] > 57
                if missing and i < n and column < columns and (hashed or (not seen and not point)):
                    named = i
                    while i < n and not _ends_word(text[i], comma):
                        i += 1
                    if hashed or (i > named and _is_missing(text, named, i)):
                        rows[row, column] = np.nan
                        column += 1
                        continue
                whole = False
                break
            value = np.float64(mantissa)
            if mantissa > EXACT or ((power < -22 or power > 22) and mantissa > 0):
                if doubts < len(doubtful):
                    doubtful[doubts, 0], doubtful[doubts, 1] = row, column
                    doubtful[doubts, 2], doubtful[doubts, 3] = word, i
                doubts += 1
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
        if not remark and filled:
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
    return row, faults, line, doubts
