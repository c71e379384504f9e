"""Files that belong to meshes: the .mtl of an OBJ and its textures, the .bin and pictures of a glTF, a PLY's texture."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from dropfold.data_scripts.work.folders import suffix_of

MOST_BYTES = 16 << 20  # of a .mtl or .gltf that is looked into
TEXTURES = re.compile(rb"^\s*(?:map_\w+|bump|disp|decal|refl|norm)\s+(.+?)\s*$", re.M | re.I)
PLY_TEXTURE = re.compile(rb"^comment\s+TextureFile\s+(.+?)\s*$", re.M)
URI = re.compile(r"(?![a-z][a-z0-9+.-]+:)", re.I)  # of a file: not data:, https:


def find_companions(folder: Path, read: Iterable[str], others: Iterable[str]) -> set[str]:
    """Those of the names `others` that belong to the meshes `read`."""
    others = set(others)
    by_case = {name.lower(): name for name in others}
    read = list(read)
    with_objects = {posixpath.dirname(name) for name in read if suffix_of(name) == ".obj"}
    found = {name for name in others if suffix_of(name) == ".mtl" and posixpath.dirname(name) in with_objects}
    places = [(name, _textures(folder / name, TEXTURES)) for name in found]
    places += [(name, _uris(folder / name)) for name in read if suffix_of(name) == ".gltf"]
    places += [
        (name, _textures(folder / name, PLY_TEXTURE, 4096))
        for name in read
        if suffix_of(name) == ".ply" and others
    ]
    for name, mentions in places:
        for mention in mentions:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), mention.replace("\\", "/")))
            found.update({path, by_case.get(path.lower(), path)} & others)
    return found


def _textures(path: Path, pattern: re.Pattern[bytes], most: int = MOST_BYTES) -> list[str]:
    """What a text mentions; of a line with options (`map_Kd -s 1 1 1 a.png`) also its last word."""
    mentions = [os.fsdecode(found) for found in pattern.findall(_bytes(path, most))]
    return mentions + [words[-1] for words in map(str.split, mentions) if len(words) > 1]


def _uris(path: Path) -> list[str]:
    try:
        found = json.loads(_bytes(path, MOST_BYTES))
        items = [item for key in ("buffers", "images") for item in found.get(key, [])]
        uris = [item["uri"] for item in items if isinstance(item.get("uri"), str)]
    except (ValueError, TypeError, AttributeError, RecursionError):  # no glTF; its reader says what is wrong
        return []
    return [unquote(uri) for uri in uris if URI.match(uri)]


def _bytes(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError:
        return b""
