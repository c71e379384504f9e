"""The idx format of MNIST and the sets in its form: a header of big-endian numbers, then bytes.

    0 0 TYPE N, N lengths of 4 bytes, the values in C order        TYPE 8: uint8, the only one that is read

Source: yann.lecun.com/exdb/mnist, "the IDX file format". A file may be compressed by gzip.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from dropfold.data_scripts.work.errors import ArchiveError

UINT8 = 8
GZIP = b"\x1f\x8b"
MOST_BYTES = 1 << 32  # of a file's values
PIECE = 1 << 20


def read_idx(path: Path, axes: int) -> tuple[np.ndarray, str]:
    """`(values, digest)`: the uint8 array of `axes` axes, and the SHA-256 of the file's content, unpacked.

    Raises:
        ArchiveError: names the file, what it holds and what was expected.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP
        with cast(BinaryIO, gzip.open(path) if packed else path.open("rb")) as file:
            return _read(path, file, axes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ArchiveError(f"{path} is broken or cut off ({error}); fetch it again.") from None
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read ({error.strerror or error}).") from None


def _read(path: Path, file: BinaryIO, axes: int) -> tuple[np.ndarray, str]:
    head = file.read(4)
    expected = bytes((0, 0, UINT8, axes))
    if head != expected:
        raise ArchiveError(
            f"{path} begins with {head.hex(' ') or 'nothing'}, expected {expected.hex(' ')}, the mark of an idx file of "
            f"bytes with {axes} axes; is it another file?"
        )
    lengths = file.read(4 * axes)
    if len(lengths) < 4 * axes:
        raise ArchiveError(f"{path} is cut off in its header; fetch it again.")
    shape = struct.unpack(f">{axes}I", lengths)
    size = math.prod(shape)
    if not 0 < size <= MOST_BYTES:
        raise ArchiveError(f"{path} states {_words(shape)} values, expected 1 to {MOST_BYTES:,} of them.")
    values = _read_up_to(file, size + 1)
    if len(values) != size:
        found = f"only {len(values):,}" if len(values) < size else "more"
        raise ArchiveError(
            f"{path} states {_words(shape)} = {size:,} bytes and holds {found}; fetch it again."
        )
    digest = hashlib.sha256(head + lengths + values).hexdigest()
    return np.frombuffer(values, np.uint8).reshape(shape), digest


def _read_up_to(file: BinaryIO, size: int) -> bytes:
    """So many bytes or what there is; memory is taken for what there is alone, whatever a broken header states."""
    pieces: list[bytes] = []
    while size and (piece := file.read(min(size, PIECE))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
