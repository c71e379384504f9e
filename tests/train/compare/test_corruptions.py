"""What each corruption does to a cloud, and that chance is the same for every run."""

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dropfold.train.compare import corruptions
from dropfold.train.compare.corruptions import ALL, corrupt

LEVELS = range(1, 6)


@pytest.fixture(scope="module")
def points(furniture):
    return furniture.points[::12, :512]


@pytest.fixture(scope="module")
def places(furniture):
    return np.arange(len(furniture.label))[::12]


def rows(cloud):
    return {tuple(point) for point in cloud.tolist()}


@pytest.mark.parametrize("N", [1024, 512, 100])
def test_counts_are_those_of_1024_points_in_proportion(furniture, N):
    x = furniture.points[:2, :N]
    for level in LEVELS:
        few, many = round(10 * level * N / 1024), round(100 * level * N / 1024)
        share = (0.25, 0.375, 0.5, 0.625, 0.75)[level - 1]
        expected = {
            "drop_global": math.floor(N * (1 - share)),
            "drop_local": N - many,
            "add_global": N + few,
            "add_local": N + many,
            "missing_parts": N - round((20 + 10 * level) * N / 100),
        }
        for name in ALL:
            found = corrupt(x, np.array([0, 1]), name, level)
            assert found.shape == (2, expected.get(name, N), 3), name
            assert found.dtype == np.float32


@pytest.mark.parametrize("name", ALL)
def test_chance_is_a_function_of_seed_level_and_place(points, places, name):
    """Whatever else is in the batch: a fold sees the points that the whole file sees."""
    found = corrupt(points, places, name, 3)
    np.testing.assert_array_equal(found, corrupt(points, places, name, 3))
    np.testing.assert_array_equal(found[5:7], corrupt(points[5:7], places[5:7], name, 3))
    assert not np.array_equal(found, corrupt(points, places, name, 3, seed=1))
    assert not np.array_equal(found, corrupt(points, places + 1, name, 3))
    assert found.shape != corrupt(points, places, name, 4).shape or not np.array_equal(
        found, corrupt(points, places, name, 4)
    )


def test_each_level_draws_anew(points, places):
    noise = [(corrupt(points, places, "jitter", level) - points).ravel() for level in LEVELS]
    between = np.corrcoef(noise)[np.triu_indices(len(noise), 1)]
    assert np.abs(between).max() < 5 / np.sqrt(len(noise[0]))  # five standard errors of what is independent


@pytest.mark.parametrize("name", ["drop_global", "drop_local", "missing_parts"])
def test_what_is_left_are_points_of_the_cloud_in_their_order(points, places, name):
    for level in LEVELS:
        for before, after in zip(points, corrupt(points, places, name, level)):
            kept = rows(after)
            np.testing.assert_array_equal([p for p in before.tolist() if tuple(p) in kept], after)


@pytest.mark.parametrize("name", ["add_global", "add_local"])
def test_what_is_added_lies_in_the_unit_sphere_behind_the_cloud(points, places, name):
    for level in LEVELS:
        found = corrupt(points, places, name, level)
        np.testing.assert_array_equal(found[:, :512], points)
        assert np.linalg.norm(found[:, 512:], axis=2).max() <= 1 + 1e-6  # float32


@pytest.mark.parametrize("level", LEVELS)
def test_local_parts_are_nearest_neighbours_and_as_many_as_asked(points, level, monkeypatch):
    """With one part there is a point of which exactly the K nearest are gone; with any parts exactly K points are."""
    x, K = points[0].astype(float), 50 * level
    monkeypatch.setattr(corruptions, "parts", lambda K, random: np.array([K]))
    left = corruptions.drop_local(x, 100 * level, np.random.default_rng(level))
    gone = np.array([p for p in x.tolist() if tuple(p) not in rows(left)])
    assert len(gone) == K
    distance = np.linalg.norm(gone[:, None] - x, axis=2)
    inside = np.sort(distance, 1)[:, K - 1]  # the radius of the ball of K about each
    assert (np.linalg.norm(gone[:, None] - gone, axis=2).max(1) <= inside).any()


