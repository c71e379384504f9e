"""Archives: downloaded with resume, progress and checksum; unpacked without trusting what they say.

A download comes by https alone, wherever its server sends it on to. Its SHA-256 is compared with the one that is given or
that a citable source prints; where there is none, the one of the first download is kept beside the archive in ARCHIVE.sha256
(`sha256sum -c` reads it), and later downloads are compared with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

from rich.console import Console
from rich.markup import escape
from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.errors import (
    ArchiveError,
    PictureError,
    SchemaError,
    ShapeError,
    VideoError,
    in_a_sentence,
    is_of_broken_data,
)
from dropfold.data_scripts.work.folders import in_number, name_some, printable, shorten
from dropfold.data_scripts.work.notes import say

SCHEMES = ("https",)
UTF8_NAME = 0x800  # the flag of a zip's member whose name is UTF-8
# Checksums in print, as "algorithm:digest": openpoints' loader, github.com/guochengqian/openpoints at commit f2e73bc,
# dataset/modelnet/modelnet40_ply_2048_loader.py; the README of github.com/zalandoresearch/fashion-mnist.
_FASHION = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"
PUBLISHED = {
    "https://shapenet.cs.stanford.edu/media/modelnet40_ply_hdf5_2048.zip": "md5:c9ab8e6dfb16f67afdab25e155c79e59",
    f"{_FASHION}/train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    f"{_FASHION}/train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
    f"{_FASHION}/t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
    f"{_FASHION}/t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
}


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes on to another address only if that is of the same schemes."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        target = urljoin(req.full_url, headers.get("location") or headers.get("uri") or "")
        _refuse_scheme(target, f"{req.full_url} sends on to {target}")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _refuse_scheme(url: str, what: str) -> None:
    if urlsplit(url).scheme.lower() not in SCHEMES:
        raise ArchiveError(
            f"{what}; data are fetched by {' or '.join(SCHEMES)} alone, where nobody on the way can change them. Fetch it "
            "by hand and give --source."
        )


def download(url: str, path: Path, sha256: str | None = None) -> Path:
    """Fetch `url` to `path`, going on where an earlier attempt stopped; certificates and `sha256` are checked.

    The bytes collect in `path` + ".part", which is renamed when it is whole. Returns path.
    """
    _refuse_scheme(url, f"{url} was asked for")
    if path.exists():
        verify(path, sha256)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.build_opener(_Redirects).open(request, timeout=60) as response:
            resumed = response.status == 206
            answered = response.headers.get("Content-Range", f"bytes {start}-")
            if resumed and not answered.startswith(f"bytes {start}-"):
                raise ArchiveError(
                    f"{url} answered with {answered!r}, asked for from byte {start}; delete {part} and run again."
                )
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
        total = int(error.headers.get("Content-Range", f"*/{start}").rpartition("/")[2])
        if total != start:
            raise ArchiveError(
                f"{part} has {start} bytes, {url} has {total}; delete it and run again."
            ) from None
    except (OSError, http.client.HTTPException) as error:
        raise ArchiveError(
            f"{url} could not be fetched ({error}); run again to go on, or give --source."
        ) from None
    if total and part.stat().st_size != total:
        raise ArchiveError(f"{url} stopped at {part.stat().st_size} of {total} bytes; run again to go on.")
    verify(part, sha256)
    atomic.move_into_place(part, path)
    return path


def verify(path: Path, sha256: str | None) -> str:
    """The file's SHA-256; an error if another one is expected."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None and found != sha256:
        raise ArchiveError(f"{path} has SHA-256 {found}, expected {sha256}; delete it and fetch it again.")
    return found


def download_or_reuse(source: Path | None, url: str, folder: Path, sha256: str | None) -> Path:
    """`source`; without one, the archive at `url`, downloaded to `folder`, and compared as the head of this file says."""
    if source is None:
        source = download(url, folder / Path(url).name, sha256)
        print(_compare(source, url, sha256))
    elif sha256:
        verify(source, sha256)
    return source


def _compare(path: Path, url: str, sha256: str | None) -> str:
    """Refuse a download that is not what was expected; returns the line that says what it was compared with."""
    if sha256 is not None:
        return f"{path}: SHA-256 {verify(path, sha256)}, the one that was given"
    found, record = verify(path, None), path.with_name(path.name + ".sha256")
    if url in PUBLISHED:
        algorithm, _, expected = PUBLISHED[url].partition(":")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, algorithm).hexdigest()
        if digest != expected:
            raise ArchiveError(
                f"{path} has {algorithm.upper()} {digest}, published is {expected}; delete it and fetch it again, or give "
                f"--sha256 {found} if you know that the archive was replaced."
            )
        return f"{path}: {algorithm.upper()} {digest}, the published one; SHA-256 {found}"
    words = record.read_text(errors="replace").split() if record.is_file() else []
    if not words:
        atomic.write_bytes(record, f"{found}  {path.name}\n".encode())
        return f"{path}: SHA-256 {found}; nobody publishes one, so {record.name} keeps it for later downloads"
    if words[0] != found:
        raise ArchiveError(
            f"{path} has SHA-256 {found}, the first download had {words[0]} ({record}); delete the archive and fetch it "
            f"again, or delete {record.name} too if you know that the archive was replaced."
        )
    return f"{path}: SHA-256 {found}, as at the first download"


