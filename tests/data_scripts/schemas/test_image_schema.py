"""The file of image data: what is written is read, and what is broken is named."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from dropfold.data_scripts.schemas import image_schema
from dropfold.data_scripts.work.errors import SchemaError

IMAGES = image_schema.Images(
    pixels=np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3)).astype(np.uint8),
    label=np.array([0, 1, 0, 1, 0, 1]),
    split=np.array([0, 0, 0, 1, 2, 2], dtype=np.uint8),
    name=[f"image {i}" for i in range(6)],
    class_names=["cat", "dog"],
    source="made for tests",
    credits="none",
    rebuild="run the tests",
)


def test_what_is_written_is_read(tmp_path):
    image_schema.write(tmp_path / "a.h5", IMAGES)
    found = image_schema.read(tmp_path / "a.h5")
    assert np.array_equal(found.pixels, IMAGES.pixels)
    assert np.array_equal(found.label, IMAGES.label)
    assert replace(found, pixels=0, label=0, split=0, checksum="") == replace(
        IMAGES, pixels=0, label=0, split=0
    )
    assert [found.of(split).tolist() for split in range(3)] == [[0, 1, 2], [3], [4, 5]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pixels": IMAGES.pixels[..., :2]}, r"pixels' shape is \(6, 4, 5, 2\), expected \[n, H, W, C\] .* C = 1 or 3"),
        ({"pixels": IMAGES.pixels[:, :0]}, "pixels' shape"),
        ({"pixels": IMAGES.pixels / 255}, "pixels's type is float64, expected uint8"),
        ({"label": IMAGES.label + 1}, "label is 1 .. 2, expected 0 .. 1"),
        ({"label": IMAGES.label[:4]}, "one entry for each of the 6 images"),
        ({"split": IMAGES.split + np.uint8(1)}, "split is up to 3"),
        ({"class_names": []}, "class_names is empty"),
    ],
)  # fmt: skip
def test_a_broken_set_is_not_written(tmp_path, changes, said):
    with pytest.raises(SchemaError, match=said):
        image_schema.write(tmp_path / "a.h5", replace(IMAGES, **changes))
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_changed_is_named(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(SchemaError, match="is not there"):
        image_schema.read(path)
    image_schema.write(path, IMAGES)
    with h5py.File(path, "r+") as file:
        file["pixels"][0, 0, 0, 0] ^= 1
    with pytest.raises(SchemaError, match=r"checksum is .* the file states .*Make it anew: run the tests"):
        image_schema.read(path)
