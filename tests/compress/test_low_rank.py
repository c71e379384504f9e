"""Two thin maps in place of a matrix: the nearest ones, equal in every form of every layer, and in a choice."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dropfold.compress import Choice, apply, masked, plan_channels
from dropfold.compress.cost.work import multiply_adds, work_of
from dropfold.compress.plan.matrices import full_ranks
from dropfold.models import DGCNN, EdgeConv, PointNet, unfused
from dropfold.models.images.resnet import ResNet
from dropfold.models.layers.low_rank import factors, flat, low_rank, product, unflat
from dropfold.models.layers.sizes import resize, sizes_of
from tests.compress.networks import FOREIGN, OURS, used
from tests.compress.test_apply import random_channels

EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize(("shape", "edges"), [((9, 14), False), ((8, 6, 3, 3), False), ((10, 12), True)])
def test_the_product_is_the_nearest_of_its_rank(shape, edges):
    """By numpy's SVD: the error is the root of the sum of the squares of the other singular values."""
    weight = torch.randn(shape, dtype=torch.float64)
    matrix = flat(weight, edges)
    assert torch.equal(unflat(matrix, weight, edges), weight)
    values = np.linalg.svd(matrix.numpy(), compute_uv=False)
    near = product(*factors(weight, 3, edges), edges=edges)
    assert near.shape == weight.shape
    np.testing.assert_allclose((near - weight).norm().item(), np.sqrt((values[3:] ** 2).sum()), rtol=1e-12)
    whole = product(*factors(weight, min(matrix.shape), edges), edges=edges)
    torch.testing.assert_close(whole, weight, **EXACT)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1, "dilation": 2, "padding_mode": "circular"}]
)
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_a_convolution_is_two(kind, options):
    module = kind(6, 8, 3, **options).double()
    pair = low_rank(module, 8, 6, 6)
    first, second = factors(module.weight.detach(), 6)
    pair.load_state_dict({"0.weight": first, "1.weight": second, "1.bias": module.bias.detach()})
    near = copy.deepcopy(module)
    near.weight.data = product(first, second)
    x = torch.rand(2, 6, *[9] * (module.weight.dim() - 2), dtype=torch.float64)
    torch.testing.assert_close(pair(x), near(x), **EXACT)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [lambda: PointNet(5), lambda: DGCNN(5, k=5)])
def test_both_forms_are_equal_with_gradients(make, training):
    torch.manual_seed(0)
    network = used(make()).double().train(training)
    ranks = {"conv2.linear": 16, "conv3.linear": 24, "fc1.linear": 20, "input_transform.fc3": 4} if isinstance(
        network, PointNet
    ) else {"edge2.linear": 16, "edge3.linear": 10, "embed.linear": 24, "fc1.linear": 20}  # fmt: skip
    network, _ = apply(plan_channels(network), Choice({}, ranks))
    x = torch.rand(6, 40, 3, dtype=torch.float64)
    plain = copy.deepcopy(network)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        found = network(x)
    with torch.random.fork_rng(), unfused(plain):
        torch.manual_seed(1)
        expected = plain(x)
    torch.testing.assert_close(found, expected, **EXACT)
    found.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), q in zip(network.named_parameters(), plain.parameters(), strict=True):
        scale = q.grad.abs().max().clamp(min=1)
        torch.testing.assert_close(p.grad / scale, q.grad / scale, rtol=1e-7, atol=1e-8, msg=name)
    if not training:
        with torch.no_grad():
            torch.testing.assert_close(network(x), expected.detach(), **EXACT)


def test_an_edge_convolution_gathers_rank_channels(monkeypatch):
    from dropfold import kernels

    layer = EdgeConv(32, 64)
    resize(layer, {"linear": [64, 64, 8]})
    seen = []
    whole = kernels.edge_conv
    monkeypatch.setattr(
        kernels, "edge_conv", lambda x, *rest, **more: seen.append(x.shape[-1]) or whole(x, *rest, **more)
    )
    layer(torch.rand(2, 10, 32), torch.randint(0, 10, (2, 10, 4)))
    assert seen == [8]


