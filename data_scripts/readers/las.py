"""LAS and LAZ files, by laspy: coordinates, colours and classification as columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dropfold.data_scripts.work.errors import ShapeError

COLOUR = ("red", "green", "blue")


def read_columns(path: Path) -> dict[str, np.ndarray]:
    laspy = _laspy(path)
    try:
        found = laspy.read(path)
        names = set(found.point_format.dimension_names)
        columns = {name: np.asarray(getattr(found, name), dtype=np.float64) for name in "xyz"}
        expected = found.header.point_count
        if "red" in names:
            columns |= {name: np.asarray(found[name]) for name in COLOUR}
        label = np.asarray(found.classification)
    except Exception as error:  # the library raises what it likes on broken files
        raise ShapeError(f"{path} is not a readable LAS file ({type(error).__name__}: {error}).") from None
    if len(label) < expected:
        raise ShapeError(f"{path} ends after {len(label)} of {expected} points (truncated?).")
    if label.any():  # all 0: never classified
        columns["label"] = label
    if "red" in columns and not any(columns[name].any() for name in COLOUR):
        for name in COLOUR:
            del columns[name]
    return columns


def write_columns(path: Path, temporary: Path, columns: dict[str, np.ndarray]) -> None:
    laspy = _laspy(path)
    if "label" in columns and columns["label"].dtype != np.uint8:
        raise ShapeError(f"{path}: labels go beyond 0 .. 255, which LAS cannot hold; write a .ply.")
    header = laspy.LasHeader(point_format=7 if "red" in columns else 6, version="1.4")
    extent = max(np.ptp(columns[name].astype(np.float64)) for name in "xyz")
    finest = 10 ** np.ceil(np.log10(max(extent, 1.0) / 2**31))  # LAS counts to 2^31
    header.scales = np.full(3, max(1e-4, finest))
    header.offsets = np.array([np.floor(columns[name].min()) for name in "xyz"])
    las = laspy.LasData(header)
    for name in "xyz":
        setattr(las, name, columns[name].astype(np.float64))
    for name in COLOUR:
        if name in columns:
            las[name] = columns[name].astype(np.uint16) * 257
    if "label" in columns:
        las.classification = columns["label"]
    try:
        las.write(temporary)
    except Exception as error:
        raise ShapeError(f"{path} cannot be written ({type(error).__name__}: {error}).") from None


def _laspy(path: Path) -> Any:
    try:
        import laspy
    except ImportError:
        raise ShapeError(f"{path} needs laspy, which is not installed: pip install -e '.[scenes]'.") from None
    return laspy
