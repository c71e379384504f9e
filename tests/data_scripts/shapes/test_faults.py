"""Faults that files, archives, servers and sudden deaths bring: each ends in a sentence, and nothing whole is lost."""

import io
import os
import signal
import stat
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

from dropfold.data_scripts.readers import npz
from dropfold.data_scripts.schemas import shape_schema
from dropfold.data_scripts.shapes import furniture, labeled_meshes
from dropfold.data_scripts.work import archive
from dropfold.data_scripts.work.errors import ArchiveError, SchemaError

FURNITURE = Path(__file__).parents[3] / "data/furniture.h5"


@pytest.fixture(scope="module")
def small():
    """Twenty real shapes of 64 points."""
    whole = shape_schema.read(FURNITURE)
    return replace(
        whole,
        points=whole.points[:20, :64],
        normals=None,
        label=whole.label[:20],
        split=whole.split[:20],
        name=whole.name[:20],
        library=whole.library[:20],
    )


# --- the schema --------------------------------------------------------------------------------------------------


def put(name, value):
    def act(file):
        del file[name]
        file[name] = value

    return act


def group(file):
    del file["label"]
    file.create_group("label")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda f: f.attrs.__delitem__("source"), "no attribute 'source'"),
        (lambda f: f.attrs.__delitem__("credits"), "no attribute 'credits'"),
        (lambda f: f.attrs.__delitem__("rebuild"), "no attribute 'rebuild'"),
        (lambda f: f.attrs.__setitem__("task", "segmentation"), "task 'segmentation'"),
        (put("name", np.arange(20)), "name's type is int64, expected text"),
        (put("library", np.arange(20)), "library's type is int64, expected text"),
        (put("label", np.int64(3)), r"label's shape is \(\)"),
        (put("label", np.zeros(20, np.int32)), "label's type is int32, expected int64"),
        (group, "label is a group"),
    ],
)
def test_a_wrong_item_is_named(act, message, small, tmp_path):
    path = tmp_path / "a.h5"
    shape_schema.write(path, small)
    with h5py.File(path, "r+") as file:
        act(file)
    with pytest.raises(SchemaError, match=message) as caught:
        shape_schema.read(path)
    assert str(path) in str(caught.value)


def test_damaged_bytes_are_named_with_their_dataset(small, tmp_path):
    path = tmp_path / "a.h5"
    shape_schema.write(path, small)
    with h5py.File(path) as file:
        chunk = file["points"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 20 : chunk.byte_offset + 60] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(SchemaError, match=r"points cannot be read .* dropfold data furniture"):
        shape_schema.read(path)


@pytest.mark.parametrize(
    "moment",
    ["h5py.Group.create_dataset = die", "h5_file.checksum = die", "os.fsync = die", "os.replace = die"],
)
def test_a_kill_while_writing_leaves_the_old_file(moment, small, tmp_path, run_python):
    path = tmp_path / "a.h5"
    shape_schema.write(path, small)
    before = path.read_bytes()
    code = (
        "import os, signal, sys, h5py\nfrom pathlib import Path\n"
        "from dropfold.data_scripts.schemas import h5_file, shape_schema\n"
        "path = Path(sys.argv[1])\nclouds = shape_schema.read(path)\n"
        f"die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n{moment}\nshape_schema.write(path, clouds)\n"
    )
    assert run_python("-c", code, str(path)).returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert shape_schema.read(path).name == small.name
    shape_schema.write(path, small)  # what the killed one left is not in the way
    assert shape_schema.read(path).checksum


# --- .npz sources ------------------------------------------------------------------------------------------------


def source(path, clouds, **changes):
    """A furniture_1024.npz in small: six real shapes of two classes, one of them without a label."""
    arrays = {
        "points": clouds.points[:6],
        "normals": clouds.points[:6].astype(np.float16),
        "label": np.array([0, 0, 1, 1, -1, 0], dtype=np.int16),
        "train": np.array([1, 1, 1, 1, 1, 0], dtype=bool),
        "name": np.array(clouds.name[:6]),
        "library": np.array(clouds.library[:6]),
        "classes": np.array(["chair", "table"]),
    }
    np.savez(path, **{**arrays, **changes})
    return path


def test_furniture_keeps_the_labelled_shapes_and_the_test_split(tmp_path, small):
    clouds = furniture.convert(source(tmp_path / "a.npz", small))
    assert clouds.label.tolist() == [0, 0, 1, 1, 0]
    assert clouds.name == [*small.name[:4], small.name[5]]
    assert clouds.split[-1] == 2
    assert sorted(zip(clouds.label[:4], clouds.split[:4])) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert furniture.LICENCES[small.library[0]] in furniture.format_credits(clouds)
    every = labeled_meshes.convert(source(tmp_path / "b.npz", small, label=np.zeros(6, np.int16)))
    assert every.name == small.name[:6]


def test_a_library_without_licence_is_not_shipped(tmp_path, small):
    clouds = furniture.convert(source(tmp_path / "a.npz", small, library=np.array(["Elsewhere"] * 6)))
    with pytest.raises(SchemaError, match="'Elsewhere' has no known licence"):
        furniture.format_credits(clouds)


