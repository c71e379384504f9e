"""PCD files of the Point Cloud Library: all three forms, packed colours, holes, and headers that lie."""

import numpy as np
import pytest

from dropfold.data_scripts.readers import pcd
from dropfold.data_scripts.readers.columns import Layout
from dropfold.data_scripts.readers.scene_file import read_scene
from dropfold.data_scripts.readers.shapes import read_points
from dropfold.data_scripts.work.errors import ShapeError


def compress(data):
    """LZF by its definition: the longest earlier copy within 8 KiB, found by `bytes.rfind`; runs as they are between."""
    out, run, i = bytearray(), bytearray(), 0

    def flush():
        for start in range(0, len(run), 32):
            part = run[start : start + 32]
            out.append(len(part) - 1)
            out.extend(part)
        run.clear()

    while i < len(data):
        length = 0
        for n in (264, 100, 20, 9, 8, 4, 3):
            if i + n <= len(data) and (at := data.rfind(data[i : i + n], max(i - 8191, 0), i + n - 1)) >= 0:
                length = n
                break
        if not length:
            run.append(data[i])
            i += 1
            continue
        flush()
        back = i - at - 1
        if length - 2 < 7:
            out.append((length - 2) << 5 | back >> 8)
        else:
            out.extend([7 << 5 | back >> 8, length - 9])
        out.append(back & 255)
        i += length
    flush()
    return bytes(out)


