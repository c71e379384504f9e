"""ADMM on low ranks and its rival: the projection and the updates beside numpy, ranks by a budget, and from run to run."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dropfold.__main__ import main
from dropfold.compress import Choice, Plan, apply, masked
from dropfold.compress.cost.ledger import Ledger
from dropfold.compress.cost.times import times_of
from dropfold.compress.cost.work import multiply_adds, parameters_of, work_of
from dropfold.compress.methods.admm import ADMM, onto_ranks, weight_of
from dropfold.compress.methods.uniform import uniform_ranks
from dropfold.compress.plan.matrices import full_ranks
from dropfold.compress.run import measures, ranks, target, training
from dropfold.models import DGCNN, EdgeConv
from dropfold.models.layers.sizes import resize, sizes_of
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.storage.sealed import load_json
from dropfold.train.tasks.trained import Trained
from tests.compress.networks import FOREIGN, OURS
from tests.compress.test_command import refused, run  # noqa: F401
from tests.train.conftest import (  # noqa: F401
    _fresh_accelerator,
    bars,
    clips,
    folder,
    furniture,
    image_folder,
    image_run,
    video_folder,
)
from tests.train.engine.test_integrity import Interrupt, Interrupted

RANK = 3


@pytest.fixture(autouse=True)
def _few_calls(monkeypatch):
    """Times are not what is tested."""
    monkeypatch.setattr(measures, "times_of", lambda *given, **_: times_of(*given, seconds=0))


class Step:
    def __init__(self, network):
        self.network = network


def matrices():
    """A matrix, convolutions with and without a window, and an EdgeConv."""
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "linear": nn.Linear(9, 14),
            "conv": nn.Conv2d(5, 8, 3),
            "flat": nn.Conv1d(7, 6, 1),
            "edge": EdgeConv(6, 10),
        }
    ).double()


NAMES = "linear", "conv", "flat", "edge.linear"


def project(weight, name):
    """By numpy: the largest singular values of the matrix that two thin maps make."""
    matrix = weight.reshape(len(weight), -1)
    if name == "edge.linear":  # [out, 2 in] -> [2 out, in]
        matrix = np.concatenate(np.split(matrix, 2, 1))
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    near = (u[:, :RANK] * s[:RANK]) @ v[:RANK]
    return np.concatenate(np.split(near, 2), 1) if name == "edge.linear" else near.reshape(weight.shape)


@pytest.mark.parametrize("relative", [False, True])
def test_the_updates_are_the_equations(relative):
    network, rho = matrices(), 0.7
    admm = ADMM(onto_ranks(network, dict.fromkeys(NAMES, RANK)), rho, relative)
    assert admm.prepare(network) is network
    weights = {name: weight_of(network, name) for name in NAMES}
    w = {name: weight.detach().numpy().copy() for name, weight in weights.items()}
    z = {name: project(value, name) for name, value in w.items()}
    u = {name: np.zeros_like(value) for name, value in w.items()}
    norms = {name: np.linalg.norm(value) for name, value in w.items()}
    for epoch in range(3):
        admm.before_epoch(network, epoch)
        if epoch:
            for name in NAMES:
                if relative:
                    u[name] = u[name] * np.linalg.norm(w[name]) / norms[name]
                    norms[name] = np.linalg.norm(w[name])
                z[name] = project(w[name] + u[name], name)
                u[name] = u[name] + w[name] - z[name]
        scale = {name: (value**2).sum() if relative else 1.0 for name, value in w.items()}
        loss = admm.loss(Step(network), torch.zeros(1, dtype=torch.float64))
        expected = rho / 2 * sum(((w[n] - z[n] + u[n]) ** 2).sum() / scale[n] for n in NAMES)
        np.testing.assert_allclose(loss.item(), expected, rtol=1e-6)  # the sum starts in float32
        gradients = torch.autograd.grad(loss, list(weights.values()))
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            exact = rho * (w[name] - z[name] + u[name]) / scale[name]  # none through |W|
            np.testing.assert_allclose(gradient.numpy(), exact, rtol=1e-6, atol=1e-9)
            with torch.no_grad():
                weight -= 0.3 * scale[name] * gradient
            w[name] = weight.detach().numpy().copy()
        residual = admm.after_epoch(network, epoch)
        for name in NAMES:
            found = np.linalg.norm(w[name] - z[name]) / np.linalg.norm(w[name])
            assert residual[f"admm/{name}"] == pytest.approx(found, rel=1e-9)


def test_the_penalty_alone_draws_weights_to_their_rank():
    network = matrices()
    admm = ADMM(onto_ranks(network, dict.fromkeys(NAMES, RANK)))
    admm.prepare(network)
    found = []
    for epoch in range(4):
        admm.before_epoch(network, epoch)
        for _ in range(5):
            weights = [weight_of(network, name) for name in NAMES]
            gradients = torch.autograd.grad(admm.loss(Step(network), torch.zeros(1)), weights)
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight -= 0.5 * weight.square().sum() * gradient
        found.append(admm.after_epoch(network, epoch))
    assert all(found[-1][name] < 0.05 * found[0][name] for name in found[0])


def test_the_balance_with_the_loss_does_not_know_the_scale_before_a_batch_norm():
    """The loss of c W has the gradient of W over c, and so has its penalty, also when W has moved since Z was made."""
    gradients = []
    for factor in (1.0, 10.0):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(9, 14, bias=False), nn.BatchNorm1d(14, eps=1e-12)).double()
        x, weight, change = (torch.randn(*s).double() for s in ((20, 9), (14, 9), (14, 9)))
        with torch.no_grad():
            network[0].weight.copy_(factor * weight)
        admm = ADMM(onto_ranks(network, {"0": RANK}))
        admm.prepare(network)
        with torch.no_grad():
            network[0].weight.add_(factor * change)
        admm.before_epoch(network, 1)
        losses = (network(x) ** 3).mean(), admm.loss(Step(network), torch.zeros(1).double())
        gradients.append([factor * torch.autograd.grad(loss, network[0].weight)[0] for loss in losses])
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)  # eps, and a sum that starts in float32


def test_the_running_difference_keeps_the_scale_of_its_matrix():
    """c W between two epochs, which a BatchNorm hides, divides the penalty's gradient by c and changes nothing else."""
    gradients = []
    for factor in (1.0, 10.0):
        network = matrices()
        admm = ADMM(onto_ranks(network, dict.fromkeys(NAMES, RANK)))
        admm.prepare(network)
        admm.before_epoch(network, 1)  # U is what no matrix of the rank reaches
        weights = [weight_of(network, name) for name in NAMES]
        with torch.no_grad():
            for weight in weights:
                weight.mul_(factor)
        admm.before_epoch(network, 2)
        loss = admm.loss(Step(network), torch.zeros(1))
        gradients.append([factor * g for g in torch.autograd.grad(loss, weights)])
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)  # the sum starts in float32


