"""How neighbours lie, against plain NumPy and on shapes whose answer is known."""

import numpy as np
import pytest

from dropfold.train.data.grid import grid_subsample
from dropfold.train.data.local_shape import (
    CELLS,
    CHANNELS,
    CHANNELS_PER_SCALE,
    FARTHEST,
    SMALLEST_EIGENVALUE,
    K,
    local_shape,
)

LINEARITY, PLANARITY, SPHERICITY, SIZE, UPRIGHTNESS, HEIGHT, BESIDE, ABOVE = range(CHANNELS_PER_SCALE)


def textbook(points, up):
    """A point at a time, all distances."""
    found = []
    for cell in CELLS:
        cells = grid_subsample(points, cell) if cell else None
        seen = points[cells.index] if cells else points
        for i, p in enumerate(points):
            centre = seen[cells.cell[i]] if cells else p
            near = seen[np.argsort(((seen - centre) ** 2).sum(1), kind="stable")[:K]]
            small, middle, large = np.maximum(
                np.linalg.eigvalsh(np.cov(near.T, bias=True)), SMALLEST_EIGENVALUE
            )
            normal = np.linalg.eigh(np.cov(near.T, bias=True))[1][:, 0]
            away = np.clip((near.mean(0) - p) / np.sqrt(large), -FARTHEST, FARTHEST)
            each = [(large - middle) / large, (middle - small) / large, small / large, 10 * np.sqrt(large)]
            each += [abs(normal[up]), 5 * np.ptp(near[:, up])]
            found.append([*each, np.linalg.norm(np.delete(away, up)), away[up]])
    return (
        np.array(found)
        .reshape(len(CELLS), len(points), CHANNELS_PER_SCALE)
        .transpose(1, 0, 2)
        .reshape(len(points), -1)
    )


@pytest.mark.parametrize("up", [1, 2])
def test_it_is_the_textbook_s(up):
    points = np.random.default_rng(0).uniform(0, 0.6, (300, 3)).astype(np.float32)
    np.testing.assert_allclose(
        local_shape(points, up), textbook(points.astype(np.float64), up), atol=5e-3, rtol=2e-3
    )


def test_pieces_are_one_cloud(monkeypatch):
    points = np.random.default_rng(0).uniform(0, 0.6, (300, 3)).astype(np.float32)
    whole = local_shape(points, 2)
    monkeypatch.setattr("dropfold.train.data.local_shape.PIECE", 64)
    np.testing.assert_array_equal(local_shape(points, 2), whole)


def test_floors_walls_and_rods_are_told_apart():
    """At the finest scale, away from borders; the rod is upright."""
    random = np.random.default_rng(0)
    flat = random.uniform(0, 1, (4000, 3)) * (1, 1, 0)
    inside = (np.abs(flat[:, :2] - 0.5) < 0.3).all(1)
    for axes, upright, height in (((0, 1, 2), 1.0, 0.0), ((0, 2, 1), 0.0, None)):
        found = np.median(local_shape(flat[:, axes].astype(np.float32), 2)[inside], 0)
        assert found[PLANARITY] > 0.5 > found[LINEARITY]
        assert found[UPRIGHTNESS] == upright
        assert height is None or found[HEIGHT] == height
    rod = np.linspace(0, 1, 500)[:, None] * np.array([0, 0, 1])
    assert np.median(local_shape(rod.astype(np.float32), 2)[:, LINEARITY]) > 0.9


def test_turning_and_moving_a_cloud_about_the_upright_axis_changes_nothing_at_the_finest_scale():
    """Coarser scales are cut by a grid that does not turn."""
    points = np.random.default_rng(1).normal(size=(400, 3))
    c, s = np.cos(0.7), np.sin(0.7)
    turned = points @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + (3, -2, 1)
    one, two = (
        local_shape(x.astype(np.float32), 2)[:, :CHANNELS_PER_SCALE].astype(float) for x in (points, turned)
    )
    np.testing.assert_allclose(one, two, atol=0.01, rtol=0.01)


@pytest.mark.parametrize(
    "points", [np.zeros((1, 3)), np.zeros((50, 3)), np.eye(3)], ids=["one", "copies", "few"]
)
def test_few_points_and_copies_give_numbers(points):
    found = local_shape(points.astype(np.float32), 2)
    assert found.shape == (len(points), CHANNELS)
    assert np.isfinite(found).all()
