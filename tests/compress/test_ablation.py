"""Exact ablation beside the masked network."""

import pytest
import torch

from dropfold.compress import masked, plan_channels
from dropfold.compress.methods.ablation import ablation
from tests.compress.networks import FOREIGN, OURS


@pytest.mark.parametrize("name", ["plain", "edges", "dgcnn"])
def test_the_rise_is_that_of_the_masked_network(name):
    network, example = {**OURS, **FOREIGN}[name]()
    network.double()
    example = tuple(v.double() if v.is_floating_point() else v for v in example)
    plan = plan_channels(network, *example)
    small = plan.without(*[g.name for g in plan.groups[1:]])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    label, seen = torch.tensor([0, 1]), []

    def losses(scale):
        return lambda model: scale * torch.nn.functional.cross_entropy(model(*example)[:2], label)

    found = ablation(small, [losses(1), losses(3)], seen.append)
    group = small.groups[0]
    assert sum(seen) == group.size
    whole = losses(2)(network)
    for channel in (0, group.size // 2, group.size - 1):
        one = masked(small, {group.name: [c for c in range(group.size) if c != channel]}).eval()
        assert found[group.name][channel] == pytest.approx(float((losses(2)(one) - whole).detach()), abs=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with pytest.raises(ValueError, match="a batch of data at least"):
        ablation(small, [])
