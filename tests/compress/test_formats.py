"""ADMM on tensor formats: its updates beside the equations, and from a dense run to a run of cores."""

from dataclasses import replace

import pytest
import torch

from dropfold.__main__ import main
from dropfold.compress.methods.admm import ADMM, decomposed, nearest, onto_formats, residual
from dropfold.compress.run import formats as stages
from dropfold.compress.run import measures, training
from dropfold.models import TensorGRU, TensorLSTM
from dropfold.models.formats import FORMATS, FormatSpec
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.storage.sealed import load_json
from dropfold.train.tasks.trained import Trained
from tests.compress.test_command import _few_calls, refused  # noqa: F401
from tests.train.conftest import (  # noqa: F401
    _fresh_accelerator,
    clips,
    small_video,
    video_folder,
)
from tests.train.engine.test_integrity import Interrupted

TT = FormatSpec("tt", (3, 4), (2, 4), (2,))
IH = ["--ih.format", "tt", "--ih.in-modes", "6", "8", "--ih.out-modes", "2", "4", "--ih.ranks", "3"]


class Step:
    def __init__(self, network):
        self.network = network


def lstm(kind=TensorLSTM, **formats):
    torch.manual_seed(0)
    return kind(12, 8, **formats).double()


def test_the_updates_are_the_equations():
    """With a projection of its own: TT of two cores is a truncated singular value decomposition."""
    network, specs, rho = lstm(), {"ih.0": TT}, 0.7
    admm = ADMM(onto_formats(specs, 4), rho, relative=False)
    assert admm.prepare(network) is network

    def project(weight):  # [3 4, 8 4] -> [3 8, 4 4], rank 2
        matrix = weight.view(3, 4, 8, 4).permute(0, 2, 1, 3).reshape(24, 16)
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return ((u[:, :2] * s[:2]) @ v[:2]).view(3, 8, 4, 4).permute(0, 2, 1, 3).reshape(12, 32)

    weight = network.ih[0].weight.cores[0]
    z, dual = project(weight.detach()), torch.zeros(12, 32, dtype=torch.float64)
    for epoch in range(3):
        admm.before_epoch(network, epoch)
        if epoch:
            z = project(weight.detach() + dual)
            dual = dual + weight.detach() - z
        loss = admm.loss(Step(network), torch.zeros(1))
        torch.testing.assert_close(
            loss.double(), rho / 2 * (weight - z + dual).square().sum(), rtol=1e-6, atol=0
        )
        (gradient,) = torch.autograd.grad(loss, weight)
        torch.testing.assert_close(gradient, rho * (weight.detach() - z + dual), rtol=1e-6, atol=1e-9)
        with torch.no_grad():
            weight -= 0.3 * gradient
        error = admm.after_epoch(network, epoch)["admm/ih.0"]
        assert error == pytest.approx(float((weight.detach() - z).norm() / weight.detach().norm()), rel=1e-9)


def test_the_relative_penalty_does_not_know_a_scale():
    losses = []
    for factor in (1.0, 100.0):
        network = lstm()
        with torch.no_grad():
            network.hh[0].weight.cores[0].mul_(factor)
        admm = ADMM(onto_formats({"hh.0": FormatSpec("tt", (2, 4), (2, 4), (1,))}, 4))
        admm.prepare(network)
        losses.append(admm.loss(Step(network), torch.zeros(1)))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "tr" else ()) for name in FORMATS]
)
def test_the_penalty_alone_draws_a_matrix_to_its_format(name):
    """Without a loss W comes to its format: the residual falls and ends near zero."""
    network = lstm()
    spec = replace(TT, format=name, paired=True if name == "tucker" else None)
    admm = ADMM(onto_formats({"ih.0": spec}, 4))
    admm.prepare(network)
    weight, found = network.ih[0].weight.cores[0], []
    for epoch in range(4):
        admm.before_epoch(network, epoch)
        for _ in range(5):
            (gradient,) = torch.autograd.grad(admm.loss(Step(network), torch.zeros(1)), weight)
            with torch.no_grad():
                weight -= 0.5 * weight.square().sum() * gradient
        found.append(residual(weight, nearest(weight, spec, 4)))
    assert found[-1] < 0.05 * found[0] or found[-1] < 1e-3


def test_a_state_that_is_taken_up_goes_on_the_same():
    specs = {"ih.0": replace(TT, format="cp", ranks=(3,)), "hh.0": FormatSpec("ht", (2, 4), (2, 4), (2,))}
    network = lstm()
    first, second = (ADMM(onto_formats(specs, 4)) for _ in range(2))
    first.prepare(network)
    with torch.no_grad():
        network.ih[0].weight.cores[0].add_(0.1)
    first.before_epoch(network, 1)
    second.prepare(network)
    second.load_state_dict(first.state_dict())
    for admm in (first, second):
        admm.before_epoch(network, 2)
    torch.testing.assert_close(
        *(a.loss(Step(network), torch.zeros(1)) for a in (first, second)), rtol=0, atol=0
    )


