"""HDF5 files from anybody: nothing is taken from outside the file, and none claims more than it holds."""

import os
import re
import resource
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from dropfold.data_scripts.schemas import block_schema, h5_file, hdf5, part_schema, scene_schema, shape_schema
from dropfold.data_scripts.schemas.hdf5 import open_h5
from dropfold.data_scripts.work.errors import SchemaError

ROOT = Path(__file__).parents[3]
SECRET = "the user's own file"


def virtual(file, folder):
    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource(folder / "other.h5", "secret", (10,))
    file.create_virtual_dataset("data", layout)


def plugin(file, _):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((10,))
    plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((10,)), plan)


def half_written(file, _):
    file.create_dataset("data", (100, 3), "f4", chunks=(10, 3))[:50] = 1


def external(file, folder):
    file.create_dataset("data", (len(SECRET),), np.uint8, external=[(folder / "secret.txt", 0, len(SECRET))])


def linked_through(file, folder):
    file["away"] = h5py.ExternalLink(folder / "other.h5", "/")
    file["data"] = h5py.SoftLink("/away/secret")


def references(file, _):
    file["data"] = np.array([file.create_group("a").ref], dtype=h5py.ref_dtype)


FOREIGN = {
    "external link": (
        lambda f, folder: f.__setitem__("data", h5py.ExternalLink(folder / "other.h5", "/secret")),
        r"data is a link to '/secret' in another file, '.*other\.h5'",
    ),
    "external link in a group": (
        lambda f, folder: f.create_group("a/b").__setitem__("x", h5py.ExternalLink(folder / "o.h5", "/s")),
        "a/b/x is a link to '/s' in another file",
    ),
    "soft link through an external one": (linked_through, "away is a link to '/' in another file"),
    "external storage": (external, r"the values of data lie in another file, '.*secret\.txt'"),
    "virtual dataset": (virtual, "data is a virtual dataset"),
    "plugin": (plugin, r"data is packed by filter 32015 .*expected one of gzip"),
    "references": (references, "data is of references"),
    "lists": (
        lambda f, _: f.create_dataset("data", (2,), dtype=h5py.vlen_dtype("f4")),
        "data is of references to other places, or of lists",
    ),
    "8 TB in a file of 1 kB": (
        lambda f, _: f.create_dataset("data", (10**6, 10**6), "f8", chunks=(1000, 1000)),
        r"data \(1000000, 1000000\) claims 8 TB and the file holds 0 bytes of it",
    ),
    "40 TB without chunks": (
        lambda f, _: f.create_dataset("data", (10**9, 10**4), "f4"),
        "claims 40 TB and the file holds 0 bytes",
    ),
    "half written": (half_written, "of data 5 of 10 pieces were written"),
    "nothing written": (lambda f, _: f.create_dataset("data", (5,), "f4"), "of data nothing was written"),
    "a soft link to nothing": (
        lambda f, _: f.__setitem__("data", h5py.SoftLink("/none")),
        "has no dataset 'data'",
    ),
    "a soft link to itself": (
        lambda f, _: f.__setitem__("data", h5py.SoftLink("/data")),
        "data cannot be read .*too many links",
    ),
    "a group": (lambda f, _: f.create_group("data"), "data is a group, expected a dataset"),
    "no values": (lambda f, _: f.__setitem__("data", h5py.Empty("f4")), "data is empty"),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret.txt").write_text(SECRET)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.arange(10, dtype=np.float32)
    return tmp_path


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_not_the_file_s_own_is_refused_by_name(kind, folder):
    act, message = FOREIGN[kind]
    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        act(file, folder)
    with pytest.raises(SchemaError, match=message) as caught, open_h5(path, "data") as file:
        file.read("data")
    assert str(path) in str(caught.value)


def test_what_is_the_file_s_own_is_read(folder):
    """Filters of the library, names within the file, groups that hold themselves or are deep."""
    x = np.random.default_rng(0).integers(0, 9, (5000, 3)).astype(np.float32)
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("gzip", data=x, compression="gzip", shuffle=True, fletcher32=True)
        file.create_dataset("lzf", data=x, compression="lzf")
        file["plain"], file["link"] = x, h5py.SoftLink("/lzf")
        group = file
        for _ in range(1200):
            group = group.create_group("a")
        group["up"], file["again"] = file["/"], file["gzip"]
        file["text"] = np.array(["ä", "b" * 1000], dtype=object)
        file["none"] = np.zeros((0, 3), np.float32)
    with open_h5(folder / "a.h5") as file:
        for name in ("gzip", "lzf", "plain", "link", "again"):
            np.testing.assert_array_equal(file.read(name), x)
            np.testing.assert_array_equal(file.read(name, np.s_[7:9]), x[7:9])
        assert file.read("text").tolist() == ["ä", "b" * 1000]
        assert file.read("none").shape == (0, 3)


def test_more_objects_than_any_data_set_has_are_refused(folder, monkeypatch):
    monkeypatch.setattr(hdf5, "MOST_OBJECTS", 100)
    with h5py.File(folder / "a.h5", "w") as file:
        for i in range(101):
            file.create_group(f"{i}")
    with pytest.raises(SchemaError, match="more than 100 objects"):
        hdf5.inspect_file(str(folder / "a.h5"), "a.h5", "")


def test_what_does_not_fit_into_memory_is_said_before_it_is_read(folder, monkeypatch):
    with h5py.File(folder / "a.h5", "w") as file:
        file["data"] = np.zeros(1000)
    monkeypatch.setattr(hdf5, "_memory_bytes", lambda: 4000)
    with (
        pytest.raises(SchemaError, match="8 kB, and this machine has 4 kB"),
        open_h5(folder / "a.h5") as file,
    ):
        file.read("data")


def test_a_heap_of_text_that_would_be_read_for_ever_is_refused(furniture, tmp_path):
    """A gap of no length: the library goes to the next object, which is the same one, and does not return."""
    path = tmp_path / "a.h5"
    shape_schema.write(path, furniture)
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL") + 16
    content[at : at + 16] = bytes(16)
    path.write_bytes(content)
    with pytest.raises(SchemaError, match=rf"text at byte {at} is broken.*Make it anew"):
        shape_schema.read(path)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the bound needs Linux")
def test_a_text_of_a_broken_length_takes_no_gigabytes(furniture, tmp_path):
    path = tmp_path / "a.h5"
    shape_schema.write(path, furniture)
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<IQ", len("classification"), content.index(b"GCOL")))
    content[at + 3] = 0x84  # 2.2 GB
    path.write_bytes(content)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(SchemaError, match=r"a\.h5: \S+.* (cannot be read|does not fit)"):
        shape_schema.read(path)
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.h5")
    for read in (shape_schema.read, scene_schema.read, block_schema.read):
        with pytest.raises(SchemaError, match=r"a\.h5 is no file"):
            read(tmp_path / "a.h5")


@pytest.mark.parametrize("name", ["class_names", *h5_file.PROVENANCE])
def test_class_names_and_provenance_are_under_a_checksum(name, furniture, tmp_path):
    path = tmp_path / "a.h5"
    shape_schema.write(path, furniture)
    with h5py.File(path, "r+") as file:
        value = file.attrs[name]
        file.attrs[name] = value[::-1] if name == "class_names" else value + "x"
    with pytest.raises(SchemaError, match=r"checksum of its attributes \(class_names, .*they were changed"):
        shape_schema.read(path)


def test_codes_are_under_the_checksum(tmp_path):
    path = tmp_path / "a.h5"
    random = np.random.default_rng(0)
    with scene_schema.writer(path, ["ground", "house"], "s", "c", "r", codes=[2, 6]) as writer:
        for name in "abc":
            points = random.normal(size=(9, 3)).astype(np.float32)
            writer.add(name, 1, points, np.zeros((9, 3), np.uint8), random.integers(0, 2, 9).astype(np.uint8))
    assert scene_schema.read(path).codes == [2, 6]
    with h5py.File(path, "r+") as file:
        file["codes"][1] = 5
    with pytest.raises(SchemaError, match="checksum is"):
        scene_schema.read(path)


def test_a_file_of_the_schema_before_is_read(furniture, tmp_path):
    """data/furniture.h5 is one: its attributes have no checksum, and its datasets have the same as today."""
    path = tmp_path / "a.h5"
    with h5py.File(ROOT / "data/furniture.h5") as file:
        assert file.attrs["schema"] == "dropfold/1"
    shape_schema.write(path, furniture)
    assert shape_schema.read(path).checksum == furniture.checksum
    with h5py.File(path, "r+") as file:
        assert file.attrs["schema"] == "dropfold/2"
        del file.attrs["attributes_checksum"]
    with pytest.raises(SchemaError, match="attributes"):  # a new one has them
        shape_schema.read(path)


@pytest.mark.parametrize(
    ("name", "read"), [("furniture.h5", shape_schema.read), ("components.h5", part_schema.read)]
)
def test_class_names_of_the_files_that_ship_are_under_a_checksum(name, read, tmp_path, caplog):
    """They are of the schema before, which left them out."""
    path = tmp_path / name
    shutil.copy(ROOT / "data" / name, path)
    read(path)
    assert not caplog.text
    with h5py.File(path, "r+") as file:
        names = list(file.attrs["class_names"])
        file.attrs["class_names"] = np.array([names[1], names[0], *names[2:]], dtype=h5py.string_dtype())
    with pytest.raises(SchemaError, match=r"checksum of its attributes \(class_names"):
        read(path)


def test_an_unprotected_part_of_an_older_file_is_said(furniture, tmp_path, caplog):
    """Of the schema before: the line says what nothing guards."""
    path = tmp_path / "a.h5"
    shape_schema.write(path, replace(furniture, points=furniture.points * np.float32(0.5)))
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = "dropfold/1"
        del file.attrs["attributes_checksum"]
    shape_schema.read(path)
    assert (
        "a.h5 is of the schema dropfold/1: its checksum covers the numbers, not the names of its classes"
        in caplog.text
    )


def test_no_other_place_opens_hdf5_files():
    found = {
        path.relative_to(ROOT).as_posix()
        for room in ("data_scripts", "train", "models", "kernels", "dropfold", "benchmarks", "docs")
        for path in (ROOT / room).rglob("*.py")
        if re.search(
            r"h5py\.File\(|h5py import .*\bFile\b|h5f\.open|import tables\b|read_hdf\(", path.read_text()
        )
    }
    assert found == {"data_scripts/schemas/hdf5.py", "data_scripts/schemas/h5_file.py"}
    assert 'h5py.File(self.temporary, "w")' in (ROOT / "data_scripts/schemas/h5_file.py").read_text()
