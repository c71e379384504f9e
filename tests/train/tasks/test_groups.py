"""Folds of whole groups of clouds: no group on two sides, each shape tested once, and files that name no groups."""

from dataclasses import replace

import numpy as np
import pytest

from dropfold.data_scripts.schemas import shape_schema, splits
from dropfold.train.tasks import clouds
from tests.train.conftest import small


@pytest.fixture(scope="module")
def grouped(tmp_path_factory, folder):
    """small.h5 with groups of two and three shapes, of which some have two classes; all shapes train or test."""
    whole = shape_schema.read(folder / "small.h5")
    group = [f"mould {i // 5 * 2 + (i % 5 > 1)}" for i in range(48)]
    split = np.where(np.arange(48) < 40, 0, 2).astype(np.uint8)
    fold = splits.group_folds(group, whole.label)
    path = tmp_path_factory.mktemp("grouped")
    shape_schema.write(path / "small.h5", replace(whole, split=split, group=group, group_fold=fold))
    return path, group, fold


def test_no_group_is_on_two_sides_and_each_shape_is_tested_once(grouped):
    path, group, fold = grouped
    tested = []
    for held_out in range(5):
        data = clouds.load(small(path, protocol="group-fold", held_out=held_out))
        parts = [split.index for split in (data.train, data.validation, data.test)]
        assert sorted(np.concatenate(parts)) == list(range(48))
        np.testing.assert_array_equal(parts[2], np.flatnonzero(fold == held_out))
        assert len(parts[1])
        sides = [{group[i] for i in part} for part in parts]
        assert sum(map(len, sides)) == len(set().union(*sides))
        tested.append(parts[2])
    assert sorted(np.concatenate(tested)) == list(range(48))


def test_the_protocols_of_a_file_with_groups(grouped, caplog):
    path, *_ = grouped
    with pytest.raises(ValueError, match=r"ask for --protocol fold or --protocol group-fold\."):
        clouds.load(small(path, held_out=1))
    with pytest.raises(ValueError, match=r"one of \[0, 1, 2, 3, 4\]; got None"):
        clouds.load(small(path, protocol="group-fold"))
    clouds.load(small(path, protocol="group-fold", held_out=1))
    assert not caplog.text
    clouds.load(small(path, protocol="fold", held_out=1))
    assert "--protocol group-fold keeps groups whole" in caplog.text


def test_a_file_without_groups_has_no_folds_of_groups(folder):
    config = small(folder, protocol="group-fold", held_out=0)
    expected = r"there are split, fold; .*small\.h5 does not say which samples belong together\."
    with pytest.raises(ValueError, match=expected):
        clouds.load(config)
