"""Matroska's checksums, beside elements that are made here from RFC 8794, and what FFmpeg writes."""

import numpy as np
import pytest

from dropfold.data_scripts.readers.containers.matroska import Part, find_damage
from dropfold.data_scripts.readers.decode import Reading, read_clip
from tests.data_scripts.conftest import encode, packet_places, pictures

HEADER, SEGMENT, CLUSTER, INFO, VOID = "1a45dfa3", "18538067", "1f43b675", "1549a966", "ec"
ALL = Reading(frames=100, size="64x48", sampling="first")


def crc(data):
    """CRC-32 bit by bit, from the lowest bit on: the polynomial 0xedb88320."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0xEDB88320 if register & 1 else 0)
    return (register ^ 0xFFFFFFFF).to_bytes(4, "little")


def element(number, data, bytes_of_size=8):
    size = None if data is None else len(data)
    coded = (1 << 7 * bytes_of_size) | ((1 << 7 * bytes_of_size) - 1 if size is None else size)
    return bytes.fromhex(number) + coded.to_bytes(bytes_of_size, "big") + (data or b"")


def part(number, data, bytes_of_size=8):
    return element(number, b"\xbf\x84" + crc(data) + data, bytes_of_size)


def test_each_byte_under_a_checksum_is_known(tmp_path):
    body = bytes(range(60))
    parts = [
        part(INFO, body[:20], 1),
        element(VOID, b"any", 1),
        part(CLUSTER, body, 2),
        part(CLUSTER, body[::-1]),
    ]
    whole = element(HEADER, b"\x42\x86\x81\x01", 1) + element(SEGMENT, b"".join(parts))
    begin = len(whole) - len(b"".join(parts))
    places = np.cumsum([begin, *map(len, parts)]).tolist()
    path = tmp_path / "a.mkv"

    def found(content):
        path.write_bytes(content)
        return find_damage(path)

    assert found(whole) == []
    names = {0: "Info", 2: "Cluster", 3: "Cluster"}
    heads = {0: 4 + 1, 2: 4 + 2, 3: 4 + 8}
    for i, head in heads.items():
        for at in range(places[i] + head + 2, places[i + 1]):
            damaged = bytearray(whole)
            damaged[at] ^= 1
            assert found(bytes(damaged)) == [Part(names[i], places[i], places[i + 1])], at
    live = element(HEADER, b"\x42\x86\x81\x01", 1) + element(SEGMENT, None)
    assert found(live + element(CLUSTER, None) + body + parts[2]) == []
    broken = bytearray(parts[2])
    broken[-1] ^= 1
    at = len(live) + len(element(CLUSTER, None)) + len(body)
    assert found(live + element(CLUSTER, None) + body + broken) == [Part("Cluster", at, at + len(broken))]
    for content in (b"\0", b"\x1a\x45\xdf\xa3", whole[: places[3] + 20], b"RIFF" + whole):
        assert found(content) == []


def test_a_damaged_file_is_noted_and_a_whole_one_is_not(tmp_path):
    pytest.importorskip("av")
    path = encode(tmp_path / "a.mkv", pictures(30), "rawvideo")  # of which any byte is a picture
    whole = read_clip(path, "a", ALL, notes=(notes := []))
    assert notes == []
    content = bytearray(path.read_bytes())
    begin, size = packet_places(path)[12]
    content[begin + size // 2] ^= 4
    path.write_bytes(content)
    found = read_clip(path, "a", ALL, notes=notes)
    assert notes[0].startswith(
        f"{path}: what the file holds differs from its checksum in 1 Cluster, the first at byte "
    )
    assert len(notes) == 1
    assert (found == whole).all((1, 2, 3)).sum() == 29
