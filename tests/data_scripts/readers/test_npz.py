"""Arrays of an archive: what their headers ask for is held against what the archive holds."""

import io
import zipfile

import numpy as np
import pytest

from dropfold.data_scripts.readers import npz
from dropfold.data_scripts.work.errors import SchemaError


def archive(path, header=None, content=b"", size=None):
    """A .npz of one array `points`, whose header is replaced."""
    array = io.BytesIO()
    np.save(array, np.zeros((2, 3)))
    whole = array.getvalue()
    if header is not None:
        text = header.encode().ljust(117) + b"\n"
        whole = whole[:8] + len(text).to_bytes(2, "little") + text + content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("points.npy", whole)
    return path


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 3)}", "takes 24000000000 bytes, and the file"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 3)}", "takes 24 bytes, and the file holds 48"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-2, 3)}", "array 'points'|is not a whole"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3)}", "is not a whole"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3", "is not a whole"),
        ("(((((((((((((((((((((", "is not a whole"),
        ("{'descr': '<f8', \x00", "is not a whole"),
    ],
)  # fmt: skip
def test_headers_that_do_not_fit(header, message, tmp_path):
    path = archive(tmp_path / "a.npz", header, bytes(48))
    with pytest.raises(SchemaError, match=message) as caught:
        npz.load_arrays(path, ("points",))
    assert str(path) in str(caught.value)


def test_what_is_packed_too_tightly_is_refused(tmp_path, monkeypatch):
    """A thousand zeros take a byte: archives that fill the memory are small. Small arrays may be packed as they like."""
    np.savez_compressed(tmp_path / "a.npz", points=np.zeros(1_000_000))
    assert npz.load_arrays(tmp_path / "a.npz", ("points",))["points"].shape == (1_000_000,)
    monkeypatch.setattr(npz, "BYTES_TO_TRUST", 1 << 20)
    with pytest.raises(SchemaError, match=r"'points' is 8,000,000 bytes packed into \S+; no data are"):
        npz.load_arrays(tmp_path / "a.npz", ("points",))


def test_too_little_memory_is_a_sentence(tmp_path, monkeypatch):
    def hungry(*arguments, **options):
        raise MemoryError

    archive(tmp_path / "a.npz")
    monkeypatch.setattr(np, "load", hungry)
    with pytest.raises(SchemaError, match=r"a\.npz needs more memory than there is"):
        npz.load_arrays(tmp_path / "a.npz", ("points",))
