"""The plain form runs every submodule, and equals the fused form: outputs, gradients, running statistics, noise."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from dropfold.kernels import Groups, knn
from dropfold.models import (
    DGCNN,
    DGCNNSegmentation,
    DropCluster,
    DropFeat,
    DropPoint,
    PointNet,
    PointNet2,
    PointNet2Segmentation,
    PointNetSegmentation,
    unfused,
)
from dropfold.models.clouds import dgcnn
from dropfold.models.layers.grouped import EdgeConv2, GroupMLPMax
from dropfold.models.layers.linear_norm import EdgeConv, LinearNormAct, LinearNormMax, LinearNormPool
from dropfold.models.layers.plain import neighbours
from dropfold.models.layers.unfused import HasPlainForm
from tests.models.clouds.test_networks import lived_in

CATEGORIES, POINTS = 3, 32
# Float64 sums in another order, through some ten layers.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}

# name: (network, its arguments, channels, layers with noise)
NETWORKS = {
    "pointnet": (lambda **o: PointNet(5, **o), 3, ("conv1", "conv2", "pool")),
    "pointnet2": (lambda **o: PointNet2(5, grouping="msg", **o), 3, ("sa1", "sa2", "pool")),
    "dgcnn": (
        lambda **o: DGCNN(5, k=20, emb_dims=32, **o),
        3,
        ("edge1", "edge2", "edge3", "edge4", "pool"),
    ),
    "pointnet scenes": (lambda **o: PointNetSegmentation(5, 9, **o), 9, ("conv1", "conv2", "pool")),
    "pointnet parts": (
        lambda **o: PointNetSegmentation(5, 3, CATEGORIES, **o),
        3,
        ("conv1", "conv2", "conv3", "conv4", "pool"),
    ),
    "pointnet2 scenes": (lambda **o: PointNet2Segmentation(5, 9, **o), 9, ("sa1", "sa2", "sa3", "pool")),
    "pointnet2 parts": (
        lambda **o: PointNet2Segmentation(5, 3, CATEGORIES, **o),
        3,
        ("sa1", "sa2", "pool"),
    ),
    "dgcnn scenes": (
        lambda **o: DGCNNSegmentation(5, 9, k=20, emb_dims=32, **o),
        9,
        ("edge1", "edge2", "edge3", "pool"),
    ),
    "dgcnn parts": (
        lambda **o: DGCNNSegmentation(5, 3, CATEGORIES, k=20, emb_dims=32, **o),
        3,
        ("edge1", "edge2", "edge3", "pool"),
    ),
}
# DGCNN's neighbourhoods are large and the noise moderate: points that have lost all neighbours are equal zeros, and which of
# equal points is nearer is decided by rounding.
NOISES = {
    "feat": lambda: DropFeat(0.4),
    "point": lambda: DropPoint(0.4, scaling="count"),
    "cluster": lambda: DropCluster(0.3, k=4),
    "scatter": lambda: DropCluster(0.3, k=4, reading="scatter"),
}
pytestmark = pytest.mark.usefixtures("small_groups")


def make(name, noise=None, dropout=0.3):
    network, _, layers = NETWORKS[name]
    torch.manual_seed(1)
    noises = {layer: NOISES[noise]() for layer in layers} if noise else None
    return lived_in(network(dropout=dropout, noise=noises)).double()


def inputs(name, rows=False):
    """Three clouds, dense or as rows of different sizes; parts with the category of each."""
    channels = NETWORKS[name][1]
    generator = torch.Generator().manual_seed(2)
    if rows:
        sizes = torch.tensor([POINTS, 33, 41])
        x = torch.rand(int(sizes.sum()), channels, generator=generator, dtype=torch.float64)
        options = {"batch": torch.arange(3).repeat_interleave(sizes), "batch_size": 3}
    else:
        x, options = torch.rand(3, POINTS, channels, generator=generator, dtype=torch.float64), {}
    return x, options | ({"category": torch.arange(3) % CATEGORIES} if "parts" in name else {})


def outcome(model, x, options):
    """Output, gradients of x and of all parameters, and buffers after the step."""
    x = x.clone().requires_grad_()
    torch.manual_seed(3)
    out = model(x, **options)
    parameters = dict(model.named_parameters())
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    grads = torch.autograd.grad((out * weights).sum() + out.square().sum(), [x, *parameters.values()])
    return {
        "out": out.detach(),
        "next random number": torch.rand(1),
        **{f"d {n}": g for n, g in zip(["x", *parameters], grads)},
        **{n: b.clone() for n, b in model.named_buffers()},
    }


def assert_forms_agree(model, x, options):
    plain = copy.deepcopy(model)
    expected = outcome(model, x, options)
    with unfused(plain):
        found = outcome(plain, x, options)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # Gradients are as large as hundreds: relative to the largest of a tensor.
        size = max(1.0, float(value.double().abs().max())) if value.numel() else 1.0
        error = float((found[key] - value).double().abs().max()) if value.numel() else 0.0
        assert error <= CLOSE["atol"] * size, f"{key} is off by {error} of {size}"


@pytest.mark.parametrize(
    ("training", "rows"),
    [(True, False), (True, True), (False, True)],
    ids=["train", "train rows", "eval rows"],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_with_their_plain_form(name, training, rows):
    assert_forms_agree(make(name).train(training), *inputs(name, rows))


@pytest.mark.parametrize(
    ("noise", "rows"), [("feat", True), ("point", True), ("cluster", False), ("scatter", True)]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_both_forms_drop_the_same(name, noise, rows):
    """Noise at all layers at once."""
    assert_forms_agree(make(name, noise), *inputs(name, rows))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_module_runs_its_hook(name):
    model, (x, options) = make(name, "point"), inputs(name)
    kinds = (nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Dropout)
    watched = {n: m for n, m in model.named_modules() if isinstance(m, kinds)}
    before = {n: int(m.num_batches_tracked) for n, m in watched.items() if isinstance(m, nn.BatchNorm1d)}
    calls = Counter()
    for n, module in watched.items():
        module.register_forward_hook(lambda *_, n=n: calls.update([n]))
    with unfused(model):
        model(x, **options)
    assert calls == Counter(list(watched))  # each once
    assert {n: int(watched[n].num_batches_tracked) - old for n, old in before.items()} == dict.fromkeys(
        before, 1
    )


def test_flags_are_restored():
    model = make("dgcnn")
    model.edge2.fused = False
    before = [m.fused for m in model.modules() if isinstance(m, HasPlainForm)]
    assert len(before) == 8  # the network, four EdgeConvs, embed, fc1, fc2

    def flags():
        return [m.fused for m in model.modules() if isinstance(m, HasPlainForm)]

    with unfused(model) as same:
        assert same is model
        assert not any(flags())
        with unfused(model.embed):
            assert not any(flags())
        assert not any(flags())
    assert flags() == before
    with pytest.raises(ZeroDivisionError), unfused(model):
        raise ZeroDivisionError
    assert flags() == before
    with unfused(model.fc1):
        assert flags().count(False) == 2
    assert "fused" not in "".join(model.state_dict())


LAYERS = {
    "act": lambda: LinearNormAct(6, 8, bias=True, negative_slope=0.2),
    "max": lambda: LinearNormMax(6, 8, negative_slope=0.2),
    "pool": lambda: LinearNormPool(6, 8, bias=True, negative_slope=0.2),
    "edge": lambda: EdgeConv(6, 8, bias=True),
    "edge2": lambda: EdgeConv2(6, (7, 8)),
    "edge2 of one": lambda: EdgeConv2(6, (8,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_alone_agrees_with_its_plain_form(name):
    layer = lived_in(LAYERS[name]()).double()
    x = torch.randn(3, 20, 6, dtype=torch.float64)
    extra = (torch.randint(0, 20, (3, 20, 4)),) if "edge" in name else ()
    plain = copy.deepcopy(layer)
    plain.fused = False
    for noise in (None, DropFeat(0.5), DropPoint(0.5), DropCluster(0.5, k=3)):
        drawn = noise and noise.draw(x[..., :3], x)
        found, expected = (m(x, *extra, noise=drawn) for m in (plain, layer))
        torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(plain.state_dict(), layer.state_dict(), **CLOSE)


@pytest.mark.parametrize("form", [LinearNormMax, LinearNormPool])
@pytest.mark.parametrize("rows", [False, True], ids=["dense", "rows"])
def test_pools_return_their_argmax(form, rows):
    layer = lived_in(form(6, 16, negative_slope=0.2)).double().eval()
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    noise = DropPoint(0.9).draw(x, x)
    options = {"noise": noise, "return_argmax": True}
    if rows:
        options["batch"] = torch.arange(2).repeat_interleave(20)
        x = x.flatten(0, 1)
    top, *_, argmax = layer(x, **options)
    y = layer.linear(x)
    z = nn.functional.leaky_relu(layer.norm(y.view(-1, 16)).view_as(y), 0.2)
    flat = z.flatten(0, 1) if not rows else z
    start = torch.zeros(2, 1) if rows else torch.tensor([[0], [20]])
    found = flat.gather(0, (argmax + start).long().clamp(min=0))
    torch.testing.assert_close(top, torch.where(argmax < 0, 0, found), **CLOSE)
    assert argmax.dtype == torch.int64
    assert argmax.max() < (40 if rows else 20)
    with unfused(layer):
        assert torch.equal(layer(x, **options)[-1], argmax)
        assert torch.equal(layer(x, **options | {"noise": None})[-1], _fused_argmax(layer, x, options))


def _fused_argmax(layer, x, options):
    layer.fused = True
    found = layer(x, **options | {"noise": None})[-1]
    layer.fused = False
    return found


def test_an_argmax_over_nothing_is_minus_one():
    layer, x = LinearNormMax(3, 8).eval(), torch.randn(1, 3, 3)
    noise = DropPoint(0.99).draw(x, x)._replace(seed=torch.tensor(0))
    for _ in range(2):
        top, argmax = layer(x, noise=noise, return_argmax=True)
        assert (argmax == -1).all()
        assert (top == 0).all()
        layer.fused = False


def test_critical_points_alone_make_the_feature():
    """Qi et al. 2017, section 4.3: the critical points give the same feature of the cloud, and so the same logits."""
    model = lived_in(PointNet(5, input_transform=False, feature_transform=False)).double().eval()
    x = torch.rand(1, 300, 3, dtype=torch.float64)
    critical = model.critical_points(x)
    assert critical.shape == (1, 1024)
    kept = critical.unique()
    assert len(kept) < 300
    torch.testing.assert_close(model(x[:, kept]), model(x), **CLOSE)
    # Without any one of them the feature changes.
    others = torch.arange(300) != kept[0]
    assert not torch.equal(
        model.conv3(model._features(x, _none())), model.conv3(model._features(x[:, others], _none()))
    )
    with unfused(model):
        assert torch.equal(model.critical_points(x), critical)


def _none():
    return {"batch": None, "batch_size": None}


@pytest.mark.parametrize("name", ["pointnet", "dgcnn", "pointnet2 parts"])
def test_an_epoch_reproduces_the_fused_losses(name):
    """Noise and dropout on; float64, so that Adam's division does not blow rounding up."""
    curves = []
    for form in (False, True):
        model = make(name, "cluster")
        optimiser = torch.optim.Adam(model.parameters(), 1e-3)
        generator = torch.Generator().manual_seed(5)
        torch.manual_seed(6)
        losses = []
        for _ in range(6):
            x = torch.rand(4, POINTS, 3, generator=generator, dtype=torch.float64)
            category = {"category": torch.arange(4) % CATEGORIES} if "parts" in name else {}
            if form:
                with unfused(model):
                    out = model(x, **category)
            else:
                out = model(x, **category)
            loss = nn.functional.cross_entropy(out.reshape(-1, 5), torch.arange(out.numel() // 5) % 5)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0][0] != curves[0][-1]
    torch.testing.assert_close(*map(torch.tensor, curves), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [3, 8, 9, 40])
def test_plain_neighbours_are_the_kernels(channels):
    x = torch.randn(2, 50, channels, dtype=torch.float64)
    batch = torch.arange(2).repeat_interleave(torch.tensor([35, 65]))
    assert torch.equal(neighbours(x, 7, False), knn(x, 7))
    rows = x.flatten(0, 1)
    assert torch.equal(neighbours(rows, 7, False, batch), knn(rows, 7, batch=batch))
    assert torch.equal(neighbours(rows, 7, False), knn(rows, 7))
    # Of equally near points the smaller index wins; small integers have exact distances.
    grid = torch.randint(0, 3, (1, 60, channels)).double() * 4
    grid[:, :, 3:] = 0
    if channels <= 8:
        assert torch.equal(neighbours(grid, 20, False), knn(grid, 20))
    with pytest.raises(ValueError, match="k must be at least 1 and at most the points of the smallest cloud"):
        neighbours(rows, 40, False, batch)


def test_autocast_does_not_move_the_plain_graphs(monkeypatch):
    """Each graph of the plain DGCNN is the one that `kernels.knn` finds in the same features."""
    asked = []

    def recorded(x, k, fused, **clouds):
        found = neighbours(x, k, fused, **clouds)
        asked.append((x, k, fused, found))
        return found

    monkeypatch.setattr(dgcnn, "neighbours", recorded)
    model, (x, _) = make("dgcnn").float().eval(), inputs("dgcnn")
    with unfused(model), torch.autocast("cpu", torch.bfloat16):
        model(x.float())
    assert [x.shape[-1] for x, *_ in asked] == [3, 64, 64, 128]
    for x, k, fused, found in asked:
        assert not fused
        assert torch.equal(found, knn(x, k))


def test_groups_with_copies_agree():
    """An entry that stands several times weighs as much in BatchNorm; an empty group is 0."""
    layer = lived_in(GroupMLPMax(4, (6, 5))).double()
    pos, features = torch.randn(12, 3, dtype=torch.float64), torch.randn(12, 4, dtype=torch.float64)
    groups = Groups(torch.tensor([0, 3, 3, 5]), torch.tensor([0, 4, 7, 2, 11]), torch.tensor([1, 5, 2, 3, 1]))
    plain = copy.deepcopy(layer)
    noise = DropPoint(0.5).draw(pos, pos)
    for drawn in (None, noise):
        expected = layer(features, pos, pos[:3], groups, noise=drawn)
        with unfused(plain):
            found = plain(features, pos, pos[:3], groups, noise=drawn)
        torch.testing.assert_close(found, expected, **CLOSE)
        assert (found[1] == 0).all()
    torch.testing.assert_close(plain.state_dict(), layer.state_dict(), **CLOSE)


def test_another_activation_runs_in_the_plain_form_alone():
    layer, x = LinearNormMax(3, 8), torch.randn(2, 10, 3)
    layer.activation = nn.GELU()
    with pytest.raises(ValueError, match="activation is ReLU, LeakyReLU or Identity; got GELU"):
        layer(x)
    with unfused(layer):
        assert layer(x).shape == (2, 8)


def test_statistics_over_several_processes_are_refused(monkeypatch):
    from dropfold.models.layers import plain

    monkeypatch.setattr(plain, "several_processes", bool)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    layer, x = LinearNormAct(3, 8, sync=True), torch.randn(2, 10, 3)
    with unfused(layer):
        with pytest.raises(
            ValueError, match="over this process alone, and sync asks for those of 4: train fused"
        ):
            layer(x)
        layer.eval()(x)


# Inputs, weights, products and outputs are rounded, by at most 2^-9 of their size each: some eight roundings.
BFLOAT16 = 2**-6


@pytest.mark.parametrize("name", ["pointnet", "dgcnn scenes", "pointnet2"])
def test_autocast_runs_the_plain_form(name):
    """In evaluation, with statistics that damp rounding and do not blow it up through ten layers."""
    model, (x, options) = make(name).float().eval(), inputs(name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(x.float(), **options).float()
        with unfused(model):
            found = model(x.float(), **options).float()
    assert float((found - expected).norm()) <= BFLOAT16 * float(expected.norm())


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_under_autocast_agrees_with_its_plain_form(name):
    layer, x = lived_in(LAYERS[name]()).eval(), torch.randn(3, 20, 6)
    extra = (torch.randint(0, 20, (3, 20, 4)),) if "edge" in name else ()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = layer(x, *extra)
        with unfused(layer):
            found = layer(x, *extra)
    for mine, other in zip(*(y if isinstance(y, tuple) else (y,) for y in (found, expected)), strict=True):
        assert float((mine - other).abs().max()) <= BFLOAT16 * float(other.abs().max())
