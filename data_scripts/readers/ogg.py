"""Pages of an Ogg file: where one is missing or damaged in a way that FFmpeg passes over without a word.

A page begins with "OggS" where the page before it ends. At byte 14 it has the number of its stream (4 bytes), at 18 its own
number in that stream (4 bytes), at 26 the number of its segments, and then their sizes, a byte each; a packet whose last
segment has 255 bytes goes on in the stream's next page. Source: RFC 3533.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import NamedTuple

BEGIN, HEADER_BYTES, FULL_SEGMENT = b"OggS", 27, 255


class Break(NamedTuple):
    """Something is missing before byte `at`; `cut`: the packet before it is, too."""

    at: int
    cut: bool


def find_breaks(path: Path) -> list[Break]:
    """Where a page does not begin at the end of the last one, reaches behind the file's end, or does not have the next
    number of its stream."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _find_breaks(content)


def _find_breaks(content: mmap.mmap | bytes) -> list[Break]:
    breaks: list[Break] = []
    number_of: dict[bytes, int] = {}  # the next one of each stream
    at, open_packet = 0, False
    while at < len(content):
        end, segments = _page(content, at)
        if end is None:
            following = content.find(BEGIN, at + 1)
            at = len(content) if following < 0 else following
            if not breaks or breaks[-1].at < at:
                breaks.append(Break(at, open_packet))
            number_of.clear()  # whatever number the next page has, it is said already
            continue
        stream, number = content[at + 14 : at + 18], int.from_bytes(content[at + 18 : at + 22], "little")
        if number != number_of.get(stream, number):
            breaks.append(Break(at, open_packet))
        number_of[stream] = number + 1
        open_packet = bool(segments) and segments[-1] == FULL_SEGMENT
        at = end
    return breaks


def _page(content: mmap.mmap | bytes, at: int) -> tuple[int | None, bytes]:
    """The end of the page at byte `at` and the sizes of its segments; no end if none that is whole begins there."""
    sizes = at + HEADER_BYTES
    if content[at : at + 4] != BEGIN or sizes > len(content):
        return None, b""
    segments = content[sizes : sizes + content[sizes - 1]]
    end = sizes + content[sizes - 1] + sum(segments)
    return (end, segments) if end <= len(content) else (None, b"")
