"""The one HDF5 layout of classification data: what a file holds, how it is written, and what is checked on reading.

| dataset | type | shape | |
|---|---|---|---|
| points | float32 | [n, N, 3] | clouds, centred, in the unit sphere unless `source` says otherwise |
| normals | float32 | [n, N, 3] | optional |
| label | int64 | [n] | 0 .. classes - 1 |
| split | uint8 | [n] | 0 train, 1 validation, 2 test |
| name | UTF-8 | [n] | of each shape |
| library | UTF-8 | [n] | optional: where each shape comes from |

Attributes: schema ("dropfold/1"), task ("classification"), class_names, source, credits, rebuild (the command that
makes the file anew), checksum (SHA-256 over the datasets in the order of their names).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SCHEMA = "dropfold/1"
TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = ("train", "validation", "test")


class SchemaError(ValueError):
    """A file is not what the schema says; the message names the file, the item, and how to make it anew."""


@dataclass(frozen=True)
class Clouds:
    """A classification data set in memory; the arrays are those of the file (see above)."""

    points: np.ndarray
    label: np.ndarray
    split: np.ndarray
    name: list[str]
    class_names: list[str]
    source: str
    credits: str
    rebuild: str
    normals: np.ndarray | None = None
    library: list[str] | None = None
    checksum: str = ""

    def of(self, split: int) -> np.ndarray:
        """Indices of the shapes of one split."""
        return np.flatnonzero(self.split == split)


def write(path: Path, clouds: Clouds) -> None:
    """Write `clouds` to `path`: checked first, into a temporary file beside it, then renamed over it."""
    import h5py

    arrays: dict[str, Any] = {
        "points": clouds.points,
        "label": clouds.label,
        "split": clouds.split,
        "name": np.array(clouds.name, dtype=object),
    }
    if clouds.normals is not None:
        arrays["normals"] = clouds.normals
    if clouds.library is not None:
        arrays["library"] = np.array(clouds.library, dtype=object)
    _check(str(path), arrays, clouds.class_names, clouds.rebuild)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        with h5py.File(temporary, "w") as file:
            for name, values in arrays.items():
                if values.dtype == object:
                    file.create_dataset(name, data=values, dtype=h5py.string_dtype("utf-8"))
                else:
                    file.create_dataset(name, data=values, compression="gzip", shuffle=True)
            file.attrs["schema"], file.attrs["task"] = SCHEMA, "classification"
            file.attrs["class_names"] = np.array(clouds.class_names, dtype=h5py.string_dtype("utf-8"))
            for name in ("source", "credits", "rebuild"):
                file.attrs[name] = getattr(clouds, name)
            file.attrs["checksum"] = checksum(arrays)
        os.chmod(temporary, 0o644)
        _flush(temporary)  # on the disk before the rename is: a power cut leaves the old file or the new one
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _flush(path.parent)


def _flush(path: Path | str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> Clouds:
    """Read and verify a file; every fault is a `SchemaError` that says what is wrong, where, and how to rebuild."""
    import h5py

    path = Path(path)
    if not path.is_file():
        raise SchemaError(
            f"{path} is not there. data/furniture.h5 ships with the project; the scripts in data_scripts make the others."
        )
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise SchemaError(
            f"{path} is not a whole HDF5 file ({error}); make it anew with its script in data_scripts."
        ) from None
    with file:
        rebuild = str(file.attrs.get("rebuild", "its script in data_scripts"))
        if file.attrs.get("schema") != SCHEMA or file.attrs.get("task") != "classification":
            raise SchemaError(
                f"{path}: schema is {file.attrs.get('schema')!r} and task {file.attrs.get('task')!r}, expected "
                f"{SCHEMA!r} and 'classification'. Make it anew: {rebuild}"
            )
        for name in ("source", "credits", "rebuild"):
            if name not in file.attrs:
                raise SchemaError(f"{path} has no attribute {name!r}. Make it anew: {rebuild}")
        arrays: dict[str, Any] = {}
        for name in ("points", "label", "split", "name", "normals", "library"):
            if name not in file:
                continue
            item = file[name]
            if not isinstance(item, h5py.Dataset):
                raise SchemaError(f"{path}: {name} is a group, expected a dataset. Make it anew: {rebuild}")
            try:
                text = h5py.check_string_dtype(item.dtype) is not None
                arrays[name] = np.asarray(item.asstr()[()] if text else item[()])
            except (OSError, ValueError, TypeError) as error:
                raise SchemaError(
                    f"{path}: {name} cannot be read ({error}), expected whole data. Make it anew: {rebuild}"
                ) from None
        class_names = [str(name) for name in file.attrs.get("class_names", [])]
        _check(str(path), arrays, class_names, rebuild)
        found, stated = checksum(arrays), str(file.attrs.get("checksum"))
        if found != stated:
            raise SchemaError(
                f"{path}: checksum is {found}, the file states {stated}. Make it anew: {rebuild}"
            )
        return Clouds(
            points=arrays["points"],
            label=arrays["label"],
            split=arrays["split"],
            name=list(arrays["name"]),
            class_names=class_names,
            source=str(file.attrs["source"]),
            credits=str(file.attrs["credits"]),
            rebuild=rebuild,
            normals=arrays.get("normals"),
            library=list(arrays["library"]) if "library" in arrays else None,
            checksum=stated,
        )


def checksum(arrays: dict[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes of the datasets, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = arrays[name]
        digest.update(f"{name} {values.dtype.kind} {values.shape}\n".encode())
        digest.update(
            "\n".join(values).encode() if values.dtype == object else np.ascontiguousarray(values).tobytes()
        )
    return digest.hexdigest()


def carve_validation(label: np.ndarray, split: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """`split` with about `share` of each class's training shapes moved to validation, at least one of two or more."""
    random, split = np.random.default_rng(seed), split.copy()
    for c in np.unique(label):
        members = np.flatnonzero((label == c) & (split == TRAIN))
        if len(members) > 1:
            split[random.permutation(members)[: max(1, round(share * len(members)))]] = VALIDATION
    return split


