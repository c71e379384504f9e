"""`--precision`: scores and predictions in fewer bits say so, and float32's are what they were."""

import json
from pathlib import Path

import numpy as np
import pytest

from dropfold.explain.run import predict as explain_predict
from dropfold.models import lower_precision
from dropfold.train.predict import evaluate, predict
from dropfold.train.scoring.metrics import in_a_line
from dropfold.train.tasks import clouds
from dropfold.train.tasks.trained import Trained
from tests.train.conftest import small


@pytest.fixture
def run(folder, monkeypatch):
    """A run's network that was not trained, as a command reads it."""
    config = small(folder, network="pointnet", transforms=False)
    data = clouds.load(config)
    network = clouds.build(config, data.signature).eval()
    monkeypatch.setattr(
        Trained, "of", lambda run, **_: Trained(run, config, data.signature, network=network, data=data)
    )
    return config, data, network


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_evaluate_prints_both_scores_by_name(run, precision, capsys, monkeypatch):
    config, data, network = run
    seen, whole = [], clouds.predict_split
    monkeypatch.setattr(
        clouds,
        "predict_split",
        lambda of, *rest, **more: seen.append(type(of).__name__) or whole(of, *rest, **more),
    )
    evaluate.main(evaluate.Options(Path("run")))
    plain = capsys.readouterr().out
    assert precision not in plain
    evaluate.main(evaluate.Options(Path("run"), precision=precision))
    said = capsys.readouterr().out.splitlines()
    assert seen == ["PointNet", "PointNet", "LowPrecision"]
    assert said[0].startswith(f"{precision}: ")  # what was lowered
    assert any(f"test split, {precision}" in line for line in said)
    for name, of in ((precision, lower_precision(network, precision)), ("float32", network)):
        scores = clouds.scores(clouds.predict_split(of, data.test, config), data.signature)
        assert f"{name}: {in_a_line(scores.figures, 2)}" in said
    assert said[-1] == f"float32: {plain.splitlines()[-1]}"


def test_predictions_say_their_precision(run, tmp_path, capsys):
    file = tmp_path / "cloud.npy"
    np.save(file, np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32))
    options = {"run": Path("run"), "files": (file,), "votes": 1}
    predict.main(predict.Options(**options, json=True))
    assert "precision" not in json.loads(capsys.readouterr().out)[0]
    predict.main(predict.Options(**options, json=True, precision="int8"))
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["precision"] == "int8"
    assert "note: int8: 5 matrices in 8 bits" in said.err
    predict.main(predict.Options(**options, precision="bf16"))
    assert capsys.readouterr().out.endswith(" (bf16)\n")
    with pytest.raises(ValueError, match="--explain is of the network in float32"):
        explain_predict.main(explain_predict.Options(**options, explain=True, precision="int8"))
