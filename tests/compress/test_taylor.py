"""The expected change of the loss beside differences of losses."""

import copy

import pytest
import torch

from dropfold.compress import plan_channels
from dropfold.compress.methods.taylor import taylor
from tests.compress.networks import FOREIGN, OURS


@pytest.mark.parametrize(("name", "norm"), [("dgcnn", True), ("plain", False)])
def test_scores_are_slopes_of_the_loss(name, norm):
    """Along a channel's numbers times 1 - t, at t = 0, by a central difference in float64."""
    network, example = {**OURS, **FOREIGN}[name]()
    plan = plan_channels(network, *example)
    network = network.double()
    x = example[0].double()
    labels = torch.tensor([1, 3]), torch.tensor([0, 2])

    def loss_of(label):
        return lambda model: torch.nn.functional.cross_entropy(model(x), label)

    found = taylor(plan, [loss_of(label) for label in labels])
    group = plan["edge3" if norm else "head.0"]
    tensors = ["edge3.norm.weight", "edge3.norm.bias"] if norm else ["head.0.weight", "head.0.bias"]
    for channel in (0, 7, group.size - 1):
        slopes = []
        for label in labels:
            losses = []
            for t in (1e-4, -1e-4):
                moved = copy.deepcopy(network)
                with torch.no_grad():
                    for tensor in tensors:
                        moved.get_parameter(tensor)[channel] *= 1 - t
                    losses.append(loss_of(label)(moved))
            slopes.append((losses[0] - losses[1]) / 2e-4)
        expected = torch.stack(slopes).square().mean()
        torch.testing.assert_close(found[group.name][channel].double(), expected, rtol=1e-4, atol=1e-9)
    assert set(found) == {g.name for g in plan.groups}
    assert all(p.grad is None for p in network.parameters())


def test_taylor_needs_data():
    network, _ = OURS["vanilla"]()
    with pytest.raises(ValueError, match="a batch of data at least"):
        taylor(plan_channels(network), [])