@pytest.mark.parametrize(("kind", "gates"), [(TensorLSTM, 4), (TensorGRU, 3)])
def test_decomposed_keeps_what_fits_and_all_else(kind, gates):
    """A dense matrix that is of the format comes back as it was, and so do biases and the other matrix."""
    made = lstm(kind, ih=TT)
    dense = lstm(kind)
    with torch.no_grad():
        dense.ih[0].weight.cores[0].copy_(made.ih[0].weight.to_dense())
    into = lstm(kind, ih=TT)
    errors = decomposed(dense, into, {"ih.0": TT}, gates)
    assert errors["ih.0"] < 1e-12
    x = torch.rand(5, 2, 12, dtype=torch.float64)
    torch.testing.assert_close(into(x)[0], dense(x)[0], rtol=1e-10, atol=1e-12)


def test_what_is_not_dense_is_refused():
    for name in ("ih.0", "nothing", "ih"):
        with pytest.raises(ValueError, match=f"{name} must be a dense TensorLinear"):
            ADMM(onto_formats({name: TT}, 4)).prepare(lstm(ih=TT))


@pytest.fixture(scope="module")
def dense(video_folder, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("runs") / "dense"
    Run(small_video(video_folder, out=out, epochs=4, mega=FormatSpec(), recurrent_dropout=0.0)).train()
    return out


def compress(run, out, *more):
    main(["compress", str(run), *IH, "--epochs", "4", "--lr", "0.01", "--out", str(out), *more])


def test_a_run_of_cores_out_of_a_dense_run(dense, tmp_path, capsys, monkeypatch):
    compress(dense, tmp_path / "admm")
    compress(dense, tmp_path / "direct", "--method", "decompose")
    shown = capsys.readouterr().out
    assert "decomposed after ADMM" in shown
    found, direct = (load_json(tmp_path / name / "compression.json") for name in ("admm", "direct"))
    assert found["errors"]["after ADMM"]["rnn.ih.0"] < found["errors"]["of the original"]["rnn.ih.0"]
    assert found["scores"]["decomposed"] == direct["scores"]["decomposed"]
    whole, small, rival = (Trained.of(f) for f in (dense, tmp_path / "admm", tmp_path / "direct"))
    assert small.config.ih == rival.config.ih == FormatSpec("tt", (6, 8), (2, 4), (3,))
    assert small.network.rnn.ih[0].weight.parameters_count() == 6 * 8 * 3 + 3 * 8 * 4
    assert found["cost"]["parameters"][1] < found["cost"]["parameters"][0]
    assert small.config.epochs + Trained.of(tmp_path / "admm/dense").config.epochs == rival.config.epochs
    assert torch.equal(whole.network.rnn.hh[0].weight.to_dense(), whole.network.rnn.hh[0].weight.cores[0])
    rows = checkpoint.load_metrics(tmp_path / "admm/dense")
    assert all(0 < row["admm/rnn.ih.0"] < 1 for row in rows)
    monkeypatch.setattr(stages, "decomposed", None)
    monkeypatch.setattr(training, "Run", None)
    compress(dense, tmp_path / "admm")  # again: nothing is left to do


def test_an_interrupted_one_goes_on_to_the_same(dense, tmp_path, monkeypatch):
    compress(dense, tmp_path / "whole")

    def stop(*_, **__):
        raise Interrupted

    for module, name in ((stages, "draw_near"), (training, "Run"), (measures, "costs")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stop)
            with pytest.raises(Interrupted):
                compress(dense, tmp_path / "cut")
    compress(dense, tmp_path / "cut")
    whole, cut = (tmp_path / name / "model.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_what_cannot_become_a_format_is_said(dense, video_folder, tmp_path, capsys):  # noqa: F811
    out = ["--out", tmp_path / "a"]
    assert "give a format for a matrix" in refused(dense, *out, capsys=capsys)
    assert "multiply to 42" in refused(dense, *IH[:3], "6", "7", *IH[5:], *out, capsys=capsys)
    assert "--target is for channels" in refused(
        dense, *IH, "--target", "latency", "0.5", *out, capsys=capsys
    )
    assert "takes channels out" in refused(dense, *IH, "--method", "norm", *out, capsys=capsys)
    assert "--rho must be above 0" in refused(dense, *IH, "--rho", "-1", *out, capsys=capsys)
    Run(small_video(video_folder, out=tmp_path / "mega", epochs=1)).train()
    assert "one layer in one direction with dense" in refused(tmp_path / "mega", *IH, *out, capsys=capsys)
    assert not (tmp_path / "a").exists()
