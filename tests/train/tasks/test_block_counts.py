"""How many blocks of an epoch come from each room, counted by hand: a room's points all have the room's own label."""

from dataclasses import replace

import numpy as np
import pytest

from dropfold.data_scripts.schemas import scene_schema
from dropfold.train.tasks import scenes
from tests.train.small_segmentation import small_scenes

SIZES = [100, 250, 650]  # rooms "0", "1" and "2" of the training area, and one to test on


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("counts")
    random = np.random.default_rng(0)
    with scene_schema.writer(
        path / "rooms.h5", ["0", "1", "2", "3"], "tests", "none", "run the tests"
    ) as writer:
        for i, size in enumerate([*SIZES, 90]):
            points, colour = random.uniform(0, 2, (size, 3)), np.zeros((size, 3), np.uint8)
            writer.add(
                f"room {i}", 1 + i // 3, points, colour, np.full(size, i, np.uint8), split=2 * (i // 3)
            )
    return path


def blocks_of(config):
    """The room of each block of an epoch, in their order."""
    train = scenes.load(config).train
    found = []
    for _, label in scenes.batches(train, config, 0):
        assert (label == label[:, :1]).all()  # no block has points of two rooms
        found += label[:, 0].tolist()
    return found


@pytest.mark.parametrize(
    ("blocks", "counts"),
    [
        (10, [1, 3, 6]),  # 1, 2.5, 6.5: of equal remainders the first room is served
        (7, [1, 2, 4]),  # 0.7, 1.75, 4.55: floors 0, 1, 4, and the two that are left go to 0.75 and 0.7
        (4, [0, 1, 3]),  # 0.4, 1, 2.6
        (3, [0, 1, 2]),  # 0.3, 0.75, 1.95
        (1, [0, 0, 1]),  # 0.1, 0.25, 0.65
        (20, [2, 5, 13]),  # nothing is left
    ],
)
def test_what_is_left_of_the_blocks_goes_to_the_largest_remainders(blocks, counts, folder):
    config = small_scenes(folder, protocol="split", held_out=None, blocks=blocks, batch_size=1, fewest=1)
    assert np.bincount(blocks_of(config), minlength=3).tolist() == counts


def test_the_order_of_rooms_is_drawn_anew_in_each_epoch_and_for_each_seed(folder):
    config = small_scenes(folder, protocol="split", held_out=None, blocks=20, batch_size=1, fewest=1)
    train = scenes.load(config).train
    orders = [
        tuple(int(label[0, 0]) for _, label in scenes.batches(train, replace(config, seed=seed), epoch))
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] == orders[1]
    assert len(set(orders)) == 3


def test_blocks_that_fill_no_batch_are_left_out(folder):
    config = small_scenes(folder, protocol="split", held_out=None, blocks=11, batch_size=4, fewest=1)
    assert len(blocks_of(config)) == 8


def test_classes_are_weighed_by_the_third_root_of_their_points(folder):
    """650 / 100 and 650 / 250 points; class 3 has none in training."""
    config = small_scenes(
        folder, protocol="split", held_out=None, blocks=11, batch_size=4, class_weights=True
    )
    assert scenes.load(config).weight.tolist() == pytest.approx([6.5 ** (1 / 3), 2.6 ** (1 / 3), 1.0, 1.0])


@pytest.mark.parametrize("fewest", [1, 100, 10**6])
def test_a_block_is_drawn_again_until_it_has_enough_points_or_is_the_fullest(fewest, tmp_path):
    """Nine of ten points stand in a crowd of 0.3 m (label 0), the others alone (label 1): 16 tries always meet the crowd."""
    random = np.random.default_rng(0)
    crowd = random.uniform(0, 0.3, (450, 3))
    alone = np.stack([2.0 + 3 * np.arange(50), np.full(50, 2.0), np.zeros(50)], 1)
    points, label = np.concatenate([crowd, alone]), np.repeat([0, 1], [450, 50]).astype(np.uint8)
    with scene_schema.writer(tmp_path / "rooms.h5", ["0", "1"], "tests", "none", "run the tests") as writer:
        for i in range(2):
            writer.add(f"room {i}", i + 1, points, np.zeros((500, 3), np.uint8), label, split=2 * i)
    options = {"protocol": "split", "held_out": None, "blocks": 100, "batch_size": 1}
    assert set(blocks_of(small_scenes(tmp_path, **options, fewest=fewest))) == {0}
