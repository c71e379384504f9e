"""Blocks of rooms, and whole scenes labelled by votes, against plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dropfold.data_scripts.schemas import scene_schema
from dropfold.train.config.configs import AugmentConfig
from dropfold.train.data.columns import Columns, channels
from dropfold.train.data.local_shape import CHANNELS, local_shape
from dropfold.train.tasks import scenes
from dropfold.train.tasks.scene_prediction import PADDING, label_points, starts
from dropfold.train.tasks.segmentation import groups
from tests.train.small_segmentation import CLASSES, room, small_scenes, write_rooms


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rooms")
    write_rooms(path / "rooms.h5")
    return path


@pytest.fixture
def still(folder):
    return small_scenes(folder, augment=AugmentConfig(scale=(1.0, 1.0), shift=0.0))


@pytest.mark.parametrize("extent", [(3.0, 2.0), (0.2, 5.0), (0.0, 0.0)], ids=["room", "narrow", "one-place"])
def test_a_column_holds_the_points_that_a_search_of_all_finds(extent):
    random = np.random.default_rng(0)
    xy = (random.uniform(0, 1, (500, 2)) * extent).astype(np.float32)
    columns = Columns(xy, 0.5)
    assert sorted(columns.order) == list(range(500))
    for _ in range(20):
        low = random.uniform(-1, 3, 2)
        high = low + random.uniform(0, 1.5, 2)
        expected = np.flatnonzero((xy >= low).all(1) & (xy <= high).all(1))
        np.testing.assert_array_equal(np.sort(columns.order[columns.inside(low, high)]), expected)


def test_a_point_far_away_does_not_cost_cells():
    xy = np.concatenate([np.random.default_rng(0).uniform(0, 3, (100, 2)), [[1e6, 1e6]]])
    columns = Columns(xy, 0.5)
    assert columns.rows * columns.columns < 1 << 23
    assert len(columns.inside(np.zeros(2), np.full(2, 3.0))) == 100


def test_a_block_is_a_column_of_its_room(still):
    config = replace(still, points=64)
    points, colour, label = room(np.random.default_rng(1), 3000)
    opened = scenes.OpenRoom(scene_schema.Room(points, colour, label), config)
    x, held = opened.block(torch.Generator().manual_seed(0))
    assert x.shape == (64, 9)
    assert x[:, :2].abs().max() <= 0.5 + 1e-6
    # Each point of the block is a point of the room: where it lies in the room is in its last channels.
    place = (x[:, 6:] * torch.from_numpy(points.max(0))).numpy()
    distance = np.linalg.norm(place[:, None] - points[None], axis=2)
    nearest = distance.argmin(1)
    assert distance.min(1).max() < 1e-5
    np.testing.assert_allclose(x[:, 2], points[nearest, 2], atol=1e-6)
    np.testing.assert_allclose(x[:, 3:6], colour[nearest] / 255, atol=1e-6)
    np.testing.assert_array_equal(held, label[nearest])
    assert len(set(nearest.tolist())) == 64  # no point twice where there are enough


def test_a_block_has_the_shape_around_its_points_in_the_whole_room(still):
    config = replace(still, local_shape=True)
    data = scenes.load(config)
    assert data.signature.shape == (64, 9 + CHANNELS)
    (x,), _ = next(scenes.batches(data.train, config, 0))
    (plain,), _ = next(scenes.batches(data.train, still, 0))
    assert torch.equal(x[..., :9], plain)
    whole = np.concatenate([local_shape(data.train.scenes.room(i).points, 2) for i in data.train.index])
    rows = {row.tobytes() for row in whole}
    assert all(row.tobytes() in rows for row in x[..., 9:].half().flatten(0, 1).numpy())


def test_the_shape_around_points_is_kept_where_the_rooms_are_few(still):
    few = replace(still, local_shape=True, pool_points=1)
    for config, kept in ((replace(few, pool_points=1 << 25), True), (few, False)):
        split = scenes.load(config).train
        first, again = (list(scenes.batches(split, config, 0)) for _ in range(2))
        assert all(torch.equal(a[0][0], b[0][0]) for a, b in zip(first, again, strict=True))
        assert split.shapes.keys() == (set(range(len(split))) if kept else set())


def test_a_block_with_fewer_points_than_asked_repeats_them(still):
    """30 points in all, fewer than `fewest` and than `points`: no endless search, and all are seen."""
    points, colour, label = room(np.random.default_rng(2), 30)
    points[:, :2] *= 0.1
    opened = scenes.OpenRoom(scene_schema.Room(points, colour, label), still)
    x, held = opened.block(torch.Generator().manual_seed(0))
    assert x.shape == (64, 9)
    assert len(held) == 64
    assert len(x.unique(dim=0)) == 30


def test_a_step_is_a_function_of_seed_epoch_and_step(still):
    data = scenes.load(still)
    for epoch in (0, 1):
        one, two = (list(scenes.batches(data.train, still, epoch)) for _ in range(2))
        for ((a,), la), ((b,), lb) in zip(one, two, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(la, lb)
    shares = [list(scenes.batches(data.train, still, 0, rank, 2)) for rank in range(2)]
    for i, ((x,), label) in enumerate(scenes.batches(data.train, still, 0)):
        assert torch.equal(x, torch.cat([shares[rank][i][0][0] for rank in range(2)]))
        assert torch.equal(label, torch.cat([shares[rank][i][1] for rank in range(2)]))
    first, second = (next(scenes.batches(data.train, still, epoch))[0][0] for epoch in (0, 1))
    assert not torch.equal(first, second)


def test_of_one_room_the_blocks_are_others_for_each_seed_epoch_and_slot(still):
    """Of one room: here the order of the rooms changes nothing."""
    data = scenes.load(still).train
    one, drawn = scenes.Rooms(data.scenes, data.index[:1]), []
    for changed, epoch in (({}, 0), ({}, 1), ({"seed": 1}, 0)):
        for (x,), _ in scenes.batches(one, replace(still, **changed), epoch):
            drawn += x.sum((1, 2)).tolist()
    assert len(drawn) == 3 * still.blocks == len(set(drawn))


def test_the_blocks_that_are_scored_are_the_same_for_all_seeds_and_not_augmented(still):
    split = scenes.load(still).test
    (x,), label = scenes.fixed(split, still)
    assert x.shape[:2] == (still.validation_blocks, still.points)
    augment = AugmentConfig(scale=(0.5, 2.0), shift=0.5, rotate=True, up="z", jitter=0.1, point_dropout=0.5)
    for changed in ({"seed": 5}, {"augment": augment}, {"blocks": 3, "batch_size": 2}):
        split.kept.clear()
        (again,), labels = scenes.fixed(split, replace(still, **changed))
        assert torch.equal(again, x), changed
        assert torch.equal(labels, label)


@pytest.mark.parametrize("pool", [1, 4000, 1 << 25], ids=["room-by-room", "pools", "one-pool"])
def test_a_room_is_read_once_in_an_epoch_and_few_are_open(pool, still, monkeypatch):
    config = replace(still, pool_points=pool, blocks=60)
    split = scenes.load(config).train
    read, opened = [], []
    original = scene_schema.Scenes.room
    monkeypatch.setattr(scene_schema.Scenes, "room", lambda self, i: read.append(i) or original(self, i))

    class Counted(scenes.OpenRoom):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            opened.append(len(self.room.points))

        def __del__(self):
            opened.remove(len(self.room.points))

    monkeypatch.setattr(scenes, "OpenRoom", Counted)
    most = 0
    for _ in scenes.batches(split, config, 0):
        most = max(most, sum(opened))
    assert sorted(read) == sorted(set(read)) == sorted(split.index)
    # A pool, and the room that begins the next one within the same batch.
    assert most <= pool + 3 * int(split.sizes.max())
    counts = np.bincount(scenes.slots(split, config, 0), minlength=len(split))
    assert counts.sum() == 60
    assert np.abs(counts - 60 * split.sizes / split.sizes.sum()).max() < 1


def test_an_epoch_has_as_many_blocks_as_the_points_fill(still):
    config = replace(still, blocks=None, sample_rate=0.5)
    split = scenes.load(config).train
    assert scenes.samples(split, config) == int(split.sizes.sum() * 0.5 / 64)


def test_class_weights_are_the_third_root_of_what_is_missing(still):
    data = scenes.load(replace(still, class_weights=True))
    label = np.concatenate([data.train.scenes.room(i).label for i in data.train.index])
    counts = np.bincount(label, minlength=len(CLASSES))
    np.testing.assert_allclose(data.weight, (counts.max() / counts) ** (1 / 3), rtol=1e-6)


def test_areas_are_held_out_whole(still):
    data = scenes.load(replace(still, held_out=2))
    area = data.test.scenes.area
    assert set(area[data.test.index]) == {2}
    assert set(area[data.train.index]) == {1, 3}
    assert len(data.validation) == 1
    with pytest.raises(ValueError, match=r"one of \[1, 2, 3\]; got None"):
        scenes.load(replace(still, held_out=None))


@pytest.mark.parametrize("size", [1, 31, 32, 33, 100])
def test_groups_hold_every_point(size):
    found = groups(size, 32, np.random.default_rng(0))
    assert found.shape == (-(-size // 32), 32)
    counts = np.bincount(found.ravel(), minlength=size)
    assert counts.min() == 1 if size >= 16 else counts.min() >= 1
    assert counts.max() <= 2 or size < 16


class Pointwise(nn.Module):
    """Classes by where a point lies in its block, its colour and its place in the room."""

    def __init__(self, channels=9):
        super().__init__()
        torch.manual_seed(3)
        self.weight = nn.Parameter(3 * torch.randn(channels, 4))

    def forward(self, x):
        return torch.sin(5 * x) @ self.weight


@pytest.mark.parametrize(
    ("colours", "shaped"), [(True, False), (False, False), (True, True)], ids=["colour", "gray", "shape"]
)
@pytest.mark.parametrize(
    "size", [(2.3, 1.7, 2.0), (0.6, 3.1, 2.0), (0.3, 0.3, 0.0)], ids=["room", "hallway", "spot"]
)
def test_votes_are_those_of_plain_loops(size, colours, shaped, still):
    """Groups of one point, so that no copy votes: a point's votes are those of the columns that hold it."""
    random = np.random.default_rng(4)
    points = (random.uniform(0, 1, (400, 3)) * size).astype(np.float32)
    colour = random.integers(256, size=(400, 3)).astype(np.uint8) if colours else None
    points -= points.min(0)
    config = replace(still, points=1, colour=colours, stride=0.5, local_shape=shaped)
    shape = local_shape(points, 2) if shaped else None
    network = Pointwise((9 if colours else 6) + (CHANNELS if shaped else 0))
    votes, times = np.zeros((400, 4)), np.zeros(400, int)
    for x in starts(0.0, float(points[:, 0].max()), 1.0, 0.5):
        for y in starts(0.0, float(points[:, 1].max()), 1.0, 0.5):
            for i, point in enumerate(points):
                if x - PADDING <= point[0] <= x + 1 + PADDING and y - PADDING <= point[1] <= y + 1 + PADDING:
                    own = [None if values is None else values[i] for values in (colour, shape)]
                    centre = np.array([x + 0.5, y + 0.5], np.float32)
                    seen = channels(point, own[0], centre, points.max(0), own[1])
                    votes[i] += network(torch.from_numpy(seen)).softmax(-1).detach().numpy()
                    times[i] += 1
    assert times.min() >= 1
    told = []
    labels = label_points(network, points, colour, config, 4, told.append)
    sure = np.sort(votes)[:, -1] - np.sort(votes)[:, -2] > 1e-5  # float32 sums in another order
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(labels[sure], votes.argmax(1)[sure])
    assert sum(told) == 400


