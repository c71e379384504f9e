"""What every data file has in common: one HDF5 file, written whole or not at all, checked when written and when read.

A `Layout` says which datasets a kind of data has; `shape_schema` (clouds), `part_schema` (clouds with parts), `scene_schema`
(rooms), `block_schema` (blocks of rooms) and `video_schema` (videos) each have one.
Attributes: schema ("dropfold/2"), task, class_names, source, credits, rebuild (the command that makes the file anew),
checksum (SHA-256 over the datasets in the order of their names), attributes_checksum (SHA-256 over all the others). A file
of schema "dropfold/1" has no attributes_checksum, and is read as well.

Where each point has a class, the file numbers the classes 0 .. n - 1, and the dataset `codes` [n] says which number each of
them had in the files of the source, e.g. 2, 5, 6 in LAS. A file without it had 0 .. n - 1 there, too.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dropfold.data_scripts.schemas.hdf5 import H5File, open_h5
from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.notes import say

SCHEMA = "dropfold/2"
READABLE = ("dropfold/1", SCHEMA)
# Of furniture.h5 and components.h5, which ship with the project and are of the earlier schema: their checksum, and what that
# of their attributes would be.
SHIPPED = {
    "9caf4fd7ef80984e03c60ee6c38e1cf2f5e7108211ae64d71171471901a6326c": (
        "c24b75f8730059e6371b27beb46eedd1bb1e2bc3bc92e50ecaa1b16d1646d9fb"
    ),
    "21617d10a8682951916c5fda62e8c1385b6d0c37c92cec4080fb136e37e2337c": (
        "5c4be9224e3392c5a6b4575f6bf1a3f737c4bf965476d5905abb7e6cfc1d0088"
    ),
}
TRAIN, VALIDATION, TEST = 0, 1, 2
FOLDS = 5
SPLITS = ("train", "validation", "test")
PROVENANCE = ("source", "credits", "rebuild")
LEVEL = 1  # of gzip, the fastest
SLICE = 2**26  # bytes, written at a time
MARGIN = 2**22  # bytes; HDF5's own tables and what it still holds in memory

Wrong = Callable[[str, object, str], Exception]  # (item, found, expected) -> the error that says so


@dataclass(frozen=True)
class Layout:
    """The datasets of a task: the first one's first axis counts the entries, every other has one row for each, or for
    each row of the dataset that `along` names."""

    task: str
    entries: str
    """What the entries are called in a message, e.g. "shapes"."""
    types: dict[str, type]
    """The type of each dataset in the order of reading; `str` is UTF-8 text."""
    optional: tuple[str, ...]
    shaped: tuple[str, ...]
    """Datasets of more than one axis; `check` looks at their shapes, all others are one value an entry."""
    first_shape: Callable[[np.ndarray], str | None]
    """What is expected of the first dataset's shape, or None if it is so."""
    check: Callable[[dict[str, Any], list[str], Wrong], None]
    """Raises what the types cannot say."""
    storage: dict[str, Callable[[np.ndarray], dict[str, Any]]] = field(default_factory=dict)
    """Options of `create_dataset` by dataset, where they are not the usual ones."""
    along: dict[str, str | None] = field(default_factory=dict)
    """Datasets with a row for each row of another one than the first; None: their length is theirs, `check` looks at it."""
    label: str | None = "label"
    """The dataset of classes, if there is one in memory."""


def write(
    path: Path, layout: Layout, arrays: dict[str, Any], class_names: list[str], provenance: dict[str, str]
) -> None:
    """Write a file: checked first, into a temporary file beside it, then renamed over it."""
    check(str(path), layout, arrays, class_names, provenance["rebuild"])
    with contextlib.closing(Pending(path, layout)) as pending:
        pending.finish(arrays, class_names, provenance)


