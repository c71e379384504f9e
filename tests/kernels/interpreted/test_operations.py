"""The Triton kernels against the CPU's, on the device or in the interpreter: noise bit for bit, the rest to rounding."""

import pytest
import torch

from dropfold.kernels import edge_conv, knn, linear_norm_max, linear_norm_pool, norm_act, norm_pool
from dropfold.kernels.noise.draw import Noise
from dropfold.kernels.noise.draw import cpu as draw_cpu
from dropfold.kernels.noise.draw import operation as draw_operation
from dropfold.kernels.noise.elementwise import cpu as elementwise_cpu
from dropfold.kernels.noise.elementwise import triton as elementwise_triton
from dropfold.kernels.noise.philox import cpu as philox_cpu
from dropfold.kernels.noise.philox import triton as philox_triton
from dropfold.kernels.norm import edge_conv as edge_conv_folder
from dropfold.kernels.norm import linear_norm_max as linear_norm_max_folder
from dropfold.kernels.norm import norm_act as norm_act_file
from dropfold.kernels.norm import norm_pool as norm_pool_folder
from dropfold.kernels.points.knn import cpu as knn_cpu
from dropfold.kernels.points.knn import triton as knn_triton
from tests.kernels.cases import batch_norm, noise

LEVELS = [None, "feat", "point", "cluster"]


@pytest.mark.parametrize("n", [1, 5, 1000, 2049])
def test_random_numbers_are_the_same_bit_for_bit(n, device):
    seed = torch.tensor(2**61 + 7)
    assert torch.equal(philox_triton.uniform(seed.to(device), n).cpu(), philox_cpu.uniform(seed, n))


@pytest.mark.parametrize(
    ("level", "reading"), [("point", "gather"), ("cluster", "gather"), ("cluster", "scatter")]
)
def test_the_same_points_fall(level, reading, device):
    x, ptr = torch.rand(2, 50, 3), torch.tensor([0, 50, 100])
    found = noise(level, x, p=0.3, k=7)._replace(reading=reading)
    moved = Noise(*(t.to(device) if isinstance(t, torch.Tensor) else t for t in found))
    there = draw_operation.row_keep_scale(moved, ptr.to(device), 100).cpu() > 0

    u, lists = philox_cpu.uniform(found.seed, 100), found.neighbours
    if level == "point":
        kept = u >= found.p
    elif reading == "gather":
        kept = u[lists].amin(1) >= draw_operation.gather_thresholds(found.p, 7)[7]
        assert torch.equal(
            kept.float(),
            draw_cpu.kept_points(found.seed, draw_operation.gather_thresholds(found.p, 7), lists, 100),
        )
    else:
        gamma = draw_operation.scatter_gamma(torch.bincount(lists.flatten(), minlength=100), ptr, found.p)
        seeds = u < gamma.float().repeat_interleave(50)
        kept = torch.ones(100, dtype=torch.bool)
        kept[lists[seeds].flatten()] = False
    assert torch.equal(there, kept)
    assert 0 < there.sum() < 100


@pytest.mark.parametrize("channels", [3, 12])
def test_the_same_clusters_of_nearest_points_fall(channels, device):
    x, ptr, seed = torch.rand(80, channels), torch.tensor([0, 30, 80]), torch.tensor(5)
    found = Noise("cluster", torch.tensor(0.4), seed)
    moved = Noise("cluster", found.p.to(device), seed.to(device))
    kept = draw_operation.keep_by_nearest(moved, x.to(device), ptr.to(device), 7).kept
    right = draw_cpu.kept_by_nearest(seed, draw_operation.gather_thresholds(found.p, 7), x, ptr)
    assert torch.equal(kept.cpu(), right)
    assert 0 < right.sum() < 80


@pytest.mark.parametrize("channels", [7, 8])
def test_the_same_elements_fall(channels, device):

    x = torch.randn(2, 20, channels)
    drawn = draw_operation.draw(noise("feat", x), torch.tensor([0, 20, 40]), 40)
    one = torch.ones(channels)
    rows = x.flatten(0, 1)
    cpu = elementwise_cpu.norm_apply(rows, one, one * 0, 1.0, *drawn)
    gpu = elementwise_triton.norm_apply(
        *(t.to(device) for t in (rows, one, one * 0)), 1.0, drawn[0], *(t.to(device) for t in drawn[1:])
    )
    assert torch.equal(gpu.cpu(), cpu)