def test_a_label_does_not_depend_on_the_order_of_the_points(still):
    points, colour, _ = room(np.random.default_rng(5), 700)
    order = np.random.default_rng(6).permutation(700)
    config, network = replace(still, points=1), Pointwise()
    a = label_points(network, points, colour, config, 4)
    b = label_points(network, points[order] + np.float32(8), colour[order], config, 4)
    assert (a[order] == b).mean() > 0.99  # moved by 8 m, coordinates are rounded anew


def test_each_vote_cuts_a_column_anew_and_all_are_added(still):
    """In one column, with a network whose answer depends on the group that a point is in."""
    random = np.random.default_rng(7)
    points = random.uniform(0, 0.9, (200, 3)).astype(np.float32)
    points -= points.min(0)
    colour = random.integers(256, size=(200, 3)).astype(np.uint8)
    pointwise = Pointwise()

    class Grouped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pointwise = pointwise

        def forward(self, x):
            return self.pointwise(x) + 5 * self.pointwise(x).mean(-2, keepdim=True)

    network, found = Grouped(), {}
    columns = Columns(points[:, :2], 0.5)
    corner = columns.high - 1
    for votes in (1, 3):
        total = np.zeros((200, 4))
        for vote in range(votes):
            for group in groups(200, 16, np.random.default_rng((vote, 0, 0))):
                rows = columns.order[group]
                seen = channels(points[rows], colour[rows], corner + 0.5, points.max(0))
                answer = network(torch.from_numpy(seen)[None])[0].softmax(-1).detach().numpy()
                np.add.at(total, rows, answer)
        config = replace(still, points=16, stride=0.5, votes=votes)
        found[votes] = label_points(network, points, colour, config, 4)
        sure = np.sort(total)[:, -1] - np.sort(total)[:, -2] > 1e-4
        assert sure.mean() > 0.95
        np.testing.assert_array_equal(found[votes][sure], total.argmax(1)[sure])
    assert (found[1] != found[3]).any()


