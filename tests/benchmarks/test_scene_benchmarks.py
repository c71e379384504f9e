"""Whole scenes beside the peer's loop, and the baselines of segmentation."""

import numpy as np

from benchmarks import baselines, scene_prediction


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
