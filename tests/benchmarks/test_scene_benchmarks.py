"""Whole scenes beside the peer's loop, and the baselines of segmentation."""

import numpy as np

from benchmarks import baselines, scene_prediction
from dropfold.train.config.recipes import recipe
from dropfold.train.tasks import parts


def test_our_side_labels_every_point():
    (step,) = scene_prediction.steps(scene_prediction.Options(sides=("ours, no network",))).values()
    assert len(step(5_000)) == 5_000
    points, colour = scene_prediction.room(40_000)
    assert (np.ptp(points, axis=0) <= (2, 2, 3)).all()  # 10,000 points above a square metre
    assert colour.dtype == np.uint8


def test_local_features_tell_a_floor_from_a_pole():
    random = np.random.default_rng(0)
    floor = random.uniform(0, 1, (400, 3)) * (1, 1, 0)
    pole = random.uniform(0, 1, (400, 3)) * (0, 0, 1) + (5, 5, 0)
    found = baselines.local_features(np.concatenate([floor, pole]), np.arange(800), up=2)
    linearity, planarity = found[:, 3], found[:, 4]
    upright = found[:, 7]
    assert planarity[:400].mean() > 0.5 > planarity[400:].mean()
    assert linearity[400:].min() > 0.99
    assert upright[:400].min() > 0.99
    assert np.isfinite(found).all()


def test_without_a_checkout_there_is_our_side_alone():
    assert list(scene_prediction.steps(scene_prediction.Options())) == ["ours", "ours, no network"]


def test_hand_features_tell_a_tall_shape_from_a_flat_one():
    cube = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 300, 3)).repeat(2, 0)
    cube[0] *= (0.1, 1, 0.1)
    cube[1] *= (1, 0.1, 1)
    tall, flat = baselines.shape_features(cube)
    np.testing.assert_allclose(tall[:3], flat[:3] * (0.1, 10, 0.1), rtol=1e-6)  # extents
    assert tall[6:].sum() == flat[6:].sum() == 4  # histograms
    heights = slice(6, 6 + baselines.BINS)
    assert np.count_nonzero(tall[heights]) > np.count_nonzero(flat[heights])


def test_frames_are_averaged():
    frames = np.random.default_rng(0).integers(256, size=(2, 3, 30, 60, 1), dtype=np.uint8)
    found = baselines._averaged(frames)
    assert found.shape == (2, 3, 15, 20, 1)
    assert found[1, 2, 14, 19, 0] == np.float32(frames[1, 2, 28:, 57:, 0].mean())


def test_the_forest_of_components_knows_which_axis_is_upright(monkeypatch):
    """Quad flat packages lie flat; the features were once made with another axis than that."""
    seen = set()

    class Forest:
        def predict(self, x):
            return np.zeros(len(x), np.int64)

    def features(cloud, rows, up):
        seen.add(up)
        return cloud[rows]

    monkeypatch.setattr(baselines, "local_features", features)
    monkeypatch.setattr(baselines, "forest", lambda *_: Forest())
    baselines.of_components(baselines.Options())
    data = parts.load(recipe("components"))
    flat = data.signature.categories.index("Package_QFP")
    extents = [
        np.ptp(data.test.x[data.test.ptr[i] : data.test.ptr[i + 1]].numpy(), axis=0)
        for i in np.flatnonzero(data.test.category.numpy() == flat)
    ]
    assert seen == {int(np.mean(extents, 0).argmin())}
