"""Moving furniture: what a motion does, what a single frame must not tell, and who is shown to whom."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from dropfold.data_scripts.schemas import shape_schema, video_schema
from dropfold.data_scripts.videos import moving_furniture, splat
from dropfold.data_scripts.videos.moving_furniture import HIGH, LOW, MOTIONS, convert, draw_path
from dropfold.data_scripts.work.errors import SchemaError

X, Y, RADIUS, YAW = range(4)
PAIRS = [
    ("slide left", "slide right"),
    ("slide down", "slide up"),
    ("recede", "approach"),
    ("turn left", "turn right"),
]


@pytest.fixture(scope="module")
def furniture():
    return shape_schema.read(Path(__file__).parents[3] / "data/furniture.h5")


@pytest.fixture(scope="module")
def videos(furniture):
    return convert(furniture, 6, (32, 24), 6)


def paths(motion, n=400, steps=8, loop=False):
    return np.stack([draw_path(motion, steps, np.random.default_rng(i), loop) for i in range(n)])


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [
        ("slide right", X, 1),
        ("slide left", X, -1),
        ("slide up", Y, 1),
        ("slide down", Y, -1),
        ("approach", RADIUS, 1),
        ("recede", RADIUS, -1),
        ("turn right", YAW, 1),
        ("turn left", YAW, -1),
    ],
)
def test_a_straight_motion_goes_one_way_along_one_axis(motion, axis, sign):
    steps = np.diff(paths(motion), axis=1)
    assert (sign * steps[..., axis] > 0.04 * (HIGH - LOW)[axis]).all()
    np.testing.assert_array_equal(np.delete(steps, axis, axis=2), 0)


@pytest.mark.parametrize(("motion", "axes"), [("bounce", [Y]), ("sway", [X]), ("spiral", [X, Y])])
def test_a_round_motion_turns_back(motion, axes):
    found = paths(motion)
    steps = np.diff(found, axis=1)
    for axis in axes:
        assert (steps[..., axis].max(1) > 0).all()
        assert (steps[..., axis].min(1) < 0).all()
    np.testing.assert_array_equal(np.delete(steps, axes, axis=2), 0)
    if motion == "spiral":  # clockwise and outwards, which its reversal in time is not
        x, y = found[..., X], found[..., Y]
        assert (
            np.diff(np.hypot(x[:, [0, -1]] - x.mean(1)[:, None], y[:, [0, -1]] - y.mean(1)[:, None]))
        ).mean() > 0


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_a_pair_is_the_same_frames_in_opposite_order(one, other):
    np.testing.assert_array_equal(paths(one)[:, ::-1], paths(other))


@pytest.mark.parametrize("loop", [False, True], ids=["once", "loop"])
@pytest.mark.parametrize("axis", [X, Y, RADIUS, YAW])
def test_a_frame_at_random_tells_no_straight_motion(axis, loop):
    """Each class against the class that rests on this axis: equal distributions (Kolmogorov-Smirnov, p > 0.001)."""
    random = np.random.default_rng(0)
    rest = paths("turn right" if axis != YAW else "slide up", 2000, loop=loop)[:, 0, axis]
    for motion in ("slide left", "slide down", "recede", "turn left"):
        found = np.stack([draw_path(motion, 8, np.random.default_rng(10_000 + i), loop) for i in range(2000)])
        step = random.integers(8, size=2000)
        assert ks_2samp(found[np.arange(2000), step, axis], rest).pvalue > 1e-3


def test_in_a_loop_no_frame_tells_by_its_number():
    """First frames of a motion and of its reversal: equal distributions with --loop, apart without."""
    for loop in (True, False):
        right, left = (paths(m, 1000, loop=loop)[:, 0, X] for m in ("slide right", "slide left"))
        assert (ks_2samp(right, left).pvalue > 1e-3) == loop


def test_every_motion_stays_in_sight():
    for motion in MOTIONS:
        found = paths(motion)
        assert (np.abs(found[..., :2]) < 0.3).all()
        assert (found[..., RADIUS] > np.log(0.15)).all()


def test_the_splits_are_those_of_the_furniture(videos, furniture):
    assert [len(videos.of(split)) for split in range(3)] == [66, 11, 22]
    for split in range(3):
        assert (
            np.bincount(videos.label[videos.of(split)], minlength=11).tolist()
            == [len(videos.of(split)) // 11] * 11
        )
        shown = {int(videos.group[i].split(":")[0].split()[1]) for i in videos.of(split)}
        assert shown <= set(furniture.of(split))
    assert not {videos.group[i] for i in videos.of(0)} & {videos.group[i] for i in videos.of(2)}


def test_the_seed_makes_the_clips(videos, furniture, tmp_path):
    again = convert(furniture, 6, (32, 24), 6)
    np.testing.assert_array_equal(again.frames, videos.frames)
    assert (convert(furniture, 6, (32, 24), 6, seed=1).frames != videos.frames).any()
    video_schema.write(tmp_path / "a.h5", videos)
    np.testing.assert_array_equal(video_schema.read(tmp_path / "a.h5").frames, videos.frames)


def test_the_picture_follows_the_path(furniture):
    """The centre of what differs from the backdrop moves as the path says."""
    videos = convert(furniture, 6, (64, 48), 11)
    grid_y, grid_x = np.mgrid[:48, :64]
    right, up, near = [], [], []
    for i, motion in enumerate(MOTIONS):
        for clip in np.flatnonzero(videos.label == i):
            frames = videos.frames[clip].astype(float)
            # What changes against the median of the clip would miss a resting object; brightness does not.
            weight = np.maximum(frames.max(-1) - 100, 0) + 1e-9
            weight /= weight.sum((1, 2), keepdims=True)
            x, y = (weight * grid_x).sum((1, 2)), (weight * grid_y).sum((1, 2))
            area = (frames.max(-1) > 100).mean((1, 2))
            for sign, pair, moved in (
                (1, "slide right", right),
                (-1, "slide left", right),
                (-1, "slide up", up),
                (1, "slide down", up),
            ):
                if motion == pair:
                    moved.append(sign * ((x if moved is right else y)[-1] - (x if moved is right else y)[0]))
            if motion in ("approach", "recede"):
                near.append((area[-1] - area[0]) * (1 if motion == "approach" else -1))
    for moved in (right, up, near):
        assert np.mean(np.array(moved) > 0) > 0.9


def test_nearer_discs_hide_farther_ones():
    """A red sheet before a blue one, each of one facing disc: the middle is red; shading keeps the hue."""
    frames = np.zeros((1, 1, 20, 20, 3), np.uint8)
    clouds = np.array([[[0, 0, 0.5], [0, 0, -0.5]]], np.float32)
    normals = np.array([[[0, 0, 1], [0, 0, -1]]], np.float32)
    paint = np.array([[[1, 0, 0], [0, 0, 1]]], np.float32)
    arguments = (
        np.array([0]),
        np.array([[[0.0, 0.0, 8.0, 0.0]]]),
        np.zeros(1),
        np.full((1, 20, 20, 3), 0.2, np.float32),
    )
    splat.draw(frames, clouds, normals, paint, *arguments, np.array([0.5]))
    assert frames[0, 0, 10, 10, 0] > 3 * frames[0, 0, 10, 10, 2]
    np.testing.assert_array_equal(frames[0, 0, 0, 0], [51, 51, 51])
    arguments[1][..., 3] = np.pi  # turned about: the blue one is in front
    splat.draw(frames, clouds, normals, paint, *arguments, np.array([0.5]))
    assert frames[0, 0, 10, 10, 2] > 3 * frames[0, 0, 10, 10, 0]


def test_the_contact_sheet_is_a_picture(videos, tmp_path):
    from PIL import Image

    moving_furniture.draw_sheet(videos, tmp_path / "docs/sheet.png")
    with Image.open(tmp_path / "docs/sheet.png") as picture:
        assert picture.size[1] > 11 * 60
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 1000


def test_wrong_wishes_are_said(furniture):
    with pytest.raises(SchemaError, match="1 frames and 6 clips"):
        convert(furniture, 1, (32, 24), 6)
    with pytest.raises(SchemaError, match="no normals"):
        convert(replace(furniture, normals=None), 4, (32, 24), 6)
    with pytest.raises(SchemaError, match="no models in its validation split"):
        convert(replace(furniture, split=furniture.split * 0), 4, (32, 24), 6)
    for size in ("160", "axb", "0x10"):
        with pytest.raises(SchemaError, match=f"--size is '{size}'"):
            video_schema.frame_size(size)
