"""Predictions of many files: printed as they come, one fault stops no other, and JSON is a list in any case."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dropfold.data_scripts.readers.columns import AS_FOUND
from dropfold.data_scripts.work.errors import ShapeError
from dropfold.train.config.configs import CloudConfig, Signature
from dropfold.train.predict.predict import (
    Options,
    classify_each,
    main,
    predict_all,
    refuse_folder,
    refuse_idle,
)
from dropfold.train.tasks import clouds

FILES = tuple(Path(f"{name}.ply") for name in "abcd")


def predictor(capsys=None, **faults):
    """A function that predicts i of the i-th file, or raises its fault; and what was printed before each, if asked for."""
    seen = []

    def predict_one(i):
        seen.append(capsys.readouterr().out if capsys else "")
        if (fault := faults.get(FILES[i].stem)) is not None:
            raise fault
        return {"file": str(FILES[i]), "i": i}, f"{FILES[i]}: {i}"

    return predict_one, seen


@pytest.mark.parametrize("as_json", [False, True], ids=["words", "json"])
def test_rows_are_printed_as_they_come(as_json, capsys):
    predict_one, seen = predictor(capsys)
    predict_all(Options(Path("run"), FILES, json=as_json), predict_one)
    printed = [*seen[1:], capsys.readouterr().out]
    assert all(f"{file}" in text for file, text in zip(FILES, printed, strict=True))
    whole = "".join(printed)
    rows = [{"file": str(file), "i": i} for i, file in enumerate(FILES)]
    expected = (
        json.dumps(rows, indent=2) if as_json else "\n".join(f"{file}: {i}" for i, file in enumerate(FILES))
    )
    assert whole == expected + "\n"


def test_a_fault_of_one_file_stops_no_other(capsys):
    """A file's own fault is a sentence; a library's keeps its traceback, and names the file too."""
    faults = {"a": ShapeError("a.ply has no points."), "c": TypeError("in a library")}
    predict_one, _ = predictor(**faults)
    with pytest.raises(SystemExit) as ended:
        predict_all(Options(Path("run"), FILES, json=True), predict_one)
    said = capsys.readouterr()
    assert [row["i"] for row in json.loads(said.out)] == [1, 3]
    assert "error: a.ply has no points.\n" in said.err
    assert "Traceback" in said.err
    assert (
        "error: c.ply cannot be predicted, by a fault of dropfold or of a library (TypeError: in a library)"
        in said.err
    )
    assert ended.value.code == "error: 2 of 4 files could not be predicted, see above."


@pytest.mark.parametrize(("at", "done"), [("a", 0), ("c", 2)])
def test_an_interrupted_list_is_whole(at, done, capsys):
    predict_one, _ = predictor(**{at: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt) as stopped:
        predict_all(Options(Path("run"), FILES, json=True), predict_one)
    assert [row["i"] for row in json.loads(capsys.readouterr().out)] == list(range(done))
    assert stopped.value.__notes__ == [f"{done} of 4 files are done, and nothing of {at}.ply was written"]


@pytest.mark.parametrize(("votes", "asked"), [(None, 8), (4, 4)])
def test_the_probabilities_of_all_samplings_are_averaged(votes, asked, monkeypatch):
    """The first sampling says a, the last c, the mean of the logits a, and that of the probabilities b."""
    logits = torch.tensor([[20.0, 0, 0], [0, 1.5, 0], [0, 1.5, 0], [0, 0, 0.2]])
    asked_for = []

    def read(file, config, signature, votes, layout):
        asked_for.append((file, votes))
        return (logits,)

    monkeypatch.setattr(clouds, "read", read)
    network = torch.nn.Linear(3, 3, bias=False)
    torch.nn.init.eye_(network.weight)
    trained = SimpleNamespace(
        config=CloudConfig(data=Path("a.h5")), signature=Signature(["a", "b", "c"], (32, 3)), network=network
    )
    classify = classify_each(Options(Path("run"), FILES, votes=votes, top=2), trained, AS_FOUND)
    row, words = classify(1)
    powers = np.exp(logits.numpy())
    share = (powers / powers.sum(1, keepdims=True)).mean(0).tolist()
    assert asked_for == [(FILES[1], asked)]
    assert row == {
        "file": "b.ply",
        "class": "b",
        "probabilities": {name: pytest.approx(share["abc".index(name)], abs=1e-4) for name in "bac"},
    }
    assert [*row["probabilities"]] == ["b", "a", "c"]  # the most likely first
    assert words == f"b.ply: b {100 * share[1]:.1f} %, a {100 * share[0]:.1f} %"


def test_a_folder_is_told_from_a_file(tmp_path, capsys):
    with pytest.raises(SystemExit):
        predict_all(Options(Path("run"), (tmp_path,)), lambda i: refuse_folder(tmp_path, "clouds"))
    assert f"error: {tmp_path} is a folder; give the files in it: {tmp_path}/*" in capsys.readouterr().err


def test_no_file_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as ended:
        main(Options(Path("run"), ()))
    assert ended.value.code == 2
    assert "no file to predict; usage: dropfold predict run FILE..." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("clouds", {"unit": "mm"}, "--unit is for runs on scenes or blocks, and run is one on clouds"),
        ("parts", {"unit": "mm"}, "--unit is for runs on scenes or blocks, and run is one on parts"),
        ("clouds", {"overwrite": True}, "--overwrite is for runs on parts or scenes or blocks"),
        ("scenes", {"category": "mug"}, "--category is for runs on parts, and run is one on scenes"),
        (
            "images",
            {"votes": 3},
            "--votes is for runs on clouds or parts or scenes or blocks, and run is one on images",
        ),
        ("video", {"votes": 3}, "--votes is for runs on clouds or parts"),
        ("images", {"columns": "x y z"}, "--columns is for runs on clouds or parts"),
        ("video", {"columns": "x y z"}, "--columns is for runs on clouds or parts"),
        ("images", {"drop_nan": True}, "--drop-nan is for runs on clouds or parts"),
        ("video", {"drop_nan": True}, "--drop-nan is for runs on clouds or parts"),
        ("scenes", {"top": 3}, "--top is for runs on clouds or video or images"),
    ],
)
def test_an_option_that_a_run_does_not_use_is_refused(task, options, said):
    with pytest.raises(ValueError, match=said):
        refuse_idle(Options(Path("run"), FILES, **options), task)
    refuse_idle(Options(Path("run"), FILES), task)
    refuse_idle(Options(Path("run"), FILES, unit="mm"), "blocks")
    refuse_idle(Options(Path("run"), FILES, category="mug"), "parts")
