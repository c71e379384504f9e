"""Splits and folds with their promises: what is stated, at random, by groups, by areas."""

import numpy as np
import pytest

from dropfold.data_scripts.schemas.h5_file import TEST, TRAIN, VALIDATION
from dropfold.data_scripts.schemas.splits import (
    carve_groups,
    carve_rooms,
    group_folds,
    group_split,
    random_folds,
    split_by_area,
    split_classes,
)
from dropfold.data_scripts.work.errors import SchemaError


def test_what_is_stated_is_the_split_and_validation_comes_from_what_trains():
    label = np.repeat([0, 1], 20)
    assert np.bincount(split_classes([None] * 40, label)).tolist() == [28, 6, 6]
    stated = [None, TRAIN, TRAIN, TEST] * 10
    split = split_classes(stated, label)
    np.testing.assert_array_equal(split == TEST, [one == TEST for one in stated])
    assert [int((split[label == c] == VALIDATION).sum()) for c in range(2)] == [2, 2]  # 0.15 of 15
    whole = [TRAIN, VALIDATION, TEST, None] * 10
    assert split_classes(whole, label).tolist() == [TRAIN, VALIDATION, TEST, TRAIN] * 10


@pytest.mark.parametrize("n", [1, 4, 63, 1600])
def test_random_folds_are_even_and_of_their_seed(n):
    folds = random_folds(n, 3)
    assert np.ptp(np.bincount(folds, minlength=5)) <= 1
    np.testing.assert_array_equal(folds, random_folds(n, 3))
    assert n < 60 or (folds != random_folds(n, 4)).any()


def test_group_folds_never_split_a_group_and_hold_every_class():
    """As in UCF11: groups of uneven size, each of one class."""
    random = np.random.default_rng(1)
    label = np.repeat(np.arange(11), 145)
    group = [f"{c}_{random.integers(25)}" for c in label]
    fold = group_folds(group, label)
    for name in set(group):
        assert len({f for f, g in zip(fold, group) if g == name}) == 1
    for c in range(11):
        share = np.bincount(fold[label == c], minlength=5) / 145
        assert share.min() > 0.1
        assert share.max() < 0.3


def test_people_who_do_everything_are_spread_evenly():
    label, person = (v.ravel() for v in np.meshgrid(np.arange(20), np.arange(10)))
    fold = group_folds([str(p) for p in person], label)
    assert np.bincount(fold).tolist() == [40] * 5


def test_classes_of_three_groups_fill_all_folds_together():
    """As in YouTube Celebrities: each class is in three folds, and the folds are of like size."""
    label = np.repeat(np.arange(47), 9)
    group = [f"{c} {i % 3}" for i, c in enumerate(label)]
    fold = group_folds(group, label)
    assert all(len(set(fold[label == c])) == 3 for c in range(47))
    assert np.ptp(np.bincount(fold, minlength=5)) <= 3
    split = group_split(group, label)
    assert all(np.bincount(split[label == c], minlength=3).tolist() == [3, 3, 3] for c in range(47))


@pytest.mark.parametrize(("groups", "splits"), [(1, {0}), (2, {0, 2}), (3, {0, 1, 2}), (8, {0, 1, 2})])
def test_a_class_of_few_groups_is_trained_on_first(groups, splits):
    label = np.repeat(np.arange(3), 16)
    group = [f"{c} {i % groups}" for i, c in enumerate(label)]
    split = group_split(group, label)
    assert all(set(split[label == c]) == splits for c in range(3))
    for name in set(group):
        assert len({s for s, g in zip(split, group) if g == name}) == 1


def test_validation_is_carved_from_training_by_groups():
    label = np.tile(np.arange(2), 30)
    group = [str(i // 4) for i in range(60)]
    stated = np.where(np.arange(60) < 40, 0, 2).astype(np.uint8)
    split = carve_groups(group, label, stated)
    np.testing.assert_array_equal(split == 2, stated == 2)
    assert np.bincount(split).tolist() == [32, 8, 20]
    assert len({(g, s) for g, s in zip(group, split)}) == 15


@pytest.mark.parametrize("share", [0.1, 0.15, 0.2, 0.5])
def test_the_share_that_is_carved_by_groups_is_met_to_within_a_group(share):
    """Of each class: groups are whole, so no split of them is nearer than half of one, and the largest first leaves one."""
    random = np.random.default_rng(3)
    size = random.integers(1, 7, 300)
    group = np.repeat(np.arange(300), size)
    label = np.repeat(random.integers(0, 5, 300), size)
    stated = np.where(group % 4 == 0, TEST, TRAIN).astype(np.uint8)
    split = carve_groups(group.astype(str).tolist(), label, stated, share)
    np.testing.assert_array_equal(split == TEST, stated == TEST)
    for c in range(5):
        free = (label == c) & (stated == TRAIN)
        assert abs((split[free] == VALIDATION).sum() - share * free.sum()) <= size.max()
    assert len(np.unique(np.stack([group, split]), axis=1).T) == 300


def test_one_area_tests_and_rooms_of_the_others_validate():
    area = np.repeat(np.arange(1, 7), 10)
    split = split_by_area(area)
    assert set(area[split == TEST]) == {5}
    assert (split == TEST).sum() == 10
    assert (split == VALIDATION).sum() == 6
    np.testing.assert_array_equal(split, split_by_area(area))
    assert set(area[split_by_area(area, test=2) == TEST]) == {2}
    assert set(area[split_by_area(area % 4 + 1) == TEST] % 4) == {3}  # no area 5: the last one
    assert np.bincount(split_by_area(np.ones(10, int))).tolist() == [7, 1, 2]
    assert split_by_area(np.ones(1, int)).tolist() == [TRAIN]
    assert (carve_rooms(split_by_area(area, validation=0), 0) == VALIDATION).sum() == 0
    with pytest.raises(SchemaError, match="area 1 is the only one"):
        split_by_area(np.ones(10, int), test=1)
    with pytest.raises(SchemaError, match=r"area 9 was asked for .* \[1, 2, 3, 4, 5, 6\]"):
        split_by_area(area, test=9)
