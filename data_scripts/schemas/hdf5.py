"""HDF5 files from anybody, opened without trusting them. Every HDF5 file that is read is opened here, with `open_h5`.

HDF5 lets a file take what is not its own: links to other files, values that lie in other files (external storage, virtual
datasets), and filters, programs that are loaded from this machine to decode it. And it lets a small file claim to be a large
one: what was never written reads as a fill value. No data set needs any of these. All that the file holds is looked at
before a value is read, and the first of them is refused by name. That happens in a process of its own, for the library
itself crashes, hangs or fills the memory on some damaged files.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dropfold.data_scripts.work import isolate
from dropfold.data_scripts.work.errors import SchemaError

# Filters that the library brings itself; 32000 is LZF, which h5py brings.
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
MOST_OBJECTS = 10_000
MOST_TIMES = 1_100  # gzip makes nothing smaller than this share, so nothing whole is larger than so many times its bytes
SMALL_BYTES = 1 << 26  # up to here no size is absurd
MOST_TEXT_BYTES = 1 << 30
TEXTS_PER_READ = 64  # each may be as long as the file, and all may be the same one
SECONDS_TO_INSPECT, BYTES_TO_INSPECT = 60.0, 2 << 30
HEAP, LEAST_HEAP_BYTES = b"GCOL\x01", 4096
_inspected: set[tuple[int, ...]] = set()  # files that were looked at and have not changed since


class H5File:
    """An open file, all of whose objects have been looked at. Every fault is a `SchemaError` that names the file.

    `advice` ends each message: what to do.
    """

    def __init__(self, path: Path, file: Any, advice: str) -> None:
        self.path, self.advice, self._file = path, advice, file

    def wrong(self, what: str) -> SchemaError:
        """The error that says what is wrong with the file."""
        return SchemaError(f"{self.path}{what} {self.advice}")

    def __contains__(self, name: str) -> bool:
        with self._naming(name):
            return name in self._file

    def require(self, *names: str) -> None:
        """Refuse a file without one of these datasets."""
        import h5py

        for name in names:
            with self._naming(name):
                item = self._file.get(name)  # None: not there, or a link to nothing
                if item is None:
                    raise self.wrong(f" has no dataset {name!r}.")
                if not isinstance(item, h5py.Dataset):
                    raise self.wrong(f": {name} is a group, expected a dataset.")
                if item.shape is None:
                    raise self.wrong(f": {name} is empty, expected values.")

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a dataset."""
        with self._naming(name):
            return tuple(self._file[name].shape)

    def dtype(self, name: str) -> np.dtype[Any]:
        """The type of a dataset."""
        with self._naming(name):
            return self._file[name].dtype

    def read(self, name: str, rows: int | slice | tuple[slice, ...] = ()) -> np.ndarray:
        """A dataset, or some of its rows, in memory; text as an array of `str`."""
        import h5py

        with self._naming(name):
            item = self._file[name]
            if h5py.check_string_dtype(item.dtype) is not None:
                found = np.asarray(self._read_text(name, item), dtype=object)
                return found if rows == () else found[rows]
            if rows == () and (size := _bytes_of(item)) > (memory := _memory_bytes()):
                raise self.wrong(
                    f": {name} takes {_in_bytes(size)}, and this machine has {_in_bytes(memory)} of memory."
                )
            return np.asarray(item[rows])

    def _read_text(self, name: str, item: Any) -> np.ndarray:
        text = item.asstr(errors="surrogateescape")
        if item.ndim != 1:
            return text[()]
        found, total = np.empty(len(item), dtype=object), 0
        for start in range(0, len(item), TEXTS_PER_READ):
            piece = text[start : start + TEXTS_PER_READ]
            total += sum(map(len, piece))
            if total > MOST_TEXT_BYTES:
                raise self.wrong(f": {name} is more than {_in_bytes(MOST_TEXT_BYTES)} of text.")
            found[start : start + TEXTS_PER_READ] = piece
        return found

    def text(self, attribute: str) -> str | None:
        """An attribute of the file as text; None if it has none of that name."""
        with self._naming(f"attribute {attribute!r}"):
            value = self._file.attrs.get(attribute)
            value = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
            return None if value is None else str(value)

    def texts(self, attribute: str) -> list[str]:
        """An attribute of the file that is a list of texts; empty if it has none of that name."""
        with self._naming(f"attribute {attribute!r}"):
            return [str(value) for value in np.atleast_1d(self._file.attrs.get(attribute, [])).tolist()]

    @contextlib.contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        """What the library raises inside, of whatever kind, as one error that names the file and `what`."""
        try:
            yield
        except SchemaError:
            raise
        except MemoryError:
            raise self.wrong(f": {what} does not fit into memory.") from None
        except Exception as error:
            raise self.wrong(f": {what} cannot be read ({error}), expected whole data.") from None

    def read_small(self) -> None:
        """Read the attributes and the text, and of a small file all values, to see that the library can."""
        import h5py

        for attribute in list(self._file.attrs):
            self.texts(attribute)
        names: list[str] = []
        self._file.visit(names.append)
        for name in names:
            item = self._file[name]
            if not isinstance(item, h5py.Dataset) or item.shape is None:
                continue
            if h5py.check_string_dtype(item.dtype) is not None:
                self.read(name)
            elif _bytes_of(item) <= SMALL_BYTES:
                with contextlib.suppress(SchemaError):  # who reads the values knows better what to do
                    self.read(name)

    def inspect(self) -> None:
        """Refuse a file that takes something from outside, or claims more than it holds."""
        import h5py

        with self._naming("group /"):
            todo, seen = [("", self._file.id)], {_address(self._file.id)}
        while todo:
            place, group = todo.pop()
            with self._naming(f"group {place or '/'}"):
                links = [raw.decode("utf-8", "surrogateescape") for raw in group]
            for link in links:
                name = f"{place}/{link}" if place else link
                with self._naming(name):
                    raw = link.encode("utf-8", "surrogateescape")
                    kind = group.links.get_info(raw).type
                    if kind == h5py.h5l.TYPE_SOFT:  # a path within this file, all of which is looked at
                        continue
                    if kind != h5py.h5l.TYPE_HARD:
                        raise self.wrong(
                            f": {name} is a link to {self._target(group, raw, kind)}; a data set keeps all of its data in "
                            "its own file, and nothing was read."
                        )
                    item = h5py.h5o.open(group, raw)
                    address = _address(item)
                    if address in seen:  # another name of it, or a group that holds itself
                        continue
                    seen.add(address)
                    if len(seen) > MOST_OBJECTS:
                        raise self.wrong(
                            f" holds more than {MOST_OBJECTS:,} objects; no data set has as many."
                        )
                    if isinstance(item, h5py.h5d.DatasetID):
                        self._inspect_dataset(name, item)
                    elif isinstance(item, h5py.h5g.GroupID):
                        todo.append((name, item))

    @staticmethod
    def _target(group: Any, link: bytes, kind: int) -> str:
        import h5py

        if kind != h5py.h5l.TYPE_EXTERNAL:
            return f"something of a kind that is not HDF5's ({kind})"
        file, path = group.links.get_val(link)
        return f"{path.decode('utf-8', 'replace')!r} in another file, {os.fsdecode(file)!r}"

    def _inspect_dataset(self, name: str, dataset: Any) -> None:
        import h5py

        plan = (
            dataset.get_create_plist()
        )  # looked at first: the shape of a virtual dataset may open other files
        if plan.get_layout() == h5py.h5d.VIRTUAL:
            raise self.wrong(
                f": {name} is a virtual dataset, whose values lie in other files; a data set keeps all of its data in "
                "its own file, and nothing was read."
            )
        if plan.get_external_count():
            file = os.fsdecode(plan.get_external(0)[0])
            raise self.wrong(
                f": the values of {name} lie in another file, {file!r} (external storage); a data set keeps all of its data "
                "in its own file, and nothing was read."
            )
        for i in range(plan.get_nfilters()):
            code, _, _, title = plan.get_filter(i)
            title = title.decode("utf-8", "replace") or "no name"
            if code not in FILTERS:
                raise self.wrong(
                    f": {name} is packed by filter {code} ({title}), which a program "
                    f"from outside would have to unpack; expected one of {', '.join(FILTERS.values())} (h5repack -f "
                    "GZIP=4 FILE NEW rewrites the file where the filter is installed)."
                )
        item = h5py.Dataset(dataset)
        if item.shape is None or 0 in item.shape:
            return
        kind, text = item.dtype, h5py.check_string_dtype(item.dtype)
        if kind.hasobject and text is None:
            raise self.wrong(
                f": {name} is of references to other places, or of lists of any length, expected numbers or text."
            )
        size, stored = _bytes_of(item), dataset.get_storage_size()
        if size > SMALL_BYTES and size > MOST_TIMES * stored:
            raise self.wrong(
                f": {name} {item.shape} claims {_in_bytes(size)} and the file holds {_in_bytes(stored)} of it; the rest was "
                "never written."
            )
        chunks = math.prod(-(-n // per) for n, per in zip(item.shape, item.chunks)) if item.chunks else 1
        written = dataset.get_num_chunks() if item.chunks else int(stored > 0)
        if written < chunks:
            of = f"{written:,} of {chunks:,} pieces were" if item.chunks else "nothing was"
            raise self.wrong(f": of {name} {of} written, the rest would be made up of a fill value.")


@contextlib.contextmanager
def open_h5(path: Path, *datasets: str, advice: str = "Fetch the distribution again.") -> Iterator[H5File]:
    """An HDF5 file, to be read; a `SchemaError` says what is wrong with it, or which of the datasets it lacks."""

    if not path.is_file():
        raise SchemaError(f"{path} is {'no file' if path.exists() else 'not there'}. {advice}")
    about = path.stat()
    identity = about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
    if identity not in _inspected:
        _inspect_apart(path, advice)
        _inspected.add(identity)
    with contextlib.closing(_open(path, advice)) as file:
        opened = H5File(path, file, advice)
        opened.require(*datasets)
        yield opened


def _open(path: Path, advice: str) -> Any:
    import h5py

    try:
        return h5py.File(path, "r")
    except PermissionError:
        raise SchemaError(f"{path} may not be read by this user; change its permissions.") from None
    except Exception as error:
        raise SchemaError(f"{path} is not a whole HDF5 file ({error}). {advice}") from None


def _inspect_apart(path: Path, advice: str) -> None:
    """Look at all that a file holds, in a process of its own."""
    try:
        arguments = str(path.absolute()), str(path), advice
        isolate.call(inspect_file, *arguments, seconds=SECONDS_TO_INSPECT, memory=BYTES_TO_INSPECT)
    except isolate.Crash as crash:
        raise SchemaError(f"{path} is not a whole HDF5 file ({crash}). {advice}") from None


def inspect_file(place: str, name: str, advice: str) -> dict[str, np.ndarray]:
    """Refuse the file at `place`, called `name` in messages, if it is not what `open_h5` reads; returns nothing."""
    path = Path(name)
    _refuse_endless_heaps(Path(place), path, advice)
    file = _open(Path(place), advice)
    try:
        opened = H5File(path, file, advice)
        opened.inspect()
        opened.read_small()
    finally:
        with contextlib.suppress(Exception):  # of a damaged file
            file.close()
    return {}


def _refuse_endless_heaps(place: Path, path: Path, advice: str) -> None:
    """Refuse a file in which a heap of texts holds an object that does not end in it: there the library reads for ever.

    A heap: GCOL, version, 3 bytes, its size; then objects: number, 6 bytes, size, content. Number 0 is the gap at the end.
    """
    with place.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(HEAP)
        while start >= 0:
            size = int.from_bytes(content[start + 8 : start + 16], "little")
            at, end = start + 16, start + size
            if (
                not LEAST_HEAP_BYTES <= size <= len(content) - start
            ):  # other bytes, or one that the library refuses
                at = end
            while at + 16 <= end:
                number, size = (
                    int.from_bytes(content[at + i : at + i + n], "little") for i, n in ((0, 2), (8, 8))
                )
                step = 16 + -(-size // 8) * 8 if number else size
                if not 0 < step <= end - at:
                    raise SchemaError(
                        f"{path} is not a whole HDF5 file (its text at byte {at} is broken). {advice}"
                    )
                at += step
            start = content.find(HEAP, start + 1)


def _address(item: Any) -> tuple[int, int]:
    import h5py

    about = h5py.h5o.get_info(item)
    return about.fileno, about.addr


def _bytes_of(item: Any) -> int:
    """What a dataset takes in memory; without the letters of its text, whose lengths are not known before."""
    return math.prod(map(int, item.shape)) * item.dtype.itemsize


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not Linux
        return 1 << 62


def _in_bytes(count: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:,.0f} TB"