@contextlib.contextmanager
def open_as_folder(source: Path) -> Iterator[Path]:
    """`source` as a folder: itself, or a zip, tar or rar archive unpacked into a temporary one."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise ArchiveError(f"{source} is not there; give a folder, a zip, tar or rar archive.")
    with tempfile.TemporaryDirectory() as folder:
        with Console(stderr=True).status(f"unpacking {escape(printable(source.name))}"):
            extract(source, Path(folder))
        try:
            yield Path(folder)
        except (ArchiveError, PictureError, SchemaError, ShapeError, VideoError) as error:
            raise type(error)(name_members(str(error), Path(folder), source)) from None


def name_members(text: str, folder: Path, source: Path) -> str:
    """A sentence on files in `folder` that names them as members of `source`, where that is the archive unpacked there."""
    return text if folder == source else text.replace(f"{folder}{os.sep}", f"{source}: ")


def extract(archive: Path, folder: Path) -> None:
    """Unpack a zip, tar or rar archive; absolute paths, `..`, links and devices are refused by name."""
    try:
        if _begins(archive, b"Rar!"):
            _extract_rar(archive, folder)
            return
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for member in file.infolist():
                    kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the writer knew no kinds
                    refuse_unsafe(archive, member.filename, kind not in (0, stat.S_IFREG, stat.S_IFDIR))
                _say_doubles(archive, (member_name(member) for member in file.infolist()))
                for member in file.infolist():
                    member.filename = member_name(member)
                    file.extract(member, folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as file:
                for entry in file:
                    refuse_unsafe(archive, entry.name, not (entry.isfile() or entry.isdir()))
                _refuse_cut(archive, file)
                _say_doubles(archive, (entry.name for entry in file.getmembers() if entry.isfile()))
                file.extractall(folder, filter="data")
        else:
            raise ArchiveError(f"{archive} is no whole zip, tar or rar archive (truncated?); fetch it again.")
    except (ArchiveError, MemoryError):
        raise
    except RuntimeError as error:  # a password or a compression that the library does not know
        raise ArchiveError(f"{archive} cannot be unpacked ({error}); unpack it by hand.") from None
    except Exception as error:  # the libraries raise what they like on broken data
        if not is_of_broken_data(error):
            raise ArchiveError(
                f"{archive} cannot be unpacked into {folder} ({in_a_sentence(error)}); TMPDIR may name another folder."
            ) from None
        raise ArchiveError(f"{archive} is broken ({error}); fetch it again.") from None


def member_name(member: zipfile.ZipInfo) -> str:
    """The path of a zip's member as its folder had it, parts apart by /.

    Some programs of Windows write backslashes. A name without the mark of UTF-8 is the bytes of the file system, as zip
    packs them on Unix and macOS, and on Windows the letters of code page 437 unless they are UTF-8.
    """
    name, of_windows = member.filename, member.create_system == 0
    if not member.flag_bits & UTF8_NAME and name == member.orig_filename:  # not from an extra field
        with contextlib.suppress(UnicodeError):
            raw = name.encode("cp437")  # which zipfile takes them for
            name = raw.decode() if of_windows else os.fsdecode(raw)
    return name.replace("\\", "/") if of_windows else name


def _begins(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _extract_rar(archive: Path, folder: Path) -> None:
    """By `bsdtar` or `unrar`: the format is closed, and no library that reads it is free to ship."""
    programs = {
        "bsdtar": (["-tf", str(archive)], ["-xf", str(archive), "-C", str(folder)]),
        "unrar": (
            ["lb", "-p-", str(archive)],
            ["x", "-p-", "-o+", "-inul", str(archive), f"{folder}{os.sep}"],
        ),
    }
    program = next((name for name in programs if shutil.which(name)), None)
    if program is None:
        raise ArchiveError(
            f"{archive} is a rar archive, which needs the program bsdtar (package libarchive-tools) or unrar; install "
            "one, or unpack it by hand and give the folder."
        )
    listed, unpacked = programs[program]
    members = _run(archive, program, listed).splitlines()
    for member in members:
        refuse_unsafe(archive, member, special=False)
    _say_doubles(archive, members)
    folder.mkdir(parents=True, exist_ok=True)
    _run(archive, program, unpacked)
    for path in folder.rglob("*"):  # neither program lists the kinds of its members alike
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArchiveError(f"{archive} holds {path.name!r}, a link or a device; no data set needs it.")


def _run(archive: Path, program: str, arguments: list[str]) -> str:
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise ArchiveError(f"{archive} is broken or locked: {program} says {reason!r}; fetch it again.")
    return done.stdout


def _refuse_cut(archive: Path, file: tarfile.TarFile) -> None:
    """A tar cut between two members, or in a member's header, ends like a whole one but for its block of zeros."""
    assert file.fileobj is not None
    file.fileobj.seek(file.offset)
    if file.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise ArchiveError(f"{archive} stops without its end mark (truncated?); fetch it again.")
    while file.fileobj.read(1 << 20):  # gzip compares its checksum when it has read all
        pass


def _say_doubles(archive: Path, names: Iterable[str]) -> None:
    """Say which files an archive holds again under their name: the last one is unpacked, as every program does."""
    count = Counter("/".join(PurePosixPath(name).parts) for name in names if not name.endswith("/"))
    doubled = [shorten(name) for name, held in count.items() if held > 1]
    if doubled:
        say(
            f"{archive} holds {in_number(len(doubled), 'file', 'files')} more than once under one name, and the last is "
            f"read: {name_some(doubled)}"
        )


def refuse_unsafe(archive: Path, name: str, special: bool) -> None:
    """An error if a member's name leads out of its folder, or if it is `special`: no file and no folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if special or path.is_absolute() or ".." in path.parts or ":" in (path.parts[0] if path.parts else ""):
        raise ArchiveError(
            f"{archive} holds {name!r}, a link, a device or a path outside its folder; no data set needs it, "
            "nothing was unpacked."
        )
