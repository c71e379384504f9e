"""What belongs together: said by our networks, found by probing in others, and the same both ways."""

import pytest
import torch
from torch import nn

from dropfold.compress import plan_channels
from dropfold.compress.plan.probed import plan_probed
from dropfold.models import DGCNN, PointNet, unfused
from tests.compress.networks import FOREIGN, OURS


def members(plan):
    """The groups as sets of (tensor, axis, position), a set a channel."""
    return {
        frozenset((s.tensor, s.axis, int(p)) for s in group.slices for p in s.positions[c])
        for group in plan.groups
        for c in range(group.size)
    }


@pytest.mark.parametrize("name", list(OURS))
def test_every_matrix_is_wired(name):
    network, _ = OURS[name]()
    plan = plan_channels(network)
    matrices = {key for key, module in network.named_modules() if isinstance(module, nn.Linear)}
    read = {s.tensor.removesuffix(".weight") for g in plan.groups for s in g.slices if s.axis == 1}
    made = {s.tensor.removesuffix(".weight") for g in plan.groups for s in g.slices if s.axis == 0}
    first = {key for key in matrices if network.get_submodule(key).in_features in (3, 4, 6, 9, 12, 18)}
    assert matrices - first <= read
    assert {
        f"{name}.linear" if f"{name}.linear" in matrices else name for name in plan.fixed
    } == matrices - made | {
        key for key in made & matrices if network.get_submodule(key).out_features in (4096, 16384)
    }


@pytest.mark.parametrize(
    "network", [DGCNN(4, k=4, emb_dims=16), PointNet(4, feature_transform=False)], ids=["dgcnn", "pointnet"]
)
def test_probing_finds_what_our_networks_say(network):
    """In their plain form, whose modules are called."""
    x = torch.rand(1, 12, 3)
    with unfused(network):
        found = plan_probed(network, x)
    assert members(found) == members(plan_channels(network))


def test_what_adds_up_belongs_together():
    network, example = FOREIGN["residual"]()
    plan = plan_channels(network, *example)
    groups = {group.name: group for group in plan.groups}
    assert list(groups) == ["conv1", "layers.0.conv1", "layers.1.conv1", "layers.1.conv2", "layers.2.conv1"]
    assert (
        "conv1, bn1, layers.0.conv2, layers.0.bn2, read by layers.0.conv1, layers.1.conv1, layers.1.down.0"
        in str(groups["conv1"])
    )
    assert "layers.2.bn2, read by layers.2.conv1, fc" in str(groups["layers.1.conv2"])
    assert plan.fixed == {"fc": "Residual returns its channels"}


def test_a_flattened_picture_has_many_columns_a_channel():
    network, example = FOREIGN["plain"]()
    plan = plan_channels(network, *example)
    columns = next(s for s in plan["features.4"].slices if s.tensor == "head.0.weight")
    assert torch.equal(columns.positions, torch.arange(48).view(12, 4))
    assert {s.tensor for s in plan["features.0"].slices} >= {
        "features.3.weight",
        "features.3.bias",
        "features.4.weight",
    }


def test_what_mixes_or_is_not_known_stays_with_a_sentence():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 8)
            self.norm, self.d = nn.LayerNorm(6), nn.Linear(8, 2)
            self.unused = nn.Linear(8, 8)
            self.shift = nn.Parameter(torch.zeros(6))

        def forward(self, x):
            y = self.norm(self.a(x))
            z = self.b(y + self.shift)
            return self.d(torch.relu(self.c(z)))

    plan = plan_channels(Mixed(), torch.rand(3, 4))
    assert [group.name for group in plan.groups] == ["b", "c"]
    assert plan.fixed["a"] == "its channels are mixed on the way to b"
    assert plan.fixed["unused"] == "it was not called"
    assert "what LayerNorm does with its weights is not known" in plan.fixed["norm"]
    assert "stays: d, Mixed returns its channels" in str(plan)
    assert "vetoed" in str(plan.without("b"))


def test_a_foreign_network_needs_an_example():
    with pytest.raises(ValueError, match="give an example of its inputs"):
        plan_channels(nn.Linear(3, 4))
    with pytest.raises(ValueError, match=r"no nn\.Linear and no convolution"):
        plan_channels(nn.ReLU(), torch.rand(2))