@pytest.mark.parametrize("far", [(30, 3_000, 1), (3_000, 30, 1)], ids=["y", "x"])
def test_a_point_far_away_costs_no_empty_columns(far, still, monkeypatch):
    looked, inside, run = [], Columns.inside, Columns.run

    def counted(whole):
        return lambda self, *bounds: looked.append(1) or whole(self, *bounds)

    monkeypatch.setattr(Columns, "inside", counted(inside))
    monkeypatch.setattr(Columns, "run", counted(run))
    points = np.random.default_rng(0).uniform(0, 2, (300, 3)).astype(np.float32)
    points[7] = far
    told = []
    label_points(Pointwise(), points, np.zeros((300, 3), np.uint8), replace(still, points=8), 4, told.append)
    assert sum(told) == 300
    assert len(looked) < 300


def test_far_from_the_minimum_a_block_is_as_fine(still):
    """What the network sees from a block's centre is rounded once, not twice."""
    points = np.random.default_rng(0).uniform(0, 1, (50, 3)).astype(np.float32) + np.float32([8_000, 0, 0])
    centre = np.array([8_000.37, 0.4])
    seen = channels(points, None, centre, points.max(0))
    np.testing.assert_array_equal(seen[:, :2], (points[:, :2].astype(np.float64) - centre).astype(np.float32))


def test_a_scene_without_points_is_named(still):
    with pytest.raises(ValueError, match="a scene has no points"):
        label_points(Pointwise(), np.empty((0, 3), np.float32), None, still, 4)
    with pytest.raises(ValueError, match="a room has no points"):
        Columns(np.empty((0, 2), np.float32), 0.5)
