"""Part files: written and read back, every fault a sentence that names the shape."""

from dataclasses import replace

import numpy as np
import pytest

from dropfold.data_scripts.schemas import part_schema
from dropfold.data_scripts.schemas.part_schema import Parts, SchemaError


@pytest.fixture(scope="module")
def small():
    """Six shapes of 3 to 8 points in two categories of two and three parts."""
    random = np.random.default_rng(0)
    size = np.arange(3, 9)
    ptr = np.concatenate([[0], np.cumsum(size)])
    category = np.array([0, 1, 0, 1, 0, 1])
    part = np.concatenate([random.integers(0, 2 + c, m) + 2 * c for c, m in zip(category, size)])
    return Parts(
        points=random.normal(size=(ptr[-1], 3)).astype(np.float32),
        part=part.astype(np.uint8),
        ptr=ptr,
        category=category,
        split=np.array([0, 0, 0, 1, 2, 2], np.uint8),
        name=[f"shape {i}" for i in range(6)],
        class_names=["chair", "table"],
        part_names=["chair/back", "chair/leg", "table/top", "table/leg", "table/drawer"],
        part_category=np.array([0, 0, 1, 1, 1]),
        source="a test",
        credits="none",
        rebuild="dropfold data components",
    )


@pytest.mark.parametrize("with_normals", [False, True])
def test_what_is_written_is_read(small, with_normals, tmp_path):
    parts = replace(small, normals=small.points * 2) if with_normals else small
    part_schema.write(tmp_path / "a.h5", parts)
    found = part_schema.read(tmp_path / "a.h5")
    for item in ("points", "part", "ptr", "category", "split", "part_category"):
        np.testing.assert_array_equal(getattr(found, item), getattr(parts, item))
    assert (found.name, found.class_names, found.part_names) == (
        small.name,
        small.class_names,
        small.part_names,
    )
    assert (found.normals is not None) == with_normals
    assert found.checksum
    np.testing.assert_array_equal(found.parts_of(1), [2, 3, 4])
    np.testing.assert_array_equal(found.points[found.rows(2)], small.points[7:12])
    assert sorted(np.concatenate([found.of(split) for split in range(3)])) == list(range(6))


def changed(values, at, to):
    values = values.copy()
    values[at] = to
    return values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {"part": changed(s.part, 0, 2)},
            r"part of shape 0 \(shape 0\) is \[2\].*of chair's, \[0, 1\]",
        ),
        (lambda s: {"part": changed(s.part, 8, 200)}, r"part of shape 2 \(shape 2\) is \[200\]"),
        (lambda s: {"part": s.part[1:]}, "one entry for each of the 33 rows of points"),
        (lambda s: {"points": changed(s.points, 4, np.nan)}, r"points of shape 1 \(shape 1\) is not finite"),
        (lambda s: {"points": s.points.astype(np.float64)}, "points's type is float64"),
        (lambda s: {"points": s.points[:, :2]}, r"points' shape is \(33, 2\)"),
        (lambda s: {"normals": s.points[:-1]}, "normals's shape"),
        (lambda s: {"ptr": changed(s.ptr, 2, 3)}, r"shape 1 \(shape 1\) is of 0 points"),
        (lambda s: {"ptr": changed(s.ptr, -1, 30)}, "ptr is .* 0 .. 33"),
        (lambda s: {"category": changed(s.category, 1, 2)}, "category is 0 .. 2, expected 0 .. 1"),
        (lambda s: {"part_category": np.zeros(5, np.int64)}, r"without \[1\]"),
        (lambda s: {"part_category": s.part_category[:3]}, "5 rows of part_names"),
        (lambda s: {"split": s.split + 2}, "split is up to 4"),
    ],
)
def test_a_fault_is_named_and_nothing_is_written(change, message, small, tmp_path):
    with pytest.raises(SchemaError, match=message) as caught:
        part_schema.write(tmp_path / "a.h5", replace(small, **change(small)))
    assert "dropfold data components" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(SchemaError, match=r"components\.h5 ships"):
        part_schema.read(tmp_path / "a.h5")
