"""`linear` may be any affine module: fused, plain and textbook agree, and gradients reach its parts."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune, spectral_norm, weight_norm

from dropfold.models import TensorLinear, unfused
from dropfold.models.formats import FormatSpec
from dropfold.models.layers.grouped import EdgeConv2, GroupMLPMax
from dropfold.models.layers.linear_norm import EdgeConv, LinearNormAct, LinearNormMax, LinearNormPool
from dropfold.models.layers.matrix import matrix_of, product_is_cheaper
from tests.models.clouds.test_networks import lived_in

CLOSE = {"rtol": 1e-10, "atol": 1e-10}  # float64 sums in another order
C_IN, C_OUT = 12, 8


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


class Scaled(nn.Module):
    """A user's own map: the mean of each pair of features, then a matrix."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in // 2, n_out))
        self.shift = nn.Parameter(torch.randn(n_out))

    def forward(self, x):
        return x.unflatten(-1, (-1, 2)).mean(-1) @ self.weight + self.shift


def parametrized(n_in, n_out):
    module = nn.Linear(n_in, n_out)
    parametrize.register_parametrization(module, "weight", Halved())
    return module


MAPS = {
    "low rank": lambda n, m: nn.Sequential(nn.Linear(n, 2, bias=False), nn.Linear(2, m)),
    "high rank": lambda n, m: nn.Sequential(nn.Linear(n, 64), nn.Linear(64, m, bias=False)),
    "tensor": lambda n, m: TensorLinear(n, m, FormatSpec("tt", (3, n // 3), (2, m // 2), (2,))),
    "parametrized": parametrized,
    "own": Scaled,
    "identity first": lambda n, m: nn.Sequential(nn.Identity(), nn.Linear(n, m)),
}


@pytest.mark.parametrize("name", MAPS)
def test_the_matrix_is_the_maps(name):
    module, x = MAPS[name](C_IN, C_OUT).double(), torch.randn(5, 7, C_IN, dtype=torch.float64)
    weight, bias = matrix_of(module, C_IN)
    expected = module(x)
    torch.testing.assert_close(nn.functional.linear(x, weight, bias), expected, **CLOSE)
    parameters = list(module.parameters())
    found = torch.autograd.grad(nn.functional.linear(x, weight, bias).square().sum(), parameters)
    torch.testing.assert_close(found, torch.autograd.grad(expected.square().sum(), parameters), **CLOSE)


LAYERS = {
    "act": (lambda: LinearNormAct(C_IN, C_OUT, negative_slope=0.2), C_IN),
    "beside": (lambda: LinearNormAct(C_IN, C_OUT, negative_slope=0.2), C_IN - 5),
    "max": (lambda: LinearNormMax(C_IN, C_OUT, negative_slope=0.2), C_IN),
    "pool": (lambda: LinearNormPool(C_IN, C_OUT, negative_slope=0.2), C_IN),
    "edge": (lambda: EdgeConv(C_IN // 2, C_OUT), C_IN // 2),
    "edge2": (lambda: EdgeConv2(C_IN // 2, (C_IN, C_OUT)), C_IN // 2),
}


def textbook(name, layer, x, more):
    """The formula on the maps themselves."""
    perceptron = list(getattr(layer, "layers", [layer]))
    if name == "beside":
        x = torch.cat([more[0][:, None].expand(-1, x.shape[1], -1), x], -1)
    if "edge" in name:
        cloud = torch.arange(len(x))[:, None, None]
        central = x[:, :, None].expand(-1, -1, more[0].shape[2], -1)
        x = torch.cat([x[cloud, more[0]] - central, central], -1)
    for each in perceptron:
        y = each.linear(x)
        n = each.norm
        z = nn.functional.batch_norm(y.flatten(0, -2), None, None, n.weight, n.bias, True).view_as(y)
        x = torch.where(z > 0, z, 0.2 * z)
    if name in ("act", "beside"):
        return x
    if name == "pool":
        return torch.cat([x.amax(1), x.mean(1)], -1)
    return x.amax(-2)


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_take_any_map(name, kind):
    make, channels = LAYERS[name]
    layer = make()
    for each in list(getattr(layer, "layers", [layer])):
        each.linear = MAPS[kind](C_IN, C_OUT if each is layer or each is layer.layers[-1] else C_IN)
    layer = lived_in(layer).double()
    x = torch.randn(2, 20, channels, dtype=torch.float64, requires_grad=True)
    more = ()
    if name == "beside":
        more = (torch.randn(2, 5, dtype=torch.float64),)
    if "edge" in name:
        more = (torch.randint(0, 20, (2, 20, 4)),)

    def outcome(run, of):
        out = run(x, *more)
        out = torch.cat(out, -1) if isinstance(out, tuple) else out
        return out, torch.autograd.grad(out.square().sum(), [x, *of.parameters()])

    plain = copy.deepcopy(layer)
    expected = outcome(lambda x, *more: textbook(name, layer, x, more), layer)
    fused = outcome(layer, layer)
    with unfused(plain):
        found = outcome(plain, plain)
    for mine in (fused, found):
        torch.testing.assert_close(mine[0], expected[0], **CLOSE)
        for a, b in zip(mine[1], expected[1], strict=True):
            assert float((a - b).abs().max()) <= 1e-9 * max(1.0, float(b.abs().max()))
    torch.testing.assert_close(plain.state_dict(), layer.state_dict(), **CLOSE)


def test_a_group_perceptron_takes_a_low_rank_first_map():
    from dropfold.kernels.points.groups import neighbourhoods

    layer = lived_in(GroupMLPMax(9, (C_OUT, C_OUT))).double()
    layer.layers[0].linear = MAPS["low rank"](C_IN, C_OUT).double()
    pos, features = torch.randn(15, 3, dtype=torch.float64), torch.randn(15, 9, dtype=torch.float64)
    groups = neighbourhoods(torch.randint(0, 15, (6, 4)))
    plain = copy.deepcopy(layer)
    with unfused(plain):
        found = plain(features, pos, pos[:6], groups)
    torch.testing.assert_close(found, layer(features, pos, pos[:6], groups), **CLOSE)


def test_the_cheaper_order_is_taken():
    """A pair of rank r costs M r (in + out), its matrix in r out and M in out."""
    pair = nn.Sequential(nn.Linear(100, 10), nn.Linear(10, 100))
    assert product_is_cheaper(pair, 1000) is False  # 2.0M against 10.1M
    wide = nn.Sequential(nn.Linear(100, 60), nn.Linear(60, 100))
    assert product_is_cheaper(wide, 1000) is True  # 12.0M against 10.6M
    assert product_is_cheaper(wide, 100) is False  # 1.2M against 1.6M
    assert product_is_cheaper(pair[0], 1000) is None
    assert product_is_cheaper(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), 10) is None
    called = []
    pair[0].register_forward_hook(lambda *_: called.append("first"))
    layer = LinearNormAct(100, 100)
    layer.linear = pair
    layer(torch.randn(1000, 100))
    assert called == ["first"]
    layer.linear = wide
    wide[0].register_forward_hook(lambda *_: called.append("wide"))
    layer(torch.randn(1000, 100))
    assert called == ["first"]


def test_what_is_not_affine_is_refused():
    layer, x = LinearNormMax(4, 5), torch.randn(2, 6, 4)
    layer.linear = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    with pytest.raises(
        ValueError, match=r"must be affine, y = x W\^T \+ b, the same at each call; ReLU is not"
    ):
        layer(x)
    with unfused(layer):
        assert layer(x).shape == (2, 5)
    with pytest.raises(ValueError, match="how many features Scaled takes is not known"):
        matrix_of(Scaled(4, 5))


@pytest.mark.parametrize("kind", ["low rank", "tensor", "own"])
def test_autocast_rounds_no_matrix(kind):
    """Maps on three channels, which are coordinates, give the same numbers as without autocast."""
    layer = lived_in(LinearNormAct(3, C_OUT)).eval()
    layer.linear = Flipped(C_OUT) if kind == "own" else MAPS[kind](3, C_OUT)
    x = torch.randn(2, 20, 3)
    expected, out = matrix_of(layer.linear, 3), layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        found, rounded = matrix_of(layer.linear, 3), layer(x)
    assert torch.equal(found.weight, expected.weight)
    assert torch.equal(found.bias, expected.bias)
    assert torch.equal(rounded, out)


class Flipped(nn.Module):
    """A user's own map of three features."""

    def __init__(self, n_out):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, n_out)), nn.Parameter(torch.randn(n_out))

    def forward(self, x):
        return x.flip(-1) @ self.weight + self.bias


def test_a_map_that_is_affine_in_evaluation_is_refused_in_training():
    layer, x = LinearNormMax(4, 5), torch.randn(2, 6, 4)
    layer.linear = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5))
    layer.eval()(x)
    layer.train()
    with pytest.raises(ValueError, match="Dropout is not"):
        layer(x)
    layer.eval()(x)


def test_a_map_in_bfloat16_is_checked():
    """The check allows for rounding, and not for a map that is not affine."""
    matrix_of(Flipped(8).bfloat16(), 3)
    with pytest.raises(ValueError, match="ReLU is not"):
        matrix_of(nn.ReLU().bfloat16(), 4)


@pytest.mark.filterwarnings("ignore")  # weight_norm has a successor
@pytest.mark.parametrize(
    ("change", "original"),
    [
        (lambda m: prune.l1_unstructured(m, "weight", 0.5), "weight_orig"),
        (weight_norm, "weight_v"),
        (spectral_norm, "weight_orig"),
    ],
    ids=["pruned", "weight norm", "spectral norm"],
)
def test_weights_that_a_pre_hook_makes_are_new_at_each_step(change, original):
    """The optimiser's step on the original weights is seen by the next forward, and gradients reach them."""
    outcomes = []
    for fused in (True, False):
        torch.manual_seed(4)
        layer = lived_in(LinearNormMax(C_IN, C_OUT, bias=True)).double()
        change(layer.linear)
        layer.fused = fused
        weight, x = getattr(layer.linear, original), torch.randn(2, 20, C_IN, dtype=torch.float64)
        outs = []
        for _ in range(3):
            out = layer(x)
            (gradient,) = torch.autograd.grad(out.square().sum(), [weight])
            outs += [out, gradient]
            with torch.no_grad():
                weight -= 0.01 * gradient
        outcomes.append(outs)
        assert not torch.allclose(outs[0], outs[2])
    torch.testing.assert_close(*outcomes, rtol=1e-9, atol=1e-9)  # float64 sums in another order
