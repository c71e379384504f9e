"""One point a cell of a grid."""

import numpy as np
import pytest

from dropfold.train.data.grid import grid_subsample


def scene(n=5000):
    return np.random.default_rng(0).normal(size=(n, 3)) * [3, 2, 1] + 100


def test_every_point_is_in_its_cell_and_every_cell_has_one_point():
    pos, cell = scene(), 0.25
    cells = grid_subsample(pos, cell)
    place = np.floor((pos - pos.min(0)) / cell)
    occupied, of_point = np.unique(place, axis=0, return_inverse=True)
    assert np.array_equal(cells.cell, of_point.ravel())  # in the order of their coordinates
    assert np.array_equal(cells.count, np.bincount(of_point.ravel()))
    assert np.array_equal(place[cells.index], occupied)
    assert np.array_equal(cells.cell[cells.index], np.arange(len(occupied)))


def test_the_point_nearest_to_the_mean_stands_for_its_cell():
    pos = scene(2000)
    cells = grid_subsample(pos, 0.5)
    for s, i in enumerate(cells.index):
        own = np.flatnonzero(cells.cell == s)
        d = np.square(pos[own] - pos[own].mean(0)).sum(1)
        # Means round apart by 1e-14 of positions around 100.
        assert d[own == i][0] <= d.min() + 1e-11
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]])
    assert grid_subsample(corners, 4).index.tolist() == [0]  # all equally near: the smaller index


def test_float32_scenes_far_from_the_origin_keep_their_cells():
    near = np.random.default_rng(1).integers(0, 64, (3000, 3)) / 4
    far = (near + np.array([2**17, 0, 0])).astype(np.float32)  # quarters are still exact there
    for a, b in zip(grid_subsample(near, 1.0), grid_subsample(far, 1.0)):
        assert np.array_equal(a, b)


def test_no_points_and_bad_input():
    assert [len(a) for a in grid_subsample(np.zeros((0, 3)), 1.0)] == [0, 0, 0]
    for message, arguments in (
        (r"pos must be \[M, 3\]", (np.zeros((4, 2)), 1.0)),
        ("positive length; got 0", (np.zeros((4, 3)), 0)),
        ("1 of 2 rows are not", (np.array([[0, 0, 0], [0, np.nan, 0]]), 1.0)),
        ("in the same unit", (np.array([[0.0, 0, 0], [1e9, 1e9, 1e9]]), 1e-3)),
    ):
        with pytest.raises(ValueError, match=message):
            grid_subsample(*arguments)