def test_a_state_that_is_taken_up_goes_on_the_same():
    network = matrices()
    first, second = (ADMM(onto_ranks(network, dict.fromkeys(NAMES, RANK))) for _ in range(2))
    first.prepare(network)
    for name in NAMES:
        weight_of(network, name).data.add_(0.1)
    first.before_epoch(network, 1)
    second.prepare(network)
    second.load_state_dict(first.state_dict())
    for name in NAMES:
        weight_of(network, name).data.mul_(2)
    for admm in (first, second):
        admm.before_epoch(network, 2)
    torch.testing.assert_close(
        *(a.loss(Step(network), torch.zeros(1)) for a in (first, second)), rtol=0, atol=0
    )


def test_a_weight_or_rank_that_is_not_there_is_refused():
    network = matrices()
    with pytest.raises(
        ValueError, match=r"edge\.linear: rank 7 is not one of a matrix of 20 x 6: from 1 to 6"
    ):
        onto_ranks(network, {"edge.linear": 7})
    for name in ("edge", "nothing"):
        with pytest.raises(
            ValueError, match=f"{name} must be a dense TensorLinear, .* an nn.Linear or a conv"
        ):
            onto_ranks(network, {name: 1})


BUDGETS = {
    "dgcnn": lambda: (DGCNN(10, k=5, emb_dims=32).eval(), (torch.rand(1, 32, 3),)),
    "pointnet-scenes": OURS["pointnet-scenes"],  # a cloud's feature beside points
    "residual": FOREIGN["residual"],
}


