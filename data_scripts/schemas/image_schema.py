"""The HDF5 layout of image data: what a file holds, how it is written, and what is checked on reading.

| dataset | type | shape | |
|---|---|---|---|
| pixels | uint8 | [n, H, W, C] | images of one size, C = 1 (gray) or 3 (RGB) |
| label | int64 | [n] | 0 .. classes - 1 |
| split | uint8 | [n] | 0 train, 1 validation, 2 test |
| name | UTF-8 | [n] | of each image |

Attributes: see `dropfold.data_scripts.schemas.h5_file`; the task is "images".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dropfold.data_scripts.schemas import h5_file
from dropfold.data_scripts.schemas.h5_file import Layout, Wrong

CHUNK = 1 << 18  # bytes that are compressed together


@dataclass(frozen=True)
class Images:
    """An image data set in memory; the arrays are those of the file (see above)."""

    pixels: np.ndarray
    label: np.ndarray
    split: np.ndarray
    name: list[str]
    class_names: list[str]
    source: str
    credits: str
    rebuild: str
    checksum: str = ""

    def of(self, split: int) -> np.ndarray:
        """Indices of the images of one split."""
        return np.flatnonzero(self.split == split)


def write(path: Path, images: Images) -> None:
    """Write `images` to `path`: checked first, into a temporary file beside it, then renamed over it."""
    arrays: dict[str, Any] = {
        "pixels": images.pixels,
        "label": images.label,
        "split": images.split,
        "name": np.array(images.name, dtype=object),
    }
    provenance = {name: getattr(images, name) for name in h5_file.PROVENANCE}
    h5_file.write(path, LAYOUT, arrays, images.class_names, provenance)


def read(path: Path) -> Images:
    """Read and verify a file; every fault is a `SchemaError` that says what is wrong, where, and how to rebuild."""
    missing = "data/fashion.h5 ships with the project; the scripts in data_scripts make the others."
    arrays, class_names, provenance = h5_file.read(Path(path), LAYOUT, missing)
    arrays |= {"name": list(arrays["name"])} | provenance
    return Images(**arrays, class_names=class_names)


def _shape(pixels: np.ndarray) -> str | None:
    whole = pixels.ndim == 4 and pixels.shape[3] in (1, 3) and 0 not in pixels.shape
    return None if whole else "[n, H, W, C] with n, H, W >= 1 and C = 1 or 3"


def _check(arrays: dict[str, Any], class_names: list[str], wrong: Wrong) -> None:
    """Bytes of the right shape are images, whatever they hold."""


def _storage(pixels: np.ndarray) -> dict[str, Any]:
    together = min(len(pixels), max(1, CHUNK // pixels[0].size))
    return {"chunks": (together, *pixels.shape[1:]), "compression": "gzip", "compression_opts": 9}


LAYOUT = Layout(
    task="images",
    entries="images",
    types={"pixels": np.uint8, "label": np.int64, "split": np.uint8, "name": str},
    optional=(),
    shaped=("pixels",),
    first_shape=_shape,
    check=_check,
    storage={"pixels": _storage},
)