def _check(path: str, arrays: dict[str, Any], class_names: list[str], rebuild: str) -> None:
    def wrong(item: str, found: object, expected: str) -> SchemaError:
        return SchemaError(f"{path}: {item} is {found}, expected {expected}. Make it anew: {rebuild}")

    for name in ("points", "label", "split", "name"):
        if name not in arrays:
            raise SchemaError(f"{path} has no dataset {name!r}. Make it anew: {rebuild}")
    points = arrays["points"]
    if points.ndim != 3 or points.shape[2] != 3 or 0 in points.shape:
        raise wrong("points' shape", points.shape, "[n, N, 3] with n, N >= 1")
    types = {"points": np.float32, "normals": np.float32, "label": np.int64, "split": np.uint8}
    for name, values in arrays.items():
        if name in types and values.dtype != types[name]:
            raise wrong(f"{name}'s type", values.dtype, np.dtype(types[name]).name)
        if values.shape[:1] != points.shape[:1] or (
            name != "points" and name != "normals" and values.ndim != 1
        ):
            raise wrong(
                f"{name}'s shape", values.shape, f"one entry for each of the {points.shape[0]} shapes"
            )
    for name in ("name", "library"):
        if name in arrays and not all(isinstance(value, str) for value in arrays[name]):
            raise wrong(f"{name}'s type", arrays[name].dtype, "text")
    if "normals" in arrays and arrays["normals"].shape != points.shape:
        raise wrong("normals' shape", arrays["normals"].shape, f"that of points, {points.shape}")
    for name in ("points", "normals"):
        if name in arrays and not np.isfinite(arrays[name]).all():
            first = int(np.flatnonzero(~np.isfinite(arrays[name]).all((1, 2)))[0])
            raise wrong(f"{name} of shape {first} ({arrays['name'][first]})", "not finite", "numbers")
    label, split = arrays["label"], arrays["split"]
    if not class_names:
        raise wrong("class_names", "empty", "the names of the classes")
    if label.min() < 0 or label.max() >= len(class_names):
        raise wrong(
            "label", f"{label.min()} .. {label.max()}", f"0 .. {len(class_names) - 1}, one of the class names"
        )
    if split.max() > TEST:
        raise wrong("split", f"up to {split.max()}", "0 (train), 1 (validation) or 2 (test)")
