"""Runs on parts and scenes from config to report, and the labels of files."""

import json
import re
import signal
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dropfold.__main__ import main
from dropfold.data_scripts.readers.scene_file import read_scene, write_scene
from dropfold.train.compare import compare, outcomes, summed
from dropfold.train.config.configs import Signature
from dropfold.train.data.local_shape import CHANNELS, local_shape
from dropfold.train.engine import step as engine
from dropfold.train.engine.run import Run
from dropfold.train.predict.labelling import label_file
from dropfold.train.report.report import curves
from dropfold.train.scoring import metrics
from dropfold.train.scoring.objective import loss_function, restrict_to_family
from dropfold.train.storage import checkpoint
from dropfold.train.tasks import blocks, parts, scenes
from dropfold.train.tasks.trained import Trained
from tests.train.recount import assert_recounted
from tests.train.small_segmentation import (
    room,
    small_blocks,
    small_parts,
    small_scenes,
    write_blocks,
    write_segmentation_sets,
)

ROOT = Path(__file__).parents[3]
SMALL = {"parts": small_parts, "blocks": small_blocks, "scenes": small_scenes}
MODULES = {"parts": parts, "blocks": blocks, "scenes": scenes}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_segmentation_sets(tmp_path_factory.mktemp("segmentation"))


@pytest.fixture(scope="module")
def finished(folder):
    """An uninterrupted run of each task."""
    runs = {}
    for name, small in SMALL.items():
        runs[name] = folder / name
        Run(small(folder, out=runs[name])).train()
    return runs


FIGURES = {
    "parts": ("instance_mean_iou", "class_mean_iou", "overall_accuracy"),
    "blocks": ("mean_iou", "overall_accuracy", "mean_class_accuracy"),
    "scenes": ("mean_iou", "overall_accuracy", "mean_class_accuracy"),
}


@pytest.mark.parametrize("task", FIGURES)
def test_a_run_ends_with_figures_and_a_report(task, finished):
    run = finished[task]
    summary = json.loads((run / "summary.json").read_text())
    assert_recounted(run)
    trained = Trained.of(run)
    config, signature, network = trained.config, trained.signature, trained.network
    module, data = MODULES[task], MODULES[task].load(config)
    found = {"validation": module.scores(module.predict_split(network, data.validation, config), signature)}
    network.load_state_dict(load_file(run / "best.safetensors"))
    best = module.predict_split(network, data.test, config, final=True)
    found["test_at_best_validation"] = module.scores(best, signature)
    for split, scores in found.items():
        assert tuple(scores.figures) == FIGURES[task]
        for name, value in scores.figures.items():
            assert summary[f"{split}/{name}"] == pytest.approx(value), (split, name)
    page = (run / "report.html").read_text()
    held = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.S)[1])
    wide = [section for section in held["sections"] if section.get("wide")]
    assert wide
    assert all(len(section["items"]) % 3 == 0 and section["items"] for section in wide)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    config, signature = checkpoint.load_config(run)
    assert config.task == task
    assert [chart["title"] for chart in curves(config, rows, FIGURES[task][0])][2] == "Accuracy"
    assert len(held["classes"]["rows"]) == len(signature.categories or signature.class_names)


@pytest.mark.parametrize("task", FIGURES)
def test_the_saved_network_gives_the_saved_answers(task, finished):
    trained = Trained.of(finished[task])
    config, signature, network = trained.config, trained.signature, trained.network
    module = MODULES[task]
    data = module.load(config)
    found = module.predict_split(network, data.test, config, final=True)
    with np.load(finished[task] / "predictions.npz") as kept:
        for name, value in found.items():
            np.testing.assert_array_equal(value, kept[name], err_msg=name)
    assert module.scores(found, signature).figures.keys() == set(FIGURES[task])


