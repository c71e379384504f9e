"""Parts of a Matroska or WebM file whose checksum differs, which FFmpeg does not compare.

A file is a tree of elements: an id and a size (1 to 4 and 1 to 8 bytes, one more than zeros before the first 1 bit), then as
many bytes of data. The second element at the top, Segment, holds the parts of the file. Where the first element in a
part is CRC-32 (id 0xBF, 4 bytes, the lowest first), it is that of all that follows in the part. FFmpeg and mkvmerge write it
into all parts; few programs write it into WebM. Source: RFC 8794, sections 4 to 6 and 11.3.1; RFC 9559, section 5.1.
"""

from __future__ import annotations

import mmap
import zlib
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

HEADER, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
PARTS = {
    CLUSTER: "Cluster",
    0x114D9B74: "SeekHead",
    0x1549A966: "Info",
    0x1654AE6B: "Tracks",
    0x1C53BB6B: "Cues",
    0x1941A469: "Attachments",
    0x1043A770: "Chapters",
    0x1254C367: "Tags",
}
CHECKSUM = b"\xbf\x84"  # its id and size
CHECKSUM_BYTES = len(CHECKSUM) + 4


class Part(NamedTuple):
    """A part that is damaged: what it is called, its first byte, and the one after it."""

    name: str
    at: int
    end: int


def note_damage(path: Path, known: Collection[int]) -> list[str]:
    """A sentence if parts of the file are damaged, by their checksums, and not in a packet that begins at a `known` byte."""
    damaged = [part for part in find_damage(path) if not any(part.at <= at < part.end for at in known)]
    if not damaged:
        return []
    names = ", ".join(f"{count} {name}" for name, count in Counter(part.name for part in damaged).items())
    return [
        f"{path}: what the file holds differs from its checksum in {names}, the first at byte {damaged[0].at:,}: it is "
        "damaged there, and pictures of it may be wrong"
    ]


def find_damage(path: Path) -> list[Part]:
    """The parts whose data differ from their checksum, in the order of the file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        begun = _open(content, 0)
        if begun is None or begun[0] != HEADER or begun[2] is None:
            return []
        segment = _open(content, begun[2])
        return _find_damage(content, segment[1]) if segment is not None and segment[0] == SEGMENT else []


def _find_damage(content: mmap.mmap, at: int) -> list[Part]:
    """Of the parts from byte `at` on. What is no element of the file, as where a size is damaged, or has no size, is passed
    over to the next cluster."""
    damaged = []
    while at < len(content):
        number, data, end = _open(content, at) or (0, at, None)
        if end is None or end > len(content):
            following = content.find(CLUSTER.to_bytes(4, "big"), at + 1)
            at = len(content) if following < 0 else following
            continue
        if number in PARTS and content[data : data + len(CHECKSUM)] == CHECKSUM:
            stated = content[data + len(CHECKSUM) : data + CHECKSUM_BYTES]
            if zlib.crc32(content[data + CHECKSUM_BYTES : end]).to_bytes(4, "little") != stated:
                damaged.append(Part(PARTS[number], at, end))
        at = end
    return damaged


def _open(content: mmap.mmap, at: int) -> tuple[int, int, int | None] | None:
    """(id, first byte of the data, the byte after them) of the element at byte `at`; no end where its size is not stated, as
    of a live stream; None if there is no element."""
    number = _number(content, at, 4)
    size = None if number is None else _number(content, at + number[1], 8)
    if number is None or size is None:
        return None
    data = at + number[1] + size[1]
    value = size[0] & (1 << 7 * size[1]) - 1  # without the bit that states its length
    unknown = value == (1 << 7 * size[1]) - 1
    return number[0], data, None if unknown else data + value


def _number(content: mmap.mmap, at: int, most: int) -> tuple[int, int] | None:
    """A number of as many bytes as its first one says, that bit included, and how many; None if they are more than most."""
    first = content[at] if at < len(content) else 0
    length = 9 - first.bit_length()
    if length > most or at + length > len(content):
        return None
    return int.from_bytes(content[at : at + length], "big"), length
