"""Pages of an Ogg file: where one of a stream is missing or damaged, which FFmpeg passes over.

A page begins with "OggS" where the page before it ends. At byte 5 it has flags, at 14 the number of its stream (4 bytes), at
18 its own number in that stream (4 bytes), at 22 a checksum (4 bytes), at 26 the number of its segments, and then their
sizes, a byte each; a packet whose last segment has 255 bytes goes on in the stream's next page. Source: RFC 3533.
"""

from __future__ import annotations

import mmap
import zlib
from pathlib import Path
from typing import NamedTuple

BEGIN, HEADER_BYTES, FULL_SEGMENT = b"OggS", 27, 255
LAST = 4  # the bit of a stream's last page
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # the bits of each byte


class Break(NamedTuple):
    """Something of a stream is missing before byte `at`; `cut`: the packet before it is, too."""

    stream: bytes
    at: int
    cut: bool


class Pages(NamedTuple):
    stream_of: dict[int, bytes]
    """The stream of each page, by the page's first byte."""
    breaks: list[Break]


class _Stream(NamedTuple):
    """A stream after one of its pages: the number of the next, whether a packet goes on there, and whether there is one."""

    number: int
    open_packet: bool
    ended: bool


def read_pages(path: Path) -> Pages:
    """The pages that are whole, and where one does not have the next number of its stream, or is lost at the end."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _read_pages(content)


def _read_pages(content: mmap.mmap | bytes) -> Pages:
    pages = Pages({}, [])
    streams: dict[bytes, _Stream] = {}
    unsure: set[bytes] = set()  # streams of which what was damaged last may have been
    at = 0
    while at < len(content):
        end, segments = _page(content, at)
        if end is None:  # whose page it was, the next number of its stream says
            following = content.find(BEGIN, at + 1)
            at = len(content) if following < 0 else following
            unsure.update(streams)
            continue
        stream, number = content[at + 14 : at + 18], int.from_bytes(content[at + 18 : at + 22], "little")
        before = streams.get(stream)
        if before is not None and number != before.number:
            pages.breaks.append(Break(stream, at, before.open_packet))
        goes_on = bool(segments) and segments[-1] == FULL_SEGMENT
        streams[stream] = _Stream(number + 1, goes_on, bool(content[at + 5] & LAST))
        unsure.discard(stream)
        pages.stream_of[at] = stream
        at = end
    for stream in unsure:
        if not streams[stream].ended:
            pages.breaks.append(Break(stream, len(content), streams[stream].open_packet))
    return pages


def _page(content: mmap.mmap | bytes, at: int) -> tuple[int | None, bytes]:
    """The end of the page at byte `at` and the sizes of its segments; no end if none that is whole begins there."""
    sizes = at + HEADER_BYTES
    if content[at : at + 4] != BEGIN or sizes > len(content):
        return None, b""
    segments = content[sizes : sizes + content[sizes - 1]]
    end = sizes + content[sizes - 1] + sum(segments)
    whole = end <= len(content) and _checksum(content[at:end]) == content[at + 22 : at + 26]
    return (end, segments) if whole else (None, b"")


def _checksum(page: bytes) -> bytes:
    """Of the page with zeros in place of its own: CRC-32 from the highest bit of each byte on, from 0 and not inverted.
    zlib's is the same from the lowest bit on."""
    zeroed = page[:22] + bytes(4) + page[26:]
    backwards = zlib.crc32(zeroed.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return backwards.to_bytes(4, "big").translate(REVERSED)
