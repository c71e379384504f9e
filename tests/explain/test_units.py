"""Units: all at once equal one after the other, the rank-one form equals passes, and tables equal a few lines of NumPy."""

import contextlib

import numpy as np
import pytest
import torch

from dropfold import models
from dropfold.explain.units.ablation import ablate, each_unit, unit_values
from dropfold.explain.units.damage import attributes, correlate, correlation, damage, effective_positions
from dropfold.explain.units.removal import cumulative_accuracy, smaller_network
from tests.explain.conftest import CLOUDS, randomized, small_pointnet


@pytest.mark.parametrize("name", ["PointNet", "PointNet2", "DGCNN"])
@pytest.mark.parametrize("to", ["zero", "mean"])
def test_all_units_of_the_pool_in_one_pass_equal_a_pass_each(name, to, clouds):
    network = randomized(CLOUDS[name]())
    together = each_unit(network, clouds, to=to)
    assert together.shape == (64 if name == "DGCNN" else 1024, 3, 5)
    for u in (0, 1, 17, 63):
        assert torch.allclose(together[u], ablate(network, clouds, units=[u], to=to), rtol=1e-9)


def test_in_float32_they_agree_to_1e_5_and_points_are_seen_once(clouds):
    network, x = small_pointnet().float(), clouds.float()
    calls = []
    handle = network.conv1.register_forward_hook(lambda *given: calls.append(1))
    together = each_unit(network, x)
    handle.remove()
    assert len(calls) == 1  # of 1024 units
    passes = torch.stack([ablate(network, x, units=[u]) for u in range(16)])
    assert float((together[:16] - passes).abs().max()) < 1e-5


def test_ablated_units_are_those_of_the_textbook_forward(clouds):
    """Zero columns of fc1's weight are the same as zeros in the pooled feature."""
    network = small_pointnet()
    found = ablate(network, clouds, "conv3", [3, 700])
    with torch.no_grad():
        network.fc1.linear.weight[:, [3, 700]] = 0
    assert torch.allclose(found, network(clouds), rtol=1e-10)


def test_no_unit_and_all_units(clouds):
    network = small_pointnet()
    assert torch.allclose(ablate(network, clouds, "conv2", []), network(clouds), rtol=1e-12)
    gone = ablate(network, clouds, "conv2", torch.ones(128, dtype=torch.bool))
    assert torch.allclose(gone, gone[:1].expand_as(gone), rtol=1e-12)  # nothing of the cloud is left


def test_of_an_inner_layer_each_unit_is_a_pass(clouds):
    network, clouds = small_pointnet(), clouds[:1, :16]
    found = each_unit(network, clouds, "conv1")
    handle = network.conv1.register_forward_hook(lambda m, a, out: out * (torch.arange(64) != 5))
    expected = network(clouds)
    handle.remove()
    assert torch.allclose(found[5], expected, rtol=1e-10)


@pytest.mark.parametrize(("name", "layer"), [("PointNet", "conv2"), ("PointNet2", "sa2")])
def test_at_the_networks_cut_replays_equal_passes(name, layer, clouds):
    network = randomized(CLOUDS[name]())
    found = each_unit(network, clouds, layer, to="mean")
    for u in (0, 5, 77):
        assert torch.allclose(found[u], ablate(network, clouds, layer, [u], to="mean"), rtol=1e-9)


@pytest.mark.parametrize("name", ["PointNet", "PointNet2", "DGCNN"])
def test_removed_units_fold_into_the_next_bias(name, clouds):
    network = randomized(CLOUDS[name]())
    values = unit_values(network, clouds)
    gone = torch.arange(values.count) % 10 != 0
    small = smaller_network(network, gone, values.means())
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())
    expected = ablate(network, clouds, units=gone, to=values.means())
    for fused in (True, False):
        with contextlib.nullcontext() if fused else models.unfused(small):
            assert torch.allclose(small(clouds), expected, rtol=1e-9)
    with pytest.raises(ValueError, match="leave a unit"):
        smaller_network(network, torch.ones_like(gone), values.means())


def test_cumulative_accuracy_removes_the_first_of_the_order(clouds):
    network = small_pointnet()
    values, label = unit_values(network, clouds), network(clouds).argmax(1)
    order = torch.randperm(1024, generator=torch.Generator().manual_seed(0))
    found = cumulative_accuracy(network, values, label, order, values.means(), [0.0, 0.9])
    assert found[0] == 1
    logits = ablate(network, clouds, units=order[:922], to="mean")
    assert found[1] == pytest.approx(float((logits.argmax(1) == label).double().mean()))


