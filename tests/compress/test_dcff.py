"""DCFF beside the paper's formulas in numpy, the small network that comes of it, and a loop of one's own."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dropfold.compress import apply, plan_channels, prunable
from dropfold.compress.methods.criteria import norm
from dropfold.compress.methods.dcff import (
    ANNEALED,
    DCFF,
    RELEASED,
    choose_filters,
    filters_of,
    fused,
    fusions_of,
    hold_filters,
    importance,
    log_proxies,
)
from dropfold.compress.methods.dcff_rates import RATES, sizes_at
from dropfold.compress.methods.uniform import keep_share
from dropfold.models import VGG16, DGCNNSegmentation, PointNet2Segmentation, ResNet
from dropfold.models.images.networks import multiply_adds
from dropfold.models.layers.sizes import resize, sizes_of
from dropfold.train.config.configs import PartConfig
from dropfold.train.tasks.points import with_initial_weights
from tests.compress.networks import FOREIGN, OURS, used


def temperature(e, E, k, start, end):
    """As the authors write it."""
    a = 2 * (end - start) * (1 + math.exp(-k * E)) / (1 - math.exp(-k * E))
    return a / (1 + math.exp(-k * e)) + start - a / 2


def proxies(filters, t, relative):
    rows = filters.detach().double().flatten(1).numpy()
    distances = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in rows] for a in rows])
    if relative:
        pairs = np.sort(distances[np.triu_indices(len(rows), 1)])
        distances /= pairs[(len(pairs) - 1) // 2]
    p = np.exp(-t * distances)
    return p / p.sum(1, keepdims=True)


def importances(p, small):
    n = len(p)
    return np.array([sum(np.mean(p[j] * np.log(p[j] / (p[k] + small))) for k in range(n)) for j in range(n)])


def conv(m=5, n=12, columns=3):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(columns, m, 3))
    return hold_filters(layer, {"0": n})


def test_temperatures_are_the_papers():
    for e in range(91):
        assert RELEASED.temperature(e, 90) == pytest.approx(temperature(e, 90, 1, 1, 1e4), rel=1e-12)
        assert ANNEALED.temperature(e, 90) == pytest.approx(temperature(e, 90, 5 / 90, 1, 50), rel=1e-12)
    assert [ANNEALED.temperature(e, 7) for e in (0, 7)] == [1, 50]
    assert round(RELEASED.temperature(1, 300)) == 4622
    with pytest.raises(ValueError, match="epochs must be at least 1; got 0"):
        ANNEALED.temperature(0, 0)


@pytest.mark.parametrize(("schedule", "epoch"), [(ANNEALED, 0), (ANNEALED, 2), (ANNEALED, 9), (RELEASED, 0)])
def test_filters_are_fused_by_the_papers_formulas(schedule, epoch):
    network = conv()
    ((filters, fusion),) = fusions_of(network).values()
    choose_filters(network, epoch, 10, schedule)
    t = temperature(epoch, 10, 0.5, 1, 50) if schedule is ANNEALED else 1.0
    p = proxies(filters, t, schedule.relative)
    score = importances(p, 0 if schedule is ANNEALED else 1e-7)
    # float64 as here, or float32 as released; the smallest p's logarithm is about 100
    np.testing.assert_allclose(fusion.importance, score, rtol=1e-9 if schedule is ANNEALED else 1e-4)
    top = set(np.argsort(-score)[:5].tolist())
    assert set(fusion.chosen.tolist()) == top
    rounding = 4 * torch.finfo(torch.float32).eps
    np.testing.assert_allclose(fusion.matrix, p[fusion.chosen], rtol=rounding, atol=1e-30)
    expected = p[fusion.chosen] @ filters.detach().double().flatten(1).numpy()
    found = network[0].weight.detach().flatten(1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=12 * rounding)  # sums of 12 numbers below 1
    bias = network[0].parametrizations.bias.original.detach().numpy()
    np.testing.assert_allclose(network[0].bias.detach(), p[fusion.chosen] @ bias, rtol=0, atol=12 * rounding)
    assert network[0](torch.rand(2, 3, 6, 6)).shape == (2, 5, 4, 4)


@pytest.mark.parametrize("schedule", [ANNEALED, RELEASED])
@pytest.mark.parametrize(("kind", "value"), [("weight", math.nan), ("weight", math.inf), ("bias", -math.inf)])
def test_filters_that_are_not_finite_are_refused_by_the_name_of_their_layer(schedule, kind, value):
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3))
    hold_filters(network, {"0": 12, "2": 9})
    choose_filters(network, 0, 10, schedule)
    before = [fusion.matrix.clone() for _, fusion in fusions_of(network).values()]
    with torch.no_grad():
        network[2].parametrizations[kind].original[[3, 7]] = value
    for act in (lambda: choose_filters(network, 1, 10, schedule), lambda: fused(network)):
        with pytest.raises(
            FloatingPointError, match=f"the {kind} of 2 of the 9 filters that 2 holds is not finite"
        ):
            act()
    for matrix, (_, fusion) in zip(before, fusions_of(network).values()):
        assert torch.equal(fusion.matrix, matrix)


def test_as_released_it_is_the_first_choice_from_epoch_1_on():
    """P is one-hot, importances are not finite, and no other filter gets a gradient; annealed, they are ranked anew."""
    released, annealed = conv(16, 32, 16), conv(16, 32, 16)
    first: dict[str, set[int]] = {}
    for name, network, schedule in (("released", released, RELEASED), ("annealed", annealed, ANNEALED)):
        choose_filters(network, 0, 300, schedule)
        ((filters, fusion),) = fusions_of(network).values()
        first[name] = set(fusion.chosen.tolist())
        assert fusion.own_share() < 0.2
        rows = fusion.chosen.clone()
        with torch.no_grad():  # filters that were left out grow, and stand apart from now on
            left = torch.ones(32, dtype=torch.bool)
            left[rows] = False
            filters[left] *= 5
        choose_filters(network, 1, 300, schedule)
        kept = torch.isin(rows, fusion.chosen)
        assert torch.equal(fusion.chosen[kept], rows[kept])  # who stays keeps its row
        network(torch.rand(2, 16, 6, 6)).square().sum().backward()
        reached = filters.grad.flatten(1).abs().sum(1) > 0
        if schedule is RELEASED:
            assert torch.equal(fusion.matrix, torch.eye(32)[fusion.chosen])
            score = importance(log_proxies(filters, RELEASED.temperature(1, 300), False), exact=False)
            assert score.isnan().all()
            assert fusion.importance.isfinite().all()
            assert set(fusion.chosen.tolist()) == first[name]
            assert torch.equal(reached, ~left)
        else:
            assert set(fusion.chosen.tolist()) == set(left.nonzero().flatten().tolist())
            assert reached.all()


def test_importance_in_log_space_is_finite_where_proxies_underflow():
    """Where they are one-hot it ranks as the sum of distances to the others does (FPGM)."""
    torch.manual_seed(0)
    filters = torch.randn(20, 30)
    for t in (50.0, 1e4):
        score = importance(log_proxies(filters, t))
        assert score.isfinite().all()
        assert torch.equal(score.argsort(), torch.cdist(filters, filters).sum(1).argsort())
    same = log_proxies(torch.ones(4, 7), 50.0)
    torch.testing.assert_close(same.exp(), torch.full((4, 4), 0.25, dtype=torch.float64))
    assert log_proxies(torch.tensor([[0.0], [0.0], [0.0], [1.0]]), 50.0).isfinite().all()


def test_the_gradient_reaches_all_filters():
    network = conv().double()
    choose_filters(network, 1, 90)
    ((filters, fusion),) = fusions_of(network).values()
    x, weight = torch.rand(2, 3, 6, 6, dtype=torch.float64), network[0].weight.detach().requires_grad_()
    bias = network[0].bias.detach()
    nn.functional.conv2d(x, weight, bias).square().sum().backward()
    network(x).square().sum().backward()
    expected = np.einsum("mn,mchw->nchw", fusion.matrix, weight.grad)
    np.testing.assert_allclose(filters.grad, expected, rtol=1e-10, atol=1e-10)
    assert (filters.grad.flatten(1).abs().amax(1) > 0).all()


def volumes():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(2, 16, 3), nn.BatchNorm3d(16), nn.ReLU(), nn.Flatten(2), nn.Conv1d(16, 16, 3, bias=False), nn.ReLU(),
        nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    return used(network), (torch.rand(2, 2, 5, 5, 5),)


def resnet():
    torch.manual_seed(0)
    return used(ResNet(5, 8)), (torch.rand(2, 3, 12, 12),)


NETWORKS = {name: OURS[name] for name in ("pointnet", "dgcnn", "ssg", "dgcnn-parts")} | FOREIGN
NETWORKS |= {"volumes": volumes, "resnet": resnet}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_fused_network_is_the_small_one(name):
    """Bit for bit, and its state is that of a network of these sizes; streams that add up choose for themselves."""
    network, example = NETWORKS[name]()
    plan = plan_channels(network, *example)
    if not hasattr(network, "wiring"):
        plan = prunable(plan, *example)
    _, choice = apply(plan, keep_share(plan, norm, 0.5, align=4), *example)
    filters = filters_of(network, choice.sizes)
    assert filters
    assert not any(name.endswith("transform.fc3") for name in filters)
    small = resize(copy.deepcopy(network), choice.sizes)
    trained = used(hold_filters(copy.deepcopy(small), filters))
    choose_filters(trained, 1, 40)
    for layer, (all_filters, fusion) in fusions_of(trained).items():
        assert all_filters.shape == (filters[layer], *small.get_submodule(layer).weight.shape[1:])
        assert fusion.matrix.shape == (choice.sizes[layer][0], filters[layer])
        assert 0.05 < fusion.own_share() < 1
    if name == "residual":  # three convolutions make one stream
        chosen = [fusions_of(trained)[f"layers.{layer}"][1].chosen for layer in ("1.conv2", "1.down.0")]
        assert not torch.equal(*chosen)
    compact = fused(trained)
    assert sizes_of(compact) == sizes_of(small)
    small.load_state_dict(compact.state_dict())
    found = []
    for each in (trained, compact, small):
        torch.manual_seed(0)
        found.append(each.eval()(*example))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert fusions_of(trained)
    assert not fusions_of(compact)


def test_a_loop_of_ones_own_that_is_broken_off_goes_on_to_the_same():
    """Without the engine: a network with its sizes, four calls, and a state dict that holds all."""
    torch.manual_seed(0)
    x = torch.randn(64, 3, 8)
    labels = (x.mean(2).argmax(1) + 3 * (x.std((1, 2)) > 1)).long()

    def network():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10), nn.ReLU(),
            nn.Linear(10, 6),
        )  # fmt: skip

    def train(model, optimizer, epochs):
        losses = []
        for epoch in epochs:
            choose_filters(model, epoch, 8)
            for batch in range(0, 64, 16):
                rows = slice(batch, batch + 16)
                loss = nn.functional.cross_entropy(model(x[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    def begun():
        model = hold_filters(network(), {"0": 12, "4": 20})
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    whole, optimizer = begun()
    losses = train(whole, optimizer, range(8))
    assert losses[-1] < 0.7 * losses[0]
    first, optimizer = begun()
    train(first, optimizer, range(3))
    second, resumed = begun()
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    train(second, resumed, range(3, 8))
    small = network()
    small.load_state_dict(fused(whole).state_dict())
    for name, value in fused(second).state_dict().items():
        assert torch.equal(value, small.state_dict()[name]), name


def test_under_autocast_the_weight_is_not_rounded():
    network = conv()
    choose_filters(network, 1, 90)
    weight = network[0].weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network[0].weight, weight)


@pytest.mark.parametrize(
    ("filters", "why"),
    [
        ({"9": 4}, "'9' of Sequential: there is none"),
        ({"1": 9}, "'1' of Sequential: it is a BatchNorm2d"),
        ({"0": 8}, "'0' of Sequential: it has 8 filters, to be fused from more, and not from 8"),
        ({"2": 16}, "its filters are in 8 groups"),
        ({"3": 16}, "it is parametrized already"),
    ],
)
def test_what_cannot_be_fused_is_refused(filters, why):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1)
    )
    hold_filters(network, {"3": 12})
    with pytest.raises(ValueError, match=why):
        DCFF(filters, 3).prepare(network)


@pytest.mark.parametrize(
    ("make", "rates", "convolutions", "counted", "parameters"),
    [
        # as published, with three multiply-adds for each output of a BatchNorm
        (VGG16, RATES["vgg16"], 72.348, lambda convs, norms: convs + 3 * norms, 1_070_078),
        # two of them, the average of 64 maps of 8 x 8 (and its 64 divisions), and the linear layer
        (
            lambda classes: ResNet(classes, 56),
            RATES["resnet56"],
            55.056,
            lambda convs, norms: convs + 2 * norms + 64 * 65 + 640,
            384_316,
        ),
    ],
)
def test_the_published_networks_have_the_published_counts(make, rates, convolutions, counted, parameters):
    """For CIFAR-10: 72.77 and 55.84 M. VGG-16's parameters are without its convolutions' biases, which the authors have."""
    with torch.device("meta"):
        network, x = make(10), torch.zeros(1, 3, 32, 32)
        small = resize(make(10), sizes_at(network, rates))
    assert len(filters_of(network, sizes_at(network, rates))) == len([rate for rate in rates if rate])
    norms = 0

    def count(module, inputs, output):
        nonlocal norms
        norms += output.numel()

    for module in small.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(count)
    convs = multiply_adds(small, x) - small.fc.weight.numel()
    assert round(convs / 1e6, 3) == convolutions
    assert round(counted(convs, norms) / 1e6, 2) == (72.77 if make is VGG16 else 55.84)
    assert sum(p.numel() for p in small.parameters()) == parameters


def test_rates_that_do_not_fit_are_refused():
    with torch.device("meta"):
        resnet, vgg = ResNet(10, 20), VGG16(10)
    for network, rates, why in (
        (vgg, [0.5] * 12, "give 13 rates from 0 to below 1, for the convolutions"),
        (vgg, [1.0] * 13, "give 13 rates from 0 to below 1"),
        (vgg, [0.99] * 13, "a rate of 0.99 leaves none of the 64 filters of features.0"),
        (resnet, [0.5] * 12, r"last three rates must be 0; got \[0.5, 0.5, 0.5\]"),
        (nn.Linear(2, 2), [0.5], "rates are published for the ResNet and VGG16 here; got a Linear"),
    ):
        with pytest.raises(ValueError, match=why):
            sizes_at(network, rates)


def test_layers_of_other_sizes_are_drawn_as_the_network_draws_its_own():
    """He's for convolutions, Xavier's where a config asks for it, a transform that begins as the identity; layers that keep
    their size are not touched."""
    network = ResNet(10, 20)
    before = network.stage3[1].conv2.weight.clone()
    resize(network, {"stage3.0.conv1": [640, 32], "stage3.0.norm1": [640], "stage3.0.conv2": [64, 640]})
    for layer in (network.stage3[0].conv1, network.stage3[0].conv2):
        std = math.sqrt(2 / (9 * layer.out_channels))
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.01)  # of 184,320 or more
    assert torch.equal(network.stage3[1].conv2.weight, before)
    config = PartConfig(Path("parts.h5"), network="pointnet2", initial_weights="xavier")
    drawn = with_initial_weights(PointNet2Segmentation(7, 3, categories=4), config)
    layers = drawn.sa1.scales[0].layers[1].linear, drawn.fp2.layers[1].linear
    resize(drawn, {"sa1.scales.0.layers.1.linear": [200, 300], "fp2.layers.1.linear": [200, 300]})
    assert float(layers[0].weight.detach().std()) == pytest.approx((2 / 500) ** 0.5, rel=0.01)  # of 60,000
    assert not layers[0].bias.any()
    assert float(layers[1].weight.detach().abs().max()) <= 300**-0.5  # torch's
    edges = DGCNNSegmentation(7, 3, categories=4)
    last = edges.input_transform.fc3
    resize(edges, {"input_transform.fc3": [9, 40]})
    assert not last.weight.any()
    assert torch.equal(last.bias.view(3, 3), torch.eye(3))
