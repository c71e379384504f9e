"""Which samples are in a batch, whose share they are, and which points of them are seen."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from dropfold.train.config.configs import AugmentConfig
from dropfold.train.tasks import clouds, video
from tests.train.conftest import small, small_video

STILL = AugmentConfig(scale=(1.0, 1.0), shift=0.0)


@pytest.fixture
def still(folder):
    """30 training clouds as they are: 3 batches of 8, and 6 are left over."""
    return small(folder, augment=STILL, resample=False)


def joined(batches):
    """The places of several batches, one after another."""
    return [*itertools.chain.from_iterable(batches)]


def places(config, epoch=0, rank=0, processes=1, split="train"):
    """The place in the split of each cloud of each batch, found by its points; labels must be those of the places."""
    data = clouds.load(config)
    part = getattr(data, split)
    known = part.inputs[0][:, : config.points].flatten(1)
    found = []
    for (x,), label in clouds.batches(part, config, epoch, rank, processes):
        same = (x.flatten(1)[:, None] == known).all(2)
        assert (same.sum(1) == 1).all()
        found.append(same.int().argmax(1).tolist())
        assert torch.equal(label, part.label[found[-1]])
    return found


def test_an_epoch_has_whole_batches_and_no_sample_twice(still):
    batches = places(still)
    assert [len(batch) for batch in batches] == [8, 8, 8]
    assert len({place for batch in batches for place in batch}) == 24


def test_what_is_left_over_is_another_part_of_the_set_in_each_epoch(still):
    orders = [joined(places(still, epoch)) for epoch in range(12)]
    assert len({tuple(order) for order in orders}) == 12
    assert set().union(*orders) == set(range(30))
    assert joined(places(still, 3)) == orders[3]
    assert joined(places(replace(still, seed=1), 0)) != orders[0]


@pytest.mark.parametrize("processes", [2, 4])
def test_the_ranks_share_each_batch_between_them(still, processes):
    shares = [places(still, 1, rank, processes) for rank in range(processes)]
    for step, batch in enumerate(places(still, 1)):
        assert joined(share[step] for share in shares) == batch
        assert all(len(share[step]) == 8 // processes for share in shares)


def test_augmentation_is_drawn_anew_for_each_seed_epoch_and_step_and_not_for_a_rank(still):
    """The shift of the first cloud of a batch, wherever it comes from."""
    moved = replace(still, augment=replace(STILL, shift=0.5))

    def shifts(config, epoch, rank=0, processes=1):
        known, found = clouds.load(still).train.inputs[0][:, : config.points], []
        for (x,), _ in clouds.batches(clouds.load(config).train, config, epoch, rank, processes):
            away = x[0] - known  # of its own cloud, the same at all points
            own = away.std(1).sum(1).argmin()
            assert away[own].std(0).max() < 1e-6
            found.append(tuple(away[own].mean(0).mul(1e4).round().int().tolist()))
        return found

    seen = [*shifts(moved, 0), *shifts(moved, 1), *shifts(replace(moved, seed=1), 0)]
    assert len(set(seen)) == len(seen) == 9
    assert shifts(moved, 0) == seen[:3] == shifts(moved, 0, 0, 2)


def test_training_and_evaluation_see_the_first_points_unless_resampled(still):
    data = clouds.load(still)
    stored = data.train.inputs[0]
    assert stored.shape[1] == 64
    assert torch.equal(clouds.inputs(data.test, still)[0], data.test.inputs[0][:, :32])
    drawn = replace(still, resample=True)
    used, firsts = [], []
    for epoch in range(4):
        for (x,), _ in clouds.batches(data.train, drawn, epoch):
            for cloud in x:
                # Of its own cloud each of the points is one of the 64, and none comes twice.
                same = (cloud[None, :, None] == stored[:, None]).all(3)
                own = same.any(2).all(1).int().argmax()
                assert same[own].any(1).all()
                where = same[own].int().argmax(1)
                assert len(set(where.tolist())) == 32
                used += where.tolist()
                firsts.append(int(where[0]))
    # 96 clouds: each of 64 places about 48 times; six standard deviations of a hypergeometric draw.
    counts = np.bincount(used, minlength=64)
    assert np.abs(counts - 48).max() < 6 * (96 * 0.25) ** 0.5
    assert len(set(firsts)) > 30  # in random order
    assert torch.equal(clouds.inputs(data.test, drawn)[0], data.test.inputs[0][:, :32])


def test_validation_trains_too_where_that_is_asked_for(still):
    data, both = clouds.load(still), clouds.load(replace(still, train_on_validation=True))
    assert both.train.index.tolist() == sorted([*data.train.index, *data.validation.index])
    assert len(both.validation) == 0
    assert both.test.index.tolist() == data.test.index.tolist()
    everything = [*data.train.index, *data.validation.index, *data.test.index]
    assert sorted(everything) == list(range(48))


def test_clips_move_by_up_to_so_many_pixels_and_keep_their_class(video_folder):
    """A clip is moved as a whole, with its edges repeated, along both axes by itself; all shifts come up."""
    still = small_video(video_folder, shift=0)
    moved = replace(still, shift=2)
    data, seen = video.load(still), set()
    for epoch in range(6):
        pairs = zip(video.batches(data.train, still, epoch), video.batches(data.train, moved, epoch))
        for ((a, length), label), ((b, long), same) in pairs:
            assert torch.equal(label, same)
            assert torch.equal(length, long)
            for clip, other in zip(a.numpy(), b.numpy()):
                fits = []
                for down in range(-2, 3):
                    for right in range(-2, 3):
                        padded = np.pad(clip, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
                        piece = padded[:, 2 - down : 8 - down, 2 - right : 10 - right]
                        if np.array_equal(piece, other):
                            fits.append((down, right))
                assert len(fits) == 1
                seen.add(fits[0])
    assert len(seen) == 25
