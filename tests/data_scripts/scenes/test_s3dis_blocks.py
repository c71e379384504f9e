"""indoor3d_sem_seg_hdf5_data in small: read in the order of its lists, blocks of a room together, faults named."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from dropfold.data_scripts.scenes import s3dis_blocks
from dropfold.data_scripts.scenes.s3dis_blocks import Options, convert
from dropfold.data_scripts.schemas import block_schema
from dropfold.data_scripts.schemas.block_schema import TEST, TRAIN, VALIDATION, SchemaError

ROOMS = ["Area_1_office_1"] * 3 + ["Area_1_office_2"] * 2 + ["Area_2_hallway_1"] * 2 + ["Area_5_office_1"] * 2


def blocks(count, seed, points=32):
    random = np.random.default_rng(seed)
    return random.random((count, points, 9)).astype(np.float32), random.integers(
        0, 13, (count, points), np.uint8
    )


@pytest.fixture
def source(tmp_path):
    """Three files of 4, 4 and 1 blocks, which all_files.txt has in another order than the folder."""
    folder = tmp_path / "up/indoor3d_sem_seg_hdf5_data"
    folder.mkdir(parents=True)
    names = ["ply_data_all_10.h5", "ply_data_all_2.h5", "ply_data_all_3.h5"]
    for seed, (name, count) in enumerate(zip(names, (4, 4, 1))):
        with h5py.File(folder / name, "w") as file:
            file["data"], file["label"] = blocks(count, seed)
    (folder / "all_files.txt").write_text("".join(f"indoor3d_sem_seg_hdf5_data/{name}\n" for name in names))
    (folder / "room_filelist.txt").write_text("\n".join(ROOMS))
    return folder


def test_blocks_are_read_in_the_order_of_the_lists(source, tmp_path):
    found = convert(source.parent, Options(out=tmp_path / "a.h5", points=20))
    assert (len(found), found.points) == (9, 20)
    assert found.room == [room.replace("_", "/", 2).replace("/", "_", 1) for room in ROOMS]
    assert found.area.tolist() == [1] * 5 + [2] * 2 + [5] * 2
    assert found.split[7:].tolist() == [TEST] * 2
    assert set(found.split.tolist()) == {TRAIN, VALIDATION, TEST}
    for room in set(found.room):
        assert len({found.split[i] for i in range(9) if found.room[i] == room}) == 1
    points, label = found.load(np.array([8, 0, 4]))
    for k, (seed, i) in enumerate([(2, 0), (0, 0), (1, 0)]):
        expected = blocks(4 if seed < 2 else 1, seed)
        np.testing.assert_array_equal(points[k], expected[0][i, :20])
        np.testing.assert_array_equal(label[k], expected[1][i, :20])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.h5", "up"]


def test_a_killed_start_goes_on(source, tmp_path, monkeypatch):
    """Killed when one file was packed, then while the blocks were being written: no file is packed twice."""
    packed, pack, load = [], block_schema.pack, s3dis_blocks.work.load_piece

    def note(where, *rest):
        packed.append(Path(where).name)
        return pack(where, *rest)

    def first_alone(where, *rest):
        if packed:
            raise KeyboardInterrupt
        return note(where, *rest)

    def killed(part, job):
        if job.name == "ply_data_all_2.h5":
            raise KeyboardInterrupt
        return load(part, job)

    options = Options(out=tmp_path / "a.h5", points=32, workers=1)
    monkeypatch.setattr(block_schema, "pack", first_alone)
    with pytest.raises(KeyboardInterrupt):
        convert(source, options)
    monkeypatch.setattr(block_schema, "pack", note)
    monkeypatch.setattr(s3dis_blocks.work, "load_piece", killed)
    with pytest.raises(KeyboardInterrupt):
        convert(source, options)
    assert sorted(packed) == ["ply_data_all_10.h5", "ply_data_all_2.h5", "ply_data_all_3.h5"]
    assert not options.out.exists()
    monkeypatch.undo()
    monkeypatch.setattr(block_schema, "pack", None)  # not called
    again = convert(source, options)
    monkeypatch.undo()
    whole = convert(source, replace(options, out=tmp_path / "b.h5"))
    assert (again.digest, again.room, again.checksum) == (whole.digest, whole.room, whole.checksum)
    for found, expected in zip(again.load(np.arange(9)), whole.load(np.arange(9))):
        np.testing.assert_array_equal(found, expected)
    assert not (tmp_path / "a.h5.part").exists()


def test_a_file_that_changed_is_read_again(source, tmp_path):
    with h5py.File(source / "ply_data_all_2.h5", "r+") as file:
        file["label"][0, 0] = 13
    options = Options(out=tmp_path / "a.h5", points=32)
    with pytest.raises(SchemaError, match="1 of 3 files cannot be read"):
        convert(source, options)
    for name in ("ply_data_all_2.h5", "ply_data_all_3.h5"):  # mended, and exchanged for other blocks
        with h5py.File(source / name, "r+") as file:
            file["label"][0, 0] = 12
    found = convert(source, options)
    assert found.load(np.array([4, 8]))[1][:, 0].tolist() == [12, 12]


def put(name, item, value):
    def act(folder):
        with h5py.File(folder / name, "r+") as file:
            whole = file[item][()]
            del file[item]
            if value is not None:
                file[item] = value(whole)

    return act


def changed(at, to):
    def act(whole):
        whole[at] = to
        return whole

    return act


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda f: (f / "ply_data_all_3.h5").unlink(),
            r"ply_data_all_3\.h5, named in all_files\.txt, is not there",
        ),
        (
            lambda f: (f / "ply_data_all_3.h5").write_bytes(b"\x89HDF"),
            r"ply_data_all_3\.h5 is not a whole HDF5",
        ),
        (lambda f: (f / "all_files.txt").unlink(), r"all_files\.txt is not there"),
        (lambda f: (f / "room_filelist.txt").unlink(), r"holds no room_filelist\.txt"),
        (
            lambda f: (f / "room_filelist.txt").write_text("\n".join(ROOMS[1:])),
            "has 8 lines, the files hold 9 blocks",
        ),
        (
            lambda f: (f / "room_filelist.txt").write_text("\n".join(["office", *ROOMS[1:]])),
            "line 1: 'office' is no room",
        ),
        (put("ply_data_all_2.h5", "label", None), r"ply_data_all_2\.h5 has no dataset 'label'"),
        (
            put("ply_data_all_2.h5", "label", lambda w: w[:, 1:]),
            r"label is uint8 \(4, 31\), expected integers \(4, 32\)",
        ),
        (
            put("ply_data_all_2.h5", "label", changed((2, 3), 13)),
            r"all_2\.h5, block 2: label holds 0 .. 13, expected 0 .. 12",
        ),
        (put("ply_data_all_2.h5", "data", lambda w: w[..., :6]), r"data is float32 \(4, 32, 6\)"),
        (
            put("ply_data_all_2.h5", "data", lambda w: w[:, :16]),
            "have 16 points, fewer than the 32 that were asked for",
        ),
        (
            put("ply_data_all_2.h5", "data", changed((3, 0, 0), np.nan)),
            r"all_2\.h5, block 3: its points are not finite",
        ),
    ],
)
def test_a_fault_is_named_and_nothing_is_written(act, message, source, tmp_path):
    act(source)
    with pytest.raises(SchemaError, match=message):
        convert(source, Options(out=tmp_path / "a.h5", points=32))
    assert not (tmp_path / "a.h5").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_blocks_of_no_points_are_refused(source, tmp_path):
    for points in (0, -5):
        with pytest.raises(SchemaError, match=f"--points must be at least 1; got {points}"):
            convert(source, Options(out=tmp_path / "a.h5", points=points))
    assert not (tmp_path / "a.h5").exists()


def test_a_changed_block_is_named(source, tmp_path):
    convert(source, Options(out=tmp_path / "a.h5", points=32))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["points"][3, 0, 0] = 7
    found = block_schema.read(tmp_path / "a.h5")
    found.load(np.arange(3))
    with pytest.raises(
        SchemaError, match=r"block 3 \(Area_1/office_2\) is not what was written.*s3dis-blocks"
    ):
        found.load(np.arange(5))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["label"]
    with pytest.raises(SchemaError, match=r"points and label are \(9, 32, 9\) and None"):
        block_schema.read(tmp_path / "a.h5")
    with pytest.raises(SchemaError, match=r"s3dis-blocks makes one"):
        block_schema.read(tmp_path / "b.h5")