def test_a_graph_is_kept_or_found_anew(clouds):
    """Both readings are the network's own where the units of the last EdgeConv go, and differ where a graph follows."""
    network = randomized(CLOUDS["DGCNN"]())
    units = list(range(40))
    last = [ablate(network, clouds, "edge4", units, graph=graph) for graph in ("kept", "anew")]
    assert torch.allclose(*last, rtol=1e-12)
    first = [ablate(network, clouds, "edge1", units, graph=graph) for graph in ("kept", "anew")]
    assert not torch.allclose(*first, rtol=1e-6)
    untouched = ablate(network, clouds, "edge1", [], graph="kept")
    assert torch.allclose(untouched, network(clouds), rtol=1e-12)


def test_means_of_other_data_replace_units(clouds):
    network = randomized(CLOUDS["DGCNN"]())
    means = unit_values(network, 0.5 * clouds).means()
    assert [m.shape for m in means] == [(64,), (64,)]
    found = each_unit(network, clouds, to=means)
    assert torch.allclose(found[7], ablate(network, clouds, units=[7], to=means), rtol=1e-10)


def test_no_trace_is_left(clouds):
    network = randomized(CLOUDS["DGCNN"]()).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for call in (
        lambda: each_unit(network, clouds),
        lambda: ablate(network, clouds, "edge1", [1], graph="kept"),
    ):
        call()
        assert all(value.equal(before[key]) for key, value in network.state_dict().items())
        assert all(module.training for module in network.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer": "pool"}, "has no layer 'pool'"),
        ({"units": [1024]}, "from 0 to 1023; got"),
        ({"to": "median"}, "'zero', 'mean'"),
        ({"graph": "kept"}, "has no graphs"),
        ({"to": (torch.zeros(3),)}, "must be 1 of"),
        ({"layer": "conv3.norm"}, "called 0 times"),
        ({"units": 5}, r"a list of numbers from 0 to 1023, or bool \[1024\]; got 5"),
        ({"units": torch.tensor(3)}, "a list of numbers"),
        ({"units": "conv"}, "a list of numbers"),
        ({"units": [0.5]}, "are numbers from 0 to 1023"),
        ({"layer": "conv2", "channels": 77}, "channels must be an axis of the output of 'conv2'"),
        ({"layer": "conv2", "channels": 0}, "other than its first"),
    ],
)
def test_refused(options, said, clouds):
    with pytest.raises(ValueError, match=said):
        ablate(small_pointnet(), clouds, **options)


@pytest.mark.parametrize("layer", ["conv3", "conv2", "conv1"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"graph": "banana"}, "must be 'anew' or 'kept'; got 'banana'"),
        ({"graph": "kept"}, "has no graphs"),
        ({"channels": 77}, "channels must be an axis"),
        ({"to": "median"}, "'zero', 'mean'"),
    ],
)
def test_each_unit_refuses_what_ablate_refuses(layer, options, said, clouds):
    for call in (ablate, each_unit):
        with pytest.raises(ValueError, match=said):
            call(small_pointnet(), clouds, layer, **options)


def test_channels_on_another_axis_are_its_units(clouds):
    """Of conv2, [B, N, C], axis 1 is that of points: without one of them, or the whole network with it at 0."""
    network, x = small_pointnet(), clouds[:1, :4]
    found = each_unit(network, x, "conv2", channels=1)
    assert len(found) == 4
    handle = network.conv2.register_forward_hook(lambda m, a, out: out * (torch.arange(4) != 3)[:, None])
    assert torch.allclose(found[3], network(x), rtol=1e-10)
    handle.remove()


def test_a_networks_own_cut_is_a_layer_of_all_three(clouds):
    """At "edge1..4" units are those of the four layers side by side, on their way to embed alone."""
    network, clouds = randomized(CLOUDS["DGCNN"]()), clouds[:1, :12]
    units, found = [3, 70, 200], each_unit(network, clouds, "edge1..4", to="mean")
    handle = network.embed.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    seen = []
    network(clouds)
    handle.remove()
    assert torch.allclose(unit_values(network, clouds, "edge1..4").parts[0], seen[0], rtol=1e-12)

    def without(u):
        f = seen[0].clone()
        f[..., u] = f[..., u].mean((0, 1))
        handle = network.embed.register_forward_pre_hook(lambda m, a: (f, *a[1:]))
        logits = network(clouds)
        handle.remove()
        return logits

    assert torch.allclose(ablate(network, clouds, "edge1..4", units, to="mean"), without(units), rtol=1e-9)
    assert torch.allclose(found[70], without([70]), rtol=1e-9)
    with pytest.raises(ValueError, match="channels are the last axis"):
        ablate(network, clouds, "edge1..4", units, channels=1)


