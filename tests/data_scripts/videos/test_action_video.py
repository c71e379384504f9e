"""Action video on a small archive in its layout."""

import numpy as np
import pytest

from dropfold.data_scripts.schemas import video_schema
from dropfold.data_scripts.videos import action_video
from dropfold.data_scripts.work.errors import SchemaError


def source(path, **changes):
    """Ten people, three actions, one clip of each."""
    person, action = (v.ravel() for v in np.mgrid[1:11, :3])
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 6, 8), dtype=np.uint8)
    arrays = {"x": x, "label": action.astype(np.int16), "subject": person, "train": person % 2 == 1}
    np.savez(path, **{**arrays, "classes": np.array(["wave", "clap", "jump"]), **changes})
    return path


def check(videos, people):
    person = np.array([int(group.split()[1]) for group in videos.group])
    assert set(person[videos.of(0)]) == {1, 3, 5} & people
    assert set(person[videos.of(1)]) == {7, 9} & people
    assert set(person[videos.of(2)]) == {2, 4, 6, 8, 10} & people
    for fold in range(5):
        assert len(set(person[videos.group_fold == fold])) == 2
        assert set(videos.label[videos.group_fold == fold]) == set(videos.label)


def test_odd_people_train_and_even_people_test(tmp_path):
    videos = action_video.convert(source(tmp_path / "a.npz"))
    video_schema.write(tmp_path / "a.h5", videos)
    found = video_schema.read(tmp_path / "a.h5")
    check(found, set(range(1, 11)))
    assert found.frames.shape == (30, 4, 6, 8, 1)
    assert found.class_names == ["wave", "clap", "jump"]


def test_a_copy_of_a_training_clip_among_those_that_test_is_said(tmp_path, caplog):
    x = np.random.default_rng(1).integers(0, 256, (30, 4, 6, 8), dtype=np.uint8)
    x[5] = x[1]
    action_video.convert(source(tmp_path / "a.npz", x=x))
    assert "person 02, jump, clip 5 -> person 01, clap, clip 1" in caplog.text


def test_broken_sources_are_named(tmp_path):
    with pytest.raises(SchemaError, match="is not there; give the path"):
        action_video.convert(tmp_path / "a.npz")
    for changes, message in (
        ({"x": np.zeros(30, np.uint8)}, r"x is uint8 \(30,\), expected uint8 \[clips, frames"),
        ({"x": np.zeros((30, 4, 6, 8))}, r"x is float64 \(30, 4, 6, 8\), expected uint8"),
        ({"x": np.zeros((0, 4, 6, 8), np.uint8)}, r"x is uint8 \(0, 4, 6, 8\)"),
        ({"label": np.zeros(5, int)}, r"label is int64 \(5,\), expected whole \[30\], one a clip"),
        ({"label": np.full(30, 3)}, r"label is 3 \.\. 3, expected one of the 3 classes"),
        ({"subject": np.full(30, "a")}, r"subject is <U1 \(30,\), expected whole"),
        ({"train": np.arange(30)}, r"train is int64 \(30,\), expected boolean"),
    ):
        with pytest.raises(SchemaError, match=message):
            action_video.convert(source(tmp_path / "a.npz", **changes))
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    with pytest.raises(SchemaError, match="not a whole"):
        action_video.convert(tmp_path / "b.npz")
