"""The terms of an account add up to the logit, in float64 to 1e-10, and the bias is that of an independent backward pass."""

import pytest
import torch
from torch import nn

from dropfold import models
from dropfold.explain import explain
from dropfold.explain.cut.biases import winners_alone
from dropfold.models import unfused
from tests.explain.conftest import CLOUDS, FORMATS, PARTS, randomized, small_pointnet

EXACT = 1e-10  # of |terms| added up: rounding in float64 of sums of up to 1e5 products stays below 1e-11


def error(explanation):
    """|missing| relative to the size of all terms, the worst sample's."""
    size = sum(value.abs() for name, value in explanation.account.items() if name != "missing")
    return float((explanation.account["missing"].abs() / size).max())


@pytest.mark.parametrize("name", CLOUDS)
def test_clouds(name, clouds):
    network = randomized(CLOUDS[name]())
    found = explain(network, clouds, 2)
    assert error(found) < EXACT
    assert sum(found.account.values()).equal(found.logit) or torch.allclose(
        sum(found.account.values()), found.logit, rtol=0, atol=1e-12
    )
    logits = network(clouds)
    assert torch.allclose(
        found.logit, logits[..., 2].flatten(1).mean(1) if logits.dim() == 3 else logits[:, 2]
    )
    assert torch.allclose(found.scores.sum(1), found.account["evidence"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_a_point_and_of_a_part(name, clouds):
    network = randomized(PARTS[name]())
    inputs = (clouds, torch.tensor([0, 1, 3]))
    logits = network(*inputs)
    one = explain(network, inputs, 2, points=5)
    assert error(one) < EXACT
    assert torch.allclose(one.logit, logits[:, 5, 2])
    part = clouds[..., 0] > 0
    of_part = explain(network, inputs, 2, points=part)
    assert error(of_part) < EXACT
    assert torch.allclose(of_part.logit, (logits[..., 2] * part).sum(1) / part.sum(1))
    assert "category" in one.account


@pytest.mark.parametrize("layer", ["conv1", "conv3.activation", "fc1"])
def test_other_full_cuts_of_pointnet(layer, clouds):
    assert error(explain(randomized(models.PointNet(5)), clouds, 2, layer=layer)) < EXACT


def test_a_transform_that_is_not_frozen_is_missed(clouds):
    """x A(x) is a product, so the gradient counts x twice."""
    found = explain(randomized(models.PointNet(5)), clouds, 2, layer="conv1", frozen=False)
    assert error(found) > 1e-5


def test_both_levels_of_pointnet2(clouds):
    assert error(explain(randomized(models.PointNet2(5)), clouds, 2, layer="sa1")) < EXACT


def test_what_a_layer_that_is_no_full_cut_misses_is_a_number(clouds):
    """edge4 alone leaves the way of edge1 to edge3 past it out."""
    found = explain(randomized(models.DGCNN(5, k=6, emb_dims=64)), clouds, 2, layer="edge4")
    assert error(found) > 1e-5
    assert "missing" in found.sentence(0)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("name", FORMATS)
def test_frames_of_every_format(name, cell):
    if cell == "gru" and name == "fdht":
        rnn = models.TensorGRU(64, 8, **FORMATS[name], reset="before", batch_first=True)
    else:
        kind = models.TensorLSTM if cell == "lstm" else models.TensorGRU
        rnn = kind(64, 8, **FORMATS[name], batch_first=True)
    network = randomized(models.VideoClassifier(rnn, 3))
    frames = torch.randint(0, 256, (2, 4, 8, 8, 1), dtype=torch.uint8)
    found = explain(network, frames, 1)
    assert error(found) < EXACT
    assert found.scores.shape == frames.shape[:4]
    assert torch.allclose(found.frames.sum(1), found.account["evidence"])
    loose = explain(network, frames, 1, frozen=False)
    assert error(loose) > 1e-5


@pytest.mark.parametrize("kind", [models.TensorLSTM, models.TensorGRU])
@pytest.mark.parametrize("batch_first", [True, False])
def test_first_states_are_a_term_of_their_own(kind, batch_first):
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = kind(6, 4, num_layers=2, bidirectional=True, batch_first=batch_first)
            self.head = nn.Linear(8, 3)

        def forward(self, x, h, c=None):
            y, _ = self.rnn(x if batch_first else x.transpose(0, 1), h if c is None else (h, c))
            return self.head(y[:, -1] if batch_first else y[-1])

    network = randomized(Classifier())
    x, states = torch.randn(3, 5, 6).double(), [torch.randn(4, 3, 4).double() for _ in range(2)]
    found = explain(network, (x, *states[: 2 if kind is models.TensorLSTM else 1]), 1)
    assert error(found) < EXACT
    assert "first state h" in found.account
    assert found.scores.shape == (3, 5)


def test_padded_frames_have_no_evidence():
    network = randomized(models.VideoClassifier(models.TensorLSTM(64, 8, batch_first=True), 3))
    frames = torch.randint(0, 256, (2, 4, 8, 8, 1), dtype=torch.uint8)
    found = explain(network, (frames, torch.tensor([2, 4])), 1)
    assert error(found) < EXACT
    assert not found.frames[0, 2:].any()
    assert found.frames[1].all()


def test_the_bias_is_that_of_one_backward_pass(clouds):
    """Independent: sum over the layers above of dS/dbeta (beta + gamma (b - mean) / std), a cloud after the other."""
    network = small_pointnet()
    found = explain(network, clouds, 2)
    for i, cloud in enumerate(clouds):
        with unfused(network):
            s = network(cloud[None])[0, 2]
            above = [network.conv3, network.fc1, network.fc2]
            gradients = torch.autograd.grad(s, [layer.norm.bias for layer in above] + [network.fc3.bias])
        bias = gradients[-1] @ network.fc3.bias
        for layer, g in zip(above, gradients):
            norm = layer.norm
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            bias = bias + g @ (norm.bias + scale * (layer.linear.bias - norm.running_mean))
        assert float(found.account["bias"][i]) == pytest.approx(bias.detach().item(), rel=1e-10)


def test_a_difference_of_classes(clouds):
    network = small_pointnet()
    a, b = (explain(network, clouds, c) for c in (2, 0))
    difference = a.contrast(b)
    assert error(difference) < EXACT
    logits = network(clouds)
    assert torch.allclose(difference.logit, logits[:, 2] - logits[:, 0])
    assert torch.allclose(difference.scores.sum(1), difference.account["evidence"], atol=1e-10)
    with pytest.raises(ValueError, match="can be subtracted"):
        a.contrast(explain(network, clouds, 2, method="grad_cam"))


def test_a_batch_norm_without_weights_shifts_too():
    """-mean / std is what it adds: with the same numbers as a BatchNorm's own bias the account is the same."""
    layers = [nn.Conv1d(3, 6, 1), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4)]
    network = nn.Sequential(*layers).double().eval()
    norm, own = network[1], nn.BatchNorm1d(6).double().eval()
    norm.running_mean.copy_(torch.tensor([-1.0, -0.4, 0.3, 0.5, 0.8, 1.0]))
    norm.running_var.copy_(torch.tensor([0.5, 0.8, 1.0, 1.2, 1.5, 2.0]))
    own.load_state_dict(norm.state_dict(), strict=False)
    x = torch.rand(2, 3, 4).double()
    found = explain(network, x, 1, layer="0", channels=1)
    assert error(found) < EXACT
    network[1] = own
    assert torch.allclose(
        found.account["bias"], explain(network, x, 1, layer="0", channels=1).account["bias"]
    )
    assert not found.notes


def test_a_batch_norm_without_running_statistics_is_not_piecewise_linear():
    network = nn.Sequential(
        nn.Conv1d(3, 6, 1),
        nn.BatchNorm1d(6, track_running_stats=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 4),
    ).double()
    found = explain(network, torch.rand(2, 3, 4).double(), 1, layer="0", channels=1)
    assert "BatchNorm1d is not piecewise linear" in found.notes[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_lstm_of_pytorch_is_explained_and_its_missing_term_said(dtype):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.rnn, self.head = (
                nn.Linear(4, 6),
                nn.LSTM(6, 5, batch_first=True),
                nn.Linear(5, 3),
            )
            self.activation = nn.ReLU()

        def forward(self, x):
            return self.head(self.rnn(self.activation(self.inner(x)))[0][:, -1])

    network, x = Net().to(dtype), torch.rand(2, 7, 4, dtype=dtype)
    before = torch.backends.mkldnn.enabled
    found = explain(network, x, 1, layer="activation", channels=-1)
    assert torch.backends.mkldnn.enabled == before
    f = network.activation(network.inner(x)).detach().requires_grad_()
    s = network.head(network.rnn(f)[0][:, -1])[:, 1]
    g = torch.autograd.grad(s.sum(), f)[0]
    assert torch.allclose(found.account["evidence"], (g * f).sum((1, 2)), rtol=1e-4)
    assert torch.allclose(sum(found.account.values()), s.detach(), rtol=1e-4)
    assert "LSTM is not piecewise linear" in found.notes[0]


def test_what_is_no_module_and_not_piecewise_linear_is_said():
    class Net(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.body, self.head, self.function = nn.Linear(4, 6), nn.Linear(6, 3), function

        def forward(self, x):
            return self.head(self.function(self.body(x)))

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()
    for function, exact in ((nn.functional.gelu, False), (lambda x: x * x, False), (torch.relu, True)):
        found = explain(Net(function).double(), x, 1, layer="body", channels=-1)
        assert (error(found) < EXACT) == exact
        assert len(found.notes) == (0 if exact else 1)
        assert exact or "do not add up" in found.notes[0]


def test_the_winners_of_a_max_leave_no_trace(clouds):
    network = small_pointnet()
    explain(network, clouds, 2)
    with winners_alone(network, {network.conv3: torch.zeros(3, 1024).long()}):
        assert "plain" in vars(network.conv3)
    assert all("plain" not in vars(module) for module in network.modules())
