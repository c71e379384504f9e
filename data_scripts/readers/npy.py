"""Arrays of .npy files: the header is held against the file's size before anything is read, and no pickle is loaded."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import numpy as np

from dropfold.data_scripts.work.errors import ShapeError


def read_array(path: Path) -> tuple[np.ndarray, list[str]]:
    """The array of a file, and what to tell the user; a `ShapeError` says what is wrong."""
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            raise ShapeError(f"{path} is an archive of arrays, expected one array.")
        file.seek(0)
        try:
            with warnings.catch_warnings():  # of headers that Python 2 wrote
                warnings.simplefilter("ignore")
                version = np.lib.format.read_magic(file)
                if version == (1, 0):
                    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
                else:
                    shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        except Exception as error:  # tokens without sense raise what they like
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ShapeError(f"{path} is not a whole .npy file of numbers ({said}).") from None
        if dtype.hasobject:
            raise ShapeError(
                f"{path} is not a table of numbers: it holds pickled objects, which are never loaded."
            )
        if any(size < 0 for size in shape):
            raise ShapeError(f"{path} is {dtype} {shape}; expected sizes of 0 or more.")
        left = os.fstat(file.fileno()).st_size - file.tell()
        row = dtype.itemsize * math.prod(shape[1:])
        if dtype.itemsize == 0 or left < row * math.prod(shape[:1]):
            have = left // row if row else 0
            raise ShapeError(f"{path} ends after {have} of {shape[0] if shape else 1} rows (truncated?).")
        count = math.prod(shape)
        flat = np.fromfile(file, dtype, count)
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    more = left - count * dtype.itemsize
    notes = [f"{more} bytes after the array are not read (a second array?)"] if more else []
    return array.astype(dtype.newbyteorder("="), copy=False), notes


def split_records(path: Path, array: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of records [n] by name, each [n]; fields of three numbers become three columns."""
    if array.ndim != 1:
        raise ShapeError(f"{path} holds records {array.shape}; expected [points].")
    parts = {
        "xyz": "xyz", "position": "xyz", "positions": "xyz", "pos": "xyz", "coord": "xyz", "coords": "xyz", "points": "xyz",
        "point": "xyz", "rgb": "rgb", "color": "rgb", "colour": "rgb", "colors": "rgb", "colours": "rgb",
        "normal": ("nx", "ny", "nz"), "normals": ("nx", "ny", "nz"),
    }  # fmt: skip
    columns: dict[str, np.ndarray] = {}
    for name in array.dtype.names or ():
        values = array[name]
        if values.dtype.names:
            continue  # records within records hold no column of ours
        if values.ndim == 2 and values.shape[1] == 3 and name.lower() in parts:
            columns |= {part: values[:, i] for i, part in enumerate(parts[name.lower()])}
        elif values.ndim == 2 and values.shape[1] == 1:
            columns[name] = values[:, 0]
        elif values.ndim == 1:
            columns[name] = values
    return columns