def test_parts_add_up():
    """Sizes of one to seven parts; the K points choose among them, so that parts are random in size."""
    random = np.random.default_rng(0)
    found = [corruptions.parts(100, random) for _ in range(300)]
    assert {len(sizes) for sizes in found} == set(range(1, 8))
    assert all(sizes.sum() == 100 for sizes in found)
    assert len({tuple(sizes) for sizes in found if len(sizes) == 2}) > 5


@pytest.mark.parametrize("level", LEVELS)
def test_jitter_has_its_standard_deviation(points, places, level):
    moved = corrupt(points, places, "jitter", level) - points
    # The estimate from m numbers has a relative standard error of 1 / sqrt(2 m); five of them.
    assert moved.std() == pytest.approx(0.01 * level, rel=5 / math.sqrt(2 * moved.size))


def test_rotations_are_rotations_by_euler_angles_within_their_range(points, places):
    largest = []
    for level in LEVELS:
        angles = []
        for before, after in zip(points, corrupt(points, places, "rotate", level)):
            matrix = np.linalg.lstsq(before, after, rcond=None)[0].astype(float)
            np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-4)  # float32 coordinates
            angles.append(np.abs(Rotation.from_matrix(matrix).as_euler("xyz")).max())
        largest.append(max(angles))
        assert largest[-1] <= level * math.pi / 30 + 1e-3
    assert np.all(np.diff(largest) > 0)  # of 30 clouds the largest comes near the range


def test_scaled_clouds_are_centred_and_touch_the_unit_sphere(points, places):
    for level in LEVELS:
        S = 1.5 + 0.1 * level
        for before, after in zip(points, corrupt(points, places, "scale", level)):
            assert np.abs(after.mean(0)).max() < 1e-5
            assert np.linalg.norm(after, axis=1).max() == pytest.approx(1, abs=1e-5)
            factor = after.std(0) / before.std(0)
            assert factor.max() / factor.min() <= S**2 + 1e-3


def test_added_points_are_uniform_in_the_sphere_or_gaussian_about_the_cloud(monkeypatch):
    x, random = np.zeros((4096, 3)), np.random.default_rng(0)
    # In a ball the cube of the radius is uniform: mean 1/2, standard error 1 / sqrt(12 K); four of them.
    radius = np.linalg.norm(corruptions.add_global(x, 1000, random)[4096:], axis=1)
    assert (radius**3).mean() == pytest.approx(0.5, abs=4 / math.sqrt(12 * 4000))
    monkeypatch.setattr(corruptions, "parts", lambda K, random: np.array([K]))
    widths = [corruptions.add_local(x, 250, random)[4096:].std() for _ in range(50)]
    assert 0.07 < min(widths) < 0.085
    assert 0.115 < max(widths) < 0.13


@pytest.mark.parametrize("name", ["rotate", "scale"])
def test_a_corruption_of_the_whole_commutes_with_a_permutation_of_the_points(points, places, name):
    order = np.random.default_rng(0).permutation(512)
    found = corrupt(points[:, order], places, name, 5)
    np.testing.assert_allclose(found, corrupt(points, places, name, 5)[:, order], atol=1e-6)


def test_bad_input_is_named(points, places):
    def refused(match, *given):
        with pytest.raises(ValueError, match=match):
            corrupt(*given)

    refused("there is no corruption 'fog' of level 1; there are jitter, scale", points, places, "fog", 1)
    refused("level 6", points, places, "jitter", 6)
    refused("at least 8; got .30, 4, 3.", points[:, :4], places, "jitter", 1)
    refused("lies 7.000 from the centre", 7 * points, places, "jitter", 1)


@pytest.mark.parametrize("centre", ["mean", "box"])
def test_axes_that_keep_their_lengths_move_nothing(centre, monkeypatch):
    """A cloud comes back to where its data set has it: what scaling costs is not the frame's."""
    from dropfold.data_scripts.schemas.centre import normalised

    x = normalised(np.random.default_rng(0).gamma(1.0, size=(200, 3)), centre).astype(np.float64)
    same = corruptions.scale(x, 1.0, np.random.default_rng(1), centre)
    np.testing.assert_allclose(same, x, atol=1e-6)
    found = corrupt(x[None].astype(np.float32), np.array([0]), "scale", 5, centre=centre)[0]
    np.testing.assert_allclose(found, normalised(found, centre), atol=1e-5)
