"""The references are the textbook formulas: torch's own BatchNorm on edges, points and padded groups made in the test."""

import pytest
import torch
import torch.nn.functional as F

from dropfold.kernels import BatchNorm, Groups, Noise, knn
from dropfold.kernels.group_mlp_max import reference as group_mlp_max_reference
from dropfold.kernels.noise.philox.operation import uniform
from dropfold.kernels.norm.edge_conv import reference as edge_conv_reference
from dropfold.kernels.norm.linear_norm_max import reference as linear_norm_max_reference
from dropfold.kernels.norm.norm_act import reference as norm_act_reference
from dropfold.kernels.norm.norm_pool import linear_reference, reference
from tests.kernels.cases import EXACT, batch_norm, noise


def layer(y, norm):
    """torch's BatchNorm over all dimensions but the last, then LeakyReLU of slope 0.2."""
    z = F.batch_norm(
        y.flatten(0, -2), norm.mean, norm.var, norm.gamma, norm.beta, norm.training, norm.momentum, norm.eps
    )
    return F.leaky_relu(z, 0.2).view_as(y)


def assert_equal(ours, theirs, norms):
    """Values, gradients of gamma and beta, running buffers; `norms` are pairs."""
    torch.testing.assert_close(ours, theirs, **EXACT)
    weight = torch.randn_like(ours)
    for out in (ours, theirs):
        (out * weight).sum().backward()
    for mine, other in norms:
        for a, b in zip(mine[:2], other[:2], strict=True):
            torch.testing.assert_close(a.grad, b.grad, **EXACT)
        for a, b in zip(mine[2:4], other[2:4], strict=True):
            torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_references_without_noise(training):
    x = torch.randn(2, 15, 4).double()
    idx, wide, weight, bias = (
        knn(x, 3),
        torch.randn(6, 8).double(),
        torch.randn(6, 4).double(),
        torch.randn(6).double(),
    )
    cloud = torch.arange(2)[:, None, None]
    near, centre = x[cloud, idx], x[:, :, None].expand(-1, -1, 3, -1)
    edges, y = torch.cat([near - centre, centre], -1) @ wide.T + bias, x @ weight.T + bias
    for ours, theirs in (
        (lambda n: edge_conv_reference(x, idx, wide, bias, n), lambda n: layer(edges, n).amax(2)),
        (
            lambda n: linear_norm_max_reference(x, weight, bias, n, negative_slope=0.2),
            lambda n: layer(y, n).amax(1),
        ),
        (lambda n: reference(y, n, negative_slope=0.2)[0], lambda n: layer(y, n).amax(1)),
        (
            lambda n: linear_reference(x, weight, bias, n, negative_slope=0.2)[1],
            lambda n: layer(y, n).mean(1),
        ),
        (lambda n: norm_act_reference(y, n, negative_slope=0.2), lambda n: layer(y, n)),
    ):
        norms = batch_norm(6, training), batch_norm(6, training)
        assert_equal(ours(norms[0]), theirs(norms[1]), [norms])


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_group_mlp_max_reference_on_padded_groups(training):
    """Groups of 3 members, made whole: the second has two entries, of which the first stands twice."""
    q, p, weight = torch.randn(9, 4).double(), torch.randn(2, 4).double(), torch.randn(5, 4).double()
    bias = torch.randn(5).double()
    groups = Groups(torch.tensor([0, 3, 5]), torch.tensor([4, 0, 8, 7, 2]), torch.tensor([1, 1, 1, 2, 1]))
    members = torch.stack([q[[4, 0, 8]] + p[0], q[[7, 7, 2]] + p[1]])
    (n1, n2), (m1, m2) = ([batch_norm(c, training) for c in (4, 5)] for _ in range(2))
    out, argmax = group_mlp_max_reference(
        q, p, groups, [weight], [n1, n2], [None, bias], negative_slope=0.2, return_argmax=True
    )
    z = layer(layer(members, m1) @ weight.T + bias, m2)
    assert torch.equal(argmax, torch.tensor([[0, 1, 2], [3, 3, 4]]).gather(1, z.argmax(1)))
    assert_equal(out, z.amax(1), [(n1, m1), (n2, m2)])


def test_what_noise_drops_by_hand():
    """gamma = 1, beta = 0, mean = 0, var = 1 - eps: BatchNorm in evaluation changes nothing."""
    one, zero = torch.ones(2).double(), torch.zeros(2).double()
    norm = BatchNorm(one, zero, zero, one - 1e-5, training=False)
    y = torch.tensor([[[1.0, 8.0], [3.0, 6.0], [5.0, 4.0], [7.0, 2.0]]]).double()
    seed, p = torch.tensor(6), torch.tensor(0.5)
    keep = uniform(seed, 4) >= p
    assert 0 < keep.sum() < 4
    maximum, mean, argmax = reference(y, norm, noise=Noise("point", p, seed), return_argmax=True)
    torch.testing.assert_close(maximum[0], y[0, keep].amax(0), **EXACT)
    torch.testing.assert_close(mean[0], y[0, keep].mean(0), **EXACT)
    assert torch.equal(y[0].gather(0, argmax)[0], maximum[0])
    elements = (uniform(seed, 8) >= p).view(4, 2)
    scaled = norm_act_reference(y, norm, noise=Noise("feat", p, seed))
    torch.testing.assert_close(scaled[0], torch.where(elements, 2 * y[0], 0), **EXACT)
    everything = noise("point", y, p=0.999999)
    maximum, mean, argmax = reference(y, norm, noise=everything, return_argmax=True)
    assert (maximum == 0).all()
    assert (mean == 0).all()
    assert (argmax == -1).all()
