"""Gates that need no GPU: compile-only resources on four targets, opcheck, torch.compile, gradcheck."""

import pytest
import torch

from dropfold.kernels import (
    BatchNorm,
    drop_cluster,
    drop_feat,
    drop_point,
    edge_conv,
    knn,
    linear_norm_max,
    linear_norm_pool,
    norm_act,
    norm_pool,
)
from dropfold.kernels.noise.draw import NoiseArguments
from dropfold.kernels.noise.draw import triton as draw_triton
from dropfold.kernels.noise.elementwise import triton as elementwise_triton
from dropfold.kernels.noise.philox import triton as philox_triton
from dropfold.kernels.norm.batch_norm import triton as batch_norm_triton
from dropfold.kernels.norm.edge_conv import triton as edge_conv_triton
from dropfold.kernels.norm.linear_norm_max import triton as linear_norm_max_triton
from dropfold.kernels.norm.norm_pool import triton as norm_pool_triton
from dropfold.kernels.points.knn import triton as knn_triton
from tests.kernels.cases import batch_norm, noise
from tests.kernels.gates import compile_only, launches

M, B = 32 * 64, 32


def noise_arguments(mode):
    one = torch.ones(1)
    return NoiseArguments(mode, torch.ones(M), one, one, torch.zeros(1, dtype=torch.int64))


def vectors(channels, n):
    return [torch.ones(channels) for _ in range(n)]


def operations(channels, dtype, mode):
    """Every launch of the layers at one width, in ModelNet40's and S3DIS's types and modes."""
    y = torch.zeros(M, channels, dtype=dtype)
    ptr, batch = torch.arange(B + 1) * 64, torch.zeros(M, dtype=torch.int64)
    idx = torch.zeros(M, 20, dtype=torch.int64)
    pooled, arg = torch.zeros(B, channels), torch.zeros(B, channels, dtype=torch.int64)
    wide = torch.zeros(M, channels, dtype=torch.float32)
    pq = torch.zeros(M, 2 * channels, dtype=dtype)
    where = torch.zeros(M, channels, dtype=torch.uint8)
    found = [
        launches(batch_norm_triton.moments, y),
        launches(elementwise_triton.norm_apply, y, *vectors(channels, 2), 0.2, *noise_arguments(mode)),
        launches(
            elementwise_triton.norm_sums, y, y, *vectors(channels, 4), 0.2, True, *noise_arguments(mode)
        ),
        launches(elementwise_triton.norm_grad, y, y, *vectors(channels, 6), 0.2, *noise_arguments(mode)),
        launches(norm_pool_triton.norm_pool_fwd, y, ptr, *vectors(channels, 4), 0.2, *noise_arguments(mode)),
        launches(
            norm_pool_triton.norm_pool_bwd,
            *(y, batch, torch.zeros(6, channels), pooled, pooled, arg, 0.2, 0, M),
            *noise_arguments(mode),
        ),
        launches(edge_conv_triton.edge_conv_fwd, pq, idx, *noise_arguments(mode)),
        launches(edge_conv_triton.edge_conv_bwd, pq, wide, wide, where, idx, torch.zeros(4, channels)),
    ]
    return [launch for group in found for launch in group]


def linear(c_in, dtype, mode):
    x, weight = torch.zeros(M, c_in, dtype=dtype), torch.zeros(1024, c_in, dtype=dtype)
    pooled, arg = torch.zeros(B, 1024), torch.zeros(B, 1024, dtype=torch.int64)
    return launches(
        linear_norm_max_triton.linear_norm_max_fwd,
        x,
        weight,
        torch.arange(B + 1) * 64,
        *noise_arguments(mode),
    ) + launches(linear_norm_max_triton.linear_norm_max_bwd, pooled, arg, x, weight)


def others():
    seed, ptr = torch.tensor(1), torch.arange(B + 1) * 64
    found = launches(philox_triton.uniform, seed, 5000)
    found += launches(draw_triton.kept_points, seed, torch.ones(1), None, M)
    for k in (20, 64):
        found += launches(
            draw_triton.kept_points, seed, torch.ones(k + 1), torch.zeros(M, k, dtype=torch.int64), M
        )
    for channels in (3, 9, 64, 128):
        for k in (20, 40):
            found += launches(knn_triton.knn, torch.zeros(M, channels), ptr, k)
    return found


