"""Evaluation keeps nothing of the weights from one call to the next: whatever changes them is seen by the next call."""

import copy

import pytest
import torch

from dropfold.models import DGCNN, PointNet, PointNet2, reestimate_batch_norm, unfused

NETWORKS = {
    "pointnet": lambda: PointNet(5),
    "dgcnn": lambda: DGCNN(5, k=5, emb_dims=40),
    "pointnet2": lambda: PointNet2(5),
}


def train_a_step(network, x):
    network.train()
    network(x).square().sum().backward()
    torch.optim.SGD(network.parameters(), 0.1).step()


def edit(network, x):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)


def edit_data(network, x):
    for parameter in network.parameters():
        parameter.data.mul_(1.5)


def edit_buffers(network, x):
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(0.1)


def load(network, x):
    state = copy.deepcopy(network.state_dict())
    network.load_state_dict({name: t * 1.5 if t.is_floating_point() else t for name, t in state.items()})


CHANGES = {
    "an optimiser's step": train_a_step,
    "an edit in place": edit,
    "an edit of the data": edit_data,
    "an edit of buffers": edit_buffers,
    "another state": load,
    "another state, assigned": lambda m, x: m.load_state_dict({k: 1.5 * t for k, t in m.state_dict().items()}, assign=True),
    "statistics of other clouds": lambda m, x: reestimate_batch_norm(m, [2 * x]),
    "a pass in training": lambda m, x: m.train()(x),
    "another type": lambda m, x: edit(m.float().double(), x),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_change_is_seen_by_the_next_call(name, change):
    network, x = NETWORKS[name]().double(), torch.randn(3, 40, 3).double()
    with torch.no_grad():
        network.train()(x)  # running statistics other than those of a new BatchNorm
        before = network.eval()(x)
    CHANGES[change](network, x)
    network.eval()
    with torch.no_grad():
        after = network(x)
        with unfused(network):
            plain = network(x)
    torch.testing.assert_close(after, plain, rtol=1e-6, atol=1e-10)  # small variances enlarge rounding
    assert (after - before).abs().max() > 1e-6
