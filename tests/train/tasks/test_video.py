"""A run on videos through the same engine: what it leaves, how it resumes, its protocols, what it says to bad input."""

import json
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dropfold.__main__ import main
from dropfold.data_scripts.schemas import video_schema
from dropfold.models.formats import FormatSpec
from dropfold.train.config.configs import Signature, VideoConfig
from dropfold.train.config.recipes import RECIPES, recipe
from dropfold.train.engine.check import check
from dropfold.train.engine.run import Run
from dropfold.train.engine.schedule import learning_rate
from dropfold.train.report.report import command, curves
from dropfold.train.scoring.logits import predict
from dropfold.train.scoring.metrics import scores
from dropfold.train.storage import checkpoint
from dropfold.train.tasks import video
from dropfold.train.tasks.trained import Trained
from tests.train.conftest import small_video
from tests.train.recount import assert_recounted

ROOT = Path(__file__).parents[3]
TT = FormatSpec("tt", (6, 8), (4, 2), (3,))


@pytest.fixture(scope="module")
def finished(video_folder, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    Run(small_video(video_folder, out=out)).train()
    return out


def test_a_run_leaves_its_figures_and_a_self_contained_report(finished, video_folder):
    summary = json.loads((finished / "summary.json").read_text())
    assert_recounted(finished)
    assert summary["parameters"] == summary["cores"] + summary["biases"] + summary["classifier"]
    assert summary["biases"] == 4 * 8
    assert summary["classifier"] == 3 * 8 + 3
    page = (finished / "report.html").read_text()
    assert "{{" not in page
    assert "https:" not in page
    assert (
        6 <= page.count('"strip": "iVBOR') <= 10
    )  # of ten test clips, at most six that are right and six that are wrong
    assert "Parameters and multiply-adds by tensor" in page
    trained = Trained.of(finished)
    config, signature, model = trained.config, trained.signature, trained.network
    assert config == small_video(video_folder, out=finished)
    assert signature == Signature(["right", "left", "still"], (5, 6, 8, 1))
    assert sum(p.numel() for p in model.parameters()) == summary["parameters"]


def test_a_killed_run_goes_on_as_if_nothing_had_been(video_folder, finished, tmp_path):
    """kill -9 in the middle of the second epoch, with one-cycle, both dropouts and clips of several lengths."""
    out, spec = tmp_path / "killed", tmp_path / "spec"
    spec.mkdir()
    checkpoint.save_config(spec / "config.json", small_video(video_folder, out=out), Signature([]))
    script = (
        "import os, pathlib, signal, dropfold.train.engine.step as e\n"
        "from dropfold.train.engine.run import Run\n"
        "from dropfold.train.storage import checkpoint\n"
        "f = e.loss_function; n = [0]\n"
        "def g(*a):\n  n[0] += 1\n  if n[0] == 5: os.kill(os.getpid(), signal.SIGKILL)\n  return f(*a)\n"
        "e.loss_function = g\n"
        f"config, _ = checkpoint.load_config(pathlib.Path({str(spec)!r}))\n"
        "Run(config).train()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    Run(replace(small_video(video_folder), resume=out)).train()
    one, two = load_file(out / "model.safetensors"), load_file(finished / "model.safetensors")
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


@pytest.mark.parametrize(
    "options",
    [
        {"mega": FormatSpec(), "ih": TT, "hh": replace(TT, in_modes=(4, 2)), "layers": 1, "clip": 0.1},
        {"cell": "gru", "reset": "before", "frames": 2, "choose": "first"},
        {"cell": "gru", "mega": FormatSpec(), "bidirectional": True, "recurrent_dropout": 0.0},
        {"protocol": "fold", "held_out": 2, "frames": 3, "schedule": "cosine"},
        {"protocol": "group-fold", "held_out": 0, "amp": "bf16"},
    ],
    ids=["tt", "gru-mega", "gru-both-directions", "fold", "group-fold-bf16"],
)
def test_other_configs_run(options, video_folder, tmp_path):
    Run(small_video(video_folder, out=tmp_path / "run", epochs=1, **options)).train()
    assert_recounted(tmp_path / "run")


def test_many_labels_are_judged_by_average_precision(video_folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    config = small_video(video_folder, data=video_folder / "labels.h5", out=out, epochs=1)
    summary = Run(config).train()
    with np.load(out / "predictions.npz") as found:
        logits, label = found["logits"].T, found["label"].T.astype(np.float64)
    # In float64, as the figure is: a mean in float32 may print another last digit (58.125 % as 58.12 or 58.13).
    expected = np.mean([average_precision(s, y) for s, y in zip(logits, label)])
    assert summary["test/mean_average_precision"] == pytest.approx(expected, rel=1e-12)
    by_class = [average_precision(s, y) for s, y in zip(logits, label)]
    others = [average_precision(logits.ravel(), label.ravel())]  # over all pairs, and with one class left out
    others += [np.mean(np.delete(by_class, i)) for i in range(len(by_class))]
    assert min(abs(100 * (np.array(others) - expected))) > 0.02
    monkeypatch.setattr(sys, "argv", ["dropfold", "evaluate", str(out)])
    main()
    # Half of the last digit that is printed: of a figure that lies halfway either neighbour is right. What a wrong mean
    # would print lies further away, see above.
    printed = re.search(r"mean average precision (\d+\.\d\d) %", capsys.readouterr().out)
    assert float(printed[1]) == pytest.approx(100 * expected, abs=0.005 + 1e-9)
    assert "average precision" in (out / "report.html").read_text()
    with pytest.raises(ValueError, match="label_smoothing must be 0"):
        Run(replace(config, out=tmp_path / "smooth", label_smoothing=0.1))


def average_precision(score, relevant):
    """Mean, over the relevant samples, of the precision among those scored at least as high."""
    precisions = [relevant[score >= s].mean() for s, yes in zip(score, relevant) if yes]
    return np.mean(precisions)


def test_average_precision_by_hand():
    """Ranked 1 0 1 0 0 the precisions at the relevant ones are 1 and 2/3; a class without a sample does not count."""
    logits = torch.tensor([[5.0, 0.0], [4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0]])
    label = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    found = scores(logits, label)
    assert found.leading == pytest.approx((1 + 2 / 3) / 2)
    assert found.by_class[1].isnan()


def test_a_curve_without_values_is_not_in_the_report(video_folder):
    rows = [{"epoch": 0, "lr": 0.1, "train/loss": 1.0, "train/accuracy": 0.5, "gradient_norm": 1.0}]
    charts = curves(small_video(video_folder), rows, "overall_accuracy")
    assert [[line["name"] for line in chart["lines"]] for chart in charts] == [
        ["training"],
        ["training"],
        ["mean"],
        ["rate"],
    ]


def test_one_cycle_is_torchs(video_folder):
    config, steps = small_video(video_folder, epochs=4, lr=0.02), 7
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight], lr=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=28, cycle_momentum=False)
    for at in range(28):
        assert learning_rate(config, at // steps, at % steps, steps) == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-9
        )
        optimizer.step()
        if at < 27:
            schedule.step()


def test_frames_are_spread_over_each_clip():
    frames = np.arange(2 * 9, dtype=np.uint8).reshape(2, 9, 1, 1, 1)
    config = VideoConfig(Path("none"), frames=3)
    seen, length = video.chosen_frames(frames, np.array([9, 2]), config, "file")
    assert seen[0].ravel().tolist() == [1, 4, 7]
    assert seen[1].ravel()[:2].tolist() == [9, 10]
    assert length.tolist() == [3, 2]
    more, _ = video.chosen_frames(frames, np.array([9, 2]), replace(config, frames=5), "file")
    assert more[1].ravel()[:2].tolist() == [9, 10]  # no frame of a short clip is seen twice
    first, _ = video.chosen_frames(frames, np.array([9, 2]), replace(config, choose="first"), "file")
    assert first[0].ravel().tolist() == [0, 1, 2]


def test_a_shift_moves_all_frames_of_a_clip_alike():
    frames = torch.randint(0, 255, (3, 2, 6, 8, 1), generator=torch.Generator().manual_seed(0))
    moved = video.shifted(frames, 2, torch.Generator().manual_seed(1))
    down, right = torch.randint(-2, 3, (2, 3, 1), generator=torch.Generator().manual_seed(1))
    for i, (d, r) in enumerate(zip(down[:, 0].tolist(), right[:, 0].tolist())):
        for row in range(6):
            for column in range(8):
                source = frames[i, :, min(max(row - d, 0), 5), min(max(column - r, 0), 7)]
                assert torch.equal(moved[i, :, row, column], source)
    assert down.unique().numel() > 1


def test_a_held_out_fold_is_the_test_split(video_folder, clips):
    data = video.load(small_video(video_folder, protocol="group-fold", held_out=1))
    assert sorted(data.test.index) == sorted(np.flatnonzero(clips.group_fold == 1))
    groups = [{clips.group[i] for i in split.index} for split in (data.train, data.test)]
    assert not groups[0] & groups[1]
    assert len(data.validation) == 0
    with pytest.raises(ValueError, match="batch_size 8 cannot be shared by 3 processes"):
        check(small_video(video_folder), data, 3)


def test_predictions_of_frames_in_a_file(finished, clips, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "clip.npy", clips.frames[0, : clips.length[0]])
    broken = clips.frames[0] / np.float32(255)
    broken[1, 0, 0, 0] = np.nan
    np.save(tmp_path / "nan.npy", broken)
    np.save(tmp_path / "other.npy", clips.frames[0, :, :3])
    np.save(tmp_path / "whole.npy", clips.frames[0].astype(np.int64))  # no longer 0 .. 255 to the network
    np.save(tmp_path / "wide.npy", clips.frames[0].astype(np.float32))
    (tmp_path / "junk.npy").write_bytes(b"no array" * 9)
    (tmp_path / "empty.npy").write_bytes(b"")
    names = ("clip", "nan", "other", "none", "whole", "wide", "junk", "empty")
    files = [str(tmp_path / f"{name}.npy") for name in names]
    monkeypatch.setattr(sys, "argv", ["dropfold", "predict", str(finished), *files, "--json"])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr()
    (found,) = json.loads(printed.out)
    model = Trained.of(finished).network
    logits = predict(model, (torch.from_numpy(clips.frames[:1]), torch.from_numpy(clips.length[:1])))
    expected = dict(zip(clips.class_names, logits.softmax(1)[0].tolist()))
    assert found["probabilities"] == pytest.approx(expected, abs=1e-4)
    said = printed.err
    for name in ("nan", "whole", "wide"):
        assert f"{name}.npy holds" in said
    assert "junk.npy is not a whole .npy file" in said
    assert "empty.npy is not a whole .npy file" in said
    assert "expected frames [T, 6, 8, 1]" in said
    assert "none.npy is not there" in said


def test_bad_input_is_named(video_folder, clips, tmp_path):
    one_class = tmp_path / "one.h5"
    video_schema.write(one_class, replace(clips, label=clips.label * 0, class_names=["right"]))

    def refused(match, **options):
        with pytest.raises(ValueError, match=match):
            Run(small_video(video_folder, out=tmp_path / "a", **options))

    refused("has 5 frames a clip and the config asks for 9", frames=9)
    refused("held_out 1 names a fold, and the protocol is the file's own split", held_out=1)
    refused(r"needs the fold to test on: --held-out, one of \[0, 1, 2, 3, 4\]; got None", protocol="fold")
    refused("got 7", protocol="group-fold", held_out=7)
    refused("hidden must be at least 1; got 0", hidden=0)
    refused("std must be above 0; got 0.0", std=0.0)
    refused("clip must be above 0; got -1.0", clip=-1.0)
    refused("lr must be above 0; got 0.0", lr=0.0)
    refused("lr_epochs must be at least 1; got 0", schedule="step", lr_epochs=0)
    refused("recurrent_dropout must be in 0 .. 1, below 1; got 1.5", recurrent_dropout=1.5)
    refused("seed must be at least 0; got -1", seed=-1)
    refused("has one class, right: nothing to tell apart", data=one_class)
    refused(
        "= 48 numbers, and --ih.in-modes 6 7 multiply to 42",
        mega=FormatSpec(),
        ih=replace(TT, in_modes=(6, 7)),
    )
    refused(
        r"none.h5 is not there. Did you mean .*one.h5. A data set of videos of your own: `dropfold data videos",
        data=tmp_path / "none.h5",
    )
    with pytest.raises(ValueError, match="Did you mean 'tt'"):
        FormatSpec(format="ttt")
    assert not (tmp_path / "a").exists()


def test_another_file_of_clips_is_not_gone_on_with(video_folder, clips, tmp_path):
    """Or half of a run would have learnt from other clips, and no figure would say so."""
    data, out = tmp_path / "clips.h5", tmp_path / "run"
    video_schema.write(data, clips)
    Run(small_video(video_folder, data=data, out=out, epochs=1)).train()
    assert json.loads((out / "summary.json").read_text())["data"] == video_schema.read(data).checksum
    video_schema.write(data, replace(clips, label=clips.label[::-1].copy()))
    with pytest.raises(ValueError, match=r"clips\.h5 is not the file that .*run began with"):
        Run(replace(recipe("action-video"), resume=out))


def test_evaluation_on_frames_of_another_size_is_refused(finished, clips, tmp_path, monkeypatch):
    video_schema.write(tmp_path / "a.h5", replace(clips, frames=clips.frames[:, :, :, :4]))
    monkeypatch.setattr(
        sys, "argv", ["dropfold", "evaluate", str(finished), "--data", str(tmp_path / "a.h5")]
    )
    with pytest.raises(
        SystemExit, match=r"has samples \[5, 6, 4, 1\], the run was trained on \[5, 6, 8, 1\]"
    ):
        main()


def test_an_interruption_says_how_to_go_on(video_folder, tmp_path, monkeypatch, capsys):
    def interrupted(run):
        run.folder.mkdir()
        (run.folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "train", interrupted)
    given = [
        "--data",
        video_folder / "clips.h5",
        "--out",
        tmp_path / "run",
        "--mega.format",
        "dense",
        "--batch-size",
        4,
    ]
    monkeypatch.setattr(sys, "argv", ["dropfold", "train", "action-video", *map(str, given)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert f"go on with: dropfold train action-video --resume {tmp_path}/run." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("fdht-lstm-video", {"mega": FormatSpec(), "ih": TT, "bidirectional": True}),
        ("action-video", {"train_on_validation": False, "clip": None, "data": Path("a b.h5")}),
        ("hmdb51-tt-lstm", {"protocol": "split", "held_out": None, "frames": None}),
    ],
)
def test_the_printed_command_makes_the_same_config(name, changes, monkeypatch):
    config, seen = replace(recipe(name), **changes), []
    monkeypatch.setattr("dropfold.train.engine.run.Run", lambda config: seen.append(config) or sys.exit())
    monkeypatch.setattr(sys, "argv", shlex.split(command(config)))
    with pytest.raises(SystemExit):
        main()
    assert seen == [config]


@pytest.mark.parametrize(
    "name", [name for name in RECIPES if isinstance(recipe(name), VideoConfig) and name != "action-video"]
)
def test_published_shapes_build(name):
    """Each recipe's modes fit the frames of its data set."""
    sides = {"hollywood2-tt-lstm": (100, 234, 3)}.get(name, (120, 160, 3))
    config = recipe(name)
    model = video.build(config, Signature(["a", "b"], (6, *sides)))
    cores = video.facts(model)["cores"]
    exact = {"ucf11-tt-lstm": 3360, "youtube-celebrities-tt-lstm": 3392, "hollywood2-tt-lstm": 3104}
    if name in exact:  # the input's cores, as published, and the dense hidden matrix
        assert cores == exact[name] + 256 * 1024
    if config.mega.format == "ht":
        assert cores + video.facts(model)["biases"] <= 8808


def test_the_action_video_recipe_is_within_its_budget():
    model = video.build(recipe("action-video"), Signature(["a"] * 20, (16, 60, 80, 1)))
    facts = video.facts(model)
    assert facts["biases"] == 1024
    assert facts["cores"] + facts["biases"] <= 8808
