"""Video files: written and read back, folds with their promises, every fault a sentence."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from dropfold.data_scripts.schemas import h5_file, video_schema
from dropfold.data_scripts.schemas.splits import group_folds, group_split, random_folds
from dropfold.data_scripts.schemas.video_schema import SchemaError, Videos


@pytest.fixture(scope="module")
def small():
    """Twelve clips of at most four frames of 6 x 8 pixels: two classes, six groups."""
    random = np.random.default_rng(0)
    length = random.integers(1, 5, 12)
    frames = random.integers(1, 256, (12, 4, 6, 8, 3), dtype=np.uint8)
    frames[np.arange(4) >= length[:, None]] = 0
    label = (np.arange(12) // 2 % 2).astype(np.int64)
    group = [f"scene {i // 2}" for i in range(12)]
    fold = group_folds(group, label)
    return Videos(
        frames=frames,
        length=length,
        label=label,
        split=group_split(group, label),
        fold=random_folds(12),
        group_fold=fold,
        group=group,
        name=[f"clip {i}" for i in range(12)],
        class_names=["to", "fro"],
        source="a test",
        credits="none",
        rebuild="dropfold data videos",
    )


@pytest.mark.parametrize("labelled", [False, True], ids=["one label", "labels"])
def test_what_is_written_is_read(small, labelled, tmp_path):
    videos = replace(small, labels=np.ones((12, 2), np.uint8)) if labelled else small
    video_schema.write(tmp_path / "a.h5", videos)
    found = video_schema.read(tmp_path / "a.h5")
    for item in ("frames", "length", "label", "split", "fold", "group_fold"):
        np.testing.assert_array_equal(getattr(found, item), getattr(small, item))
    assert (found.group, found.name, found.class_names) == (small.group, small.name, small.class_names)
    assert (found.labels is not None) == labelled
    assert sorted(np.concatenate([found.of(split) for split in range(3)])) == list(range(12))
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["frames"].chunks == (1, 4, 6, 8, 3)


def test_frames_may_lie_on_the_disk(small, tmp_path):
    np.save(tmp_path / "frames.npy", small.frames)
    video_schema.write(tmp_path / "a.h5", small)
    mapped = replace(small, frames=np.load(tmp_path / "frames.npy", mmap_mode="r"))
    video_schema.write(tmp_path / "b.h5", mapped)
    assert video_schema.read(tmp_path / "b.h5").checksum == video_schema.read(tmp_path / "a.h5").checksum


def item(name, change):
    def act(file):
        values = file[name][()]
        del file[name]
        file[name] = change(values)

    return act


def beyond(frames):
    frames = frames.copy()
    frames[:, -1] = 7
    return frames


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda f: f.__delitem__("length"), "has no dataset 'length'"),
        (lambda f: f.__delitem__("group_fold"), "has no dataset 'group_fold'"),
        (item("frames", lambda v: v.astype(np.float32)), "frames's type is float32, expected uint8"),
        (item("frames", lambda v: v[..., :2]), r"frames' shape is .* C = 1 or 3"),
        (item("frames", lambda v: v[:, 0]), "frames' shape is"),
        (item("frames", beyond), r"clip \d+ \(clip \d+\) is not zero beyond its length"),
        (item("length", lambda v: v * 0), r"length of clip 0 \(clip 0\) is 0, expected 1 .. 4"),
        (item("length", lambda v: v + 4), r"length of clip 0 .* expected 1 .. 4"),
        (item("length", lambda v: v[:-1]), "length's shape is .* one entry for each of the 12 clips"),
        (item("label", lambda v: v - 1), r"label is -1 \.\. 0, expected 0 \.\. 1"),
        (item("split", lambda v: v + 3), "split is up to"),
        (item("fold", lambda v: v + 5), r"fold is up to \d, expected 0 .. 4"),
        (
            item("group_fold", lambda v: np.arange(12, dtype=np.uint8) % 5),
            "group 'scene 0' is in folds 0 and 1",
        ),
        (item("group", lambda v: np.arange(12)), "group's type is int64, expected text"),
        (
            lambda f: f.create_dataset("labels", data=np.ones((12, 3), np.uint8)),
            r"labels' shape is \(12, 3\)",
        ),
        (lambda f: f.create_dataset("labels", data=np.full((12, 2), 2, np.uint8)), "labels is up to 2"),
        (lambda f: f.create_dataset("labels", data=np.zeros((12, 2), np.uint8)), "label is not among labels"),
        (item("frames", lambda v: v // 2), "checksum"),
        (
            lambda f: f.attrs.__setitem__("task", "classification"),
            "task 'classification', expected .* 'video'",
        ),
    ],
)
def test_a_wrong_item_is_named_with_the_way_to_mend_it(act, message, small, tmp_path):
    path = tmp_path / "a.h5"
    video_schema.write(path, small)
    with h5py.File(path, "r+") as file:
        act(file)
    with pytest.raises(SchemaError, match=message) as caught:
        video_schema.read(path)
    assert str(path) in str(caught.value)
    assert "dropfold data videos" in str(caught.value)


def test_a_faulty_set_is_not_written(small, tmp_path):
    with pytest.raises(SchemaError, match="length of clip 0"):
        video_schema.write(tmp_path / "a.h5", replace(small, length=small.length * 0))
    assert not list(tmp_path.iterdir())
    with pytest.raises(SchemaError, match=r"a\.h5 is not there\. dropfold data moving-furniture"):
        video_schema.read(tmp_path / "a.h5")


def test_a_disk_that_fills_while_writing_is_a_sentence(small, tmp_path, run_python):
    """In another process whose files are limited; HDF5 says so only when it closes the file."""
    video_schema.write(tmp_path / "a.h5", small)
    script = (
        "import resource, sys\nfrom pathlib import Path\nfrom dropfold.data_scripts.schemas import video_schema\n"
        "videos, out = video_schema.read(Path(sys.argv[1])), Path(sys.argv[2])\n"
        "for size in (100, 3000):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
        "    try: video_schema.write(out, videos)\n"
        "    except video_schema.SchemaError as error: print(error)\n"
    )
    done = run_python("-c", script, str(tmp_path / "a.h5"), str(tmp_path / "b.h5"))
    said = f"{tmp_path / 'b.h5'} could not be written (file too large)."
    assert done.stdout.replace("File", "file").splitlines() == [said] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_a_full_disk_is_said_before_hdf5_meets_it(small, tmp_path, monkeypatch):
    """HDF5 would go on without a word, print tracebacks of its own, and crash when the process ends."""

    def free(size):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=h5_file.MARGIN + size))

    free(small.frames.nbytes - 1)
    with pytest.raises(
        SchemaError, match=r"b\.h5 could not be written \(No space left .* bytes are free, up to "
    ):
        video_schema.write(tmp_path / "b.h5", small)
    assert not list(tmp_path.iterdir())
    free(small.frames.nbytes)
    video_schema.write(tmp_path / "b.h5", small)


def test_what_is_written_in_slices_is_the_same_file(small, tmp_path, monkeypatch):
    video_schema.write(tmp_path / "a.h5", small)
    monkeypatch.setattr(h5_file, "SLICE", 5 * small.frames[0].nbytes)
    video_schema.write(tmp_path / "b.h5", small)
    found = video_schema.read(tmp_path / "b.h5")
    np.testing.assert_array_equal(found.frames, small.frames)
    assert found.checksum == video_schema.read(tmp_path / "a.h5").checksum


# --- folds -------------------------------------------------------------------------------------------------------
