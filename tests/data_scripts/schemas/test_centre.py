"""Where shapes stand in their unit spheres, and that a file is given to a network as its training shapes were."""

from dataclasses import replace

import numpy as np
import pytest

from dropfold.data_scripts.schemas import part_schema, shape_schema
from dropfold.data_scripts.schemas.centre import centre_of, middle_of, normalised
from dropfold.data_scripts.work import notes
from dropfold.train.config.recipes import recipe
from dropfold.train.tasks import clouds, parts


def shape(seed=0):
    return np.random.default_rng(seed).gamma(1.0, size=(100, 3)) * [1, 3, 9] + 5


@pytest.mark.parametrize("centre", ["mean", "box"])
def test_a_shape_is_centred_and_scaled(centre):
    found = normalised(shape(), centre)
    np.testing.assert_allclose(middle_of(found, centre), 0, atol=1e-6)
    assert np.linalg.norm(found, axis=1).max() == pytest.approx(1, abs=1e-6)
    other = "box" if centre == "mean" else "mean"
    assert np.abs(middle_of(found, other)).max() > 0.05
    assert centre_of([normalised(shape(i), centre) for i in range(3)]) == centre


def test_other_frames_are_none_of_both():
    assert centre_of([2 * normalised(shape(), "mean")]) == ""
    assert centre_of([normalised(shape(), "mean") + np.array([0.02, 0, 0])]) == ""
    assert centre_of([shape()]) == ""
    assert centre_of([]) == ""
    assert centre_of([normalised(shape(i), "mean")[: 100 - (i == 2)] for i in range(3)]) == "mean"


def test_the_data_that_ships_stands_on_its_boxes():
    assert clouds.load(recipe("furniture")).signature.centre == "box"
    assert parts.load(recipe("components")).signature.centre == "box"


@pytest.mark.parametrize("name", ["furniture", "components"])
def test_a_shape_of_the_data_set_comes_back_from_a_file_as_it_is(name, tmp_path):
    """Moved and enlarged, as a file of the world has it: the network sees the training shape to rounding."""
    config = recipe(name)
    task = clouds if name == "furniture" else parts
    signature = task.load(config).signature
    if name == "furniture":
        known = shape_schema.read(config.data).points[
            3
        ]  # all of them: the network sees a half, in the frame of all
    else:
        file = part_schema.read(config.data)
        known = normalised(file.points[file.ptr[3] : file.ptr[4]], "box")
    path = tmp_path / "shape.npy"
    np.save(path, (known * 7 + [100, -3, 12]).astype(np.float64))
    if name == "furniture":
        seen = task.read(path, config, signature, 1)[0][0].numpy()
        order = [np.abs(known - row).sum(1).argmin() for row in seen[:, :3]]
        assert len(set(order)) == config.points
        np.testing.assert_allclose(seen[:, :3], known[order], atol=2e-4)
    else:
        seen = task.read(path, config, signature)[1]
        np.testing.assert_allclose(seen[:, :3], known, atol=2e-5)


def test_an_unknown_frame_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(notes, "_said", set())
    config = replace(recipe("furniture"), points=100)
    signature = clouds.load(config).signature
    signature.centre = ""
    np.save(tmp_path / "a.npy", shape())
    seen = clouds.read(tmp_path / "a.npy", config, signature, 1)[0][0].numpy()
    np.testing.assert_allclose(seen[:, :3].mean(0), 0, atol=1e-5)
    assert "how the training shapes were centred and scaled is not known" in caplog.text