@pytest.mark.parametrize("name", [*OURS, "residual", "plain", "edges"])
def test_a_choice_with_ranks_is_the_masked_network(name):
    network, example = {**OURS, **FOREIGN}[name]()
    plan = plan_channels(network, *example)
    channels = random_channels(plan)
    sizes = apply(plan, channels)[1].sizes
    ranks = {
        k: max(1, min(s) // 3)
        for k, s in sizes.items()
        if len(s) == 2 and getattr(network.get_submodule(k), "groups", 1) == 1 and "layers." not in k
    }
    small, choice = apply(plan, Choice(channels, ranks), *example)
    again = Choice.from_json(choice.to_json())
    assert again == choice
    assert {k: v[2] for k, v in again.sizes.items() if len(v) == 3} == ranks
    double = plan_channels(copy.deepcopy(network).double(), *_double(example))
    exact, _ = apply(double, Choice(channels, ranks), *_double(example))
    torch.testing.assert_close(
        exact(*_double(example)), masked(double, Choice(channels, ranks)).eval()(*_double(example)), **EXACT
    )
    rebuilt = resize({**OURS, **FOREIGN}[name]()[0], again.sizes).eval()
    rebuilt.load_state_dict(small.state_dict())
    torch.testing.assert_close(rebuilt(*example), small.eval()(*example), rtol=0, atol=0)
    assert sizes_of(rebuilt) == again.sizes


def test_a_residual_network_gets_pairs():
    network, x = used(ResNet(10)), torch.rand(1, 3, 32, 32)
    names = [name for name, size in sizes_of(network).items() if len(size) == 2 and min(size) >= 16][:4]
    small, _ = apply(plan_channels(network, x), Choice({}, dict.fromkeys(names, 6)), x)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("ranks", "error", "sentence"),
    [
        (
            {"edge2.linear": 65},
            ValueError,
            r"edge2.linear: rank 65 is not one of a matrix of 128 x 64: from 1 to 64",
        ),
        ({"edge2.linear": 0}, ValueError, "rank 0 is not one"),
        ({"edge2.norm": 3}, KeyError, r"'edge2.norm' is no matrix or convolution of DGCNN"),
        ({"edge9": 3}, KeyError, "edge9"),
    ],
)
def test_wrong_ranks_are_refused(ranks, error, sentence):
    with pytest.raises(error, match=sentence):
        apply(plan_channels(OURS["dgcnn"]()[0]), Choice({}, ranks))
    with pytest.raises(ValueError, match=r"sizes has 'edge2\.linear'"):
        resize(DGCNN(10, k=5), {"edge2.linear": [64, 128, 65]})


def test_a_rank_that_the_kept_channels_do_not_have_is_refused():
    network, _ = OURS["dgcnn"]()
    with pytest.raises(ValueError, match=r"embed.linear: rank 20 is not one of a matrix of 8 x 512"):
        apply(plan_channels(network), Choice({"embed": list(range(8))}, {"embed.linear": 20}))


def _double(example):
    return tuple(v.double() if v.is_floating_point() else v for v in example)


class Odd(nn.Module):
    """One module under two names, one parametrized matrix, one frozen, one subclass."""

    def __init__(self):
        super().__init__()
        self.a, self.p, self.frozen, self.last = (nn.Linear(32, 32) for _ in range(4))
        self.b = self.a
        nn.utils.parametrizations.weight_norm(self.p)
        self.frozen.requires_grad_(False)
        self.special = type("Special", (nn.Linear,), {})(32, 32)

    def forward(self, x):
        return self.last(
            self.special(self.frozen(self.p(self.b(self.a(x).relu()).relu()).relu()).relu()).relu()
        )


def test_matrices_that_are_no_plain_ones_get_no_rank():
    odd, x = Odd().eval(), torch.rand(3, 32)
    plan = plan_channels(odd, x)
    for name, why in (
        ("a", "one module under the names a, b"),
        ("special", "it is a Special"),
        ("p", "made anew"),
    ):
        with pytest.raises((ValueError, KeyError), match=f"{name} gets no rank: .*{why}"):
            apply(plan, Choice({}, {name: 4}))
    assert set(full_ranks(odd)) == {"frozen", "last"}
    small, _ = apply(plan, Choice({}, {"frozen": 8}), x)
    assert not any(p.requires_grad for p in small.frozen.parameters())
    assert not any(module.training for module in small.modules())
    with pytest.raises(ValueError, match="has two thin maps in place of frozen already"):
        plan_channels(small, x)
    for wrong in (True, 8.0, "8"):
        with pytest.raises(ValueError, match="a rank is a whole number"):
            apply(plan, Choice({}, {"frozen": wrong}))


@pytest.mark.parametrize(
    ("name", "matrix"), [("ssg-scenes", "fp4.layers.0.linear"), ("ssg", "sa1.scales.0.layers.1.linear")]
)
def test_layers_that_multiply_by_the_matrix_count_as_such(name, matrix):
    """A rank there is right, saves nothing, and is said to save nothing."""
    network, example = OURS[name]()
    if matrix not in sizes_of(network):
        matrix = next(
            k for k in sizes_of(network) if k.startswith(matrix.split(".")[0]) and k.endswith("0.linear")
        )
    small, _ = apply(plan_channels(network), Choice({}, {matrix: 4}), *example)
    assert multiply_adds(work_of(small, *example)) == multiply_adds(work_of(network, *example))
