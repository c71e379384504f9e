"""Runs that label points: `dropfold explain RUN`, and `dropfold predict RUN FILE --explain` of theirs and of classifiers."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dropfold.__main__ import main
from dropfold.data_scripts.readers.ply import read_vertices, write_vertices
from dropfold.explain import explain
from dropfold.explain.run.command import FILES, rows_of
from dropfold.train.engine.log import log_rows
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.tasks import parts
from dropfold.train.tasks.trained import Trained
from tests.explain.test_command import content_of
from tests.train.conftest import (  # noqa: F401
    _fresh_accelerator,
    clips,
    folder,
    furniture,
    small,
    small_video,
    video_folder,
)
from tests.train.small_segmentation import room, small_parts, small_scenes, write_rooms, write_shapes


@pytest.fixture(scope="module")
def runs(tmp_path_factory, folder):  # noqa: F811
    """Runs of one epoch that classify clouds, label parts, label scenes."""
    data = tmp_path_factory.mktemp("labels")
    write_shapes(data / "parts.h5")
    write_rooms(data / "rooms.h5")
    configs = {
        "clouds": small(folder, epochs=1, network="pointnet", transforms=False),
        "parts": small_parts(data, epochs=1),
        "scenes": small_scenes(data, epochs=1),
    }
    for name, config in configs.items():
        config.out = data / name
        Run(config).train()
    return data


def cloud_file(path, points):
    write_vertices(path, {axis: points[:, c].astype(np.float32) for c, axis in enumerate("xyz")})
    return path


@pytest.mark.parametrize("task", ["parts", "scenes"])
def test_a_run_that_labels_points(runs, task, capsys):
    main(["explain", str(runs / task)])
    said = capsys.readouterr().out
    assert "of the evidence for a label lies on" in said
    assert "two-shape game" in said  # and that it is not played
    values = json.loads((runs / task / FILES[0]).read_text())
    arrays = checkpoint.load_arrays(runs / task / FILES[1])
    account = values["predicted"]["account"]
    size = sum(np.abs(v) for name, v in account.items() if name != "missing")
    assert np.max(np.abs(account["missing"]) / size) < 1e-5
    np.testing.assert_allclose(arrays["scores/predicted"].sum(1), account["evidence"], rtol=1e-3, atol=1e-4)
    assert len(values["maps"]) == len(account["evidence"]) >= 6
    assert all(row["points"] > 0 for row in values["maps"])
    assert content_of((runs / task / FILES[2]).read_text())["shapes"]


def test_a_map_of_a_part_is_that_of_its_points(runs):
    """The first map, anew: the logit of a part, averaged over the points that the network calls so."""
    trained = Trained.of(runs / "parts")
    names, category = trained.signature.class_names, np.array(trained.signature.part_category)
    predicted = trained.predictions["predicted"]
    c = int(np.bincount(predicted.ravel()).argmax())
    main(["explain", str(runs / "parts"), "--classes", names[c]])
    row = json.loads((runs / "parts" / FILES[0]).read_text())["maps"][0]
    assert row["class"] == names[c]
    index = [trained.data.name[i] for i in trained.data.test.index].index(row["cloud"])
    mask = torch.from_numpy(predicted[index] == c)[None]
    inputs, _ = parts.fixed(trained.data.test, [index], trained.config)
    assert category[c] == int(inputs[1])
    found = explain(trained.network, inputs, c, points=mask)
    assert row["points"] == int(mask.sum())
    scores = checkpoint.load_arrays(runs / "parts" / FILES[1])["scores/predicted"][0]
    np.testing.assert_allclose(scores, found.scores[0], rtol=1e-4, atol=1e-6)
    assert torch.allclose(found.logit, trained.network(*inputs)[0, mask[0], c].mean())


@pytest.mark.parametrize(
    ("task", "words", "said"),
    [
        ("parts", ["--methods", "zheng"], "--methods is for runs that classify clouds"),
        ("scenes", ["--units", "zero"], "--units is for runs that classify clouds"),
        ("parts", ["--classes", "pole/lowr"], "Did you mean 'pole/lower'"),
    ],
)
def test_refused(runs, task, words, said):
    with pytest.raises(SystemExit, match=said):
        main(["explain", str(runs / task), *words])


def test_a_cloud_in_a_file_is_explained(runs, tmp_path, capsys):
    file = cloud_file(tmp_path / "chair.ply", np.random.default_rng(0).uniform(-1, 1, (64, 3)))
    main(["predict", str(runs / "clouds"), str(file), "--explain", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    page, numbers, points = (tmp_path / f"chair-explained.{kind}" for kind in ("html", "json", "ply"))
    assert row["explanation"] == [str(page), str(numbers), str(points)]
    values = json.loads(numbers.read_text())
    assert values["classes"][values["predicted"]["target"][0]] == row["class"]
    vertices = read_vertices(points)
    assert set(vertices) == {
        "x",
        "y",
        "z",
        "quality",
        "scalar_score",
        "scalar_runner_up",
        "scalar_difference",
    }
    np.testing.assert_allclose(
        vertices["scalar_score"].sum(), values["predicted"]["account"]["evidence"][0], rtol=1e-4
    )
    np.testing.assert_allclose(
        vertices["scalar_score"] - vertices["scalar_runner_up"], vertices["scalar_difference"], atol=1e-5
    )
    (shape,) = content_of(page.read_text())["shapes"]
    assert len(shape["maps"]) == 3
    assert len(shape["steps"]) == 10
    main(["predict", str(runs / "clouds"), str(file), "--explain"])  # its own files may be replaced
    assert str(page) in capsys.readouterr().out


def test_a_shape_and_a_scene_in_files_are_explained(runs, tmp_path):
    random = np.random.default_rng(0)
    file = cloud_file(tmp_path / "pole.ply", random.uniform(-1, 1, (60, 3)) * (0.1, 1, 0.1))
    scene, colour, _ = room(random, 2000)
    table = {axis: scene[:, c] for c, axis in enumerate("xyz")}
    write_vertices(tmp_path / "room.ply", table | dict(zip(("red", "green", "blue"), colour.T.copy())))
    out = ["--explain", "--explain-out", str(tmp_path / "why")]
    main(["predict", str(runs / "parts"), str(file), "--category", "pole", *out])
    main(["predict", str(runs / "scenes"), str(tmp_path / "room.ply"), *out])
    for name, points in (("pole", 32), ("room", 64)):
        vertices = read_vertices(tmp_path / "why" / f"{name}-explained.ply")
        values = json.loads((tmp_path / "why" / f"{name}-explained.json").read_text())
        classes = [row["class"] for row in values["maps"]]
        assert len(vertices["quality"]) == points
        assert len([column for column in vertices if column.startswith("scalar_")]) == len(classes)
    assert (tmp_path / "pole-labelled.ply").is_file()


def test_what_is_not_ours_is_not_replaced(runs, tmp_path):
    file = cloud_file(tmp_path / "chair.ply", np.zeros((64, 3)))
    (tmp_path / "chair-explained.html").write_text("mine")
    with pytest.raises(SystemExit, match="would be lost; give another --explain-out"):
        main(["predict", str(runs / "clouds"), str(file), "--explain"])
    with pytest.raises(SystemExit, match="both be explained"):
        main(["predict", str(runs / "clouds"), str(file), str(tmp_path / "chair.off"), "--explain"])
    with pytest.raises(SystemExit, match="give --explain, too"):
        main(["predict", str(runs / "clouds"), str(file), "--explain-out", str(tmp_path)])


def test_rows_go_to_the_runs_own_wandb_run(runs, monkeypatch, tmp_path):
    """To that which was last begun in the folder, in the run's mode; nothing of a run that was made without W&B."""
    begun, sent = [], {}
    run = SimpleNamespace(log=sent.update, finish=lambda: begun.append("ended"))
    wandb = SimpleNamespace(init=lambda **options: begun.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    main(["explain", str(runs / "parts")])  # made with --wandb disabled
    assert begun == []
    values = json.loads((runs / "parts" / FILES[0]).read_text())
    config = replace(checkpoint.load_config(runs / "parts")[0], wandb="offline")
    for name in ("offline-run-20260102_000000-abc12345", "run-20260101_000000-older"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    log_rows(config, tmp_path, rows_of(values), print)
    options, ended = begun
    assert (options["id"], options["mode"], ended) == ("abc12345", "offline", "ended")
    assert sent["explain/on_own_points"] == values["on_own_points"]
    assert sent["explain/missing"] == values["missing"]
