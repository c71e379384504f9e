"""Arrays of an .npz file, without pickles; what is missing or broken is a sentence."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from dropfold.data_scripts.work.errors import SchemaError


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
                found[name] = arrays[name]
    except SchemaError:
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        # A lone .npy loads as an array, which is no context: TypeError or AttributeError, by Python's version.
        raise SchemaError(f"{path} is not a whole .npz file of plain arrays ({error}).") from None
    return found
