"""The part data that ship or are made of an .npz: whole, credited, and the parts of their categories."""

import re
from pathlib import Path

import numpy as np
import pytest

from dropfold.data_scripts.schemas import part_schema
from dropfold.data_scripts.schemas.part_schema import SchemaError
from dropfold.data_scripts.shapes import components, labeled_meshes
from dropfold.data_scripts.work import shipped

COMPONENTS = Path(__file__).parents[3] / "data/components.h5"


def test_the_shipped_components_are_whole():
    parts = part_schema.read(COMPONENTS)
    assert [len(parts.of(split)) for split in range(3)] == [377, 63, 182]
    assert (len(parts.class_names), len(parts.part_names), len(parts.points)) == (16, 35, 622 * 512)
    assert np.linalg.norm(parts.points, axis=1).max() < 1 + 1e-3
    assert set(parts.category[parts.of(1)]) == set(range(16))
    series = [re.split(r"\d", name.rsplit("/")[-1])[0] for name in parts.name]
    known = {(parts.category[i], series[i]) for split in (0, 1) for i in parts.of(split)}
    assert sum((parts.category[i], series[i]) not in known for i in parts.of(2)) == 105  # docs/part_data.md
    section = (COMPONENTS.parent / "CREDITS.md").read_text().split("## components.h5")[1]
    assert "CC-BY-SA 4.0" in section
    assert components.format_credits(parts).strip() in section


def source(path, **changes):
    """components_seg16_512.npz and labeled_meshes_2048.npz in small: five shapes of two categories, four parts."""
    random = np.random.default_rng(0)
    label = np.array([0, 0, 0, 1, 1])
    arrays = {
        "points": random.integers(-32767, 32768, (5, 16, 3)).astype(np.int16),
        "normals": random.normal(size=(5, 16, 3)).astype(np.float16),
        "seg": (random.integers(0, 2, (5, 16)) + 2 * label[:, None]).astype(np.int8),
        "label": label.astype(np.int8),
        "train": np.array([1, 1, 0, 1, 1], bool),
        "name": np.array([f"{i}.wrl" for i in range(5)]),
        "classes": np.array(["Crystal", "PinHeader"]),
        "parts": np.array(["Crystal/body", "Crystal/metal", "PinHeader/body", "PinHeader/metal"]),
    }
    np.savez(path, **{**arrays, **changes})
    return path


@pytest.mark.parametrize(
    "convert", [components.convert, labeled_meshes.convert, labeled_meshes.convert_parts]
)
def test_a_copy_of_a_training_shape_among_those_that_test_is_said(convert, tmp_path, caplog):
    points = np.random.default_rng(1).integers(-9, 9, (5, 16, 3)).astype(np.int16)
    points[2] = points[1]
    name = [f"{tmp_path.name}/{i}" for i in range(5)]  # a line is said once
    convert(source(tmp_path / "a.npz", points=points, name=np.array(name)))
    said = f"1 shape that tests is known from training, which flatters the scores: {name[2]} -> {name[1]}"
    assert said in caplog.text


def test_parts_of_an_npz(tmp_path):
    path = source(tmp_path / "a.npz")
    arrays = np.load(path)
    for parts in (components.convert(path), labeled_meshes.convert_parts(path)):
        part_schema.write(tmp_path / "a.h5", parts)
        found = part_schema.read(tmp_path / "a.h5")
        assert found.split.tolist()[2] == 2
        assert sorted(found.split.tolist()) == [0, 0, 1, 1, 2]
        np.testing.assert_array_equal(found.part, arrays["seg"].ravel())
        np.testing.assert_array_equal(found.ptr, np.arange(6) * 16)
        assert found.part_category.tolist() == [0, 0, 1, 1]
    assert found.normals is not None
    np.testing.assert_array_equal(components.convert(path).points * 32768, arrays["points"].reshape(-1, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seg": np.full((5, 16), -1)}, "part labels are int64, -1 .. -1; expected integers 0 .. 255"),
        (
            {"seg": np.zeros((5, 16), np.int8)},
            r"part of shape 3 \(3.wrl\) is \[0\], expected of PinHeader's, \[2, 3\]",
        ),
        ({"parts": np.array(["Crystal/body", "Fuse/body"])}, "'Fuse/body' is of no category"),
        ({"points": np.zeros((5, 16, 3))}, "points is float64"),
    ],
)
def test_a_fault_of_the_source_is_named(changes, message, tmp_path):
    path = source(tmp_path / "a.npz", **changes)
    with pytest.raises(SchemaError, match=message):
        part_schema.write(tmp_path / "a.h5", components.convert(path))
    assert not (tmp_path / "a.h5").exists()


def test_a_section_of_the_credits_leaves_the_others(tmp_path):
    path = tmp_path / "CREDITS.md"
    shipped.write_section(path, "a.h5", "first\n\n### of a library\n\nA name.")
    shipped.write_section(path, "b.h5", "second")
    shipped.write_section(path, "a.h5", "third")
    assert path.read_text() == f"{shipped.TITLE}\n## a.h5\n\nthird\n\n## b.h5\n\nsecond\n"
