"""The two axioms beside a channel after the other set to zero by hand."""

import pytest
import torch
from torch import nn

from dropfold.explain import axioms, explain, smaller_network, unit_values
from tests.explain.conftest import CLOUDS, randomized


class Averaged(nn.Module):
    """A linear map of the mean over positions: both axioms hold but for the bias."""

    def __init__(self):
        super().__init__()
        self.features, self.fc = nn.Conv1d(3, 5, 1), nn.Linear(5, 4)

    def forward(self, x):
        return self.fc(torch.relu(self.features(x)).mean(-1))


def test_of_a_mean_and_a_linear_map_all_methods_are_exact():
    torch.manual_seed(0)
    network, x = Averaged().double(), torch.randn(2, 3, 7, dtype=torch.float64)
    network.fc.bias.data.zero_()
    for p in network.features.parameters():  # no position is below the ReLU's 0
        p.data.abs_()
    for found in axioms(network, x.abs(), 1, layer="features", channels=1).values():
        assert float(found.conservation.max()) < 1e-12
        assert float(found.sensitivity.max()) < 1e-12
        assert float(found.correlation.min()) > 1 - 1e-12
    network.fc.bias.data.fill_(0.3)
    found = axioms(network, x.abs(), 1, layer="features", channels=1)["grad_cam"]
    torch.testing.assert_close(found.conservation, 0.3 / network(x.abs())[:, 1].abs())


@pytest.mark.parametrize("name", ["PointNet", pytest.param("DGCNN", marks=pytest.mark.slow)])
def test_channels_are_those_removed_by_hand(name, clouds):
    network, x = randomized(CLOUDS[name]()), clouds[:1]
    layer = "conv2" if name == "PointNet" else None
    found = axioms(network, x, 2, layer=layer)["xgrad_cam"]
    where = network.conv2 if name == "PointNet" else network.embed
    clean = network(x)[0, 2].detach()

    def removed(k):
        def after(module, args, out):
            return out.index_fill(-1, torch.tensor([k]), 0.0)

        def before(module, args):
            return (args[0].index_fill(-1, torch.tensor([k]), 0.0), *args[1:])

        return (
            where.register_forward_hook(after)
            if name == "PointNet"
            else where.register_forward_pre_hook(before)
        )

    count = 128 if name == "PointNet" else 512
    drops = []
    with torch.no_grad():
        for k in range(count):
            handle = removed(k)
            drops.append(clean - network(x)[0, 2])
            handle.remove()
    drops = torch.stack(drops)
    leaf = {}

    def watch(module, args, out=None):
        value = (args[0] if out is None else out).detach().requires_grad_()
        leaf["f"] = value
        return (value, *args[1:]) if out is None else value

    handle = (
        where.register_forward_hook(watch) if name == "PointNet" else where.register_forward_pre_hook(watch)
    )
    if name == "PointNet":
        network.feature_transform.register_forward_hook(lambda m, a, out: out.detach())
    logit = network(x)[0, 2]
    handle.remove()
    (g,) = torch.autograd.grad(logit, leaf["f"])
    given = (g * leaf["f"].detach()).sum((0, 1))
    torch.testing.assert_close(
        found.sensitivity[0], (drops - given).abs().sum() / drops.abs().sum(), rtol=1e-8, atol=1e-12
    )
    expected = torch.corrcoef(torch.stack([drops, given]))[0, 1]
    torch.testing.assert_close(found.correlation[0], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("PointNet", "conv3.activation"),
        ("DGCNN", "embed.activation"),
        ("PointNet2", "sa3.layers.2.activation"),
    ],
)
def test_before_the_pool_all_channels_in_one_pass_are_those_of_a_pass_each(name, layer, clouds, monkeypatch):
    network, x = randomized(CLOUDS[name]()), clouds[:1]
    network = first_units(network, 24)
    fast = axioms(network, x, 2, layer=layer)
    monkeypatch.setattr("dropfold.explain.score.axioms.before_pool", lambda network: None)
    for method, slow in axioms(network, x, 2, layer=layer).items():
        for found, expected in zip(vars(fast[method]).values(), vars(slow).values(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def first_units(network, count):
    """A network with the first few of its pooled units alone."""
    values = unit_values(network, torch.rand(2, 48, 3, dtype=torch.float64))
    return smaller_network(network, torch.arange(values.count) >= count, values.means())


def test_a_cut_inside_a_fused_layer_runs_that_layer_alone_in_its_plain_form(clouds):
    network = randomized(CLOUDS["DGCNN"]())
    seen = {}
    for name in ("edge4", "embed"):
        module = network.get_submodule(name)
        module.register_forward_pre_hook(lambda m, a, name=name: seen.update({name: m.fused}))
    found = explain(network, clouds, 2, layer="embed.activation", account=False)
    assert seen == {"edge4": True, "embed": False}
    at_the_cut = explain(network, clouds, 2)
    torch.testing.assert_close(found.logit, at_the_cut.logit, rtol=1e-9, atol=1e-12)
    assert network.embed.fused