def table(n=300, seed=0, packed="f4"):
    random = np.random.default_rng(seed)
    kinds = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("rgb", packed), ("label", "u4"), ("normal_x", "f4"), ("normal_y", "f4"),
             ("normal_z", "f4"), ("intensity", "f4")]  # fmt: skip
    found = np.zeros(n, kinds)
    points, colour = random.uniform(0, 5, (n, 3)).round(2), random.integers(0, 256, (n, 3))
    normals = random.normal(size=(n, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    for i, axis in enumerate("xyz"):
        found[axis], found[f"normal_{axis}"] = points[:, i], normals[:, i]
    bits = (colour[:, 0] << 16 | colour[:, 1] << 8 | colour[:, 2]).astype("u4")
    found["rgb"] = bits.view("f4") if packed == "f4" else bits
    found["label"], found["intensity"] = random.integers(0, 13, n), random.uniform(0, 9, n)
    return found, colour


def write(path, found, form, height=1, **changes):
    names = found.dtype.names
    kinds = [found.dtype[name] for name in names]
    entries = {
        "VERSION": "0.7", "FIELDS": " ".join(names), "SIZE": " ".join(str(kind.itemsize) for kind in kinds),
        "TYPE": " ".join(kind.kind.upper() for kind in kinds), "COUNT": " ".join("1" for _ in names),
        "WIDTH": len(found) // height, "HEIGHT": height, "VIEWPOINT": "0 0 0 1 0 0 0", "POINTS": len(found), "DATA": form,
    }  # fmt: skip
    entries |= changes
    header = "# .PCD v0.7 - Point Cloud Data file format\n" + "".join(
        f"{name} {value}\n" for name, value in entries.items() if value is not None
    )
    if form == "ascii":
        body = "".join(" ".join(repr(v) for v in row) + "\n" for row in found.tolist()).encode()
    elif form == "binary":
        body = found.tobytes()
    else:
        whole = b"".join(found[name].tobytes() for name in names)
        packed = compress(whole)
        body = np.array([len(packed), len(whole)], "<u4").tobytes() + packed
    path.write_bytes(header.encode() + body)
    return path


@pytest.mark.parametrize("packed", ["f4", "u4"])
@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
def test_all_forms_are_read(form, packed, tmp_path):
    found, colour = table(packed=packed)
    if form == "ascii" and packed == "f4":  # a NaN's bits are not in its text
        colour, found = colour[np.isfinite(found["rgb"])], found[np.isfinite(found["rgb"])]
    path = write(tmp_path / "a.pcd", found, form)
    notes = []
    scene = read_scene(path, notes=notes)
    points, normals = read_points(path, 1, whole=True, notes=notes)
    axes = np.stack([found[axis] for axis in "xyz"], 1)
    np.testing.assert_array_equal(scene.points, axes)
    np.testing.assert_array_equal(points, axes)
    np.testing.assert_array_equal(scene.colour, colour)
    np.testing.assert_array_equal(scene.label, found["label"])
    np.testing.assert_array_equal(normals, np.stack([found[f"normal_{axis}"] for axis in "xyz"], 1))
    assert not notes


def test_fields_of_many_numbers_and_padding_are_passed_over(tmp_path):
    found, _ = table()
    padded = np.zeros(
        len(found), [("x", "f8"), ("fpfh", "f4", (33,)), ("y", "f8"), ("z", "f8"), ("_", "u1", (4,))]
    )
    for axis in "xyz":
        padded[axis] = found[axis]
    changes = {"SIZE": "8 4 8 8 1", "TYPE": "F F F F U", "COUNT": "1 33 1 1 4", "VIEWPOINT": "1 0 0 1 0 0 0"}
    path = write(tmp_path / "a.pcd", padded, "binary", **changes)
    notes = []
    scene = read_scene(path, notes=notes)
    np.testing.assert_array_equal(scene.points, np.stack([padded[axis] for axis in "xyz"], 1))
    assert notes == [f"{path}: its VIEWPOINT is not applied; coordinates are as in the file"]


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
def test_holes_of_an_organised_cloud_are_left_out_and_others_asked_for(form, tmp_path):
    found, _ = table(packed="u4")
    for axis in "xyz":
        found[axis][[3, 50]] = np.nan
    path = write(tmp_path / "a.pcd", found, form, height=10)
    notes = []
    scene = read_scene(path, notes=notes)
    assert scene.points.shape == (298, 3)
    np.testing.assert_array_equal(scene.label, np.delete(found["label"], [3, 50]))
    assert notes == [f"{path}: 2 of 300 points are left out, for they are not finite"]
    assert len(read_points(path, 1, whole=True)[0]) == 298
    write(path, found, form)
    with pytest.raises(ShapeError, match=r"point 3 has coordinates.* first of 2 such; --drop-nan"):
        read_scene(path)
    assert len(read_scene(path, Layout(drop_nan=True), notes).points) == 298


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
def test_a_cut_file_is_named(form, tmp_path):
    path = write(tmp_path / "a.pcd", table()[0], form)
    content = path.read_bytes()
    for share in (0.02, 0.3, 0.7, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        for read in read_scene, lambda path: read_points(path, 1):
            with pytest.raises(ShapeError, match=r"a\.pcd"):
                read(path)


@pytest.mark.parametrize("form", ["ascii", "binary", "binary_compressed"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WIDTH": 4 * 10**9, "POINTS": 4 * 10**9}, "a.pcd (ends after|is too short|holds)"),
        ({"WIDTH": 2**62, "POINTS": 2**62}, "a.pcd (ends after|is too short|holds)"),
        ({"POINTS": 299}, "300 x 1 is not 299"),
        ({"WIDTH": -300, "POINTS": -300}, "broken PCD header"),
        ({"WIDTH": "many"}, "broken PCD header"),
        ({"FIELDS": "x y z"}, "differ in their number of words"),
        ({"FIELDS": "x y z rgb label normal_x normal_y x intensity"}, "field 'x' twice"),
        ({"FIELDS": None}, "no line FIELDS"),
        ({"SIZE": "4 4 4 4 3 4 4 4 4"}, r"type and size \('U', 3\)"),
        ({"FIELDS": "a b c d label e f g h"}, "no column x; it has a, b, c"),
        ({"DATA": "zip"}, "DATA 'zip'; expected ascii, binary"),
        ({"MORE": "1"}, "line 12: 'MORE 1' is no line"),
    ],
)
def test_headers_that_lie_are_named(form, changes, message, tmp_path):
    changes = {**changes, "DATA": changes.get("DATA", form)} if "MORE" in changes else changes
    path = write(tmp_path / "a.pcd", table()[0], form, **changes)
    if "MORE" in changes:  # before the line DATA, which ends the header
        content = path.read_bytes().replace(b"MORE 1\n", b"").replace(b"DATA", b"MORE 1\nDATA", 1)
        path.write_bytes(content)
        message = "'MORE 1' is no line of a PCD header"
    with pytest.raises(ShapeError, match=message):
        read_scene(path)


def test_damaged_compression_is_named_or_changes_numbers_alone(tmp_path):
    """Never memory that is not its own: flipped bytes give other numbers or a sentence."""
    found, _ = table(100)
    path = write(tmp_path / "a.pcd", found, "binary_compressed")
    content = bytearray(path.read_bytes())
    start, random = content.index(b"DATA") + 23, np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        broken = content.copy()
        broken[random.integers(start, len(content))] ^= 1 << random.integers(8)
        path.write_bytes(broken)
        try:
            pcd.read_points(path)
        except ShapeError:
            refused += 1
    assert 10 < refused < 200