def test_broken_npz_files_are_named(tmp_path, small):
    path = tmp_path / "a.npz"
    with pytest.raises(SchemaError, match="is not there"):
        npz.load_arrays(path, ("points",))
    np.savez(path, other=np.zeros(1))
    with pytest.raises(SchemaError, match="no array 'points'; it holds other"):
        npz.load_arrays(path, ("points",))
    np.savez(path, points=np.array([{}], dtype=object))
    with pytest.raises(SchemaError, match=r"a\.npz is not a whole"):
        npz.load_arrays(path, ("points",))
    content = source(path, small).read_bytes()
    for part in (b"", content[:500], b"text"):
        path.write_bytes(part)
        with pytest.raises(SchemaError, match=r"a\.npz is not a whole"):
            npz.load_arrays(path, ("points",))
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(SchemaError, match=r"a\.npz is not a whole"):
        npz.load_arrays(path, ("points",))


# --- archives ----------------------------------------------------------------------------------------------------


def test_a_device_in_a_zip_is_refused(tmp_path):
    for kind in (stat.S_IFCHR, stat.S_IFIFO, stat.S_IFLNK):
        entry = zipfile.ZipInfo("thing")
        entry.create_system, entry.external_attr = 3, (kind | 0o600) << 16
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr(entry, "x")
        with pytest.raises(ArchiveError, match="'thing', a link, a device"):
            archive.extract(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_bytes_in_a_zip_are_named(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.txt", np.random.default_rng(0).integers(97, 110, 5000, dtype=np.uint8).tobytes())
    content = bytearray(path.read_bytes())
    content[60:200] = b"\xff" * 140
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"a\.zip is broken"):
        archive.extract(path, tmp_path / "out")


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_a_flipped_bit_is_an_error(mode, tmp_path):
    """gzip's checksum stands at the end of its file, behind what tar reads; the data do not compress."""
    path = tmp_path / f"a.tar.{mode}"
    with tarfile.open(path, f"w:{mode}") as tar:
        for name in ("a.bin", "b.bin"):
            info = tarfile.TarInfo(name)
            info.size = 100_000
            tar.addfile(info, io.BytesIO(np.random.default_rng(0).bytes(info.size)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"a\.tar\.\w+ is (broken|no whole)"):
        archive.extract(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_disk_refuses_is_a_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x" * 300, "")
    with pytest.raises(ArchiveError, match=r"cannot be unpacked into .*out \(.*File name too long\); TMPDIR"):
        archive.extract(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_is_whole_or_an_error_wherever_it_is_cut(mode, tmp_path):
    path, random = tmp_path / "a.tar", np.random.default_rng(0)
    with tarfile.open(path, mode) as file:
        for name in "ab":
            entry = tarfile.TarInfo(name)
            entry.size = 512
            file.addfile(entry, io.BytesIO(random.bytes(512)))
    whole = path.read_bytes()
    with archive.open_as_folder(path) as folder:
        assert sorted(os.listdir(folder)) == ["a", "b"]
    # Uncompressed: headers and data of both members end at 2,048. Compressed: up to cuts into the last bytes.
    cuts = {*range(0, 2049, 128), 1200} if mode == "w" else {*range(0, len(whole) - 60, 40)}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        with pytest.raises(ArchiveError, match=r"a\.tar"), archive.open_as_folder(path):
            pass


@pytest.fixture
def server(monkeypatch):
    """A server of `server.content` that answers ranges as HTTP says, or wrongly as `server.answer` says."""
    monkeypatch.setattr(archive, "SCHEMES", ("http",))

    class Handler(BaseHTTPRequestHandler):
        def reply(self, code, body, size=None, content_range=None):
            self.send_response(code)
            self.send_header("Content-Length", str(len(body) if size is None else size))
            if content_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            content, start = server.content, int(self.headers.get("Range", "bytes=0-")[6:-1])
            size = len(content)
            if server.answer == "cut":
                self.reply(200, content[: size // 2], size)
            elif server.answer == "404":
                self.reply(404, b"")
            elif server.answer == "whole" or start == 0:
                self.reply(200, content)
            elif start >= size:
                self.reply(416, b"", content_range=f"bytes */{size}")
            else:
                start += 7 if server.answer == "shifted" else 0
                self.reply(206, content[start:], content_range=f"bytes {start}-{size - 1}/{size}")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.answer = np.random.default_rng(0).bytes(200_000), "range"
    server.url = f"http://127.0.0.1:{server.server_port}/a.zip"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_download_that_broke_off_goes_on(server, tmp_path):
    path, part = tmp_path / "a.zip", tmp_path / "a.zip.part"
    server.answer = "cut"
    with pytest.raises(ArchiveError, match="run again to go on"):
        archive.download(server.url, path)
    assert part.read_bytes() == server.content[:100_000]
    server.answer = "range"
    archive.download(server.url, path)
    assert path.read_bytes() == server.content
    assert not part.exists()


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(b"old" * 100)
    server.answer = "whole"
    archive.download(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == server.content


def test_a_part_that_is_whole_is_taken(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(server.content)
    archive.download(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == server.content


@pytest.mark.parametrize(
    ("answer", "part", "message"),
    [
        ("shifted", 100, "asked for from byte 100"),
        ("range", 200_001, "has 200001 bytes, .* has 200000; delete it"),
        ("404", 0, "404 .*--source"),
    ],
)
def test_wrong_answers_never_become_the_file(answer, part, message, server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes((server.content + b"x")[:part])
    server.answer = answer
    with pytest.raises(ArchiveError, match=message):
        archive.download(server.url, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
