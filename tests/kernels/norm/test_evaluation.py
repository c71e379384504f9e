"""Operations where nothing learns: their own loops are taken, and give what the references give."""

import itertools

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
