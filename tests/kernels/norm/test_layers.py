"""edge_conv, linear_norm_max, linear_norm_pool, norm_act and norm_pool equal their references in float64."""

import pytest
import torch

from dropfold.kernels import (
    Groups,
    edge_conv,
    group_mlp_max,
    knn,
    kron_linear,
    linear_norm_max,
    linear_norm_pool,
    norm_act,
    norm_pool,
)
from dropfold.kernels.norm import edge_conv as edge_conv_folder
from dropfold.kernels.norm import linear_norm_max as linear_norm_max_folder
from dropfold.kernels.norm import norm_act as norm_act_file
from dropfold.kernels.norm import norm_pool as norm_pool_folder
from dropfold.kernels.norm.batch_norm.operation import moments
from dropfold.kernels.norm.norm_pool import operation as norm_pool_operation
from tests.kernels.cases import EXACT, batch_norm, noise

LEVELS = [None, "feat", "point", "cluster"]
# (B, N, C_in, C_out, k): one point, k = N, odd sizes, more than one block of rows
SHAPES = [(2, 1, 3, 4, 1), (3, 7, 3, 5, 7), (2, 63, 9, 16, 8), (1, 300, 3, 6, 20)]


def compare(ours, theirs, leaves, buffers):
    """Outputs, gradients of all leaves and running buffers; `leaves` and `buffers` are pairs (ours, theirs)."""
    ours, theirs = [y if isinstance(y, tuple) else (y,) for y in (ours, theirs)]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **EXACT)
    ours, theirs = [[y for y in side if y.is_floating_point()] for side in (ours, theirs)]  # no argmax
    weights = [torch.randn_like(a) for a in ours]
    for outputs in (ours, theirs):
        torch.autograd.backward([(y * w).sum() for y, w in zip(outputs, weights)])
    for a, b in leaves:
        torch.testing.assert_close(a.grad, b.grad if b.grad is not None else torch.zeros_like(b), **EXACT)
    for a, b in buffers:
        torch.testing.assert_close(a, b, **EXACT)


def twice(*tensors):
    return [(t.clone().requires_grad_(), t.clone().requires_grad_()) for t in tensors]


