"""Multiply-adds beside torch's own counter, what is left of them, and times."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dropfold.compress import apply, plan_channels
from dropfold.compress.cost.times import times_of
from dropfold.compress.cost.work import kept_parameters, kept_work, multiply_adds, work_of
from dropfold.compress.methods.criteria import CRITERIA
from dropfold.compress.methods.uniform import choose_uniform, keep_share
from dropfold.models import DGCNN, PointNet, PointNet2, unfused
from tests.compress.networks import FOREIGN, OURS

# Multiply-adds of the matrices for a cloud of 1,024 points, by arithmetic from the published widths: points x in x out, in
# EdgeConv and in set abstraction members (with their copies) x in x out, and the fully connected layers.
TEXTBOOK = {
    "pointnet": (
        PointNet,
        1024 * (3 * 64 + 64 * 128 + 128 * 1024) * 2  # input transform, and the network with its first layer
        + 1024 * (64 * 64 + 64 * 128 + 128 * 1024)  # feature transform
        + 3 * (1024 * 512 + 512 * 256) + 256 * (9 + 4096 + 40),
    ),
    "dgcnn": (
        DGCNN,
        20 * 1024 * (6 * 64 + 128 * 64 + 128 * 128 + 256 * 256) + 1024 * 512 * 1024 + 2048 * 512 + 512 * 256 + 256 * 40,
    ),
    "ssg": (
        PointNet2,
        512 * 32 * (3 * 64 + 64 * 64 + 64 * 128) + 128 * 64 * (131 * 128 + 128 * 128 + 128 * 256)
        + 128 * (259 * 256 + 256 * 512 + 512 * 1024) + 1024 * 512 + 512 * 256 + 256 * 40,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(TEXTBOOK))
def test_the_textbook_form_is_the_arithmetic(name):
    make, expected = TEXTBOOK[name]
    assert multiply_adds(work_of(make(), torch.rand(1, 1024, 3), form="textbook")) == expected


@pytest.mark.parametrize("name", ["ssg", "msg-parts", "residual", "plain"])
def test_the_textbook_form_is_torchs_count(name):
    """Of networks without products between features."""
    network, example = {**OURS, **FOREIGN}[name]()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), unfused(network):
        network(*example)
    assert 2 * multiply_adds(work_of(network, *example, form="textbook")) == counter.get_total_flops()


def test_our_form_multiplies_points_and_not_edges():
    network, x = DGCNN(10, k=5), torch.rand(2, 32, 3)
    by_layer = {name: multiply_adds({name: work}) for name, work in work_of(network, x).items()}
    assert by_layer["edge2.linear"] == 2 * 32 * 128 * 64
    assert network.training
    textbook = work_of(network, x, form="textbook")
    assert multiply_adds({"": textbook["edge2.linear"]}) == 5 * by_layer["edge2.linear"]


@pytest.mark.parametrize("name", [*OURS, *FOREIGN])
def test_what_is_left_is_the_small_networks_own(name):
    network, example = {**OURS, **FOREIGN}[name]()
    plan, work = plan_channels(network, *example), work_of(network, *example)
    channels = keep_share(plan, CRITERIA["random"], 0.6, align=1)
    small, _ = apply(plan, channels)
    assert kept_parameters(plan, channels) == sum(p.numel() for p in small.parameters())
    left, own = kept_work(plan, work, channels), multiply_adds(work_of(small, *example))
    if name == "pointnet-parts":  # the rows of one product are channels of conv4
        assert own < left < 1.5 * own
    else:
        assert left == own


def test_times_take_turns_and_leave_modes_as_they_were():
    slow, fast = torch.nn.Linear(2000, 2000).train(), torch.nn.Linear(2000, 20).train()
    times = times_of([slow, fast], torch.rand(64, 2000), seconds=0.1)
    assert slow.training
    assert times[0].p20 <= times[0].p50 <= times[0].p80
    assert times[1].p50 < times[0].p50


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_the_most_important_channels_stay(criterion):
    network, _ = OURS["vanilla"]()
    with (
        torch.no_grad()
    ):  # channels 3, 11, 40 of conv2: zero rows, columns and scales; the others far from each other
        for c in (3, 11, 40):
            network.conv2.linear.weight[c] = 0
            network.conv3.linear.weight[:, c] = 0
            network.conv2.norm.weight[c] = 0
            network.conv2.norm.bias[c] = 0
        rest = [c for c in range(128) if c not in (3, 11, 40)]
        network.conv2.linear.weight[rest] = torch.nn.functional.normalize(torch.randn(125, 64), dim=1) * 10
    plan = plan_channels(network)
    kept = keep_share(plan, CRITERIA[criterion], 125 / 128, align=1)["conv2"]
    assert len(kept) == 125
    if (
        criterion == "fpgm"
    ):  # the zeros are nearer to all others than these to one another, but not alike in count
        assert (
            CRITERIA["fpgm"](plan, plan["conv2"])[[3, 11, 40]].max()
            < CRITERIA["fpgm"](plan, plan["conv2"])[rest].min()
        )
    if criterion != "random":
        assert kept == rest
    assert keep_share(plan, CRITERIA[criterion], 125 / 128, align=1)["conv2"] == kept


def test_uniform_width_meets_its_target_in_whole_vectors():
    network, example = OURS["dgcnn"]()
    plan, work = plan_channels(network), work_of(network, *example)
    whole = multiply_adds(work)
    channels = choose_uniform(plan, CRITERIA["l1"], lambda kept: kept_work(plan, work, kept), 0.5 * whole)
    assert 0.42 * whole < kept_work(plan, work, channels) <= 0.5 * whole
    assert all(len(kept) % 8 == 0 for kept in channels.values())
    with pytest.raises(
        ValueError, match=r"out of reach: the least that these channels can come to is [\d.e+]+\."
    ):
        choose_uniform(plan, CRITERIA["l1"], lambda kept: kept_work(plan, work, kept), 10)


def test_a_criterion_that_does_not_apply_says_so():
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    plan = plan_channels(network, torch.rand(2, 3))
    with pytest.raises(
        ValueError, match="bn_scale needs a BatchNorm with a scale behind each group, and 0 has none"
    ):
        CRITERIA["bn_scale"](plan, plan["0"])
