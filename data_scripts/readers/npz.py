"""Arrays of an .npz file, without pickles; what is missing or broken is a sentence."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from dropfold.data_scripts.work.errors import SchemaError

MOST_PACKED = 200  # times: an array of more than BYTES_TO_TRUST that is packed tighter than this is no data
BYTES_TO_TRUST = 1 << 30


def load_arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays `names` of the file; an error that names the file and the array otherwise."""
    if not path.is_file():
        raise SchemaError(f"{path} is not there; give the path of the .npz file.")
    found = {}
    try:
        # Opened here: of a truncated file NumPy would leave its own handle open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            for name in names:
                if name not in arrays.files:
                    raise SchemaError(f"{path} has no array {name!r}; it holds {', '.join(arrays.files)}.")
                _check_size(path, arrays.zip, name)
                found[name] = arrays[name]
    except SchemaError:
        raise
    except MemoryError:
        raise SchemaError(f"{path} needs more memory than there is.") from None
    except Exception as error:  # NumPy and zipfile raise what they like; a lone .npy is no archive
        raise SchemaError(f"{path} is not a whole .npz file of plain arrays ({error}).") from None
    return found


def as_float32(values: np.ndarray) -> np.ndarray:
    """The numbers in float32, without a word of NumPy's: of NaN that signals comes NaN, of what is too large infinity, and
    the schemas refuse both by name."""
    with np.errstate(invalid="ignore", over="ignore"):
        return values.astype(np.float32)


def _check_size(path: Path, archive: zipfile.ZipFile, name: str) -> None:
    """Refuse an array whose header asks for more than its part of the archive holds, before memory is taken for it."""
    member = archive.getinfo(name if name in archive.namelist() else f"{name}.npy")
    with archive.open(member) as content:
        version = np.lib.format.read_magic(content)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, kind = read(content)
        begun = content.tell()
    stated, held = math.prod(shape) * kind.itemsize, member.file_size - begun
    if stated != held and not kind.hasobject:
        raise SchemaError(
            f"{path}: array {name!r} of shape {shape} takes {stated} bytes, and the file holds {held}."
        )
    if held > max(BYTES_TO_TRUST, MOST_PACKED * member.compress_size):
        raise SchemaError(
            f"{path}: array {name!r} is {held:,} bytes packed into {member.compress_size:,}; no data are, and more than "
            f"{MOST_PACKED} times is refused."
        )