def clouds(B, N, C, ties):
    if not ties:
        return torch.randn(B, N, C, dtype=torch.float64) + 3
    x = eighths(B, N, C) + 3
    x[:, N // 2 :] = x[:, : N - N // 2]  # every other point is a copy: equal maxima
    return x


def eighths(*shape):
    """Random multiples of 1/8. Their sums of products are exact, so copies of a point tie whatever order a GEMM adds in."""
    return (8 * torch.randn(*shape, dtype=torch.float64)).round() / 8


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_edge_conv_is_its_reference(shape, level, training):
    B, N, C, D, k = shape
    if B * N * k == 1:
        pytest.skip("one edge has no variance")
    x = clouds(B, N, C, ties=N == 63)
    idx, found = knn(x, k), noise(level, x)
    (x1, x2), (w1, w2), (b1, b2) = twice(x, eighths(D, 2 * C), torch.randn(D).double())
    n1, n2 = batch_norm(D, training), batch_norm(D, training)
    options = {"noise": found, "return_argmax": True}
    ours = edge_conv(x1, idx, w1, b1, n1, **options)
    theirs = edge_conv_folder.reference(x2, idx, w2, b2, n2, **options)
    leaves = [(x1, x2), (w1, w2), (b1, b2), *zip(n1[:2], n2[:2])]
    compare(ours, theirs, leaves, zip(n1[2:4], n2[2:4]))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_norm_max_is_its_reference(shape, level, training):
    B, N, C, D, _ = shape
    x = clouds(B, N, C, ties=N == 63)
    found = noise(level, x)
    (x1, x2), (w1, w2), (b1, b2) = twice(x, eighths(D, C), torch.randn(D).double())
    n1, n2 = batch_norm(D, training), batch_norm(D, training)
    options = {"negative_slope": 0.1, "noise": found, "return_argmax": True}
    ours = linear_norm_max(x1, w1, b1, n1, **options)
    theirs = linear_norm_max_folder.reference(x2, w2, b2, n2, **options)
    leaves = [(x1, x2), (w1, w2), (b1, b2), *zip(n1[:2], n2[:2])]
    compare(ours, theirs, leaves, zip(n1[2:4], n2[2:4]))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norm_pool_is_its_reference(shape, level, training):
    B, N, _, D, _ = shape
    y = clouds(B, N, D, ties=N == 63)
    found = noise(level, y[..., :3])
    ((y1, y2),) = twice(y)
    n1, n2 = batch_norm(D, training), batch_norm(D, training)
    options = {"negative_slope": 0.2, "noise": found, "return_argmax": True}
    ours, theirs = norm_pool(y1, n1, **options), norm_pool_folder.reference(y2, n2, **options)
    compare(ours, theirs, [(y1, y2), *zip(n1[:2], n2[:2])], zip(n1[2:4], n2[2:4]))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_norm_pool_is_its_reference(shape, level, training, monkeypatch):
    monkeypatch.setattr(norm_pool_operation, "ROWS_PER_TILE", 64)  # several tiles, the last one shorter
    B, N, C, D, _ = shape
    x = clouds(B, N, C, ties=N == 63)
    found = noise(level, x)
    (x1, x2), (w1, w2), (b1, b2) = twice(x, eighths(D, C), torch.randn(D).double())
    n1, n2 = batch_norm(D, training), batch_norm(D, training)
    options = {"negative_slope": 0.2, "noise": found, "return_argmax": True}
    ours = linear_norm_pool(x1, w1, b1, n1, **options)
    theirs = norm_pool_folder.linear_reference(x2, w2, b2, n2, **options)
    leaves = [(x1, x2), (w1, w2), (b1, b2), *zip(n1[:2], n2[:2])]
    compare(ours, theirs, leaves, zip(n1[2:4], n2[2:4]))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_norm_act_is_its_reference(level, slope, training):
    B, N, D = 3, 100, 10
    y = clouds(B, N, D, ties=False)
    found = noise(level, y[..., :3])
    ((y1, y2),) = twice(y)
    n1, n2 = batch_norm(D, training), batch_norm(D, training)
    ours = norm_act(y1, n1, negative_slope=slope, noise=found)
    theirs = norm_act_file.reference(y2, n2, negative_slope=slope, noise=found)
    compare(ours, theirs, [(y1, y2), *zip(n1[:2], n2[:2])], zip(n1[2:4], n2[2:4]))


def test_at_gamma_zero_the_output_is_beta_and_its_gradient_the_limit_from_above():
    x, weight = torch.randn(2, 9, 3).double(), torch.randn(4, 6).double()
    idx, grads = knn(x, 3), []
    for gamma in (0.0, 1e-200):
        norm = batch_norm(4)
        norm.gamma.data.fill_(gamma)
        out = edge_conv(x, idx, weight, None, norm)
        torch.testing.assert_close(out, torch.where(norm.beta > 0, norm.beta, 0.2 * norm.beta).expand_as(out))
        out.sum().backward()
        grads.append(norm.gamma.grad)
    torch.testing.assert_close(*grads, **EXACT)


def test_where_all_neighbours_are_dropped_the_output_and_the_gradient_are_zero():
    x = torch.randn(2, 8, 3).double().requires_grad_()
    found = noise("point", x, p=0.999999)
    norm = batch_norm(5, training=False)
    for out in (
        edge_conv(x, knn(x, 4), torch.randn(5, 6).double(), None, norm, noise=found),
        linear_norm_max(x, torch.randn(5, 3).double(), None, norm, noise=found),
        *norm_pool(x.repeat(1, 1, 2)[..., :5], norm, noise=found),
    ):
        assert (out == 0).all()
        (grad,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
        assert (grad == 0).all()


@pytest.mark.parametrize("level", [None, "feat"])
def test_neighbours_of_minus_infinity_are_not_dropped_ones(level):
    """Their maximum is -inf, and the first of them has it."""
    x = torch.randn(1, 8, 3).double()
    idx = knn(x, 4)
    x[0, :, 1] = -1e308  # times 10
    norm = batch_norm(3, training=False)
    norm = norm._replace(gamma=norm.gamma.detach().abs().requires_grad_())
    found = noise(level, torch.randn(1, 8, 3), p=0.0)
    weight = torch.cat([10 * torch.eye(3).double()] * 2, 1)  # of x_j alone
    options = {"noise": found, "return_argmax": True}
    out, argmax = edge_conv(x, idx, weight, None, norm, **options)
    assert (out[..., 1] == -torch.inf).all()
    assert (argmax[..., 1] == 0).all()
    assert out[..., [0, 2]].isfinite().all()


def test_clouds_of_different_sizes_equal_each_cloud_alone():
    sizes, norm = [5, 1, 9], batch_norm(4, training=False)
    x = torch.randn(sum(sizes), 3).double()
    batch = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    weight, wide = torch.randn(4, 3).double(), torch.randn(4, 6).double()
    pooled = linear_norm_max(x, weight, None, norm, batch=batch)
    tops, means = norm_pool(x @ weight.T, norm, batch=batch)
    idx = knn(x, 1, batch=batch)
    edges = edge_conv(x, idx, wide, None, norm)
    for b, cloud in enumerate(x.split(sizes)):
        alone = cloud[None]
        torch.testing.assert_close(pooled[b : b + 1], linear_norm_max(alone, weight, None, norm), **EXACT)
        top, mean = norm_pool(alone @ weight.T, norm)
        torch.testing.assert_close((tops[b : b + 1], means[b : b + 1]), (top, mean), **EXACT)
        torch.testing.assert_close(
            edges[batch == b],
            edge_conv(alone, knn(alone, 1), wide, None, norm)[0],
            **EXACT,
        )


@pytest.mark.parametrize("level", LEVELS)
def test_rows_of_clouds_of_different_sizes_are_the_reference(level):
    sizes = torch.tensor([5, 1, 0, 30])
    batch, D = torch.arange(4).repeat_interleave(sizes), 6
    x, idx = torch.randn(36, 5).double(), torch.randint(36, (36, 4))
    found = noise(level, x[None])
    options = {"batch": batch, "batch_size": 4, "noise": found, "return_argmax": True}
    for ours, theirs, weight in (
        (edge_conv, edge_conv_folder.reference, eighths(D, 10)),
        (linear_norm_max, linear_norm_max_folder.reference, eighths(D, 5)),
        (linear_norm_pool, norm_pool_folder.linear_reference, eighths(D, 5)),
    ):
        (x1, x2), (w1, w2) = twice(x, weight)
        n1, n2 = batch_norm(D), batch_norm(D)
        lists = [idx] if ours is edge_conv else []
        got = ours(x1, *lists, w1, None, n1, **options)
        right = theirs(x2, *lists, w2, None, n2, **options)
        compare(got, right, [(x1, x2), (w1, w2), *zip(n1[:2], n2[:2])], zip(n1[2:4], n2[2:4]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_to_the_rounding_of_its_type(dtype):
    x = torch.randn(2, 64, 16)
    wide, weight = torch.randn(8, 32) / 4, torch.randn(8, 16) / 4
    idx = knn(x, 5)
    for run in (
        lambda: edge_conv(x, idx, wide, None, batch_norm(8, dtype=torch.float32)),
        lambda: linear_norm_max(x, weight, None, batch_norm(8, dtype=torch.float32)),
        lambda: linear_norm_pool(x, weight, None, batch_norm(8, dtype=torch.float32))[0],
    ):
        exact = run()
        with torch.autocast("cpu", dtype):
            half = run()
        assert half.dtype == dtype
        # Inputs and products are rounded once each; activations are about 1 and BatchNorm scales errors by |gamma| < 4.
        assert (half.float() - exact).abs().max() < 16 * torch.finfo(dtype).eps


def test_coordinates_are_never_rounded_by_autocast():
    x = torch.randn(2, 64, 3)
    idx, weight = knn(x, 5), torch.randn(8, 6)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = edge_conv(x, idx, weight, None, batch_norm(8, dtype=torch.float32))
    torch.testing.assert_close(rounded, edge_conv(x, idx, weight, None, batch_norm(8, dtype=torch.float32)))


def test_autocast_leaves_float64_alone():
    x, norm = torch.randn(2, 8, 16).double(), batch_norm(5)
    weight, groups = torch.randn(5, 16).double(), Groups(torch.arange(9), torch.arange(8))
    with torch.autocast("cpu", torch.bfloat16):
        for found in (
            edge_conv(x, knn(x, 4), torch.cat([weight, weight], 1), None, norm),
            linear_norm_max(x, weight, None, norm),
            linear_norm_pool(x, weight, None, norm)[0],
            group_mlp_max(x[0], x[0], groups, [weight], [None, norm]),
            kron_linear(x, torch.randn(1, 4, 2).double(), torch.randn(1, 4, 3).double()),
        ):
            assert found.dtype == torch.float64


def test_the_moments_of_no_rows_are_nothing():
    """A process may hold no rows."""
    assert all(torch.equal(found, torch.zeros(5)) for found in moments(torch.empty(0, 5)))


def test_autocast_rounds_no_distance_and_no_statistic():
    x, weight = torch.randn(2, 64, 16) + 3, torch.randn(8, 16)
    idx = knn(x, 5)
    exact, rounded = (batch_norm(8, dtype=torch.float32) for _ in range(2))
    halves = [t.bfloat16().float() for t in (x, weight)]
    linear_norm_max(*halves, None, exact)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(knn(x, 5), idx)
        linear_norm_max(x, weight, None, rounded)
    # x and the weight are rounded to bfloat16; mean and variance are taken of them in float32.
    torch.testing.assert_close(rounded[2:4], exact[2:4])


def test_bad_arguments_are_named():
    x, norm = torch.randn(2, 8, 3), batch_norm(5, dtype=torch.float32)
    idx = knn(x, 4)
    with pytest.raises(ValueError, match=r"weight must be \[C_out, 6\]"):
        edge_conv(x, idx, torch.randn(5, 3), None, norm)
    for wrong in (idx.int(), idx[..., :0]):
        with pytest.raises(ValueError, match=r"neighbours must be int64 .* with k of 1 or more"):
            edge_conv(x, wrong, torch.randn(5, 6), None, norm)
    with pytest.raises(ValueError, match="one entry for each of the 4 channels"):
        edge_conv(x, idx, torch.randn(4, 6), None, norm)
    with pytest.raises(ValueError, match=r"weight must be \[C_out, 3\]"):
        linear_norm_pool(x, torch.randn(5, 6), None, norm)
    for alone in (norm, norm._replace(sync=True)):  # the only process
        with pytest.raises(ValueError, match="more than one value a channel"):
            linear_norm_max(x[:1, :1], torch.randn(5, 3), None, alone)
    for wrong in (-1, 8):
        with pytest.raises(ValueError, match="neighbours must be from 0 to 7"):
            edge_conv(x, idx.where(idx != 3, wrong), torch.randn(5, 6), None, norm)


def test_nan_is_never_swallowed():
    """A diverged network must not look healthy because a max or a noise passed NaN over."""
    x, norm = torch.randn(2, 8, 5), batch_norm(5, training=False, dtype=torch.float32)
    x[0, 3] = torch.nan
    idx, weight = knn(torch.randn(2, 8, 3), 8), torch.randn(5, 5)
    assert edge_conv(x, idx, torch.cat([weight, weight], 1), None, norm)[0].isnan().all()
    assert linear_norm_max(x, weight, None, norm)[0].isnan().all()
    assert torch.stack(norm_pool(x, norm))[:, 0].isnan().all()
    assert norm_act(x, norm)[0, 3].isnan().all()
    assert linear_norm_max(x * torch.nan, weight, None, norm).isnan().all()
    found = noise("point", x, p=0.3)
    assert norm_act(x, norm, noise=found)[0, 3].isnan().all()


@pytest.mark.parametrize("gamma", [1, -1])
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_infinities_and_nan_are_those_of_the_plain_form(slope, gamma):
    """In evaluation an infinity has the gradient of its side; NaN's is NaN, where autograd has that of a side."""
    y, weights = torch.randn(40, 6).double(), torch.randn(40, 6).double()
    y[3, 1], y[5, 2], y[39, 4] = -torch.inf, torch.inf, torch.nan
    norm = batch_norm(6, training=False)
    norm = norm._replace(gamma=(gamma * (norm.gamma.detach().abs() + 0.1)).requires_grad_())
    results = []
    for fn in (norm_act, norm_act_file.reference):
        leaf = y.clone().requires_grad_()
        out = fn(leaf, norm, negative_slope=slope)
        results.append((out, *torch.autograd.grad((out * weights).sum(), [leaf, norm.gamma, norm.beta])))
    results[1][1][39, 4] = torch.nan
    for _, _, *vectors in results:
        for vector in vectors:
            vector[4] = 0
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, **EXACT, equal_nan=True)
    assert results[0][1][3, 1].isfinite()
    assert results[0][1][5, 2].isfinite()
