"""Damage to files: of bytes, of words, of numbers in headers, of JSON; and what two files give when they are spliced."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

from tests.fuzz.case import Random, chance, pick

HEAD = 600  # bytes at the begin of a file, where most formats have their header
WORDS = (
    *(
        b"nan",
        b"inf",
        b"-inf",
        b"-1",
        b"0",
        b"",
        b"1e999",
        b"-1e308",
        b"1e-320",
        b"4294967295",
        b"4294967296",
    ),
    *(
        b"2147483648",
        b"18446744073709551616",
        b"9" * 400,
        b"x",
        b"1,5",
        b"--",
        b"0x10",
        b"1_000",
        b"1e",
        b".",
    ),
    *(
        b"\0",
        b"\xff\xfe",
        "é".encode(),
        b"%s%n",
        b"../x",
        b'"',
        b"'",
        b"#",
        b"//",
        b"{",
        b"]",
        b"True",
        b"None",
    ),
    *(b"float", b"list"),
)
NUMBERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    32767,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
FLOATS = (float("nan"), float("inf"), -float("inf"), 1e308, -1e30, 1e-300)


def damage_bytes(random: Random, content: bytes, other: bytes) -> tuple[bytes, str]:
    """A content damaged in one to three ways, and their names. other: a second file of the format."""
    names = []
    for _ in range(int(random.choice([1, 1, 1, 2, 3]))):
        mutation = pick(random, *MUTATIONS)
        content = splice(random, content, other) if mutation is splice else mutation(random, content)
        names.append(mutation.__name__)
    return content, ", ".join(names)


def place(random: Random, content: bytes) -> int:
    """A byte: anywhere, or, more often than chance has it, near the begin or the end."""
    n = len(content)
    if n == 0:
        return 0
    kind = random.random()
    if kind < 0.4:
        return int(random.integers(min(n, HEAD)))
    return n - 1 - int(random.integers(min(n, 100))) if kind < 0.5 else int(random.integers(n))


def flip_bits(random: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(int(random.choice([1, 1, 1, 3, 20])) if changed else 0):
        changed[place(random, content)] ^= 1 << int(random.integers(8))
    return bytes(changed)


def overwrite(random: Random, content: bytes) -> bytes:
    start, length = place(random, content), int(random.choice([1, 1, 4, 30, 300]))
    filling = pick(random, random.bytes(length), b"\0" * length, b"\xff" * length)
    return content[:start] + filling[: len(content) - start] + content[start + length :]


def truncate(random: Random, content: bytes) -> bytes:
    if chance(random, 0.7):
        return content[: int(random.integers(len(content) + 1))]
    return content[: -int(random.integers(1, 20))]


def insert(random: Random, content: bytes) -> bytes:
    start, length = place(random, content), int(random.choice([1, 1, 4, 100]))
    return content[:start] + pick(random, random.bytes(length), b"\0" * length) + content[start:]


def remove(random: Random, content: bytes) -> bytes:
    start = place(random, content)
    return content[:start] + content[start + int(random.choice([1, 1, 4, 100])) :]


def repeat(random: Random, content: bytes) -> bytes:
    start = place(random, content)
    end = start + int(random.choice([4, 30, 200, len(content)]))
    return content[:end] + content[start:end] * int(random.choice([1, 1, 5])) + content[end:]


def swap(random: Random, content: bytes) -> bytes:
    a, b, c = sorted(place(random, content) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def change_number(random: Random, content: bytes) -> bytes:
    """A number of 1 to 8 bytes, of either byte order, becomes one of those that programs trip over."""
    import struct

    start = place(random, content)
    if chance(random, 0.2):
        filling = struct.pack(pick(random, "<f", ">f", "<d", ">d"), pick(random, *[*FLOATS[:3], -1e30, 1e30]))
    else:
        width = int(random.choice([1, 2, 4, 4, 8]))
        value = pick(random, *NUMBERS, len(content), max(len(content) - 1, 0))
        filling = (value % 256**width).to_bytes(width, pick(random, "little", "big"))
    return content[:start] + filling + content[start + len(filling) :]


def change_word(random: Random, content: bytes) -> bytes:
    """A word among the printable ones becomes another."""
    words = list(re.finditer(rb"[^\s,;:\"'(){}\[\]\0]+", content[: 1 << 16]))
    if not words:
        return content
    word = words[int(random.integers(min(len(words), 40) if chance(random) else len(words)))]
    text = word[0]
    new = pick(random, pick(random, *WORDS), text * 2, text[:-1], b"-" + text, text + b"." + text, text[::-1])
    return content[: word.start()] + new + content[word.end() :]


def change_lines(random: Random, content: bytes) -> bytes:
    """A line is lost, doubled, joined with the next, moved, or becomes noise."""
    lines = content.split(b"\n")
    i = int(random.integers(min(len(lines), 12) if chance(random) else len(lines)))
    j = int(random.integers(len(lines)))
    kind = int(random.integers(6))
    if kind == 0:
        del lines[i]
    elif kind == 1:
        lines.insert(j, lines[i])
    elif kind == 2:
        lines[i : i + 2] = [b" ".join(lines[i : i + 2])]
    elif kind == 3:
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == 4:
        lines.insert(i, pick(random, b"", b"#", b"\0\0", random.bytes(20), *WORDS))
    else:
        lines[i] = lines[i][: int(random.integers(len(lines[i]) + 1))]
    return b"\n".join(lines)


def splice(random: Random, content: bytes, other: bytes) -> bytes:
    """The begin of one file and the end of another."""
    return content[: int(random.integers(len(content) + 1))] + other[int(random.integers(len(other) + 1)) :]


MUTATIONS = (
    *(flip_bits, flip_bits, overwrite, truncate, insert, remove, repeat, swap),
    *(change_number, change_number, change_word, change_word, change_lines, splice),
)


# --- structure ---------------------------------------------------------------------------------------------------


def damage_json(random: Random, text: bytes, keep: tuple[str, ...] = ()) -> bytes:
    """Well-formed JSON in which one or two values became others; keys in `keep` stay as they are."""
    root = json.loads(text)
    for _ in range(int(random.choice([1, 1, 2]))):
        places = list(_places(root, keep))
        if not places:
            break
        holder, key = places[int(random.integers(len(places)))]
        value = holder[key]
        if chance(random, 0.2):
            del holder[key]
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and chance(random, 0.8):
            holder[key] = pick(
                random, 0, -1, 1, value + 1, value * 1000, 2**31, 2**70, 0.5, float("nan"), str(value)
            )
        else:
            holder[key] = pick(
                random, None, True, [], {}, "", "x", "../../x", -1, 2**40, [value], {"a": value}, [value] * 3
            )
    return json.dumps(root).encode()


def _places(value, keep):
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        if key not in keep:
            yield value, key
            yield from _places(value[key], keep)


def rezip(random: Random, path: Path) -> bool:
    """A zip archive of which a member is damaged, renamed or lost, with checksums that hold. No checksum can know."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    i = int(random.integers(len(members)))
    name, content = members[i]
    kind = random.random()
    if kind < 0.15:
        del members[i]
    elif kind < 0.3:
        members[i] = (pick(random, name + "x", name[::-1], "/" + name, "../" + name, name + "/"), content)
    else:
        members[i] = (name, damage_bytes(random, content, members[-1][1])[0])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", pick(random, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)) as archive:
        for name, content in members:
            archive.writestr(name, content)
    path.write_bytes(out.getvalue())
    return False
