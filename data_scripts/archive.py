"""Archives: downloaded with resume, progress and checksum; unpacked without trusting what they say."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn


class ArchiveError(ValueError):
    """An archive is broken or asks for what no data set needs; the message names it and the member."""


def download(url: str, path: Path, sha256: str | None = None) -> Path:
    """Fetch `url` to `path`, going on where an earlier attempt stopped; certificates and `sha256` are checked.

    The bytes collect in `path` + ".part", which is renamed when it is whole. Returns path.
    """
    if path.exists():
        verify(path, sha256)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            resumed = response.status == 206
            total = int(response.headers.get("Content-Length", 0)) + (start if resumed else 0)
            columns = (
                *Progress.get_default_columns()[:2],
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            with part.open("ab" if resumed else "wb") as file, Progress(*columns) as progress:
                task = progress.add_task(path.name, total=total or None, completed=start if resumed else 0)
                while chunk := response.read(1 << 20):
                    file.write(chunk)
                    progress.advance(task, len(chunk))
    except urllib.error.HTTPError as error:
        if error.code != 416:  # "range not satisfiable": the part is already whole
            raise ArchiveError(
                f"{url} answered {error.code} {error.reason}; fetch it by hand and give --source."
            ) from None
        total = start
    except OSError as error:
        raise ArchiveError(
            f"{url} could not be fetched ({error}); run again to go on, or give --source."
        ) from None
    if total and part.stat().st_size != total:
        raise ArchiveError(f"{url} stopped at {part.stat().st_size} of {total} bytes; run again to go on.")
    verify(part, sha256)
    os.replace(part, path)
    return path


def verify(path: Path, sha256: str | None) -> str:
    """The file's SHA-256; an error if another one is expected."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None and found != sha256:
        raise ArchiveError(f"{path} has SHA-256 {found}, expected {sha256}; delete it and fetch it again.")
    return found


@contextlib.contextmanager
def opened(source: Path) -> Iterator[Path]:
    """`source` as a folder: itself, or a zip or tar archive unpacked into a temporary one."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise ArchiveError(f"{source} is not there; give a folder, a zip or a tar archive.")
    with tempfile.TemporaryDirectory() as folder:
        extract(source, Path(folder))
        yield Path(folder)


def extract(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive; absolute paths, `..`, links and devices are refused by name."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for member in file.infolist():
                    link = (member.external_attr >> 16) & 0o170000 == 0o120000
                    _refuse(archive, member.filename, link)
                for member in file.infolist():
                    file.extract(member, folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as file:
                for entry in file:
                    _refuse(archive, entry.name, not (entry.isfile() or entry.isdir()))
                file.extractall(folder, filter="data")
        else:
            raise ArchiveError(f"{archive} is no whole zip or tar archive (truncated?); fetch it again.")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ArchiveError(f"{archive} is broken ({error}); fetch it again.") from None


def _refuse(archive: Path, name: str, link: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if link or path.is_absolute() or ".." in path.parts or ":" in (path.parts[0] if path.parts else ""):
        raise ArchiveError(
            f"{archive} holds {name!r}, a link or a path outside its folder; no data set needs it, nothing was unpacked."
        )