@pytest.mark.parametrize("what", ["macs", "parameters"])
@pytest.mark.parametrize("name", BUDGETS)
def test_ranks_by_a_budget(name, what):
    """Ever smaller networks, whole vectors of ranks, only where a pair costs less."""
    network, example = BUDGETS[name]()
    work = work_of(network, *example) if what == "macs" else parameters_of(network)
    full = full_ranks(network)
    choices = uniform_ranks(Ledger(Plan(network, ()), work))
    assert choices[0] == Choice({})
    assert not any(choice.channels for choice in choices)
    for choice in choices:
        assert all(rank % 8 == 0 and rank < full[n] for n, rank in choice.ranks.items())

    def cost(ranks):
        sizes = {n: [*size, ranks[n]] if n in ranks else size for n, size in sizes_of(network).items()}
        small = resize(copy.deepcopy(network), sizes)
        if what == "parameters":
            return sum(p.numel() for p in small.parameters())
        return multiply_adds(work_of(small, *example))

    middle = choices[len(choices) // 2].ranks
    costs = [cost({}), cost(middle), cost(choices[-1].ranks)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]
    for one in list(middle)[:3]:  # each of its pairs pays by itself
        assert cost({n: rank for n, rank in middle.items() if n != one}) > costs[1]


@pytest.mark.parametrize("name", ["dgcnn", "residual"])
def test_what_admm_draws_near_to_is_what_apply_makes(name):
    """`apply` compares the pairs with the dense product in float64, and that is Z."""
    network, example = BUDGETS[name]()
    plan = Plan(network, ())
    choice = uniform_ranks(Ledger(plan, work_of(network, *example)))[-1]
    admm = ADMM(onto_ranks(network, choice.ranks))
    admm.prepare(network)
    near = masked(plan, choice)
    for name, z in admm.z.items():
        torch.testing.assert_close(z.to_dense(), weight_of(near, name), rtol=1e-5, atol=1e-6)
    small, _ = apply(plan, choice, *example)
    torch.testing.assert_close(small(*example), near.eval()(*example), rtol=1e-4, atol=1e-4)


def compress(run, out, *more):  # noqa: F811
    main(["compress", str(run), "--epochs", "2", "--out", str(out), "--method", *more])


def test_a_run_of_thin_maps_and_its_rival(run, tmp_path, capsys, monkeypatch):  # noqa: F811
    compress(run, tmp_path / "admm", "admm", "--rho", "30")
    compress(run, tmp_path / "direct", "decompose")
    shown = capsys.readouterr().out
    assert "dense after ADMM" in shown
    found, direct = (load_json(tmp_path / name / "compression.json") for name in ("admm", "direct"))
    assert list(direct["scores"]) == ["original", "decomposed", "BatchNorm adapted", "fine-tuned"]
    assert list(found["scores"]) == [
        *(
            "original",
            "decomposed",
            "dense after ADMM",
            "decomposed after ADMM",
            "BatchNorm adapted",
            "fine-tuned",
        )
    ]
    assert found["ranks"] == direct["ranks"] != {}
    errors = found["errors"]
    assert errors["of the original"] == direct["errors"]["of the original"]
    assert sum(errors["after ADMM"].values()) < sum(errors["of the original"].values())
    before, after = found["cost"]["M multiply-adds"]
    assert 0.3 * before < after <= 0.5 * before
    whole, near, fine, rival = (
        Trained.of(f) for f in (run, tmp_path / "admm/dense", tmp_path / "admm", tmp_path / "direct")
    )
    assert near.config.epochs + fine.config.epochs == rival.config.epochs == 2
    assert near.config.sizes == whole.config.sizes == {}
    assert Choice.load(tmp_path / "admm/choice.json").sizes == fine.config.sizes == rival.config.sizes
    for name, rank in found["ranks"].items():
        assert fine.config.sizes[name][2] == rank
    rows = checkpoint.load_metrics(tmp_path / "admm/dense")
    assert {key for key in rows[0] if key.startswith("admm/")} == {f"admm/{name}" for name in found["ranks"]}
    main(["evaluate", str(tmp_path / "admm")])
    assert "overall accuracy" in capsys.readouterr().out
    page = (tmp_path / "admm/report.html").read_text()
    for words in (f"dropfold compress {run} --method admm --target macs 0.5", "--rho 30", ", rank "):
        assert words in page
    weights = (tmp_path / "admm/model.safetensors").read_bytes()
    monkeypatch.setattr(training, "Run", None)
    compress(run, tmp_path / "admm", "admm", "--rho", "30")  # again: nothing is left to do
    assert (tmp_path / "admm/model.safetensors").read_bytes() == weights


def test_an_interrupted_one_goes_on_to_the_same(run, tmp_path, monkeypatch):  # noqa: F811
    whole, out, more = (
        tmp_path / "whole",
        tmp_path / "cut",
        ("admm", "--epochs", "4", "--target", "parameters", "0.6"),
    )
    monkeypatch.setattr(training, "Run", lambda c, methods, **w: Run(c, [*methods, Interrupt(None)], **w))
    compress(run, whole, *more)

    def stop(*_, **__):
        raise Interrupted

    def stop_before_the_last_epoch(config, methods, **weights):
        return Run(config, [*methods, Interrupt(1)], **weights)

    for module, name, breaks in (
        (ranks, "errors", stop),  # after the choice
        (training, "Run", stop),  # before the first step
        (training, "Run", stop_before_the_last_epoch),  # of the dense network
        (ranks, "adapt", stop),
        (measures, "costs", stop),  # after the last step
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, breaks)
            with pytest.raises(Interrupted):
                compress(run, out, *more)
    compress(run, out, *more)
    for name in ("model.safetensors", "predictions.npz", "dense/model.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    first, second = load_json(whole / "compression.json"), load_json(out / "compression.json")
    for key in ("ranks", "errors", "scores"):
        assert first[key] == second[key]


def test_a_run_on_images_by_its_time(image_run, tmp_path, monkeypatch):  # noqa: F811
    """A millisecond a parameter, so that what is chosen is known."""

    def counted(networks, *_, **__):
        return [SimpleNamespace(p50=sum(p.numel() for p in network.parameters())) for network in networks]

    monkeypatch.setattr(target, "times_of", counted)
    monkeypatch.setattr(target, "layer_times", lambda *_: {})
    compress(image_run, tmp_path / "small", "admm", "--target", "latency", "0.6")
    found = load_json(tmp_path / "small/compression.json")
    before, after = found["cost"]["parameters"]
    assert after <= 0.6 * before
    assert any(ms == after for _, ms in found["times"]["choices"])


def test_what_cannot_get_ranks_is_said(run, video_folder, tmp_path, capsys):  # noqa: F811
    out = ["--out", tmp_path / "a"]
    for method in ("admm", "decompose"):
        to = ["--method", method, *out]
        assert "out of reach: the least" in refused(run, *to, "--target", "macs", "0.001", capsys=capsys)
        assert "gives matrices ranks by --target" in refused(run, *to, "--ih.format", "tt", capsys=capsys)
    assert "two epochs or more" in refused(run, "--method", "admm", "--epochs", "1", *out, capsys=capsys)
    assert "--method decompose has none" in refused(
        run, "--method", "decompose", "--rho", "2", *out, capsys=capsys
    )
    assert not (tmp_path / "a").exists()


def test_a_network_without_such_matrices_is_refused(run, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr("dropfold.compress.methods.uniform.full_ranks", lambda _: {})
    assert "no matrix that two thin ones" in refused(
        run, "--method", "admm", "--out", tmp_path / "a", capsys=capsys
    )
    assert not (tmp_path / "a").exists()
