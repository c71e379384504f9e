"""Runs under corruption: what is measured, what is kept, what the tables say, and what is refused."""

import csv
import sys

import numpy as np
import pytest
import torch

from dropfold.__main__ import main
from dropfold.data_scripts.schemas import shape_schema
from dropfold.train.compare import outcomes, robustness
from dropfold.train.compare.corruptions import ALL, corrupt
from dropfold.train.compare.outcomes import Outcome
from dropfold.train.config.configs import NoiseConfig
from dropfold.train.engine.run import Run
from dropfold.train.scoring.logits import predict
from dropfold.train.tasks.trained import Trained
from tests.train.conftest import small, small_video

POINTNET = {"network": "pointnet", "transforms": False, "epochs": 1}


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """A folder as a comparison leaves it: two variants of two seeds."""
    out = tmp_path_factory.mktemp("comparison")
    for variant, noise in (("none", NoiseConfig()), ("DropPoint", NoiseConfig("point"))):
        for seed in (0, 1):
            place = out / variant / f"seed-{seed}"
            Run(small(folder, out=place, seed=seed, noise=noise, **POINTNET)).train()
    return out


def test_a_measurement_is_that_of_the_saved_network(runs, folder, furniture):
    run, steps = runs / "none/seed-0", []
    found = robustness.measure(run, advance=steps.append)
    assert sum(steps) == robustness.STEPS == 41
    np.testing.assert_array_equal(found.right, outcomes.of_predictions(run / "predictions.npz").right)
    model = Trained.of(run).network
    clouds = shape_schema.read(folder / "small.h5")
    test = clouds.of(shape_schema.TEST)
    x = corrupt(clouds.points[test, :32], test, "drop_local", 4)
    right = predict(model, (torch.from_numpy(x),)).argmax(1).numpy() == clouds.label[test]
    np.testing.assert_array_equal(found.corrupted[4, 3], right)
    assert found.corrupted.shape == (8, 5, 12)
    assert robustness.measure(run, "validation").corrupted.shape == (8, 5, 6)


def test_a_measurement_is_kept_and_not_that_of_other_corruptions(runs):
    run = runs / "none/seed-1"
    first = robustness.measure(run)
    before = (run / "robustness-test.npz").stat().st_mtime_ns
    again = robustness.measure(run)
    assert (run / "robustness-test.npz").stat().st_mtime_ns == before
    np.testing.assert_array_equal(first.corrupted, again.corrupted)
    assert robustness.read(run, "test", seed=1) is None
    assert robustness.read(run, "validation") is None


def test_the_command_compares_variants_over_seeds(runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["dropfold", "robustness", str(runs / "none"), str(runs), "--out", str(out)]
    )
    main()
    said = capsys.readouterr().out
    assert "| none | 2 |" in said
    assert "| DropPoint | 2 |" in said
    with (out / "levels.csv").open() as file:
        levels = list(csv.DictReader(file))
    assert len(levels) == 4 * 8 * 5
    with (out / "runs.csv").open() as file:
        by_run = {(row["variant"], row["seed"]): row for row in csv.DictReader(file)}
    for (variant, seed), row in by_run.items():
        mine = [
            float(level["accuracy"])
            for level in levels
            if (level["variant"], level["seed"]) == (variant, seed)
        ]
        assert float(row["corrupted_accuracy"]) == pytest.approx(np.mean(mine[:35]))
        assert float(row["missing_accuracy"]) == pytest.approx(np.mean(mine[35:]))
    with (out / "table.csv").open() as file:
        none, point = csv.DictReader(file)
    assert float(none["mce_mean"]) == pytest.approx(1)  # its own unit
    # The published formula, on the means over seeds.
    error = {
        name: 1
        - np.array([float(level["accuracy"]) for level in levels if level["variant"] == name])
        .reshape(2, 8, 5)[:, :7]
        .mean(0)
        for name in ("none", "DropPoint")
    }
    expected = np.mean(error["DropPoint"].sum(1) / error["none"].sum(1))
    assert float(point["mce_mean"]) == pytest.approx(expected)
    for name in ("comparison.png", "levels.png", "corruptions.png"):
        assert (out / name).read_bytes()[:4] == b"\x89PNG"


def test_folds_of_a_seed_are_averaged():
    right = np.ones((8, 5, 4), bool)
    right[:, :, 2:] = False
    found = robustness.accuracies(
        {
            ("a", 0, fold): Outcome(np.arange(4), np.zeros(4), np.arange(4) < 2 + fold, right ^ bool(fold))
            for fold in range(2)
        }
    )
    assert found["a"].shape == (1, len(ALL), 6)
    assert found["a"][0, 0].tolist() == [0.625, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_bad_input_is_named(runs, folder, video_folder, tmp_path):
    def refused(match, *folders, **options):
        with pytest.raises(ValueError, match=match):
            robustness.robustness(robustness.Options(folders, out=tmp_path / "out", **options))

    refused("there is no finished run in .*nowhere", runs, tmp_path / "nowhere")
    Run(small_video(video_folder, out=tmp_path / "video", epochs=1)).train()
    refused("video is not a run on the coordinates of point clouds alone", tmp_path / "video")
    refused("video was trained on .*clips.h5, .*DropPoint/seed-0 on .*small.h5", runs, tmp_path / "video")
    Run(small(folder, out=tmp_path / "normals", normals=True, **POINTNET)).train()
    refused("normals is not a run on the coordinates", tmp_path / "normals")
    Run(small(folder, out=tmp_path / "twin", noise=NoiseConfig(), **POINTNET)).train()
    refused("are runs of one config and seed; give one of them", runs, tmp_path / "twin")
    Run(small(folder, out=tmp_path / "all", train_on_validation=True, **POINTNET)).train()
    refused("has no shapes in its validation split", tmp_path / "all", split="validation")
