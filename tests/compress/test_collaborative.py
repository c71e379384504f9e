"""Collaborative Compression beside enumeration, numpy and scipy's SLSQP, and on networks."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from dropfold.compress import Choice, apply, masked, plan_channels
from dropfold.compress.cost.ledger import Ledger
from dropfold.compress.cost.work import multiply_adds, work_of
from dropfold.compress.methods.collaborative.choose import collaborative, paths_of
from dropfold.compress.methods.collaborative.layers import Layer, Matrix, energies, layers_of
from dropfold.compress.methods.collaborative.options import options_of
from dropfold.compress.methods.collaborative.rates import allocate, fit_exponential
from dropfold.compress.methods.collaborative.steps import (
    State,
    information_loss,
    metrics,
    path,
    singular_parts,
)
from dropfold.compress.plan.matrices import matrices_of
from dropfold.models import DGCNN
from dropfold.models.layers.low_rank import flat
from dropfold.models.layers.sizes import edge_matrices
from tests.compress.networks import FOREIGN, OURS


def matrix(n, channel, ranked=True, name="a"):
    channel = torch.tensor(channel)
    return Matrix(
        name, torch.randn(n, len(channel)).double(), torch.rand(n, len(channel)).double(), channel, ranked
    )


@pytest.fixture
def layer():
    """Two matrices that read four channels, one with two columns of a channel and one column of none."""
    torch.manual_seed(0)
    return Layer({"g": 4}, (matrix(5, [0, 0, 1, 2, 3, -1]), matrix(7, [3, 1, -1, 0], name="b", ranked=False)))


@pytest.fixture
def state(layer):
    """Without channel 2 and one singular value."""
    u, s, v = np.linalg.svd(layer.matrices[0].weight.numpy(), full_matrices=False)
    a = torch.from_numpy((u[:, :4] * s[:4]) @ v[:4])
    a[:, 3] = 0
    return State(torch.tensor([True, True, False, True]), [4, 4], [a, layer.matrices[1].weight.clone()])


def parts_of_units(layer, state):
    """(which, number) -> what the unit is of each matrix, by numpy."""
    found = {}
    for c in state.kept.nonzero().flatten().tolist():
        found["channel", c] = [
            torch.where(m.channel == c, a, 0.0) for m, a in zip(layer.matrices, state.now, strict=True)
        ]
    u, s, v = np.linalg.svd(state.now[0].numpy(), full_matrices=False)
    for k in range(state.ranks[0]):
        found["value", k] = [torch.from_numpy(s[k] * np.outer(u[:, k], v[k])), torch.zeros_like(state.now[1])]
    return found


def test_each_units_figure_is_its_loss_and_the_mean_over_its_successors(layer, state):
    """Enumerated; after a channel the singular parts are those from before without its columns."""
    units = parts_of_units(layer, state)
    parts = [singular_parts(state.now[0], 4), singular_parts(state.now[1], 0)]
    of_channels, (of_values, none) = metrics(layer, state, parts, gamma=0.9)
    assert of_channels[2] == math.inf
    assert not len(none)
    for (kind, number), part in units.items():
        left = [a - x for a, x in zip(state.now, part, strict=True)]
        after = []
        for (other, c), own in units.items():
            if (other, c) == (kind, number):
                continue
            if other == "channel":
                own = [torch.where(m.channel == c, a, 0.0) for m, a in zip(layer.matrices, left, strict=True)]
            elif kind == "channel":
                own = [
                    torch.where(m.channel == number, 0.0, x) for m, x in zip(layer.matrices, own, strict=True)
                ]
            after.append(information_loss(layer, [a - x for a, x in zip(left, own, strict=True)]))
        expected = information_loss(layer, left) + 0.9 * np.mean(after)
        found = (of_channels if kind == "channel" else of_values)[number]
        assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_singular_parts_are_numpys(shape):
    a = torch.randn(shape, dtype=torch.float64)
    u, s, v = singular_parts(a, 4)
    given = np.linalg.svd(a.numpy())
    np.testing.assert_allclose(s, given[1][:4], rtol=1e-10)
    np.testing.assert_allclose(u * s @ v.T, (given[0][:, :4] * given[1][:4]) @ given[2][:4], atol=1e-9)


def test_a_path_takes_what_matters_least_and_ends_with_one_of_each(layer):
    with torch.no_grad():
        layer.matrices[0].energy[:, 2] = 0
        layer.matrices[1].energy[:, 1] = 0  # channel 1 does not matter
    found = path(layer)
    assert found[0][0].all()
    firsts = [step for step, (kept, _) in enumerate(found) if not kept[1]]
    assert firsts[0] <= 2
    for (before, ranks), (kept, fewer) in pairwise(found):
        assert not (kept & ~before).any()
        assert (kept.sum(), fewer[0]) != (before.sum(), ranks[0])
    assert found[-1][0].sum() == 1
    assert found[-1][1][0] == 1


def test_options_are_whole_vectors_with_the_losses_of_their_weights():
    torch.manual_seed(0)
    wide = Layer({"g": 40}, (matrix(24, list(range(40))),))
    options = options_of(wide, path(wide))
    assert options[0].choice == Choice({}, {})
    assert options[0].loss == pytest.approx(0, abs=1e-18)
    w, g = wide.matrices[0].weight.numpy(), wide.matrices[0].energy.numpy()
    for option in options:
        kept = option.choice.channels.get("g", list(range(40)))
        rank = option.choice.ranks.get("a")
        assert len(kept) % 8 == 0 or len(kept) < 8
        left = np.where(np.isin(np.arange(40), kept), w, 0)
        if rank is not None:
            assert rank % 8 == 0 or rank < 8
            assert rank * (24 + len(kept)) < 24 * len(kept)
            u, s, v = np.linalg.svd(left, full_matrices=False)
            left = (u[:, :rank] * s[:rank]) @ v[:rank]
        assert option.loss == pytest.approx((g * (left - w) ** 2).sum(), rel=1e-8, abs=1e-12)


def test_bisection_is_the_optimum_of_slsqp():
    """min sum p exp(q s / f) under sum s = T, 0 <= s <= 0.95 f."""
    work, curves = [3.0, 1.0, 7.0], [(0.02, 5.0), (0.5, 2.0), (0.001, 9.0)]
    total = 5.5
    found = np.array(allocate(work, curves, total))
    best = minimize(
        lambda s: sum(p * math.exp(q * x / f) for x, f, (p, q) in zip(s, work, curves, strict=True)),
        np.array(work) / 2,
        jac=lambda s: np.array(
            [p * q / f * math.exp(q * x / f) for x, f, (p, q) in zip(s, work, curves, strict=True)]
        ),
        constraints={"type": "eq", "fun": lambda s: s.sum() - total, "jac": lambda s: np.ones(3)},
        bounds=[(0, 0.95 * f) for f in work],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    assert best.success
    np.testing.assert_allclose(found, best.x, atol=1e-8 * sum(work))
    assert found.sum() == pytest.approx(total, abs=1e-12)


def test_the_released_multiplier_leaves_the_work_out():
    """Equal marginal loss for each rate: p q exp(q s / f) is the same in all layers that are not cut."""
    work, curves = [3.0, 1.0, 7.0], [(0.02, 5.0), (0.5, 2.0), (0.02, 4.0)]
    for released, scale in ((True, lambda f: 1.0), (False, lambda f: f)):
        saved = allocate(work, curves, 6.0, released)
        slopes = [
            p * q * math.exp(q * s / f) / scale(f)
            for s, f, (p, q) in zip(saved, work, curves, strict=True)
            if 0 < s < 0.95 * f
        ]
        assert len(slopes) >= 2
        assert max(slopes) == pytest.approx(min(slopes), rel=1e-9)
    assert sum(allocate(work, curves, 0.95 * 11)) == pytest.approx(0.95 * 11)
    with pytest.raises(ValueError, match=r"10\.6 of 11 are to be saved; at most 0\.95"):
        allocate(work, curves, 10.6)
    with pytest.raises(ValueError, match="must rise"):
        allocate([1.0], [(1.0, -1.0)], 0.5)


def test_the_fit_is_weighted_least_squares():
    rates = torch.tensor([-0.3, 0.1, 0.4, 0.5, 0.9]).double()
    losses = torch.tensor([9.0, 0.2, 0.9, 1.1, 4.0]).double()
    for released in (False, True):
        p, q = fit_exponential(rates, losses, released)
        y = losses[1:].numpy() / 4
        slope, start = np.polyfit(rates[1:].numpy(), np.log(y + 1e-10), 1, w=y**0.25)
        assert q == pytest.approx(slope, rel=1e-9)
        assert p == pytest.approx(math.exp(start) * (1 if released else 4), rel=1e-9)
    with pytest.raises(ValueError, match="two rates above 0"):
        fit_exponential(torch.tensor([-1.0, 0.5]), torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("kind", ["mean", "fisher"])
def test_energies_are_squares_of_gradients(kind):
    network, _ = OURS["dgcnn"]()
    plan = plan_channels(network)
    batches = [torch.rand(2, 30, 3) for _ in range(3)]
    found = energies(plan, [lambda model, x=x: model(x).square().mean() for x in batches], kind)
    gradients = []
    for x in batches:
        network.zero_grad()
        network(x).square().mean().backward()
        gradients.append(network.edge2.linear.weight.grad.clone())
    stack = torch.stack(gradients)
    expected = stack.mean(0).square() if kind == "mean" else stack.square().mean(0)
    torch.testing.assert_close(found["edge2.linear"], expected, rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="a batch of data at least"):
        energies(plan, [], kind)


def columns_only(plan):
    """The plan in which a channel takes the columns that read it, and nothing else."""
    groups = [replace(g, slices=tuple(s for s in g.slices if s.axis == 1)) for g in plan.groups]
    return replace(plan, groups=tuple(groups))


@pytest.mark.parametrize("name", [*OURS, *FOREIGN])
def test_each_column_that_the_plan_names_is_of_its_channel(name):
    """Masked channels are the columns that a layer has as theirs, and no others."""
    network, example = {**OURS, **FOREIGN}[name]()
    plan = columns_only(plan_channels(network, *example))
    weights = {name: module.weight.detach() for name, module in matrices_of(network).items()}
    edges = edge_matrices(network)
    layers = layers_of(plan, weights)
    assert {group for layer in layers for group in layer.groups} == {group.name for group in plan.groups}
    for layer in layers:
        lost = torch.arange(layer.channels) % 3 == 0  # the first of each group among others
        whole = masked(plan, layer.by_group(~lost))
        for matrix in layer.matrices:
            left = ((matrix.channel < 0) | ~lost[matrix.channel.clamp(min=0)]).double()
            expected = flat(whole.get_submodule(matrix.name).weight, matrix.name in edges).double()
            torch.testing.assert_close(matrix.weight * left, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["dgcnn", "plain"])
def test_the_loss_of_an_option_is_that_of_the_weights_that_it_leaves(name):
    """A maximum and a mean of the same channels, EdgeConvs and matrices of a lower rank among them."""
    torch.manual_seed(0)
    make = {"dgcnn": lambda: (DGCNN(5, k=3, emb_dims=32).eval(), (torch.rand(1, 16, 3),)), **FOREIGN}
    network, example = make[name]()
    network.requires_grad_(False)
    plan = columns_only(plan_channels(network, *example))
    energy = {name: torch.rand_like(module.weight) for name, module in matrices_of(network).items()}
    weights = {name: network.get_submodule(name).weight.double() for name in energy}
    for layer, steps in paths_of(plan, energy, step=0.25):
        options = options_of(layer, steps)
        for option in options[:: max(1, len(options) // 3)]:
            left = masked(plan, option.choice)
            loss = sum(
                (energy[m.name] * (left.get_submodule(m.name).weight - weights[m.name]).square()).sum()
                for m in layer.matrices
            )
            assert option.loss == pytest.approx(float(loss), rel=1e-4, abs=1e-9)  # `masked` is in float32


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("name", ["vanilla", "dgcnn", "residual", "plain"])
def test_choices_get_smaller_and_are_all_of_the_network(name, released):
    network, example = {**OURS, **FOREIGN}[name]()
    plan = plan_channels(network, *example)
    energy = energies(plan, [lambda model: model(*example).square().mean()], "fisher")
    layers = layers_of(plan, energy)
    if name == "dgcnn":
        assert list(layers[0].groups) == ["edge1", "edge2", "edge3", "edge4"]
        assert layers[0].matrices[0].weight.shape == (128, 64)  # [W_1 ; W_2] of edge2
    ledger = Ledger(plan, work_of(network, *example))
    choices = collaborative(paths_of(plan, energy, step=0.1), ledger, released)
    assert choices[0] == Choice({})
    costs = [ledger.cost([ledger.entry(choice)]) for choice in choices]
    assert costs == sorted(costs, reverse=True)  # a target is searched for by halves
    assert costs[-1] < 0.5 * costs[0]
    for choice in (choices[len(choices) // 2], choices[-1]):
        small, _ = apply(plan, choice, *example)
        assert multiply_adds(work_of(small, *example)) <= costs[0]


def test_channels_that_are_always_zero_go_first():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d
    network = torch.nn.Sequential(
        conv(3, 32, 3), torch.nn.ReLU(), conv(32, 48, 3), torch.nn.ReLU(), conv(48, 32, 3), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(32 * 4, 5),
    )  # fmt: skip
    torch.nn.init.constant_(network[0].bias, -1e3)
    x = torch.rand(2, 3, 8, 8)
    plan = plan_channels(network, x)
    ledger = Ledger(plan, work_of(network, x))
    paths = paths_of(plan, energies(plan, [lambda model: model(x).square().mean()], "fisher"), step=0.1)
    choices = collaborative(paths, ledger)
    assert choices[0] == Choice({})
    assert len(choices[1].channels["0"]) == 1  # and what a negative bias alone keeps at 0 behind it
    assert all(len(choice.channels["0"]) == 1 for choice in choices[1:])
    small, _ = apply(plan, choices[1], x)
    torch.testing.assert_close(small(x), network(x))
    assert ledger.cost([ledger.entry(choices[-1])]) < ledger.cost([ledger.entry(choices[1])])


def test_a_gradient_that_is_not_finite_is_said():
    network, _ = OURS["vanilla"]()
    plan, x = plan_channels(network), torch.rand(2, 20, 6)
    losses = [lambda model: model(x).sum(), lambda model: model(x).sum() * torch.nan]
    with pytest.raises(ValueError, match=r"the gradient of conv1\.linear is not finite in batch 2"):
        energies(plan, losses, "fisher")
