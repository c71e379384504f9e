"""The networks are their papers': parameters, logits of the textbook form, invariances, noise by layer name."""

import copy
from functools import partial

import pytest
import torch

from dropfold.kernels import draw_seed, drop_feat
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
    needs_reestimation,
    reestimate_batch_norm,
)
from dropfold.models.clouds.dgcnn import LAYERS as DGCNN_LAYERS
from dropfold.models.clouds.pointnet import LAYERS as POINTNET_LAYERS
from dropfold.models.layers.linear_norm import LinearNormAct
from tests.oracle import networks as oracle


def dgcnn(noise=None, classes=5):
    return DGCNN(classes, k=6, emb_dims=32, dropout=0.0, noise=noise)


def pointnet(noise=None, classes=5):
    return PointNet(classes, dropout=0.0, noise=noise)


BOTH = [(dgcnn, DGCNN_LAYERS), (pointnet, POINTNET_LAYERS)]


def lived_in(model):
    """Running statistics and affine parameters as after training, some gammas negative."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            for tensor, low in (
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
                (module.weight.data, -0.5),
            ):
                tensor.uniform_(low, low + 1)
    return model


def test_parameters_are_the_peers():
    assert sum(p.numel() for p in PointNet(40).parameters()) == 3_471_473
    assert sum(p.numel() for p in DGCNN(40).parameters()) == 1_809_576


def test_logits_are_the_textbook_forms():
    x = torch.rand(3, 40, 3).double()
    for model, reference in (
        (dgcnn(), lambda s, x: oracle.dgcnn(s, x, 6)),
        (pointnet(), oracle.pointnet),
    ):
        model = lived_in(model).double().eval()
        # Float64; the logits pass some ten layers.
        torch.testing.assert_close(model(x), reference(model.state_dict(), x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [dgcnn, pointnet])
def test_the_order_of_the_points_does_not_matter(make):
    model, x = lived_in(make()).double().eval(), torch.rand(2, 30, 3).double()
    torch.testing.assert_close(model(x[:, torch.randperm(30)]), model(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [dgcnn, pointnet])
def test_rows_with_batch_equal_each_cloud_alone(make):
    model, sizes = lived_in(make()).double().eval(), [12, 30, 7]
    x = torch.rand(sum(sizes), 3).double()
    batch = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    alone = torch.cat([model(cloud[None]) for cloud in x.split(sizes)])
    torch.testing.assert_close(model(x, batch), alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "noise", [DropFeat(0.4), DropPoint(0.4), DropCluster(0.4, k=4)], ids=lambda m: m.level
)
@pytest.mark.parametrize(("make", "layers"), BOTH, ids=["dgcnn", "pointnet"])
def test_every_layer_carries_every_noise_and_evaluates_without_it(make, layers, noise):
    x = torch.rand(4, 30, 3)
    torch.manual_seed(1)
    clean = make().eval()
    for layer in layers:
        torch.manual_seed(1)
        noisy = make({layer: noise})
        noisy.train()
        torch.manual_seed(2)
        first = noisy(x)
        first.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in noisy.parameters() if p.grad is not None)
        assert not torch.equal(first, noisy(x))  # another draw
        noisy.load_state_dict(clean.state_dict(), strict=False)
        noisy.eval()
        torch.testing.assert_close(noisy(x), clean(x))


def test_a_single_module_goes_to_the_recommended_position():
    assert list(dgcnn(DropCluster(0.2)).noise) == ["pool"]
    with pytest.raises(ValueError, match="has no layer 'conv9' for noise; its layers are edge1, "):
        dgcnn({"conv9": DropPoint(0.1)})
    with pytest.raises(ValueError, match="must be a DropFeat, DropPoint or DropCluster"):
        dgcnn({"pool": torch.nn.Dropout(0.1)})(torch.rand(2, 10, 3))


def test_noise_before_a_batch_norm_is_repaired_by_reestimation():
    """Trap (c): BatchNorm's running statistics of noisy values are wrong for clean ones; re-estimated they are right."""
    torch.manual_seed(0)
    model = pointnet({"conv2": DropPoint(0.7)})
    assert needs_reestimation(model)
    assert not needs_reestimation(pointnet(DropPoint(0.7)))
    batches = [torch.rand(8, 64, 3) for _ in range(4)]
    for _ in range(60):
        model(batches[0])
    shifted = model.conv3.norm.running_var.clone()
    reestimate_batch_norm(model, batches)
    clean = pointnet()
    clean.load_state_dict(model.state_dict(), strict=False)
    reestimate_batch_norm(clean, batches)
    torch.testing.assert_close(model.conv3.norm.running_var, clean.conv3.norm.running_var)
    assert (shifted / model.conv3.norm.running_var).mean() > 1.5  # scaled and sparse: more variance
    assert model.conv3.norm.momentum == 0.1
    assert model.training


