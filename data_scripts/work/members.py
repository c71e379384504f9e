"""The files of a folder, or of a zip archive without unpacking it: named, sized, and opened by any thread."""

from __future__ import annotations

import contextlib
import lzma
import stat
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dropfold.data_scripts.work import archive
from dropfold.data_scripts.work.errors import ArchiveError, is_of_broken_data
from dropfold.data_scripts.work.folders import (
    HIDDEN,
    TWICE,
    File,
    Listing,
    Unread,
    in_order,
    is_hidden,
    walk,
)


class Members:
    """The files by name, sorted; what file managers leave behind is not among them, but among `unread`."""

    def __init__(self, source: Path, file: zipfile.ZipFile | None = None) -> None:
        self.source, self._zip = source, file
        self._lock = threading.Lock()
        self._infos: dict[str, zipfile.ZipInfo] = {}
        # A room's file has its place: one that is the same as another's is no double.
        found = walk(source, once=False) if file is None else self._of_zip(file)
        self.files = {one.name: one for one in sorted(found.files)}
        self.folders, self.unread = found.folders, found.unread

    def _of_zip(self, file: zipfile.ZipFile) -> Listing:
        files: dict[str, File] = {}
        folders: set[str] = set()
        unread = []
        for member in file.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the writer knew no kinds
            archive.refuse_unsafe(self.source, member.filename, kind not in (0, stat.S_IFREG, stat.S_IFDIR))
            name = archive.member_name(member)
            is_folder = name.endswith("/")
            parts = [part for part in name.split("/") if part not in ("", ".")]
            name = "/".join(parts)
            if not parts:
                continue
            if is_hidden(parts):
                unread += [] if is_folder else [Unread(name, HIDDEN)]
                continue
            folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
            if is_folder:
                folders.add(name)
                continue
            if name in files:  # the last one is read, as unpacking it would leave
                unread.append(Unread(name, TWICE))
            files[name] = File(name, member.file_size, member.CRC)
            self._infos[name] = member
        return Listing(list(files.values()), sorted(folders, key=in_order), unread)

    def where(self, name: str) -> str:
        """The file as a message names it."""
        return f"{self.source}: {name}" if self._zip else str(self.source / name)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """The file's bytes; what is broken in an archive is an `ArchiveError` that names the file."""
        if self._zip is None:
            try:
                file = (self.source / name).open("rb")
            except OSError as error:
                raise ArchiveError(f"{self.where(name)} cannot be read ({error.strerror}).") from None
            with file:
                yield file
            return
        try:
            with self._lock:  # the archive counts its open members, which no two threads may do at a time
                member = self._zip.open(self._infos[name])
        except MemoryError:
            raise
        except RuntimeError as error:  # a password or a compression that the library does not know
            raise ArchiveError(
                f"{self.where(name)} cannot be unpacked ({error}); unpack it by hand."
            ) from None
        except Exception as error:  # of a header that is broken in any way
            raise self._broken(name, error) from None
        try:
            yield member  # type: ignore[misc]
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
            raise self._broken(name, error) from None
        except OSError as error:
            if not is_of_broken_data(error):
                raise
            raise self._broken(name, error) from None
        finally:
            with self._lock:
                member.close()

    def _broken(self, name: str, error: Exception) -> ArchiveError:
        return ArchiveError(f"{self.where(name)} is broken ({error}); fetch the archive again.")


@contextlib.contextmanager
def open_members(source: Path) -> Iterator[Members]:
    """The files of a folder or archive; a tar or rar is unpacked into a temporary folder for it."""
    if source.is_file() and zipfile.is_zipfile(source):
        try:
            file = zipfile.ZipFile(source)
        except MemoryError:
            raise
        except Exception as error:
            if not is_of_broken_data(error):
                raise
            raise ArchiveError(f"{source} is broken ({error}); fetch it again.") from None
        with file:
            yield Members(source, file)
        return
    with archive.open_as_folder(source) as folder:
        yield Members(folder)