@pytest.mark.parametrize("channels", [3, 20])
def test_knn(channels, device):
    """Of clouds of more than one tile of 32 points, of fewer points than k, and of one."""
    x = torch.randint(-3, 4, (45, channels)).float()
    for k, ptr in ((1, [0, 7]), (7, [0, 34, 39, 40, 45])):
        rows, ptr = x[: ptr[-1]], torch.tensor(ptr)
        cpu = knn_cpu.knn(rows, ptr, k)
        gpu = knn_triton.knn(rows.to(device), ptr.to(device), k).cpu()
        if channels == 3:
            assert torch.equal(gpu, cpu)
        else:  # the product form may swap points whose distances round differently
            d = (rows[:, None] - rows[None]).square().sum(-1)
            torch.testing.assert_close(d.gather(1, gpu), d.gather(1, cpu), rtol=1e-4, atol=1e-3)


def gradients(run, leaves):
    out = run()
    out = out if isinstance(out, tuple) else (out,)
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(y.shape, generator=generator).to(y) for y in out]
    grads = torch.autograd.grad([(y * w).sum() for y, w in zip(out, weights)], leaves)
    return [t.detach().cpu() for t in (*out, *grads)]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("channels", "training"), [(20, True), (6, False)])
def test_layers(level, channels, training, device):
    B, N, C, k = 2, 37, 5, 4
    x = torch.randn(B, N, C)
    neighbours = knn(x[..., :3].contiguous(), k)
    found = noise(level, x, k=k)
    moved = found and Noise(*(t.to(device) if isinstance(t, torch.Tensor) else t for t in found))
    wide, narrow = torch.randn(channels, 2 * C), torch.randn(channels, C)
    y = torch.randn(B, N, channels)

    def compare(fn, reference, *inputs):
        mine = [t.to(device).requires_grad_() for t in inputs]
        theirs = [t.double().requires_grad_() for t in inputs]
        n1, n2 = batch_norm(channels, training, torch.float32, device), batch_norm(channels, training)
        got = gradients(lambda: fn(*mine, n1), [*mine, *n1[:2]])
        right = gradients(lambda: reference(*theirs, n2), [*theirs, *n2[:2]])
        for a, b in zip([*got, *n1[2:4]], [*right, *n2[2:4]]):
            # Sums over a few hundred float32 terms of size up to 30.
            torch.testing.assert_close(a.detach().cpu().double(), b.detach(), rtol=1e-3, atol=1e-3)

    compare(
        lambda x, w, n: edge_conv(x, neighbours.to(device), w, None, n, noise=moved),
        lambda x, w, n: edge_conv_folder.reference(x, neighbours, w, None, n, noise=found),
        *(x, wide),
    )
    compare(
        lambda x, w, n: linear_norm_max(x, w, None, n, noise=moved),
        lambda x, w, n: linear_norm_max_folder.reference(x, w, None, n, noise=found),
        *(x, narrow),
    )
    compare(
        lambda y, n: norm_pool(y, n, noise=moved, negative_slope=0.2),
        lambda y, n: norm_pool_folder.reference(y, n, noise=found, negative_slope=0.2),
        y,
    )
    compare(
        lambda x, w, n: linear_norm_pool(x, w, None, n, noise=moved, negative_slope=0.2),
        lambda x, w, n: norm_pool_folder.linear_reference(x, w, None, n, noise=found, negative_slope=0.2),
        *(x, narrow),
    )
    compare(
        lambda y, n: norm_act(y, n, noise=moved, negative_slope=0.2),
        lambda y, n: norm_act_file.reference(y, n, noise=found, negative_slope=0.2),
        y,
    )


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy's, in the interpreter
@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_infinities_and_nan_are_those_of_the_plain_form(slope, device):
    """In evaluation an infinity has the gradient of its side; NaN's is NaN, where autograd has that of a side."""
    y = torch.randn(40, 6)
    y[3, 1], y[5, 2], y[39, 4] = -torch.inf, torch.inf, torch.nan
    results = []
    for fn, place in ((norm_act, device), (norm_act_file.reference, "cpu")):
        norm = batch_norm(6, False, torch.float32, place)
        leaf = y.to(place).requires_grad_()
        out = fn(leaf, norm, negative_slope=slope)
        results.append((out, *torch.autograd.grad(out.sum(), [leaf, *norm[:2]])))
    results[1][1][39, 4] = torch.nan
    for _, _, *vectors in results:
        for vector in vectors:
            vector[4] = 0
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")  # NumPy's
@pytest.mark.parametrize("level", [None, "feat"])
def test_neighbours_of_minus_infinity_are_not_dropped_ones(level, device):
    x = torch.randn(1, 8, 3)
    idx = knn(x, 4).to(device)
    x[0, :, 1] = -3e38  # times 10
    norm = batch_norm(3, False, torch.float32, device)
    norm = norm._replace(gamma=norm.gamma.detach().abs().requires_grad_())
    found = noise(level, torch.randn(1, 8, 3), p=0.0, device=device)
    if found is not None:
        found = Noise(*(t.to(device) if isinstance(t, torch.Tensor) else t for t in found))
    weight = torch.cat([10 * torch.eye(3)] * 2, 1).to(device)  # of x_j alone
    out, argmax = edge_conv(x.to(device), idx, weight, None, norm, noise=found, return_argmax=True)
    assert (out[..., 1] == -torch.inf).all()
    assert (argmax[..., 1] == 0).all()
    assert out[..., [0, 2]].isfinite().all()


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy's, in the interpreter
@pytest.mark.parametrize("level", [None, "point"])
def test_nan_wins_every_max(level, device):
    """Also in a later tile of a cloud; the other cloud is that of clean rows."""
    B, N, C, k = 2, 70, 12, 4
    x = torch.randn(B, N, C)
    neighbours = knn(x[..., :3].contiguous(), k)
    found = noise(level, x, k=k)
    moved = found and Noise(*(t.to(device) if isinstance(t, torch.Tensor) else t for t in found))
    norm = batch_norm(C, False, torch.float32, device)
    norm = norm._replace(gamma=norm.gamma.abs() + 0.1)
    weight = torch.eye(C, device=device)
    kept = None if found is None else noise_mask(found, B, N)[1]
    row = 67 if kept is None else int(kept[:-1].nonzero()[-1])
    spoilt = x.clone()
    spoilt[1, row] = torch.nan
    for pool in (
        lambda x: linear_norm_max(x, weight, None, norm, noise=moved, return_argmax=True),
        lambda x: norm_pool(x, norm, noise=moved, return_argmax=True),
    ):
        (top, *_, argmax), (wanted, *_, right) = pool(spoilt.to(device)), pool(x.to(device))
        assert top[1].isnan().all()
        assert torch.equal(top[0], wanted[0])
        assert torch.equal(argmax[0], right[0])
        assert (argmax[1] == row).all()
    near = edge_conv(
        spoilt.to(device), neighbours.to(device), torch.eye(C, 2 * C, device=device), None, norm, noise=moved
    )
    assert near[1, row].isnan().all()


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy's, in the interpreter
@pytest.mark.parametrize("channels", [3, 12])
def test_nan_is_nobodys_neighbour(channels, device):
    """Also in a later tile of a cloud."""
    first, points, k, row = 5, 34, 4, 33
    rows, ptr = torch.randn(first + points, channels), torch.tensor([0, first, first + points])
    rows[first + row] = torch.nan
    own = knn_triton.knn(rows.to(device), ptr.to(device), k).cpu()
    assert (own[first + row] == first + row).all()
    assert torch.equal(own, knn_cpu.knn(rows, ptr, k))


def noise_mask(found, clouds, points):
    """Which points a noise keeps, [B, N]."""
    ptr = torch.arange(clouds + 1) * points
    return (draw_operation.row_keep_scale(found, ptr, clouds * points) > 0).view(clouds, points)