def assert_within_budget(resources):
    """No spill; at most 255 registers; at most 48 KiB of shared memory, so that several programs share a processor."""
    assert resources
    bad = [r for r in resources if r.spills or r.registers > 255 or r.shared_bytes > 48 * 1024]
    assert not bad, "\n".join(map(str, bad))


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_no_kernel_spills(target):
    recorded = [
        *operations(64, torch.float32, 0),
        *operations(64, torch.bfloat16, 2),
        *operations(128, torch.bfloat16, 1),
        *operations(1024, torch.float32, 1),
        *linear(128, torch.float32, 1),
        *linear(128, torch.float32, 2),
        *linear(128, torch.bfloat16, 1),
        *others(),
    ]
    assert_within_budget(compile_only(recorded, [target]))


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [64, 128, 256, 1024])
def test_no_kernel_spills_at_any_width(channels, dtype, mode):
    assert_within_budget(compile_only(operations(channels, dtype, mode) + linear(channels, dtype, mode)))


def calls(level="cluster", dtype=torch.float32):
    """Each public operation with its differentiable inputs: name -> (function of them, inputs)."""
    x = torch.randn(2, 12, 3, dtype=dtype)
    idx, found = knn(x, 3), noise(level, x)
    wide, weight = torch.randn(4, 6, dtype=dtype), torch.randn(4, 3, dtype=dtype)
    gamma, beta, mean, var = (t.detach() for t in batch_norm(4, dtype=dtype)[:4])
    seed = torch.tensor(3)

    def norm(gamma, beta):
        return BatchNorm(gamma, beta, mean.clone(), var.clone(), training=True)

    return {
        "edge_conv": (
            lambda x, w, g, b: edge_conv(x, idx, w, None, norm(g, b), noise=found),
            (x, wide, gamma, beta),
        ),
        "linear_norm_max": (
            lambda x, w, g, b: linear_norm_max(x, w, None, norm(g, b), noise=found),
            (x, weight, gamma, beta),
        ),
        "norm_act": (lambda y, g, b: norm_act(y, norm(g, b), noise=found), (x @ weight.T, gamma, beta)),
        "norm_pool": (lambda y, g, b: norm_pool(y, norm(g, b), noise=found), (x @ weight.T, gamma, beta)),
        "linear_norm_pool": (
            lambda x, w, g, b: linear_norm_pool(x, w, None, norm(g, b), noise=found),
            (x, weight, gamma, beta),
        ),
        "drop_feat": (lambda x: drop_feat(x, 0.3, seed=seed), (x,)),
        "drop_point": (lambda x: drop_point(x, 0.3, seed=seed), (x,)),
        "drop_cluster": (lambda x: drop_cluster(x, 0.3, idx, seed=seed), (x,)),
    }


NAMES = list(calls())


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    run, inputs = calls(dtype=torch.float64)[name]
    assert torch.autograd.gradcheck(run, [t.detach().requires_grad_() for t in inputs], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_one_graph_under_compile(name):
    run, inputs = calls()[name]
    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    mine, theirs = ([t.detach().clone().requires_grad_() for t in inputs] for _ in range(2))

    def outcome(f, leaves):
        out = f(*leaves)
        out = out if isinstance(out, tuple) else (out,)
        return [*out, *torch.autograd.grad([(y * y).sum() for y in out], leaves)]

    for a, b in zip(outcome(compiled, mine), outcome(run, theirs)):
        torch.testing.assert_close(a, b)


def test_operators_pass_opcheck():
    y, vector, ptr = torch.randn(20, 8), torch.ones(8), torch.tensor([0, 12, 20])
    found, ops = noise_arguments(0), torch.ops.dropfold
    idx, arg = knn(y[:, :3].contiguous(), 4), torch.zeros(2, 8, dtype=torch.int64)
    for op, arguments in (
        (ops.uniform, (torch.tensor(1), 9)),
        (ops.kept_points, (torch.tensor(1), torch.ones(5), idx, 20)),
        (ops.moments, (y,)),
        (ops.norm_apply, (y, vector, vector, 0.2, *found)),
        (ops.norm_sums, (y, y, *[vector] * 4, 0.2, True, *found)),
        (ops.norm_grad, (y, y, *[vector] * 6, 0.2, *found)),
        (ops.norm_pool_fwd, (y, ptr, *[vector] * 4, 0.2, *found)),
        (
            ops.norm_pool_bwd,
            (y, torch.zeros(20).long(), torch.ones(6, 8), y[:2], y[:2], arg, 0.2, 0, 20, *found),
        ),
        (ops.knn, (y, ptr, 3)),
        (ops.edge_conv_fwd, (y, idx, *found)),
        (
            ops.edge_conv_bwd,
            (y, y[:, :4].contiguous(), y[:, 4:].contiguous(), idx.byte(), idx, torch.ones(4, 4)),
        ),
        (ops.linear_norm_max_fwd, (y, torch.randn(8, 8), ptr, *found)),
        (ops.linear_norm_max_bwd, (y[:2], arg, y, torch.randn(8, 8))),
    ):
        torch.library.opcheck(op.default, arguments, test_utils=("test_schema", "test_faketensor"))
