"""Maps: formulas against autograd on an independent forward, symmetries, and that no trace is left."""

import gc

import pytest
import torch
from torch import nn

from dropfold import models
from dropfold.explain import explain
from dropfold.explain.maps.methods import (
    grad_cam,
    gradient_x_activation,
    keep_sign,
    sensitivity_error,
    xgrad_cam,
)
from tests.explain.conftest import CLOUDS, randomized, small_pointnet


def oracle(network, x, c):
    """(F, g) of one cloud at conv2 of a PointNet without transforms, from its weights alone."""

    def layer(x, of, relu=True):
        norm = of.norm
        y = (x @ of.linear.weight.T + of.linear.bias - norm.running_mean) / (
            norm.running_var + norm.eps
        ).sqrt()
        y = y * norm.weight + norm.bias
        return y.relu() if relu else y

    f = layer(layer(x, network.conv1), network.conv2).detach().requires_grad_()
    pooled = layer(f, network.conv3, relu=False).amax(0)
    s = network.fc3(layer(layer(pooled, network.fc1), network.fc2))[c]
    return f.detach(), torch.autograd.grad(s, f)[0]


def test_maps_are_the_formulas(clouds):
    network = small_pointnet()
    maps = {
        "xgrad_cam": lambda f, g: ((g * f).sum(0) / (f.sum(0) + 1e-300) * f).sum(1),
        "grad_cam": lambda f, g: (g.mean(0) * f).sum(1),
        "gradient_x_activation": lambda f, g: (g * f).sum(1),
    }
    for method, formula in maps.items():
        found = explain(network, clouds, 2, method=method).scores
        for i, cloud in enumerate(clouds):
            assert torch.allclose(found[i], formula(*oracle(network, cloud, 2)), rtol=1e-9, atol=1e-12)


def test_ablation_is_the_exact_drop_of_each_channel(clouds):
    network, clouds = small_pointnet(), clouds[:1, :16]
    found = explain(network, clouds, 2, method="ablation")
    drops = torch.zeros(1, 128, dtype=torch.float64)
    for k in range(128):
        handle = network.conv2.register_forward_hook(lambda m, a, out, k=k: out * (torch.arange(128) != k))
        drops[:, k] = (found.logit - network(clouds)[:, 2]).detach()
        handle.remove()
    assert torch.allclose(found.scores.sum(1), drops.sum(1), rtol=1e-9)


def test_with_global_average_pooling_and_a_linear_head_all_methods_are_one():
    """There CAM = Grad-CAM = XGrad-CAM: the gradient is the same at all positions."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    randomized(network)
    x = torch.rand(2, 3, 9, 9).double()
    features = network[:3](x).detach()
    cam = torch.einsum("bchw,c->bhw", features, network[5].weight[1].detach()) / 49
    for method in ("xgrad_cam", "grad_cam", "gradient_x_activation", "ablation"):
        found = explain(network, x, 1, layer="2", channels=1, method=method)
        assert float((found.scores - cam).abs().max()) < 1e-12
        assert float(found.account["missing"].abs().max()) < 1e-12


def test_the_sums_of_xgrad_cam_and_of_gradient_x_activation_are_equal():
    f, g = torch.randn(2, 30, 7).double(), torch.randn(2, 30, 7).double()
    assert torch.allclose(xgrad_cam(f, g).sum((1, 2)), gradient_x_activation(f, g).sum((1, 2)))
    assert not torch.allclose(grad_cam(f, g).sum((1, 2)), gradient_x_activation(f, g).sum((1, 2)))


def test_sensitivity_is_exact_for_a_linear_function():
    """S = <a, F> with a constant over positions: no max and no ReLU is above, so XGrad-CAM's axiom holds exactly."""
    f, a = torch.rand(2, 30, 7).double(), torch.randn(7).double()
    drops = (a * f).sum(1)
    assert float(sensitivity_error(xgrad_cam(f, a.expand_as(f)), drops).max()) < 1e-12
    assert float(sensitivity_error(0 * f, drops).max()) == 1


