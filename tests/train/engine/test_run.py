"""A run from config to report: what it leaves, how it resumes, how it shares work, what it says to bad input."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dropfold.__main__ import main
from dropfold.data_scripts.schemas import shape_schema, splits
from dropfold.train.config.configs import NoiseConfig, Signature
from dropfold.train.config.recipes import RECIPES, recipe
from dropfold.train.engine.run import Run
from dropfold.train.report.report import command
from dropfold.train.scoring.objective import loss_function
from dropfold.train.storage import checkpoint
from dropfold.train.tasks import clouds
from dropfold.train.tasks.trained import Trained
from tests.train.conftest import small
from tests.train.recount import assert_recounted

ROOT = Path(__file__).parents[3]
SCRIPT = """
from dropfold.train.storage import checkpoint
from dropfold.train.engine.run import Run
{patch}
config, _ = checkpoint.load_config(__import__("pathlib").Path({folder!r}))
Run(config).train()
"""


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    Run(small(folder, out=out)).train()
    return out


def test_a_run_is_a_folder(finished):
    summary = json.loads((finished / "summary.json").read_text())
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    saved = weights(finished)
    assert_recounted(finished)
    assert summary["parameters"] == sum(
        value.numel() for name, value in saved.items() if name.endswith(("weight", "bias"))
    )
    assert summary["seconds"] == pytest.approx(sum(row["seconds"] for row in rows), abs=0.01)
    assert 2**26 < summary["peak_memory_bytes"] < 2**36  # torch alone takes 64 MiB
    assert summary["data"] == shape_schema.read(checkpoint.load_config(finished)[0].data).checksum
    # The last epoch's state; the noise lies in the pool, so that it is evaluated with its own statistics.
    state = checkpoint.load_state(finished / "checkpoint.pt")
    assert state["epoch"] == 3
    assert_same(saved, state["model"])
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert ["validation/loss" in row for row in rows] == [False, True, True]
    found = np.load(finished / "predictions.npz")
    assert np.mean(found["logits"].argmax(1) == found["label"]) == pytest.approx(
        summary["test/overall_accuracy"]
    )
    page = (finished / "report.html").read_text()
    assert "{{" not in page
    assert "https:" not in page  # self-contained


@pytest.mark.parametrize(
    ("select", "options", "best_is_last"),
    [("validation", {}, True), ("test", {}, True), ("test", {"epochs": 8, "lr": 0.01}, False)],
)
def test_the_best_epoch_s_figures_are_those_of_its_weights(select, options, best_is_last, folder, tmp_path):
    from dropfold.train.scoring.logits import predict

    out = tmp_path / "run"
    summary = Run(small(folder, out=out, select=select, validate_every=1, **options)).train()
    trained = Trained.of(out)
    config, model = trained.config, trained.network
    model.load_state_dict(load_file(out / "best.safetensors"))
    data = clouds.load(config).test
    right = (
        predict(model, clouds.inputs(data, config)).argmax(1).numpy()
        == np.load(out / "predictions.npz")["label"]
    )
    assert right.mean() == pytest.approx(summary[f"test_at_best_{select}/overall_accuracy"])
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    reached = [row[f"{select}/overall_accuracy"] for row in rows]
    last = max(i for i, value in enumerate(reached) if value == max(reached))
    assert summary[f"test_at_best_{select}/epoch"] == last + 1
    assert (last + 1 == len(rows)) == best_is_last


def test_validating_changes_no_weight(finished, folder, tmp_path):
    Run(small(folder, out=tmp_path / "run", validate_every=1)).train()
    assert_same(weights(tmp_path / "run"), weights(finished))


def test_the_saved_network_gives_the_saved_predictions(finished, folder, furniture):
    from dropfold.train.scoring.logits import predict

    trained = Trained.of(finished)
    config, signature, model = trained.config, trained.signature, trained.network
    assert signature.class_names == furniture.class_names[:3]
    logits = predict(model, clouds.inputs(clouds.load(config).test, config))
    torch.testing.assert_close(logits.numpy(), np.load(finished / "predictions.npz")["logits"])


def test_the_config_survives_its_file(finished, folder):
    config, _ = checkpoint.load_config(finished)
    assert config == small(folder, out=finished)


@pytest.mark.parametrize("moment", ["epoch", "checkpoint", "metrics"])
def test_a_killed_run_goes_on_as_if_nothing_had_been(moment, folder, finished, tmp_path):
    """kill -9 in the middle of the second epoch, or inside the second write of a file."""
    out = tmp_path / "killed"
    out.mkdir()
    (tmp_path / "spec").mkdir()
    checkpoint.save_config(tmp_path / "spec/config.json", small(folder, out=out), Signature([]))
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    patch = {
        "epoch": "import dropfold.train.engine.step as e; f = e.loss_function; n = [0]\n"
        f"def g(*a):\n  n[0] += 1\n  if n[0] == 5:\n    {kill}\n  return f(*a)\ne.loss_function = g",
        "checkpoint": "import os as o; f = o.fsync; n = [0]\n"
        "def g(fd):\n  n[0] += 1\n  if n[0] == 15:\n"  # the 8th write: each is synchronised, and its folder
        f"    o.truncate('/proc/self/fd/%d' % fd, 10); {kill}\n  return f(fd)\no.fsync = g",
        "metrics": "import dropfold.train.storage.checkpoint as c; f = c.Metrics.add; n = [0]\n"
        f"def g(*a):\n  n[0] += 1\n  f(*a)\n  if n[0] == 2:\n    {kill}\nc.Metrics.add = g",
    }[moment]
    script = SCRIPT.format(patch=patch, folder=str(tmp_path / "spec"))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert not (out / "summary.json").exists()
    Run(replace(small(folder), resume=out)).train()
    assert not list(out.glob(".*"))  # of what the kill left half-written
    assert_same(weights(out), weights(finished))
    same = [
        [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (out, finished)
    ]
    for a, b in zip(*same):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        }


@pytest.mark.slow
def test_ten_kills_at_random_moments(folder, finished, tmp_path):
    out = tmp_path / "killed"
    (tmp_path / "spec").mkdir()
    checkpoint.save_config(tmp_path / "spec/config.json", small(folder, out=out), Signature([]))
    random = np.random.default_rng(0)
    fresh = SCRIPT.format(patch="", folder=str(tmp_path / "spec"))
    again = fresh.replace("Run(config)", "config.resume = config.out; Run(config)")
    kills = 0
    while kills < 10:
        script = again if (out / "config.json").exists() else fresh
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(random.uniform(3, 9))
        if process.poll() is not None:  # it ended before the kill: begin anew
            assert_same(weights(out), weights(finished))
            for file in out.iterdir():
                file.unlink()
            out.rmdir()
            continue
        process.kill()
        process.wait()
        kills += 1
    Run(
        replace(small(folder), **({"resume": out} if (out / "config.json").exists() else {"out": out}))
    ).train()
    assert_same(weights(out), weights(finished))


def test_two_processes_agree_with_one(folder, tmp_path):
    """Same global batches; noise and dropout off, for each process draws its own. SGD, for Adam's first steps are of one
    size however small, and differently rounded, a gradient is."""
    still = {"noise": NoiseConfig("none"), "dropout": 0.0, "epochs": 2, "optimizer": "sgd", "lr": 0.01}
    Run(small(folder, out=tmp_path / "one", **still)).train()
    (tmp_path / "spec").mkdir()
    checkpoint.save_config(
        tmp_path / "spec/config.json", small(folder, out=tmp_path / "two", **still), Signature([])
    )
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(patch="", folder=str(tmp_path / "spec")))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        if value.is_floating_point():
            # Six float32 steps of a network with ten layers; sums are taken in another order.
            assert (value - two[name]).norm() <= 2e-3 * value.norm() + 1e-4, name


def test_a_failing_tracker_never_stops_a_run(folder, tmp_path, monkeypatch):
    broken = types.ModuleType("wandb")
    broken.init = lambda **_: (_ for _ in ()).throw(OSError("no network"))
    monkeypatch.setitem(sys.modules, "wandb", broken)
    assert Run(small(folder, out=tmp_path / "run", epochs=1, wandb="offline")).train()
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert Run(small(folder, out=tmp_path / "again", epochs=1, wandb="offline")).train()


@pytest.mark.parametrize(
    "options",
    [
        {"network": "pointnet", "optimizer": "adam", "lr": 1e-3, "schedule": "step", "normals": True},
        {"noise": NoiseConfig("point", layers=("edge1", "pool"), warmup_epochs=1.0), "amp": "bf16"},
        {"select": "test", "train_on_validation": True},
        {"train_on_validation": True},
        {"network": "pointnet", "transforms": False, "noise": NoiseConfig("feat", layers=("conv1", "conv2"))},
        {"points": 16, "noise": NoiseConfig("none")},
    ],
    ids=["pointnet", "edge-noise-bf16", "peers-selection", "no-validation", "conv-noise", "few-points"],
)
def test_other_configs_run(options, folder, tmp_path):
    Run(small(folder, out=tmp_path / "run", epochs=1, **options)).train()
    assert_recounted(tmp_path / "run")


def test_predict_and_evaluate_from_the_command_line(finished, tmp_path, run_python, furniture, capsys):
    chair = tmp_path / "chair.xyz"
    np.savetxt(chair, furniture.points[0] * 7 + 3)
    done = run_python("-m", "dropfold", "predict", str(finished), str(chair), "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["class"] in furniture.class_names[:3]
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(finished), str(tmp_path / "none.off")])
    assert "none.off is not there" in capsys.readouterr().err + str(ended.value)
    done = run_python("-m", "dropfold", "evaluate", str(finished))
    accuracy = json.loads((finished / "summary.json").read_text())["test/overall_accuracy"]
    assert f"overall accuracy {100 * accuracy:.2f} %" in done.stdout, done.stderr


def test_bad_input_is_named(folder, finished, tmp_path):
    with pytest.raises(FileExistsError, match="--resume"):
        Run(small(folder, out=finished))
    with pytest.raises(ValueError, match="64 points a shape and the config asks for 100"):
        Run(small(folder, out=tmp_path / "a", points=100))
    with pytest.raises(ValueError, match="less than one batch of 64"):
        Run(small(folder, out=tmp_path / "a", batch_size=64))
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        Run(small(folder, out=tmp_path / "a", amp="fp16"))
    with pytest.raises(ValueError, match="is not there"):
        Run(small(folder, out=tmp_path / "a", data=tmp_path / "none.h5"))
    with pytest.raises(FileNotFoundError, match="give the folder of a run"):
        Trained.of(tmp_path)
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        Run(small(folder, out=tmp_path / "a", batch_size=0))
    with pytest.raises(ValueError, match="validate_every must be at least 1; got 0"):
        Run(small(folder, out=tmp_path / "a", validate_every=0))
    with pytest.raises(ValueError, match=r"asks for another: epochs 9 \(the run: 3\)"):
        Run(small(folder, resume=finished, epochs=9))
    with pytest.raises(ValueError, match="recipe furniture-pointnet"):
        Run(replace(recipe("furniture-pointnet"), resume=finished))
    assert not (tmp_path / "a").exists()


def test_a_run_that_has_ended_keeps_its_summary(folder, finished):
    before = (finished / "summary.json").read_bytes()
    (finished / "report.html").unlink()
    assert Run(small(folder, resume=finished)).train() == checkpoint.load_summary(finished)
    assert (finished / "summary.json").read_bytes() == before
    page = (finished / "report.html").read_text()
    assert f"{100 * json.loads(before)['test/overall_accuracy']:.1f} %" in page


def test_a_run_in_bf16_is_evaluated_as_its_saved_network(folder, tmp_path):
    from dropfold.train.scoring.logits import predict

    out = tmp_path / "run"
    Run(small(folder, out=out, epochs=1, amp="bf16")).train()
    trained = Trained.of(out)
    config, model = trained.config, trained.network
    logits = predict(model, clouds.inputs(clouds.load(config).test, config))
    torch.testing.assert_close(logits.numpy(), np.load(out / "predictions.npz")["logits"])


def test_the_loss_spreads_its_smoothing_over_the_other_classes():
    logits, label, config = (
        torch.randn(6, 5),
        torch.arange(6) % 5,
        replace(recipe("furniture"), label_smoothing=0.2),
    )
    target = torch.full((6, 5), 0.2 / 4).scatter(1, label[:, None], 0.8)
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss_function(logits, label, config), expected)


def test_weights_weigh_samples_and_not_what_smoothing_spreads():
    logits, label, weight = torch.randn(6, 5), torch.arange(6) % 5, torch.tensor([1.0, 2, 3, 4, 9])
    config = replace(recipe("furniture"), label_smoothing=0.2)
    target = torch.full((6, 5), 0.2 / 4).scatter(1, label[:, None], 0.8)
    each = -(target * logits.log_softmax(1)).sum(1)
    expected = (weight[label] * each).sum() / weight[label].sum()
    torch.testing.assert_close(loss_function(logits, label, config, weight), expected)
    plain = torch.nn.functional.cross_entropy(logits, label, weight)
    torch.testing.assert_close(
        loss_function(logits, label, replace(config, label_smoothing=0.0), weight), plain
    )


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_repeated_by_its_printed_command(name):
    config = recipe(name)
    assert command(config) == f"dropfold train {name}"
    if config.task != "clouds":
        return
    changed = replace(config, epochs=7, resample=not config.resample, noise=replace(config.noise, p=0.25))
    words = command(changed)
    assert "--epochs 7" in words
    assert "--noise.p 0.25" in words
    assert ("--resample" if changed.resample else "--no-resample") in words
    assert asdict(changed) != asdict(config)


def test_folds_test_each_shape_once_and_keep_the_classes_in_proportion(folder, furniture):
    label = furniture.label
    fold = splits.stratified_folds(label)
    np.testing.assert_array_equal(fold, splits.stratified_folds(label))
    for members in (fold, *(fold[label == c] for c in range(12))):
        assert np.ptp(np.bincount(members, minlength=5)) <= 1
    config = replace(recipe("furniture"), protocol="fold")
    tested = []
    for held_out in range(5):
        data = clouds.load(replace(config, held_out=held_out))
        parts = [split.index for split in (data.train, data.validation, data.test)]
        assert sorted(np.concatenate(parts)) == list(range(360))
        np.testing.assert_array_equal(parts[2], np.flatnonzero(fold == held_out))
        share = np.bincount(label[parts[1]]) / np.bincount(np.delete(label, parts[2]))
        assert ((share > 0.06) & (share < 0.22)).all()  # 15 % of each class, of the smallest one of eleven
        again = clouds.load(replace(config, held_out=held_out))
        np.testing.assert_array_equal(again.validation.index, parts[1])
        tested.append(parts[2])
    assert sorted(np.concatenate(tested)) == list(range(360))


def test_a_fold_needs_its_protocol(folder):
    def refused(match, **options):
        with pytest.raises(ValueError, match=match):
            clouds.load(small(folder, **options))

    refused(
        "held_out 1 names a fold, and the protocol is the file's own split; ask for --protocol fold",
        held_out=1,
    )
    refused(r"needs the fold to test on: --held-out, one of \[0, 1, 2, 3, 4\]; got None", protocol="fold")
    refused(
        "protocol group-fold is not for this data; there are split, fold", protocol="group-fold", held_out=0
    )
