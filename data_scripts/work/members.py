"""The files of a folder, or of a zip archive without unpacking it: named, sized, and opened by any thread."""

from __future__ import annotations

import contextlib
import stat
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dropfold.data_scripts.work import archive
from dropfold.data_scripts.work.errors import ArchiveError
from dropfold.data_scripts.work.folders import is_hidden


class File(NamedTuple):
    """A file of the source."""

    name: str
    """Its path within the source, parts apart by /."""
    size: int
    stamp: int
    """Changes with the content: of a folder's file the time of its last change, of an archive's its checksum."""


class Members:
    """The files by name, sorted; what file managers leave behind is not among them."""

    def __init__(self, source: Path, file: zipfile.ZipFile | None = None) -> None:
        self.source, self._zip = source, file
        self._lock = threading.Lock()
        found = self._of_folder() if file is None else self._of_zip(file)
        self.files = {one.name: one for one in sorted(found) if not is_hidden(one.name.split("/"))}

    def _of_folder(self) -> Iterator[File]:
        for path in self.source.rglob("*"):
            if path.is_file():
                about = path.stat()
                yield File(path.relative_to(self.source).as_posix(), about.st_size, about.st_mtime_ns)

    def _of_zip(self, file: zipfile.ZipFile) -> Iterator[File]:
        for member in file.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the writer knew no kinds
            archive.refuse_unsafe(self.source, member.filename, kind not in (0, stat.S_IFREG, stat.S_IFDIR))
            if not member.is_dir():
                yield File(member.filename, member.file_size, member.CRC)

    def where(self, name: str) -> str:
        """The file as a message names it."""
        return f"{self.source}: {name}" if self._zip else str(self.source / name)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """The file's bytes; what is broken in an archive is an `ArchiveError` that names the file."""
        if self._zip is None:
            with (self.source / name).open("rb") as file:
                yield file
            return
        try:
            with self._lock:  # the archive counts its open members, which no two threads may do at a time
                member = self._zip.open(name)
            try:
                yield member  # type: ignore[misc]
            finally:
                with self._lock:
                    member.close()
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ArchiveError(f"{self.where(name)} is broken ({error}); fetch the archive again.") from None
        except RuntimeError as error:  # a password or a compression that the library does not know
            raise ArchiveError(
                f"{self.where(name)} cannot be unpacked ({error}); unpack it by hand."
            ) from None


@contextlib.contextmanager
def open_members(source: Path) -> Iterator[Members]:
    """The files of a folder or archive; a tar or rar is unpacked into a temporary folder for it."""
    if source.is_file() and zipfile.is_zipfile(source):
        try:
            file = zipfile.ZipFile(source)
        except zipfile.BadZipFile as error:
            raise ArchiveError(f"{source} is broken ({error}); fetch it again.") from None
        with file:
            yield Members(source, file)
        return
    with archive.open_as_folder(source) as folder:
        yield Members(folder)