@pytest.mark.parametrize("total", [1e-20, -1e-20, 0.0])
def test_the_stabiliser_keeps_the_sign_and_is_relative(total):
    found = keep_sign(torch.tensor(total).double(), torch.tensor(1e-3).double())
    assert found != 0
    assert (found < 0) == (total < 0)
    assert abs(float(found)) == pytest.approx(2.2e-19, rel=0.1)
    zeros = torch.zeros(1, 5, 2)
    assert xgrad_cam(zeros, torch.randn(1, 5, 2)).equal(zeros)


@pytest.mark.parametrize("name", CLOUDS)
def test_a_permutation_of_points_permutes_the_map(name, clouds):
    """The first point stays first: farthest point sampling begins there."""
    network = randomized(CLOUDS[name]())
    order = torch.cat([torch.zeros(1, dtype=torch.int64), torch.randperm(47) + 1])
    found, moved = (explain(network, x, 2).scores for x in (clouds, clouds[:, order]))
    assert torch.allclose(found[:, order], moved, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", CLOUDS)
def test_a_batch_is_single_calls_and_rows(name, clouds):
    network = randomized(CLOUDS[name]())
    whole = explain(network, clouds, torch.tensor([2, 0, 4]))
    for i, c in enumerate((2, 0, 4)):
        single = explain(network, clouds[i : i + 1], c)
        assert torch.allclose(single.scores[0], whole.scores[i], rtol=1e-9, atol=1e-13)
        for term, value in single.account.items():
            assert torch.allclose(value[0], whole.account[term][i], rtol=1e-9, atol=1e-12)
    if name.startswith("PointNet2"):
        return  # in rows a cloud of 48 points has more centres than points, some of them twice
    batch = torch.arange(3).repeat_interleave(48)
    rows = explain(network, {"x": clouds.flatten(0, 1), "batch": batch}, torch.tensor([2, 0, 4]))
    assert torch.allclose(rows.scores.view(3, 48), whole.scores, rtol=1e-9, atol=1e-13)
    assert rows.sample(1).shape == (48,)
    for term, value in rows.account.items():
        assert torch.allclose(value, whole.account[term], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CLOUDS)
def test_no_trace_is_left(name, clouds):
    network = randomized(CLOUDS[name]()).train()
    network.conv1.eval() if hasattr(network, "conv1") else None
    frozen = next(network.parameters()).requires_grad_(False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]

    def clean():
        assert [module.training for module in network.modules()] == modes
        assert all(value.equal(before[key]) for key, value in network.state_dict().items())
        assert all(p.grad is None for p in network.parameters())
        assert not frozen.requires_grad
        assert sum(not p.requires_grad for p in network.parameters()) == 1
        for module in network.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert getattr(module, "fused", True)
            assert getattr(module, "_transform", None) is None

    explain(network, clouds, 2)
    clean()
    with pytest.raises(ValueError, match="target"):
        explain(network, clouds, 9)
    clean()


def test_a_map_is_the_same_each_time(clouds):
    network = small_pointnet()
    assert explain(network, clouds).scores.equal(explain(network, clouds).scores)


def test_memory_is_flat_over_100_calls(clouds):
    network, clouds = small_pointnet(), clouds[:1, :16]
    explain(network, clouds)

    def tensors():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    before = tensors()
    for _ in range(100):
        explain(network, clouds)
    assert tensors() <= before


def test_pointnets_last_layer_inverts_the_map_and_says_so(clouds):
    network = small_pointnet()
    with torch.no_grad():
        network.conv3.norm.bias -= 0.5  # of trained networks half of the channels lie mostly below 0
    assert any("inverted" in note for note in explain(network, clouds, layer="conv3.activation").notes)
    assert not explain(network, clouds).notes


def test_grad_cam_ranks_points_alike_at_conv2_and_conv3(clouds):
    """conv3 is linear up to its max, and Grad-CAM's weights are one vector a cloud: the maps differ by a constant."""
    network = small_pointnet()
    low, high = (
        explain(network, clouds, 2, method="grad_cam", layer=layer).scores
        for layer in ("conv2", "conv3.activation")
    )
    constant = (high - low).mean(1, keepdim=True)
    assert torch.allclose(low + constant, high, rtol=1e-8)


def test_scores_of_centres_keep_their_sum_and_fall_on_winners(clouds):
    network = randomized(models.PointNet2(5))
    found = explain(network, clouds, 2)
    assert torch.allclose(found.scores.sum(1), found.account["evidence"], rtol=1e-9)
    assert found.scores.shape == (3, 48)
