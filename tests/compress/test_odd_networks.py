"""Networks whose code does more than call one layer after the other: plans are right, or a sentence says why not."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from dropfold.compress import apply, masked, plan_channels, prunable
from dropfold.models.layers.sizes import resize

X = torch.randn(4, 6)


class Net(nn.Module):
    """a: 6 to 8, o: 8 to 3, and a forward of its own."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.a, self.o = nn.Linear(6, 8), nn.Linear(8, 3)
        for name, part in parts.items():
            setattr(self, name, part)
        self.own = forward

    def forward(self, *args, **named):
        return self.own(self, *args, **named)


@dataclass
class Out:
    """A value with a tensor in it."""

    logits: Tensor


class Opaque:
    """A value whose tensors nobody can see."""

    def __init__(self, logits):
        self.logits = logits


def width_dependent(net, x):
    h = net.a(x).relu()
    return net.o(h) / h.shape[-1]


def test_an_example_by_keyword_is_compared_too():
    net = Net(lambda net, s, x=None: width_dependent(net, x))
    plan = plan_channels(net, 0, x=X)
    with pytest.raises(ArithmeticError, match="differs from the model in which the rest is masked"):
        apply(plan, {"a": [0, 1]}, s=0, x=X)


def test_what_a_dataclass_holds_is_compared_and_an_unknown_value_is_refused():
    net = Net(lambda net, x: Out(width_dependent(net, x)))
    with pytest.raises(ArithmeticError, match="differs"):
        apply(plan_channels(net, X), {"a": [0, 1]}, X)
    with pytest.raises(
        TypeError, match="must return tensors, in lists, tuples, mappings or dataclasses; got Opaque"
    ):
        plan_channels(Net(lambda net, x: Opaque(net.o(net.a(x)))), X)


def test_tensors_inside_of_arguments_are_doubled():
    """A small difference would pass in float32."""
    net = Net(lambda net, xs: net.o(h := net.a(xs[0]).relu()) + 5e-5 * h.shape[-1] / 8)
    with pytest.raises(ArithmeticError, match="differs"):
        apply(plan_channels(net, [X]), {"a": [0, 1]}, [X])


def test_code_that_knows_float32_is_said():
    net = Net(lambda net, x: net.o(net.a(x).relu()) @ torch.eye(3))
    with pytest.warns(UserWarning, match="does not run in float64"):
        apply(plan_channels(net, X), {"a": [0, 1]}, X)


def test_one_parameter_of_two_layers_stays_one():
    b = nn.Linear(6, 8)
    net = Net(lambda net, x: net.o(net.a(x).relu() + net.b(-x).relu()), b=b)
    b.weight, b.bias = net.a.weight, net.a.bias
    small, choice = apply(plan_channels(net, X), {"a": [0, 3, 5]}, X)
    assert small.a.weight is small.b.weight
    assert small.a.bias is small.b.bias
    again = Net(net.own, b=nn.Linear(6, 8))
    again.b.weight, again.b.bias = again.a.weight, again.a.bias
    assert resize(again, choice.sizes).b.weight is again.a.weight
    with pytest.raises(
        ValueError, match=r"a\.weight and b\.weight are one parameter, and sizes give it both"
    ):
        resize(again, {"a": [2, 6]})
    assert again.a.weight.shape == (3, 6)


def test_a_matrix_that_is_an_embedding_too_stays():
    e = nn.Embedding(3, 8)
    net = Net(lambda net, i, x: net.o(net.a(x).relu() + net.e(i)), e=e)
    net.o.weight = e.weight
    plan = plan_channels(net, torch.tensor([0, 1, 2, 0]), X)
    assert not plan.groups
    assert "o.weight is e.weight too" in str(plan) or "Embedding" in str(plan)


def test_layers_called_by_keyword_and_without_a_batch():
    net = Net(lambda net, x: net.o(input=net.a(input=x).relu()))
    small, _ = apply(plan_channels(net, X), {"a": [1, 4]}, X)
    assert small.a.out_features == 2
    convolutions = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    picture = torch.rand(3, 9, 9)
    small, _ = apply(plan_channels(convolutions, picture), {"0": [0, 2, 5]}, picture)
    assert small[2].in_channels == 3


def test_weights_that_are_made_at_each_call_stay():
    from torch.nn.utils import spectral_norm

    net = Net(lambda net, x: net.o(net.b(net.a(x).relu()).relu()), b=nn.Linear(8, 8))
    spectral_norm(net.b)
    plan = plan_channels(net, X)
    assert "its weight is made anew at each call" in plan.fixed["b"]
    with pytest.raises(ValueError, match="a has no sizes yet: call the network once"):
        plan_channels(Net(lambda net, x: net.o(net.a(x)), a=nn.LazyLinear(8)), X)


def test_a_network_that_looks_at_its_last_channel_is_left_alone():
    net = Net(lambda net, x: net.o(torch.cat([(h := net.a(x))[:, :-1], h[:, -1:].sigmoid()], 1)))
    assert not prunable(plan_channels(net, X), X).groups


def test_infinities_are_not_taken_for_a_wrong_plan():
    net = Net(lambda net, x: net.o(net.a(x).relu()))
    plan = plan_channels(net, X)
    with torch.no_grad():
        net.o.bias[0] = torch.inf
    with pytest.raises(ArithmeticError, match="returns NaN or infinities for this example"):
        apply(plan, {"a": [0, 1]}, X)
    with pytest.raises(ValueError, match="returns NaN or infinities for this example"):
        plan_channels(net, X)


@pytest.mark.parametrize("kept", [[1.7, 2.2], ["1"], [True, False], [-1], []])
def test_what_are_no_channel_numbers_is_refused(kept):
    plan = plan_channels(Net(lambda net, x: net.o(net.a(x).relu())), X)
    with pytest.raises(ValueError, match="a keeps channels"):
        apply(plan, {"a": kept})
    with pytest.raises(ValueError, match="a keeps a list of channel numbers; got 3"):
        apply(plan, {"a": 3})
    assert torch.equal(
        masked(plan, {"a": torch.tensor([2, 4])}).a.weight, masked(plan, {"a": [2, 4]}).a.weight
    )