def test_the_schedule_warms_up_and_is_saved():
    noise = DropPoint(0.5, schedule="linear", warmup_steps=10)
    x = torch.ones(4, 200, 1)
    shares = [(noise(x) == 0).float().mean().item() for _ in range(12)]
    assert shares[0] < 0.15
    assert shares[-1] > 0.4
    assert float(noise.p) == 0.5
    again = DropPoint(0.5, schedule="linear", warmup_steps=10)
    again.load_state_dict(noise.state_dict())
    assert int(again.step) == 12


def test_channels_follow_the_schedule_too():
    noise = DropFeat(0.5, per="channel", schedule="linear", warmup_steps=10)
    shares = [(noise(torch.ones(4, 10, 100)) == 0).float().mean().item() for _ in range(12)]
    assert shares[0] < 0.2
    assert shares[-1] > 0.3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_module_of_another_type_keeps_its_rate(dtype):
    noise = DropPoint(0.3).to(dtype)
    assert noise.rate.dtype == torch.float32
    assert float(noise.rate) == float(torch.tensor(0.3))
    assert noise(torch.ones(2, 100, 3, dtype=dtype)).dtype == dtype


def test_a_frozen_norm_stays():
    model = dgcnn()
    model.edge1.norm.eval()
    before = model.edge1.norm.running_mean.clone()
    model(torch.rand(2, 10, 3))
    assert torch.equal(model.edge1.norm.running_mean, before)
    reestimate_batch_norm(model, [torch.rand(2, 10, 3)])
    assert not model.edge1.norm.training
    assert model.edge2.norm.training


def test_a_network_can_be_copied_after_a_step():
    model = pointnet()
    model(torch.rand(2, 20, 3)).sum().backward()
    x = torch.rand(2, 20, 3)
    torch.testing.assert_close(copy.deepcopy(model).eval()(x), model.eval()(x))


def test_vanilla_pointnet_has_no_transforms():
    model = PointNet(5, input_transform=False, feature_transform=False)
    assert model.regularization() == 0
    x = y = torch.rand(2, 20, 3)
    with torch.no_grad():
        for name in ("conv1", "conv2", "conv3", "fc1", "fc2"):
            layer = model.eval().get_submodule(name)
            z = (layer.linear(y) - layer.norm.running_mean) / (layer.norm.running_var + layer.norm.eps).sqrt()
            z = layer.norm.weight * z + layer.norm.bias
            y = z.amax(1) if name == "conv3" else z.relu()
        torch.testing.assert_close(model(x), model.fc3(y), rtol=1e-4, atol=1e-5)
    # conv1 to conv3, fc1 to fc3 and their BatchNorms (Qi et al. 2017, figure 2)
    widths = [(3, 64), (64, 128), (128, 1024), (1024, 512), (512, 256)]
    expected = sum(a * b + 3 * b for a, b in widths) + 256 * 5 + 5
    assert sum(p.numel() for p in model.parameters()) == expected


