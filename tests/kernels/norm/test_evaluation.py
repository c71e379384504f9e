"""Operations where nothing learns: their own loops are taken, and give what the references give."""

import itertools

import numpy as np
import pytest
import torch

from dropfold.kernels import (
    Groups,
    edge_conv,
    group_mlp_max,
    knn,
    linear_norm_act,
    linear_norm_max,
    linear_norm_pool,
)
from dropfold.kernels.group_mlp_max import reference as group_reference
from dropfold.kernels.norm import edge_conv as edge_conv_folder
from dropfold.kernels.norm import linear_norm_max as linear_norm_max_folder
from dropfold.kernels.norm import norm_act as norm_act_file
from dropfold.kernels.norm import norm_pool as norm_pool_folder
from tests.kernels.cases import EXACT, batch_norm

# Clouds, points, channels in and out: one point; one row more than a block; several passes over columns; widths that are no
# whole number of registers; one channel.
SIZES = [(1, 1, 3, 4), (2, 49, 5, 130), (3, 100, 33, 67), (1, 300, 64, 256), (2, 30, 1, 1), (0, 5, 3, 4)]
ERROR = {torch.float64: EXACT, torch.float32: {"rtol": 2e-5, "atol": 2e-5}}


def fixed(channels, dtype):
    norm = batch_norm(channels, training=False, dtype=dtype)
    return norm._replace(gamma=norm.gamma.detach(), beta=norm.beta.detach())


def compare(ours, theirs, dtype):
    ours, theirs = (found if isinstance(found, tuple) else (found,) for found in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b, equal_nan=True, **ERROR[dtype])