class Pending:
    """A file in the making: rows are appended to its large datasets, and it takes its place when it is finished."""

    def __init__(self, path: Path, layout: Layout, folder: Path | None = None) -> None:
        """folder: where the file is made, on the disk of `path`; None: beside it."""
        import h5py

        self.path, self.layout = path, layout
        atomic.check_target(path)
        with self._naming_faults():
            atomic.make_folder(path.parent)
            self.temporary = atomic.make_temporary(path, folder=folder)
            self.file = h5py.File(self.temporary, "w")

    @contextlib.contextmanager
    def _naming_faults(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # h5py: of a disk that is full when it closes the file
            reason = re.search(r"error message = '([^']*)'", str(error))
            said = reason[1] if reason else getattr(error, "strerror", None) or error
            raise SchemaError(f"{self.path} could not be written ({said}).") from None

    def _need(self, size: int) -> None:
        """Raise before HDF5 meets a full disk: where it cannot write it may go on without a word, and crash in the end.

        size: bytes to write, before they are compressed.
        """
        free = shutil.disk_usage(self.temporary.parent).free
        if size + MARGIN > free:
            raise OSError(
                errno.ENOSPC,
                f"{os.strerror(errno.ENOSPC)}: {free:,} bytes are free, up to {size + MARGIN:,} needed",
            )

    def append(self, name: str, rows: np.ndarray, chunk: int) -> None:
        """`rows` at the end of the dataset `name`, which is stored in chunks of so many."""
        with self._naming_faults():
            self._need(rows.nbytes)
            start, item = self._grown(name, len(rows), rows.shape[1:], rows.dtype, chunk)
            item[start:] = rows

    def append_packed(self, name: str, rows: list[bytes], shape: tuple[int, ...], kind: np.dtype) -> None:
        """Rows of `shape` and type `kind` that `packed` made, at the end of the dataset `name`: a copy of bytes."""
        with self._naming_faults():
            self._need(sum(map(len, rows)))
            start, item = self._grown(name, len(rows), shape, kind, chunk=1)
            for i, row in enumerate(rows, start):
                item.id.write_direct_chunk((i, *[0] * len(shape)), row)

    def _grown(self, name: str, by: int, shape: tuple[int, ...], kind: np.dtype, chunk: int) -> Any:
        """The old length of the dataset, and the dataset with room for `by` more rows; created if need be."""
        if name not in self.file:
            self.file.create_dataset(
                name,
                (0, *shape),
                kind,
                maxshape=(None, *shape),
                chunks=(chunk, *shape),
                compression="gzip",
                compression_opts=LEVEL,
                shuffle=True,
            )
        item = self.file[name]
        start = len(item)
        item.resize(start + by, axis=0)
        return start, item

    def finish(self, arrays: dict[str, Any], class_names: list[str], provenance: dict[str, str]) -> None:
        """Write the other datasets and the attributes; then the file is renamed to its place."""
        with self._naming_faults():
            _put(self.file, self.layout, arrays, class_names, provenance, self._need)
            self.file.close()
            atomic.move_into_place(self.temporary, self.path)

    def close(self) -> None:
        """Remove what is not finished."""
        with contextlib.suppress(OSError, RuntimeError):
            self.file.close()
        self.temporary.unlink(missing_ok=True)


def packed(row: np.ndarray) -> bytes:
    """A row as HDF5 stores it after its filters shuffle (first bytes of all numbers, then second ones, ...) and gzip. Those
    run one at a time in a process; this runs in as many threads as there are."""
    by_byte = np.ascontiguousarray(row).view(np.uint8).reshape(-1, row.itemsize).T
    return zlib.compress(np.ascontiguousarray(by_byte).data, LEVEL)


def _put(
    file: Any,
    layout: Layout,
    arrays: dict[str, Any],
    class_names: list[str],
    provenance: dict[str, str],
    need: Callable[[int], None],
) -> None:
    import h5py

    for name, values in arrays.items():
        if values.dtype == object:
            need(values.nbytes)
            file.create_dataset(name, data=values, dtype=h5py.string_dtype("utf-8"))
            continue
        options = {"compression": "gzip", "shuffle": True}
        options = layout.storage[name](values) if name in layout.storage else options
        item = file.create_dataset(name, values.shape, values.dtype, **options)
        # Whole chunks at a time, as many as SLICE holds.
        chunk = item.chunks[0] if item.chunks else 1
        step = max(1, SLICE * len(values) // max(1, values.nbytes) // chunk) * chunk
        for start in range(0, len(values), step):
            rows = values[start : start + step]
            need(rows.nbytes)
            item[start : start + step] = rows
    attributes = {"schema": SCHEMA, "task": layout.task} | {name: provenance[name] for name in PROVENANCE}
    for name, value in attributes.items():
        file.attrs[name] = value
    file.attrs["class_names"] = np.array(class_names, dtype=h5py.string_dtype("utf-8"))
    file.attrs["checksum"] = attributes["checksum"] = checksum(arrays)
    file.attrs["attributes_checksum"] = checksum_attributes(attributes, class_names)


def read(path: Path, layout: Layout, missing: str) -> tuple[dict[str, Any], list[str], dict[str, str]]:
    """`(arrays, class_names, provenance)` of a file; every fault is a `SchemaError`: what is wrong, where, how to rebuild.

    `missing` is what to do if there is no such file.
    """
    if not path.exists():
        raise SchemaError(f"{path} is not there. {missing}")
    with open_h5(path, advice="Make it anew with its script in data_scripts.") as file:
        rebuild = file.text("rebuild") or "its script in data_scripts"
        file.advice = f"Make it anew: {rebuild}"
        attributes = {name: file.text(name) for name in ("schema", "task", *PROVENANCE, "checksum")}
        if attributes["schema"] not in READABLE or attributes["task"] != layout.task:
            raise file.wrong(
                f": schema is {attributes['schema']!r} and task {attributes['task']!r}, expected {SCHEMA!r} and "
                f"{layout.task!r}."
            )
        for name in PROVENANCE:
            if attributes[name] is None:
                raise file.wrong(f" has no attribute {name!r}.")
        class_names = file.texts("class_names")
        if not class_names:
            raise file.wrong(": class_names is empty, expected the names of the classes.")
        _check_attributes(file, attributes, class_names)
        arrays: dict[str, Any] = {}
        for name, kind in layout.types.items():
            if name not in file:
                continue
            file.require(name)
            if kind is not str and file.dtype(name) != kind:  # said before it is read
                found = "text" if file.dtype(name).hasobject else file.dtype(name)
                raise file.wrong(f": {name}'s type is {found}, expected {np.dtype(kind).name}.")
            arrays[name] = file.read(name)
        check(str(path), layout, arrays, class_names, rebuild)
        found, recorded = checksum(arrays), str(attributes["checksum"])
        if found != recorded:
            raise file.wrong(f": checksum is {found}, the file states {recorded}.")
        provenance = {name: str(attributes[name]) for name in (*PROVENANCE, "checksum")}
        return arrays, class_names, provenance


def _check_attributes(file: H5File, attributes: dict[str, str | None], class_names: list[str]) -> None:
    recorded = file.text("attributes_checksum")
    if recorded is None and attributes["schema"] != SCHEMA:  # an earlier one, which had none
        recorded = SHIPPED.get(str(attributes["checksum"]))
        if recorded is None:
            say(
                f"{file.path} is of the schema {attributes['schema']}: its checksum covers the numbers, not the names of "
                f"its classes, its source, credits and rebuild, so that changes there are not seen. {file.advice}"
            )
            return
    found = checksum_attributes(attributes, class_names)
    if found != recorded:
        names = ", ".join(["class_names", *attributes])
        raise file.wrong(
            f": the checksum of its attributes ({names}) is {found}, the file states {recorded}: they were changed."
        )


def stated_checksum(path: Path) -> str:
    """The checksum that a data file states of itself, whatever its kind; empty where there is no such file."""
    try:
        with open_h5(path) as file:
            return file.text("checksum") or ""
    except SchemaError:
        return ""


def checksum_attributes(attributes: Mapping[str, str | None], class_names: list[str]) -> str:
    """SHA-256 over the attributes of a file, the checksum of its datasets among them."""
    return hashlib.sha256(json.dumps([dict(attributes), class_names], sort_keys=True).encode()).hexdigest()


def checksum(arrays: dict[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes of the datasets, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = arrays[name]
        digest.update(f"{name} {values.dtype.kind} {values.shape}\n".encode())
        if values.dtype == object:
            digest.update("\n".join(values).encode("utf-8", "surrogateescape"))
        else:
            for piece in pieces(values):
                digest.update(np.ascontiguousarray(piece).data)
    return digest.hexdigest()


def pieces(values: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of about 4 MB at a time: a large array may lie on the disk, not in memory."""
    rows = max(1, (4 << 20) // max(1, values[:1].nbytes))
    return (values[start : start + rows] for start in range(0, len(values), rows))


def not_finite(values: np.ndarray) -> int | None:
    """The first row of [M, ...] that holds a number that is not finite, if there is one."""
    start = 0
    for piece in pieces(values):
        whole = np.isfinite(piece).reshape(len(piece), -1).all(1)
        if not whole.all():
            return start + int(np.argmin(whole))
        start += len(piece)
    return None


def store_codes(codes: Sequence[int], classes: int) -> dict[str, np.ndarray]:
    """The dataset `codes` of a file in the making; none where they are 0 .. classes - 1, or empty, which means the same."""
    usual = not len(codes) or list(codes) == list(range(classes))
    return {} if usual else {"codes": np.array(codes, dtype=np.int64)}


def take_codes(arrays: dict[str, Any], classes: int) -> list[int]:
    """The codes of the classes, taken out of the datasets of a file."""
    return arrays.pop("codes", np.arange(classes)).tolist()


def check_codes(arrays: dict[str, Any], classes: int, wrong: Wrong) -> None:
    """Refuse codes that are not one for each class, or that two classes share."""
    codes = arrays.get("codes")
    if codes is not None and not len(codes) == len(np.unique(codes)) == classes:
        raise wrong("codes", codes.tolist()[:20], f"a number of its own for each of the {classes} classes")


def check(path: str, layout: Layout, arrays: dict[str, Any], class_names: list[str], rebuild: str) -> None:
    """Raise the first fault of the arrays as a sentence."""

    def wrong(item: str, found: object, expected: str) -> SchemaError:
        return SchemaError(f"{path}: {item} is {found}, expected {expected}. Make it anew: {rebuild}")

    for name in layout.types:
        if name not in arrays and name not in layout.optional:
            raise SchemaError(f"{path} has no dataset {name!r}. Make it anew: {rebuild}")
    first = next(iter(layout.types))
    expected = layout.first_shape(arrays[first])
    if expected:
        raise wrong(f"{first}' shape", arrays[first].shape, expected)
    for name, values in arrays.items():
        kind, along = layout.types[name], layout.along.get(name, first)
        if kind is not str and values.dtype != kind:
            raise wrong(f"{name}'s type", values.dtype, np.dtype(kind).name)
        n = len(arrays[along]) if along else len(values) if values.ndim else -1
        if values.shape[:1] != (n,) or (name not in layout.shaped and values.ndim != 1):
            of = layout.entries if along == first else f"rows of {along}" if along else "values of one axis"
            raise wrong(f"{name}'s shape", values.shape, f"one entry for each of the {n} {of}")
    for name, values in arrays.items():
        if layout.types[name] is str and not all(isinstance(value, str) for value in values):
            raise wrong(f"{name}'s type", values.dtype, "text")
    split = arrays["split"]
    if not class_names:
        raise wrong("class_names", "empty", "the names of the classes")
    if layout.label:
        label = arrays[layout.label]
        if label.min() < 0 or label.max() >= len(class_names):
            found, last = f"{label.min()} .. {label.max()}", len(class_names) - 1
            raise wrong(layout.label, found, f"0 .. {last}, one of the class names")
    if split.max() > TEST:
        raise wrong("split", f"up to {split.max()}", "0 (train), 1 (validation) or 2 (test)")
    layout.check(arrays, class_names, wrong)