def test_a_later_draw_does_not_change_an_earlier_backward():
    noise = DropPoint(0.8, schedule="linear", warmup_steps=2)
    x = torch.ones(2, 50, 1, requires_grad=True)
    first = noise(x)
    noise(x)
    (grad,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(grad, first.detach())


def test_balls_leave_far_points_out():
    x = torch.cat([torch.zeros(1, 5, 3), torch.full((1, 5, 3), 9.0)], 1)
    x += 0.01 * torch.rand_like(x)
    drawn = DropCluster(0.5, k=8, radius=1.0).draw(x, x)
    lists = drawn.neighbours
    assert ((lists < 5) == (torch.arange(10) < 5)[:, None]).all()
    with pytest.raises(ValueError, match="this layer has none"):
        DropCluster(0.5, space="graph").draw(x, x)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="0 <= p < 1"):
        DropPoint(1.0)
    with pytest.raises(ValueError, match="schedule must be"):
        DropPoint(0.1, schedule="cosine")
    with pytest.raises(ValueError, match="warmup_steps of at least 1"):
        DropPoint(0.1, schedule="linear")
    with pytest.raises(ValueError, match="per must be 'element' or 'channel'"):
        DropFeat(0.1, per="chanel")
    with pytest.raises(ValueError, match="cloud 1 of the batch has no points"):
        DropCluster(0.1).draw(torch.rand(4, 3), torch.rand(4, 3), torch.tensor([0, 0, 2, 2]))
    with pytest.raises(ValueError, match="cannot be fused"):
        DropFeat(0.1, per="channel").draw(torch.rand(1, 4, 3), torch.rand(1, 4, 3))


def test_the_feature_transform_is_drawn_to_the_orthogonal():
    model = pointnet()
    model(torch.rand(4, 20, 3))
    a = model._transform
    expected = torch.stack([torch.linalg.norm(torch.eye(64) - m @ m.T) for m in a]).mean()
    torch.testing.assert_close(model.regularization(), expected)
    torch.testing.assert_close(model.regularization(), expected)  # kept until the next forward
    assert copy.deepcopy(model).regularization() == 0  # a copy has had no forward
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.regularization(), expected)
    double = pointnet().double()
    double(torch.rand(4, 20, 3, dtype=torch.float64))
    assert double.regularization().dtype == torch.float64


def test_dropout_is_drop_feat_in_the_layers_own_pass():
    layer, x = LinearNormAct(8, 16, dropout=0.4), torch.randn(3, 50, 8, requires_grad=True)
    torch.manual_seed(5)
    found = layer(x)
    torch.manual_seed(5)
    seed = draw_seed()
    layer.dropout.eval()
    expected = drop_feat(layer(x), 0.4, seed=seed)
    torch.testing.assert_close(found, expected)
    assert (expected == 0).float().mean() > 0.6  # those that ReLU leaves, and 0.4 of the others
    for one, other in zip(
        *(torch.autograd.grad(y.square().sum(), (x, *layer.parameters())) for y in (found, expected))
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("network", "layers"),
    [
        (partial(DGCNN, 5), ["fc1", "fc2"]),
        (partial(PointNet, 5), ["fc2"]),
        (partial(PointNet2, 5), ["fc1", "fc2"]),
        (partial(PointNetSegmentation, 5), ["head3"]),
        (partial(PointNet2Segmentation, 5), ["head"]),
        (partial(DGCNNSegmentation, 5), ["head2"]),
        (partial(DGCNNSegmentation, 5, 3, categories=2), ["head1", "head2"]),
    ],
)
def test_each_head_has_its_dropout(network, layers):
    found = [
        (name, m.p) for name, m in network(dropout=0.3).named_modules() if isinstance(m, torch.nn.Dropout)
    ]
    assert found == [(f"{layer}.dropout", 0.3) for layer in layers]


def test_a_layer_with_dropout_takes_no_noise():
    layer, x = LinearNormAct(8, 16, dropout=0.4), torch.randn(3, 50, 8)
    with pytest.raises(ValueError, match="a layer with dropout takes no noise"):
        layer(x, noise=DropFeat(0.2).draw(x, x))


def test_autocast_rounds_no_coordinates():
    """PointNet's first layer sees them before any feature is made of them."""
    layer, x = LinearNormAct(3, 64).eval(), torch.rand(2, 40, 3) + 100
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    torch.testing.assert_close(found, layer(x))
