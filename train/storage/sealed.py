"""Files with a checksum inside: a changed bit is found before anything is read from them.

Zip archives (torch.save's, .npz) carry the SHA-256 of all their bytes as the archive's comment, safetensors in their
metadata, JSON in its last field. So a file and its checksum are one write, and other programs read them as before. Files of
older versions carry none: they are read with a note; of zip archives the parts' own checksums (CRC-32) are compared.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

FIELD = "sha256"
MARK = b"dropfold sha256 "
COMMENT_BYTES = len(MARK) + 64
END_OF_ARCHIVE, END_BYTES = b"PK\5\6", 22  # its last two bytes are the length of the comment, which follows
_noted: set[Path] = set()


class DamagedError(ValueError):
    """A file is not as it was written; the message names it."""


def seal_archive(content: bytes | memoryview) -> bytes:
    """A zip archive without a comment, with its checksum as one."""
    return b"".join([content[:-2], _tail(content[:-2])])


def open_archive(path: Path) -> io.BytesIO:
    """The bytes of a zip archive, compared with their checksum."""
    content = path.read_bytes()
    view = memoryview(content)
    plain = COMMENT_BYTES + 2
    if content[-END_BYTES:].startswith(END_OF_ARCHIVE) and content.endswith(b"\0\0"):
        _compare_parts(path, content)
        note_unsealed(path)
    elif len(content) < END_BYTES + plain or view[-plain:] != _tail(view[:-plain]):
        raise DamagedError(
            f"{path} is damaged: it is not as it was written (its checksum differs, or it is cut)."
        )
    return io.BytesIO(content)


def _tail(content: bytes | memoryview) -> bytes:
    """The end of an archive from the comment's length on."""
    digest = hashlib.sha256(content)
    digest.update(b"\0\0")
    return COMMENT_BYTES.to_bytes(2, "little") + MARK + digest.hexdigest().encode()


def _compare_parts(path: Path, content: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            bad = archive.testzip()
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,
        ValueError,
        OSError,
    ) as error:
        raise DamagedError(f"{path} is damaged ({error}).") from None
    if bad is not None:
        raise DamagedError(f"{path} is damaged: the checksum of its part {bad} differs.")


def seal_json(value: Mapping[str, Any]) -> bytes:
    """Indented JSON with its checksum in the last field; what JSON does not have becomes text."""
    plain = json.loads(json.dumps(value, default=str))
    return (json.dumps({**plain, FIELD: _digest(plain)}, indent=2) + "\n").encode()


def open_json(path: Path) -> tuple[dict[str, Any], bool]:
    """What is in a JSON file without its checksum, and whether it is as it was written."""
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged: it is no whole JSON ({error}).") from None
    if not isinstance(values, dict):
        raise DamagedError(f"{path} is damaged: it holds {type(values).__name__}, expected fields by name.")
    found = values.pop(FIELD, None)
    if found is None:
        name, last = next(reversed(values.items()), ("", ""))
        if re.search("sha|256", name) or re.search("[0-9a-f]{24}", str(last)):  # what damage left of it
            raise DamagedError(f"{path} is damaged: its last field is a checksum without the name {FIELD!r}.")
        note_unsealed(path)
    return values, found in (None, _digest(values))


def load_json(path: Path) -> dict[str, Any]:
    """What `seal_json` made."""
    values, whole = open_json(path)
    if not whole:
        raise DamagedError(f"{path} was changed after it was written: its checksum differs.")
    return values


def _digest(values: Mapping[str, Any], content: bytes | memoryview = b"") -> str:
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())
    digest.update(content)
    return digest.hexdigest()


def seal_tensors(tensors: dict[str, Tensor]) -> bytes:
    """Safetensors with the checksum of all tensors, their names, types and shapes in the metadata."""
    from safetensors.torch import save

    header, _, data = _split(save(tensors))
    return save(tensors, {FIELD: _digest(header, data)})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, compared with their checksum."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = path.read_bytes()
    try:
        header, metadata, data = _split(content)
        if metadata is None:
            note_unsealed(path)
        elif metadata.get(FIELD) != _digest(header, data):
            raise DamagedError(f"{path} is damaged: it is not as it was written (its checksum differs).")
        return load(content)
    except (SafetensorError, RecursionError, KeyError, ValueError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"{path} is damaged: it is no whole safetensors file ({error}).") from None


def _split(content: bytes) -> tuple[dict[str, Any], dict[str, str] | None, memoryview]:
    """The tensors' names, types and places, the metadata, and the tensors' bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    if not isinstance(header, dict):
        raise ValueError("its header holds no names")
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not isinstance(metadata, dict):
        raise ValueError("its metadata hold no names")
    return header, metadata, memoryview(content)[end:]


def note_unsealed(path: Path) -> None:
    """Say, once a folder, that its files carry no checksum."""
    if path.parent not in _noted:
        _noted.add(path.parent)
        print(
            f"note: {path} carries no checksum, as an older version wrote it; changes to it since then would not be seen.",
            file=sys.stderr,
        )
