"""Archives with damaged bytes, read member by member and unpacked: a sentence that names the archive."""

import contextlib
import zipfile

import pytest

from dropfold.data_scripts.work.archive import extract
from dropfold.data_scripts.work.errors import ArchiveError
from dropfold.data_scripts.work.members import open_members

PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
CONTENT = bytes(range(256)) * 8


def read_all(path, folder):
    with open_members(path) as source:
        for name in source.files:
            with source.open(name) as file:
                assert file.read() == CONTENT


@pytest.mark.parametrize("act", [extract, read_all])
@pytest.mark.parametrize("packing", PACKINGS)
def test_every_damaged_byte_is_harmless_or_named(act, packing, tmp_path):
    """Bytes of names, places, checksums and of what is packed, one after the other."""
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", packing) as file:
        file.writestr("größe.txt", CONTENT)
    whole, named = path.read_bytes(), 0
    for i in (
        *range(0, 50, 2),
        *range(50, len(whole) - 80, 1 + len(whole) // 10),
        *range(len(whole) - 80, len(whole), 2),
    ):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x95]) + whole[i + 1 :])
        with contextlib.suppress(ArchiveError), naming(path):
            act(path, tmp_path / "out")
            named -= 1
        named += 1
    assert named > 20


@contextlib.contextmanager
def naming(path):
    try:
        yield
    except ArchiveError as error:
        if str(path) not in str(error):
            raise AssertionError(f"{error} does not name {path}") from None
        raise


def test_an_error_of_the_one_who_reads_stays_itself(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "a")
    with open_members(path) as source, pytest.raises(OSError, match="No space"), source.open("a.txt"):
        raise OSError(28, "No space left on device")