@pytest.mark.parametrize("task", FIGURES)
def test_a_killed_run_goes_on_as_if_nothing_had_been(task, folder, finished, tmp_path):
    """kill -9 in the middle of the second epoch."""
    small = SMALL[task]
    out = tmp_path / "killed"
    (tmp_path / "spec").mkdir()
    checkpoint.save_config(tmp_path / "spec/config.json", small(folder, out=out), Signature([]))
    script = (
        "import os, signal, pathlib, dropfold.train.engine.step as e\nfrom dropfold.train.engine.run import Run\n"
        "from dropfold.train.storage import checkpoint\nf = e.loss_function; n = [0]\n"
        "def g(*a):\n  n[0] += 1\n  if n[0] == 5: os.kill(os.getpid(), signal.SIGKILL)\n  return f(*a)\n"
        f"e.loss_function = g\nconfig, _ = checkpoint.load_config(pathlib.Path({str(tmp_path / 'spec')!r}))\n"
        "Run(config).train()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    Run(replace(small(folder), resume=out)).train()
    ours, theirs = (load_file(run / "model.safetensors") for run in (out, finished[task]))
    for name, value in theirs.items():
        assert torch.equal(value, ours[name]), name


@pytest.mark.parametrize("network", ["pointnet", "pointnet2"])
@pytest.mark.parametrize("task", FIGURES)
def test_other_networks_run(task, network, folder, tmp_path):
    small = SMALL[task]
    points = {"parts": 512, "blocks": 1024, "scenes": 1024}[task] if network == "pointnet2" else 32
    options: dict = {"blocks": 4, "stride": 1.0} if task == "scenes" else {}
    if task == "blocks":
        write_blocks(tmp_path / "many.h5", blocks=2, points=points + 8)
        options = {"data": tmp_path / "many.h5"}
    config = small(
        folder, out=tmp_path / "run", network=network, points=points, epochs=1, batch_size=2, **options
    )
    if task == "parts":
        config = replace(config, norm_decay=0.5, local_shape=True)
    else:
        config = replace(config, colour=False, class_weights=True, label_smoothing=0.0)
    if task == "scenes":
        config = replace(config, local_shape=True)
    Run(config).train()
    assert_recounted(tmp_path / "run")


@pytest.mark.parametrize("task", FIGURES)
def test_a_tracker_gets_coloured_clouds(task, finished):
    config, _ = checkpoint.load_config(finished[task])
    module = MODULES[task]
    with np.load(finished[task] / "predictions.npz") as answers:
        wandb = types.SimpleNamespace(Object3D=lambda cloud: cloud)
        sent = module.log_predictions(wandb, config, module.load(config), dict(answers))
    assert sent
    for cloud in sent.values():
        assert cloud.shape[1] == 6
        assert cloud[:, 3:].min() >= 0
        assert cloud[:, 3:].max() <= 255


def test_a_part_run_keeps_what_the_bootstrap_needs(finished):
    """A shape's IoU is what it gives to the instance mean IoU."""
    found = outcomes.of_predictions(finished["parts"] / "predictions.npz")
    summary = json.loads((finished["parts"] / "summary.json").read_text())
    assert found.values()["score"].mean() == pytest.approx(summary["test/instance_mean_iou"])
    for task in ("blocks", "scenes"):
        assert outcomes.of_predictions(finished[task] / "predictions.npz") is None


def test_every_point_of_a_scene_in_a_file_is_labelled(finished, tmp_path):
    trained = Trained.of(finished["scenes"])
    data = trained.data
    room = data.test.scenes.room(int(data.test.index[0]))
    points = room.points + np.float32([10, 20, 5])
    write_scene(tmp_path / "scene.ply", points, room.colour, room.label)
    found = label_file(trained, tmp_path / "scene.ply", tmp_path / "labelled.ply")
    back = read_scene(tmp_path / "labelled.ply")
    np.testing.assert_array_equal(back.points, points)
    np.testing.assert_array_equal(back.colour, room.colour)
    assert sum(found["classes"].values()) == found["points"] == len(points)
    with np.load(finished["scenes"] / "predictions.npz") as kept:
        first = kept["predicted"][: kept["ptr"][1]]
    # Coordinates moved by whole metres are rounded anew: a point at the edge of a column may change its group.
    assert (back.label == first).mean() > 0.9
    figures = metrics.scene_scores(metrics.confusion(room.label, back.label, 4)).figures
    assert found["against its labels"] == pytest.approx(figures)
    write_scene(tmp_path / "gray.xyz", points, None, None)
    with pytest.raises(ValueError, match=r"gray.xyz has no colours, and the run was trained with them"):
        label_file(trained, tmp_path / "gray.xyz", tmp_path / "gray.ply")
    assert not (tmp_path / "gray.ply").exists()


def test_a_network_trained_on_blocks_labels_scenes(finished, tmp_path):
    trained = Trained.of(finished["blocks"])
    points, colour, label = room(np.random.default_rng(0), 500)
    write_scene(tmp_path / "scene.ply", points, colour, label)
    found = label_file(trained, tmp_path / "scene.ply", tmp_path / "labelled.ply", votes=2)
    assert found["points"] == 500
    back = read_scene(tmp_path / "labelled.ply")
    np.testing.assert_array_equal(back.points, points)
    said = dict(
        zip(trained.signature.class_names, np.bincount(back.label, minlength=4).tolist(), strict=True)
    )
    assert found["classes"] == {name: count for name, count in said.items() if count}


def test_every_point_of_a_shape_in_a_file_is_labelled(finished, tmp_path):
    trained = Trained.of(finished["parts"])
    cloud = np.random.default_rng(0).uniform(0, 1, (75, 3)) * (2, 20, 2) + 100  # in its own place and size
    np.savetxt(tmp_path / "pole.xyz", cloud)
    options = {"category": "pole", "votes": 2}
    found = label_file(trained, tmp_path / "pole.xyz", tmp_path / "out.ply", **options)
    back = read_scene(tmp_path / "out.ply")
    np.testing.assert_allclose(back.points, cloud, rtol=1e-6)
    label = back.label
    assert len(label) == found["points"] == 75
    assert set(label.tolist()) <= {0, 1}  # the parts of a pole
    with pytest.raises(ValueError, match="one of pole, plate; got none"):
        label_file(trained, tmp_path / "pole.xyz", tmp_path / "out.ply")


@pytest.mark.parametrize("all_parts", [False, True])
def test_each_vote_cuts_a_shape_anew_and_probabilities_are_added(all_parts, folder):
    """With a network that answers at random, and more or less certainly: its answers are counted point by point."""
    random, calls = np.random.default_rng(0), []

    class Spy(torch.nn.Linear):
        def forward(self, x, category):
            assert category.tolist() == [1]
            logits = random.normal(0, random.uniform(0.5, 8), (1, 32, 4)).astype(np.float32)
            calls.append((x[0, :, 0].long().tolist(), logits[0]))
            return torch.from_numpy(logits)

    cloud = np.repeat(np.arange(75, dtype=np.float32)[:, None], 3, 1)  # a point's coordinate is its number
    config = small_parts(folder, own_parts=False, all_parts=all_parts)
    signature = parts.load(config).signature
    found = parts.label_cloud(Spy(1, 1), cloud, 1, config, signature, 3)
    groups = [members for members, _ in calls]
    assert len(groups) == 9  # 75 points fill 3 groups of 32
    for vote in range(3):
        assert {*groups[3 * vote], *groups[3 * vote + 1], *groups[3 * vote + 2]} == set(range(75))
    assert len({tuple(members) for members in groups}) == 9
    total, allowed = np.zeros((75, 4)), [0, 1, 2, 3] if all_parts else [2, 3]
    for members, logits in calls:
        for point, row in zip(members, logits):
            total[point, allowed] += np.exp(row[allowed]) / np.exp(row[allowed]).sum()
    assert found.tolist() == total.argmax(1).tolist()


def test_a_shape_chooses_among_its_own_parts(folder, tmp_path, monkeypatch):
    """The loss is that over these logits alone, and so is its gradient; without own_parts it is over all."""
    seen = []

    def kept(logits, label, *rest):
        seen.append((logits.detach(), label))
        return loss_function(logits, label, *rest)

    monkeypatch.setattr(engine, "loss_function", kept)
    config = small_parts(folder, epochs=1)
    part_category = parts.load(config).train.part_category
    for own_parts in (True, False):
        seen.clear()
        run = Run(replace(config, own_parts=own_parts, out=tmp_path / str(own_parts)))
        run.train()
        assert seen
        for logits, label in seen:
            others = part_category != part_category[label][..., None]
            assert others.any()
            assert torch.equal(logits == -torch.inf, others & own_parts)
    logits = torch.randn(7, 4, requires_grad=True)
    family, label = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 2, 2, 0, 2, 0, 0])
    loss = loss_function(restrict_to_family(logits, family, family[label]), label, config)
    expected = torch.nn.functional.cross_entropy(logits[:, [0, 2]], label // 2)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])


def test_the_shape_around_points_is_that_of_the_whole_shape(folder, tmp_path):
    """Read from a file as from the data set, whatever points are drawn and however they are augmented."""
    config = small_parts(folder, local_shape=True, points=8)
    data = parts.load(config)
    assert data.signature.shape == (8, 3 + CHANNELS)
    start, end = data.train.ptr[:2]
    cloud = data.train.x[start:end, :3].numpy()
    up = "xyz".index(config.augment.up)
    whole = {row.tobytes() for row in local_shape(cloud, up).astype(np.float32)}
    (x, _), _ = parts.draw(data.train, torch.tensor([0]), config, torch.Generator().manual_seed(0))
    assert all(row.tobytes() in whole for row in x[0, :, 3:].numpy())
    assert not {row.tobytes() for row in x[0, :, :3].numpy()} & {row.tobytes() for row in cloud}
    np.savetxt(tmp_path / "pole.xyz", cloud)
    _, seen = parts.read(tmp_path / "pole.xyz", config, data.signature)
    np.testing.assert_array_equal(seen[:, 3:], local_shape(seen[:, :3], up).astype(np.float32))


def test_predict_and_evaluate_from_the_command_line(finished, tmp_path, run_python, capsys):
    write_scene(
        tmp_path / "scene.ply",
        *scenes.load(checkpoint.load_config(finished["scenes"])[0]).test.scenes.room(0),
    )
    run, scene, out = (
        str(path) for path in (finished["scenes"], tmp_path / "scene.ply", tmp_path / "labelled.ply")
    )
    done = run_python("-m", "dropfold", "predict", run, scene, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["out"] == out

    def refused(match, *words):
        with pytest.raises(SystemExit) as ended:
            main(["predict", run, *words])
        assert match in capsys.readouterr().err + str(ended.value)

    refused(f"{tmp_path / 'more/a.pcd'} has the suffix '.pcd'", scene, "--out", str(tmp_path / "more/a.pcd"))
    refused("is the file to be labelled", scene, "--out", scene)
    refused("would both be labelled in", scene, str(tmp_path / "scene.xyz"))
    refused("none.ply is not there", str(tmp_path / "none.ply"))
    assert not (tmp_path / "more").exists()
    assert not (tmp_path / "scene-labelled.ply").exists()
    done = run_python("-m", "dropfold", "evaluate", run)
    figure = json.loads((finished["scenes"] / "summary.json").read_text())["test/mean_iou"]
    assert f"mean IoU {100 * figure:.2f} %" in done.stdout, done.stderr


def test_bad_input_is_named(folder, tmp_path):
    def refused(config, match):
        with pytest.raises(ValueError, match=match):
            Run(replace(config, out=tmp_path / "refused"))
        assert not (tmp_path / "refused").exists()

    refused(small_parts(folder, network="pointnet2"), "512 centres in its first level, .* asks for 32 points")
    refused(small_parts(folder, normals=True), "has no normals")
    refused(small_parts(folder, label_smoothing=0.1), r"smoothing \(0.1\) spreads over .* or --no-own-parts")
    refused(
        small_blocks(folder, points=81), r"have 80 points, and the config asks for 81; ask for 80 or fewer"
    )
    refused(small_scenes(folder, held_out=9), r"--held-out, one of \[1, 2, 3\]; got 9")
    refused(small_scenes(folder, blocks=3), "3 training blocks, less than one batch of 4")
    dropping = replace(small_scenes(folder).augment, point_dropout=0.5)
    refused(small_scenes(folder, augment=dropping), "whose labels would no longer be theirs")
    for small in (small_blocks, small_scenes):
        lying = replace(small(folder).augment, up="y")
        refused(small(folder, augment=lying), "augment.up must be z for rooms, which stand along it; got y")
        refused(small(folder, stride=1.5), r"stride 1.5 leaves points between blocks of 1.0")


def test_areas_are_the_folds_of_rooms_and_their_confusions_add_up(folder, finished, tmp_path):
    config = small_scenes(folder)
    assert compare.find_folds(config) == compare.find_folds(small_blocks(folder)) == [1, 2, 3]
    assert compare.find_folds(small_parts(folder)) == list(range(5))
    run = compare.config_of(replace(config, protocol="split", held_out=None), 1, 2, tmp_path)
    assert (run.protocol, run.held_out) == ("area", 2)
    random, runs, total = np.random.default_rng(0), {}, np.zeros((4, 4), int)
    for fold in (1, 2, 3):
        matrix = random.integers(100, size=(4, 4))
        (tmp_path / str(fold)).mkdir()
        np.savez(tmp_path / str(fold) / "predictions.npz", confusion=matrix)
        runs["DropPoint", 0, fold] = tmp_path / str(fold)
        total += matrix
    runs["DropPoint", 1, 1] = tmp_path / "1"  # a seed without all folds is left out
    expected = metrics.scene_scores(total).figures
    text = summed.table_of(runs)
    cells = [cell.strip() for cell in text.splitlines()[2].split("|")]
    assert cells[1:6] == ["DropPoint", "1", *(f"{100 * value:.1f}" for value in expected.values())]
    assert "3 folds" in text
    assert summed.table_of({("", 0, 0): finished["parts"]}) == ""
