"""`dropfold compress --method dcff` and `scratch`: a smaller run from new weights, interrupted anywhere."""

import pytest
import torch

from dropfold.__main__ import main
from dropfold.compress.cost.times import times_of
from dropfold.compress.run import measures, training
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.storage.sealed import load_json
from dropfold.train.tasks.trained import Trained
from tests.compress.test_command import refused, run  # noqa: F401
from tests.train.conftest import _fresh_accelerator, folder, furniture  # noqa: F401
from tests.train.engine.test_integrity import Interrupt, Interrupted

DCFF = "--method", "dcff"


@pytest.fixture(autouse=True)
def _few_calls(monkeypatch):
    """Times are not what is tested."""
    monkeypatch.setattr(measures, "times_of", lambda *given, **_: times_of(*given, seconds=0))


def compress(run, out, *more):  # noqa: F811
    main(["compress", str(run), "--out", str(out), *more])


def test_smaller_runs_from_new_weights(run, tmp_path, capsys, monkeypatch):  # noqa: F811
    """With the sizes of the uniform share, and the run's own epochs and rate."""
    found = {}
    for method in ("dcff", "scratch"):
        out = tmp_path / method
        compress(run, out, "--method", method)
        assert "trained anew" in capsys.readouterr().out
        found[method] = load_json(out / "compression.json")
    compress(run, tmp_path / "norm", "--method", "norm", "--epochs", "1")
    trained, whole = {name: Trained.of(tmp_path / name) for name in (*found, "norm")}, Trained.of(run)
    sizes = [each.config.sizes for each in trained.values()]
    assert sizes[0] == sizes[1] == sizes[2] == found["dcff"]["sizes"]
    for name in found:
        config = trained[name].config
        assert (config.epochs, config.lr, config.seed) == (2, whole.config.lr, whole.config.seed)
        assert list(found[name]["scores"]) == ["original", "trained anew"]
        summary = checkpoint.load_summary(tmp_path / name)
        score = found[name]["scores"]["trained anew"]["overall_accuracy"]
        assert score == summary["test/overall_accuracy"]
        before, after = found[name]["cost"]["M multiply-adds"]
        assert 0.3 * before < after <= 0.5 * before
        count = sum(p.numel() for p in trained[name].network.parameters())
        assert found[name]["cost"]["parameters"][1] == summary["parameters"] == count
    weights = [each.network.edge1.linear.weight for each in trained.values()]
    assert not torch.equal(weights[0], weights[1])
    rows = checkpoint.load_metrics(tmp_path / "dcff")
    assert 0 < rows[0]["dcff/own_share"] < 0.2 < rows[1]["dcff/own_share"] <= 1
    main(["evaluate", str(tmp_path / "dcff")])
    assert "overall accuracy" in capsys.readouterr().out
    kept = (tmp_path / "dcff" / "model.safetensors").read_bytes()
    monkeypatch.setattr(training, "Run", None)
    compress(run, tmp_path / "dcff", *DCFF)  # again: nothing is left to do
    assert (tmp_path / "dcff" / "model.safetensors").read_bytes() == kept


def test_an_interrupted_one_goes_on_to_the_same(run, tmp_path, monkeypatch):  # noqa: F811
    whole, out = tmp_path / "whole", tmp_path / "cut"
    monkeypatch.setattr(
        training, "Run", lambda config, methods, **_: Run(config, [*methods, Interrupt(None)])
    )
    compress(run, whole, *DCFF)

    def stop(*_, **__):
        raise Interrupted

    def stop_before_the_last_epoch(config, methods, **_):
        return Run(config, [*methods, Interrupt(1)])

    for name, breaks in (("Run", stop), ("Run", stop_before_the_last_epoch), ("finish", stop)):
        with monkeypatch.context() as patch:
            patch.setattr(training, name, breaks)
            with pytest.raises(Interrupted):
                compress(run, out, *DCFF)
    compress(run, out, *DCFF)
    for name in ("model.safetensors", "predictions.npz"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert load_json(out / "compression.json")["scores"] == load_json(whole / "compression.json")["scores"]


def test_what_does_not_fit_is_said(run, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "a"
    assert "out of reach: the least" in refused(
        run, *DCFF, "--target", "macs", "1e-9", "--out", out, capsys=capsys
    )
    assert "--method scratch takes channels out and no formats" in refused(
        run, "--method", "scratch", "--ih.format", "tt", "--out", out, capsys=capsys
    )
    assert not out.exists()
