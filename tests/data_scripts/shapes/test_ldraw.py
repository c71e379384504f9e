"""LDraw: what the source holds is in the file, no mould is on two sides, and what is said of broken sources."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from dropfold.__main__ import main
from dropfold.data_scripts.schemas import shape_schema
from dropfold.data_scripts.schemas.splits import group_folds
from dropfold.data_scripts.shapes import ldraw
from dropfold.data_scripts.work.errors import SchemaError

SOURCE = Path(__file__).parents[4] / "shared/data/ldraw37_1024.npz"


@pytest.fixture
def arrays(furniture):
    """An ldraw37_1024.npz in small: 120 real shapes of furniture as three categories, in moulds of one to four."""
    random = np.random.default_rng(0)
    n = 120
    mould = np.array([f"{1000 + i}" for i in np.repeat(np.arange(n), random.integers(1, 5, n))[:n]])
    label = np.unique(mould, return_inverse=True)[1] % 3
    fold = group_folds(mould.tolist(), label)
    return {
        "points": np.round(furniture.points[:n, :64] * 32767).astype(np.int16),
        "normals": np.round(furniture.normals[:n, :64] * 127).astype(np.int8),
        "label": label,
        "mould": mould,
        "name": np.array([f"{i}.dat: Part  {i}" for i in range(n)]),
        "fold": fold,
        "train": fold != 0,
        "classes": np.array(["Arch", "Bar", "Brick"]),
        "radius": random.random(n, np.float32),
    }


def put(values, place, value):
    changed = values.copy()
    changed[place] = value
    return changed


def save(path, arrays, **changes):
    np.savez(path, **{**arrays, **changes})
    return path


def assert_as_in_the_source(found, arrays):
    """Each shape, in its place, and no mould in two of the splits or folds."""
    np.testing.assert_array_equal(found.label, arrays["label"])
    assert found.name == arrays["name"].tolist()
    assert found.class_names == arrays["classes"].tolist()
    assert found.group == arrays["mould"].tolist()
    # Half an ULP of float32 numbers of at most 1, of a quotient in float64.
    assert np.abs(found.points - arrays["points"].astype(np.float64) / 32767).max() <= 2**-25
    assert (
        np.abs(found.normals - arrays["normals"].astype(np.float64) / 127).max() <= 2**-24
    )  # -128 / 127 is beyond 1
    np.testing.assert_array_equal(found.group_fold, arrays["fold"])
    np.testing.assert_array_equal(found.split == 2, arrays["fold"] == 0)
    for part in (found.split, found.group_fold):
        assert len(set(zip(found.group, part.tolist()))) == len(set(found.group))


def test_the_file_holds_the_source(arrays, tmp_path, capsys):
    out = tmp_path / "a.h5"
    main(["data", "ldraw", "--source", str(save(tmp_path / "a.npz", arrays)), "--out", str(out)])
    found = shape_schema.read(out)
    assert_as_in_the_source(found, arrays)
    counts = [len(found.of(split)) for split in range(3)]
    assert sum(counts) == 120
    assert f"{counts} parts to train, validate and test" in capsys.readouterr().out
    train = arrays["train"]
    for c in range(3):  # about 15 % of a class: within one mould, of up to four
        share = ((found.split == 1) & (found.label == c)).sum()
        assert abs(share - 0.15 * (train & (arrays["label"] == c)).sum()) <= 4
    again = ldraw.convert(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.split, found.split)


@pytest.mark.skipif(not SOURCE.is_file(), reason="needs ldraw37_1024.npz, which is not committed")
def test_the_real_source():
    with np.load(SOURCE, allow_pickle=False) as file:
        arrays = {name: file[name] for name in ldraw.ARRAYS}
    found = ldraw.convert(SOURCE)
    assert_as_in_the_source(found, arrays)
    assert [len(found.of(split)) for split in range(3)] == [2559, 468, 758]
    assert np.bincount(found.group_fold).tolist() == [758, 763, 757, 755, 752]
    assert len(found.class_names) == 37
    assert len(set(found.group)) == 3101
    per_class = [np.bincount(found.label[found.of(split)], minlength=37) for split in range(3)]
    assert min(count.min() for count in per_class) >= 2
    share = per_class[1] / (per_class[0] + per_class[1])
    assert share.min() > 0.1
    assert share.max() < 0.22


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: {"points": a["points"].astype(np.float32)},
            r"points is float32 \[120, 64, 3\], expected int16",
        ),
        (lambda a: {"points": a["points"][:, :, :2]}, r"points is int16 \[120, 64, 2\]"),
        (lambda a: {"points": a["points"][:0]}, r"points is int16 \[0, 64, 3\]"),
        (
            lambda a: {"normals": a["normals"][:, :32]},
            r"normals is int8 \[120, 32, 3\], expected int8 of the shape",
        ),
        (lambda a: {"normals": a["normals"].astype(np.int16)}, "normals is int16"),
        (lambda a: {"label": a["label"][:-1]}, r"label is int64 \[119\], expected whole numbers, one a part"),
        (lambda a: {"label": a["label"] + 1}, r"label is 1 \.\. 3, expected 0 \.\. 2"),
        (lambda a: {"label": a["label"] - 1}, r"label is -1 \.\. 1"),
        (lambda a: {"mould": a["label"]}, r"mould is int64 \[120\], expected text"),
        (lambda a: {"name": a["name"][:, None]}, r"name is <U\d+ \[120, 1\], expected text"),
        (lambda a: {"fold": a["fold"] + 1}, r"fold is 1 \.\. 5, expected 0 \.\. 4"),
        (lambda a: {"train": a["train"].astype(int)}, "train is int64"),
        (lambda a: {"train": ~a["train"]}, "train is not the parts of all folds but 0, expected fold != 0"),
        (lambda a: {"classes": np.array([["a", "b", "c"]])}, r"classes is <U1 \[1, 3\], expected the names"),
        (lambda a: {"mould": put(a["mould"], 7, " ")}, "mould 7 is empty, expected text"),
        (lambda a: {"name": put(a["name"], 3, "")}, "name 3 is empty, expected text"),
        (lambda a: {"classes": np.array(["a", "", "b"])}, "classes 1 is empty, expected text"),
        (
            lambda a: {"name": put(a["name"], 9, a["name"][4])},
            r"name 9 is '4.dat: Part  4', that of 4, expected an",
        ),
        (lambda a: {"classes": np.array(["a", "b", "a"])}, "classes 2 is 'a', that of 0, expected another"),
        (
            lambda a: {"classes": np.array(["Arch", "Bar", "Brick", "Tile"])},
            "category 'Tile' is of no part, expected parts in fold 0, which tests, and in another",
        ),
        (
            lambda a: {"label": np.where(a["fold"] == 2, 1, 2 * (a["label"] // 2))},
            "category 'Bar' is in fold 2 alone, expected parts in fold 0, which tests, and in another",
        ),
        (
            lambda a: {"label": np.where((a["fold"] == 1) | (a["fold"] == 2), 1, 2 * (a["label"] // 2))},
            "category 'Bar' is in fold 1, 2 alone, expected parts in fold 0, which tests",
        ),
        (
            lambda a: {"points": put(a["points"], 5, a["points"][5, :1])},
            r"points of part 5 \(5\.dat: Part  5\) is one point, expected points of a surface",
        ),
        (
            lambda a: {"points": put(a["points"], 8, a["points"][2])},
            r"points of part 8 \(8\.dat: Part  8\) is those of part 2 \(2\.dat: Part  2\), expected its own",
        ),
        (
            lambda a: {"mould": np.array(["3001"] * 120)},
            r"mould '3001' is in folds \d and \d, expected a mould in one",
        ),
    ],
)
def test_faults_of_the_source_are_named(change, message, arrays, tmp_path):
    path = save(tmp_path / "a.npz", arrays, **change(arrays))
    with pytest.raises(SchemaError, match=message) as caught:
        ldraw.convert(path)
    assert str(path) in str(caught.value)


def test_a_source_that_is_none(arrays, tmp_path):
    with pytest.raises(SchemaError, match="is not there"):
        ldraw.convert(tmp_path / "a.npz")
    del arrays["mould"]
    with pytest.raises(SchemaError, match="has no array 'mould'; it holds points"):
        ldraw.convert(save(tmp_path / "a.npz", arrays))


# --- groups in the schema of clouds ---------------------------------------------------------------------------------


@pytest.fixture
def parts(arrays, tmp_path):
    return ldraw.convert(save(tmp_path / "a.npz", arrays))


def test_groups_survive_their_file_and_a_file_may_have_none(parts, tmp_path):
    path = tmp_path / "a.h5"
    shape_schema.write(path, parts)
    found = shape_schema.read(path)
    assert found.group == parts.group
    np.testing.assert_array_equal(found.group_fold, parts.group_fold)
    shape_schema.write(path, replace(parts, group=None, group_fold=None))
    with h5py.File(path) as file:
        assert not {"group", "group_fold"} & set(file)  # as files were before there were groups
    found = shape_schema.read(path)
    assert found.group is found.group_fold is None


def test_groups_that_contradict_are_named(parts, tmp_path):
    def refused(match, **changes):
        with pytest.raises(SchemaError, match=match):
            shape_schema.write(tmp_path / "a.h5", replace(parts, **changes))
        assert not (tmp_path / "a.h5").exists()

    refused("group_fold is not there, expected as group is: both or neither", group_fold=None)
    refused("group is not there, expected as group_fold is", group=None)
    refused(r"group_fold is up to 5, expected 0 \.\. 4", group_fold=parts.group_fold + 1)
    refused("group_fold's type is int64", group_fold=parts.group_fold.astype(np.int64))
    (twin, *_) = (i for i in range(1, 120) if parts.group.count(parts.group[i]) > 1)
    fold, split = parts.group_fold.copy(), parts.split.copy()
    fold[twin] = (fold[twin] + 1) % 5
    split[twin] = (split[twin] + 1) % 3
    refused(rf"group '{parts.group[twin]}' is in folds", group_fold=fold)
    refused(
        rf"group '{parts.group[twin]}' is in the splits \w+ and \w+, expected a group in one", split=split
    )
