"""What can stand in a layer's place: each operation against its formula, the tables against the rule behind them."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dropfold.compress.cost.work import multiply_adds as counted
from dropfold.compress.cost.work import work_of
from dropfold.compress.transform.transitions import CONVOLUTIONS, ball_transitions, edge_transitions
from dropfold.models import DGCNN
from dropfold.models.clouds.pointnet2 import CLASSIFICATION
from dropfold.models.images.resnet import ResNet
from dropfold.models.operations.balls import Balls
from dropfold.models.operations.convolutions import (
    OPERATIONS,
    make_operation,
    multiply_adds,
    operation_of,
    split_name,
)
from dropfold.models.operations.edges import EdgeOperation
from dropfold.models.operations.replace import operations_of, replace_operations

TYPES = {"conv": 4, "sep_conv": 3, "dil_conv": 2, "max_pool": 1, "avg_pool": 1, "skip_connect": 0, "null": 0}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(OPERATIONS, OPERATIONS)))
def test_the_published_table_is_the_two_level_rule(before, after):
    """A type that is no dearer, and a kernel that is no larger; skip and null have neither."""

    def level(name):
        kind, k = split_name(name)
        return TYPES[kind], k if TYPES[kind] else 0

    valid = all(a >= b for a, b in zip(level(before), level(after), strict=True))
    assert (after in CONVOLUTIONS[before]) == valid


def test_the_table_has_the_published_sizes():
    assert len(OPERATIONS) == len(CONVOLUTIONS) == 13
    sizes = {name: len(options) for name, options in CONVOLUTIONS.items()}
    assert sizes == {
        "conv_5x5": 13, "conv_3x3": 8, "conv_1x1": 3, "sep_conv_5x5": 10, "sep_conv_3x3": 6, "dil_conv_5x5": 8,
        "dil_conv_3x3": 5, "avg_pool_5x5": 6, "avg_pool_3x3": 4, "max_pool_5x5": 6, "max_pool_3x3": 4,
        "skip_connect": 2, "null": 2,
    }  # fmt: skip


@pytest.mark.parametrize(("c", "d"), [(3, 3), (16, 16), (16, 32), (64, 64), (512, 512)])
def test_multiply_adds_never_grow_along_a_transition(c, d):
    for before, options in CONVOLUTIONS.items():
        for after in options:
            assert multiply_adds(after, c, d) <= multiply_adds(before, c, d), (before, after)


def test_two_channels_are_too_few_for_separable_convolutions_to_be_cheaper():
    assert multiply_adds("sep_conv_3x3", 2, 2) > multiply_adds("conv_3x3", 2, 2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_its_formula_and_costs_what_the_table_says(name, stride):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 5, stride, padding=2, bias=False).double()
    module = make_operation(name, conv).double().eval()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    kind, k = split_name(name)
    p = [value.detach() for value in module.parameters()]

    def depthwise(x, weight, step, dilation=1):
        size = {"stride": step, "padding": dilation * (k // 2), "dilation": dilation, "groups": x.shape[1]}
        return F.conv2d(x, weight, **size)

    def fitted(y):  # one channel of zeros on either side
        return torch.cat([torch.zeros_like(y[:, :1]), y, torch.zeros_like(y[:, :1])], 1)

    if kind == "conv":
        expected = F.conv2d(x, p[0], stride=stride, padding=k // 2)
    elif kind == "sep_conv":
        y = F.conv2d(depthwise(x, p[0], stride), p[1])
        y = F.relu(y / (1 + module[2].eps) ** 0.5)  # a BatchNorm that has seen nothing
        expected = F.conv2d(depthwise(y, p[4], 1), p[5])
    elif kind == "dil_conv":
        expected = F.conv2d(depthwise(x, p[0], stride, 2), p[1])
    elif kind == "max_pool":
        padded = F.pad(x, [k // 2] * 4, value=float("-inf"))
        expected = fitted(padded.unfold(2, k, stride).unfold(3, k, stride).amax((-1, -2)))
    elif kind == "avg_pool":
        parts = [
            F.pad(value, [k // 2] * 4).unfold(2, k, stride).unfold(3, k, stride) for value in (x, x * 0 + 1)
        ]
        expected = fitted(parts[0].sum((-1, -2)) / parts[1].sum((-1, -2)))
    else:
        expected = fitted(x[:, :, ::stride, ::stride])
        if kind == "null":
            expected = torch.zeros_like(expected)
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)
    if stride == 1:
        assert counted(work_of(module, x[:1])) == 72 * multiply_adds(name, 4, 6)


def test_what_is_no_convolution_of_the_table_stays():
    assert operation_of(nn.Conv2d(4, 4, 3, padding=1)) == "conv_3x3"
    for other in (
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 7, padding=3),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, (3, 1), padding=(1, 0)),
        nn.Linear(4, 4),
    ):
        assert operation_of(other) is None


def test_unknown_names_are_refused_with_the_nearest_and_nothing_changes():
    network = ResNet(10)
    with pytest.raises(
        ValueError, match=r"layer 'stage1\.0\.conv3' is not known; there are stage1\.0\.conv2"
    ):
        replace_operations(network, {"stage1.0.conv1": "null", "stage1.0.conv3": "null"})
    with pytest.raises(ValueError, match="operation 'sep_conv_3' is not known; there are sep_conv_3x3"):
        replace_operations(network, {"stage1.0.conv1": "sep_conv_3"})
    assert set(operations_of(network).values()) == {"conv_3x3"}
    points = DGCNN(4)
    with pytest.raises(ValueError, match="operation 'edge_conv20' is not known; there are edge_conv_20"):
        replace_operations(points, {"edge2": "edge_conv20"})
    with pytest.raises(ValueError, match="edge3: edge_conv_40 has more neighbours than the network's k = 20"):
        replace_operations(points, {"edge3": "edge_conv_40"})
    assert operations_of(points) == dict.fromkeys(("edge1", "edge2", "edge3", "edge4"), "edge_conv_20")


def test_names_of_edge_operations_are_read_as_they_are_written():
    for name in (
        "edge_conv_20",
        "edge_conv_5_reused",
        "edge_conv_10_reused_w48",
        "pointwise",
        "pointwise_w32",
        "skip",
        "null",
    ):
        assert str(EdgeOperation.parse(name)) == name
    for wrong in ("edge_conv_0", "edge_conv", "skip_w3", "pointwise_reused", "edge_conv_5_w48_reused", ""):
        with pytest.raises(ValueError, match="is not known"):
            EdgeOperation.parse(wrong)


@pytest.mark.parametrize("k", [5, 20, 40])
def test_edge_transitions_never_cost_more(k):
    """Textbook multiply-adds of a point from 16 to 64 channels among 100 points, searching included."""

    def cost(name):
        operation = EdgeOperation.parse(name)
        width = operation.width or 64
        searching = 100 * 16 * (operation.kind == "edge_conv" and not operation.reused)
        return {"edge_conv": operation.k * 2 * 16 * width, "pointwise": 16 * width}.get(
            operation.kind, 0
        ) + searching

    found = edge_transitions(k, 64)
    assert found[0] == f"edge_conv_{k}"
    assert len(set(found)) == len(found) == 3 * (2 * {5: 1, 20: 3, 40: 4}[k] + 1) + 2
    assert all(cost(name) <= cost(found[0]) for name in found)
    assert not any("reused" in name for name in edge_transitions(k, 64, first=True))


@pytest.mark.parametrize("grouping", ["ssg", "msg"])
def test_ball_transitions_never_cost_more(grouping):
    """Textbook multiply-adds of a centre, the perceptron on 3 + 16 channels for each member."""

    def cost(scales):
        sizes = [(s.k, (19, *s.widths)) for s in scales]
        return sum(k * sum(a * b for a, b in itertools.pairwise(widths)) for k, widths in sizes)

    for level in CLASSIFICATION[grouping]:
        found = ball_transitions(level.scales)
        assert found[0] == "balls"
        assert len(set(found)) == len(found)
        costs = [cost(Balls.parse(name).of(level.scales)) for name in found]
        assert max(costs) == costs[0]
        assert min(costs) == costs[-1]
        for name in found:
            assert str(Balls.parse(name)) == name
    assert ("balls_scale1" in found) == (grouping == "msg")


def test_names_of_balls_that_are_none_are_refused():
    with pytest.raises(ValueError, match="operation 'balls_halves' is not known; there are balls_half"):
        Balls.parse("balls_halves")
    with pytest.raises(ValueError, match="takes scale 2, and this level has 1"):
        Balls.parse("balls_scale2").of(CLASSIFICATION["ssg"][0].scales)