def test_a_subclass_has_its_networks_pool(clouds):
    class Own(models.PointNet):
        pass

    network = randomized(Own(5, input_transform=False, feature_transform=False))
    assert torch.allclose(each_unit(network, clouds)[5], ablate(network, clouds, units=[5]), rtol=1e-9)


def test_a_network_without_a_known_pool_needs_a_layer(clouds):
    network = randomized(models.PointNetSegmentation(5, 3))
    with pytest.raises(ValueError, match="give layer="):
        ablate(network, clouds, units=[1])


def test_damage_is_the_fall_of_log_p_and_of_accuracy():
    random = np.random.default_rng(0)
    clean, without = random.normal(size=(9, 3)), random.normal(size=(4, 9, 3))
    label = random.integers(0, 2, 9)  # no sample of class 2
    found = damage(*map(torch.from_numpy, (clean, without, label)))

    def log_p(logits):
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        return np.log(
            np.take_along_axis(p, np.broadcast_to(label[:, None], (*logits.shape[:-1], 1)), -1)[..., 0]
        )

    fall = log_p(clean) - log_p(without)
    np.testing.assert_allclose(found.loss, fall.mean(1))
    right = (clean.argmax(1) == label) * 1.0 - (without.argmax(2) == label)
    np.testing.assert_allclose(found.accuracy_drop, right.mean(1))
    for c in (0, 1):
        np.testing.assert_allclose(found.class_loss[:, c], fall[:, label == c].mean(1))
        np.testing.assert_allclose(found.class_accuracy_drop[:, c], right[:, label == c].mean(1))
    assert found.class_loss[:, 2].isnan().all()
    assert found.worst_class.max() < 2
    torch.testing.assert_close(found.worst_class_loss, found.class_loss[:, :2].amax(1))


def test_the_worst_class_may_be_chosen_on_other_samples():
    """Of units that know no class the largest of the class means is above the mean over all, by chance; of the class that
    was the worst in other samples it is not."""
    generator = torch.Generator().manual_seed(0)
    label, clean = torch.arange(60) % 6, torch.zeros(60, 6, dtype=torch.float64)
    here, there = torch.randn(2, 400, 60, 6, generator=generator, dtype=torch.float64)
    known = damage(clean, there, label)
    own, other = damage(clean, here, label), damage(clean, here, label, known)
    assert (own.worst_class_loss - own.loss).mean() > 0.3
    assert (
        abs(float((other.worst_class_loss - other.loss).mean())) < 0.05
    )  # 0.35 / 20, the error of a mean of 400
    assert other.worst_class.equal(known.worst_class)
    some = label < 3
    few = damage(clean[some], here[:, some], label[some], known)  # among the classes that are here
    assert few.worst_class.max() < 3
    assert few.worst_class_loss.isfinite().all()


def test_attributes_of_units():
    from dropfold.explain.units.ablation import Units

    label = torch.tensor([0, 0, 1, 1])
    values = torch.tensor([[1.0, 2.0], [1.0, 1.0], [0.0, 1.0], [0.0, 2.0]]).double()
    weight_out = torch.tensor([[1.0, -3.0]]).double()
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]]).double()
    found = attributes(Units((values,)), label, p, torch.tensor([[1.0, -1.0], [2.0, 0.0]]), weight_out)
    assert found["class_selectivity"].tolist() == [1.0, 0.0]
    assert found["l1_out"].tolist() == [1.0, 3.0]
    assert found["l1_in"].tolist() == [2.0, 2.0]
    assert found["std_x_out"].tolist() == pytest.approx([1 / 3**0.5, 3 / 3**0.5])
    assert found["class_correlation"][0] == pytest.approx(np.corrcoef(values[:, 0], p[:, 0])[0, 1])


def test_correlations_and_their_interval():
    a, b = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).double()
    found = correlation(a, a + b)
    assert found["r"] == pytest.approx(np.corrcoef(a, a + b)[0, 1])
    assert found["low"] < found["r"] < found["high"]
    assert np.tanh(np.arctanh(found["r"]) - 1.959964 / 47**0.5) == pytest.approx(found["low"])
    assert correlate(torch.ones(5, 1).double(), torch.arange(10.0).view(5, 2).double()).tolist() == [
        [0.0, 0.0]
    ]


def test_effective_positions_count_those_that_share():
    values = torch.zeros(1, 10, 2).double()
    values[0, :4, 0] = 3
    values[0, 7, 1] = 1
    assert effective_positions(values).tolist() == pytest.approx([4, 1])