def called(function):
    """The names of the operators of this project that a function calls."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return {event.name[10:] for event in profile.events() if event.name.startswith("dropfold::")}


LINEAR = {
    "act": (linear_norm_act, norm_act_file.linear_reference, "linear_act_eval"),
    "max": (linear_norm_max, linear_norm_max_folder.reference, "linear_pool_eval"),
    "pool": (linear_norm_pool, norm_pool_folder.linear_reference, "linear_pool_eval"),
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("name", LINEAR)
def test_linear_maps_are_their_references(name, dtype, size):
    (B, N, C, D), (operation, reference, operator) = size, LINEAR[name]
    x, weight, bias = (
        torch.randn(B, N, C, dtype=dtype),
        torch.randn(D, C, dtype=dtype),
        torch.randn(D, dtype=dtype),
    )
    norm = fixed(D, dtype)
    for slope, b in itertools.product((0.0, 0.2, 1.0), (None, bias)):
        compare(
            operation(x, weight, b, norm, negative_slope=slope),
            reference(x, weight, b, norm, negative_slope=slope), dtype,
        )  # fmt: skip
    assert called(lambda: operation(x, weight, bias, norm)) == {operator}


@pytest.mark.parametrize("name", ["max", "pool"])
def test_pools_of_rows_have_a_cloud_of_each_size(name):
    """Clouds of 0, 1, 48, 49 and 500 points."""
    operation, reference, _ = LINEAR[name]
    sizes = torch.tensor([1, 0, 48, 49, 500])
    batch = torch.repeat_interleave(sizes)
    x, weight, norm = (
        torch.randn(len(batch), 7).double(),
        torch.randn(40, 7).double(),
        fixed(40, torch.float64),
    )
    clouds = {"batch": batch, "batch_size": 5}
    compare(
        operation(x, weight, None, norm, **clouds), reference(x, weight, None, norm, **clouds), torch.float64
    )


@pytest.mark.parametrize(
    "size", [(2, 1, 3, 4, 1), (3, 7, 3, 5, 7), (2, 63, 9, 130, 8), (1, 300, 64, 64, 20)], ids=str
)
@pytest.mark.parametrize("dtype", ERROR)
def test_edge_conv_is_its_reference(dtype, size):
    B, N, C, D, k = size
    x, weight, norm = torch.randn(B, N, C, dtype=dtype), torch.randn(D, 2 * C, dtype=dtype), fixed(D, dtype)
    idx, bias = knn(x, k), torch.randn(D, dtype=dtype)
    for b in (None, bias):
        compare(
            edge_conv(x, idx, weight, b, norm), edge_conv_folder.reference(x, idx, weight, b, norm), dtype
        )
    assert called(lambda: edge_conv(x, idx, weight, None, norm)) == {"edge_conv_eval"}


@pytest.mark.parametrize("widths", [(4, 5), (16, 130, 33), (8, 8, 8, 300)], ids=str)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("dtype", ERROR)
def test_perceptrons_on_groups_are_their_references(dtype, first, widths):
    """Groups of 0, 1, 48, 49 and 200 entries, some of them copied; with and without a first activation."""
    sizes = torch.tensor([3, 0, 1, 48, 49, 200])
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    groups = Groups(ptr, torch.randint(90, (int(ptr[-1]),)), torch.randint(1, 4, (int(ptr[-1]),)))
    q, p = torch.randn(90, widths[0], dtype=dtype), torch.randn(6, widths[0], dtype=dtype)
    weights = [torch.randn(b, a, dtype=dtype) for a, b in itertools.pairwise(widths)]
    norms = [fixed(width, dtype) for width in widths]
    if not first:
        norms[0] = None
    biases = [torch.randn(width, dtype=dtype) for width in widths]
    for slope, of in itertools.product((0.0, 0.2), (None, biases)):
        ours = group_mlp_max(q, p, groups, weights, norms, of, negative_slope=slope)
        theirs = group_reference(q, p, groups, weights, norms, of, negative_slope=slope)
        scale = float(theirs.abs().max())  # of sums over several layers
        compare(ours / scale, theirs / scale, dtype)
    assert called(lambda: group_mlp_max(q, p, groups, weights, norms)) == {"group_mlp_eval"}


def test_nan_wins_a_max_and_stays_in_its_cloud():
    x, weight, norm = torch.randn(3, 70, 5).double(), torch.randn(40, 5).double(), fixed(40, torch.float64)
    x[1, 60] = torch.nan
    for found in (linear_norm_max(x, weight, None, norm), *linear_norm_pool(x, weight, None, norm)):
        assert found[1].isnan().all()
        assert found[[0, 2]].isfinite().all()
    z = linear_norm_act(x, weight, None, norm)
    assert z[1, 60].isnan().all()
    assert z.isnan().sum() == 40
    idx = torch.arange(70).repeat(3, 1)[..., None].repeat(1, 1, 2)
    idx[..., 0] = 60
    out = edge_conv(x, idx, torch.randn(40, 10).double(), None, norm)
    assert out[1].isnan().all()
    assert out[[0, 2]].isfinite().all()


def test_results_are_the_same_on_any_number_of_threads():
    x, weight, norm = torch.randn(2, 700, 64), torch.randn(200, 64), fixed(200, torch.float32)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append([linear_norm_act(x, weight, None, norm), *linear_norm_pool(x, weight, None, norm)])
    finally:
        torch.set_num_threads(threads)
    for more in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], more, strict=True))


def test_what_learns_takes_the_operations_own_forms():
    """A gradient that is asked for, statistics of the batch, an argmax, autocast, and forward mode, which is refused."""
    x, weight, norm = torch.randn(2, 70, 16), torch.randn(40, 16), fixed(40, torch.float32)
    moving, own = norm._replace(training=True), {"linear_norm_max_fwd"}
    assert called(lambda: linear_norm_max(x, weight.clone().requires_grad_(), None, norm)) == own
    assert called(lambda: linear_norm_max(x, weight, None, moving)) == own
    assert called(lambda: linear_norm_max(x, weight, None, norm, return_argmax=True)) == own
    with torch.autocast("cpu", torch.bfloat16):
        assert called(lambda: linear_norm_max(x, weight, None, norm)) == own
    with torch.no_grad():
        assert called(lambda: linear_norm_max(x, weight.clone().requires_grad_(), None, norm)) == {
            "linear_pool_eval"
        }
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.jvp(lambda x: linear_norm_max(x, weight, None, norm), (x,), (x,))


def affine_of(norm, y):
    """BatchNorm of y in float64, as NumPy has it."""
    gamma, beta, mean, var = (t.double().numpy() for t in norm[:4])
    with np.errstate(over="ignore"):
        return gamma * (y - mean) / np.sqrt(var + norm.eps) + beta


def leaky(z, slope):
    """LeakyReLU; ReLU of -inf is 0."""
    with np.errstate(invalid="ignore"):
        return np.where((z > 0) | np.isnan(z), z, 0.0 if slope == 0 else slope * z)


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_without_input_channels_is_the_bias(biased, learns):
    """And with zero of them a group's and an edge's too, dense and in rows."""
    norm, bias = fixed(20, torch.float64), torch.randn(20).double() if biased else None
    z = torch.from_numpy(leaky(affine_of(norm, bias.numpy() if biased else 0.0), 0.2))
    weight, options = torch.empty(20, 0).double().requires_grad_(learns), {"negative_slope": 0.2}
    for x in (torch.empty(60, 0).double(), torch.empty(2, 30, 0).double()):
        clouds, idx = (1, 2)[x.dim() - 2], torch.arange(x.shape[-2])[:, None].expand(*x.shape[:-1], 1)
        torch.testing.assert_close(
            linear_norm_act(x, weight, bias, norm, **options), z.expand(*x.shape[:-1], 20)
        )
        for found in (
            linear_norm_max(x, weight, bias, norm, **options),
            *linear_norm_pool(x, weight, bias, norm, **options),
        ):
            torch.testing.assert_close(found, z.expand(clouds, 20))
        torch.testing.assert_close(
            edge_conv(x, idx, weight, bias, norm, **options), z.expand(*x.shape[:-1], 20)
        )
    groups = Groups(torch.tensor([0, 50, 100]), torch.arange(100) % 60)
    q, p = torch.empty(60, 0).double(), torch.empty(2, 0).double()
    found = group_mlp_max(q, p, groups, [weight], [None, norm], [None, bias], **options)
    torch.testing.assert_close(found, z.expand(2, 20))


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.5])
@pytest.mark.parametrize("points", [5, 60])
def test_what_overflows_is_activated_as_its_limit(points, slope, learns):
    """gamma 1e30 makes -inf, inf and NaN of -1e30, 1e30 and NaN: ReLU makes 0 of the first, and NaN stays."""
    x = torch.zeros(4, points, 1)
    x[0, 3], x[1, 1], x[2, 2], x[3] = -1e30, 1e30, torch.nan, -1e30
    norm = fixed(9, torch.float32)._replace(
        gamma=torch.full((9,), 1e30), beta=torch.zeros(9), mean=torch.zeros(9)
    )
    weight, options = torch.ones(9, 1).requires_grad_(learns), {"negative_slope": slope}
    with np.errstate(over="ignore"):
        z = torch.from_numpy(leaky(affine_of(norm, x.numpy()).astype(np.float32), slope))
    error = {"rtol": 1e-5, "atol": 0, "equal_nan": True}
    for rows in (x, x.flatten(0, 1)):
        torch.testing.assert_close(
            linear_norm_act(rows, weight, None, norm, **options), z.view(*rows.shape[:-1], 9), **error
        )
    itself = torch.arange(points)[:, None].expand(4, points, 1)
    central = torch.cat([torch.zeros_like(weight), weight], 1)
    torch.testing.assert_close(edge_conv(x, itself, central, None, norm, **options), z, **error)
    highest = z.amax(1)
    torch.testing.assert_close(linear_norm_max(x, weight, None, norm, **options), highest, **error)
    pools = linear_norm_pool(x, weight, None, norm, **options)
    if not (learns and slope):  # a max of -inf alone is none of its points
        torch.testing.assert_close(pools[0], highest, **error)
    torch.testing.assert_close(pools[1], z.mean(1), **error)
    groups = Groups(torch.arange(4 * points + 1), torch.arange(4 * points))
    q, p = x.flatten(0, 1), torch.zeros(4 * points, 1)
    norms = [one(norm), fixed(9, torch.float32), fixed(9, torch.float32)]
    weights = [torch.randn(9, 1).requires_grad_(learns), torch.randn(9, 9)]
    found = group_mlp_max(q, p, groups, weights, norms, **options)
    with np.errstate(over="ignore", invalid="ignore"):
        z = leaky(affine_of(norms[0], q.numpy()).astype(np.float32), slope)
        for w, of in zip(weights, norms[1:], strict=True):
            z = leaky(affine_of(of, z @ w.detach().double().numpy().T), slope)
    torch.testing.assert_close(found.double(), torch.from_numpy(z), rtol=1e-4, atol=1e-4, equal_nan=True)


def one(norm):
    """The first channel of a BatchNorm."""
    return norm._replace(**{name: getattr(norm, name)[:1] for name in norm._fields[:4]})
