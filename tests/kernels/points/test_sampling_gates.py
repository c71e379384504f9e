"""Gates of the sampling operations that need no GPU: compile-only resources, opcheck, torch.compile, gradcheck."""

import pytest
import torch

from dropfold.kernels import ball_query, farthest_point_sample, three_nn_interpolate
from dropfold.kernels.points.ball_query import triton as ball_query_triton
from dropfold.kernels.points.farthest_point_sample import triton as farthest_point_sample_triton
from dropfold.kernels.points.three_nn_interpolate import triton as three_nn_interpolate_triton
from tests.kernels.gates import compile_only, launches


def recorded():
    """PointNet++'s launches, and a scene's."""
    x, ptr, batch = torch.zeros(200, 3), torch.tensor([0, 100, 200]), torch.zeros(200, dtype=torch.int64)
    start = torch.zeros(2, dtype=torch.int64)
    found = launches(farthest_point_sample_triton.farthest_point_sample, x, ptr, start, 1, 100_000)
    for most in (1024, farthest_point_sample_triton.MAX_POINTS_IN_REGISTERS):
        found += launches(farthest_point_sample_triton.farthest_point_sample, x, ptr, start, 8, most)
    found += launches(ball_query_triton.make_lists, x, ptr, x, batch, 0.2, 32)
    idx, weight = torch.zeros(200, 3, dtype=torch.int64), torch.zeros(200, 3)
    for k in (1, 3, 8):
        found += launches(three_nn_interpolate_triton.three_nn, x, ptr, x, ptr, k)
    for dtype in (torch.float32, torch.bfloat16):
        features = torch.zeros(200, 128, dtype=dtype)
        found += launches(three_nn_interpolate_triton.three_nn_interpolate_fwd, features, idx, weight)
        found += launches(three_nn_interpolate_triton.three_nn_interpolate_bwd, features, idx, weight, 200)
    return found


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_no_kernel_spills(target):
    found = compile_only(recorded(), [target])
    bad = [r for r in found if r.spills or r.registers > 255 or r.shared_bytes > 48 * 1024]
    assert len(found) == 11
    assert not bad, "\n".join(map(str, bad))


def test_gradcheck():
    pos, query = torch.rand(2, 6, 3), torch.rand(2, 9, 3)
    features = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: three_nn_interpolate(f, pos, query), features)


def test_one_graph_under_compile():
    """How many entries groups have is known when they run: that torch.compile is to be told."""
    x, features = torch.rand(2, 60, 3), torch.randn(2, 12, 4, requires_grad=True)

    def run(x, features):
        idx = farthest_point_sample(x, 12)
        centres = x.gather(1, idx[..., None].expand(-1, -1, 3))
        groups = ball_query(x, centres, 0.4, 8)
        return idx, *groups, three_nn_interpolate(features, centres, x)

    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        mine = torch.compile(run, fullgraph=True, backend="aot_eager")(x, features)
    for a, b in zip(mine, run(x, features)):
        torch.testing.assert_close(a, b)
    (gradient,) = torch.autograd.grad(mine[-1].square().sum(), features)
    torch.testing.assert_close(
        gradient, torch.autograd.grad(run(x, features)[-1].square().sum(), features)[0]
    )


def test_operators_pass_opcheck():
    x, ptr, ops = torch.rand(20, 3), torch.tensor([0, 12, 20]), torch.ops.dropfold
    idx, weight = ops.three_nn(x, ptr, x, ptr, 3)
    for op, arguments in (
        (ops.farthest_point_sample, (x, ptr, torch.tensor([3, 0]), 5, 12)),
        (ops.ball_query, (x, ptr, x, ptr, 0.3, 4)),
        (ops.three_nn, (x, ptr, x, ptr, 3)),
        (ops.three_nn_interpolate_fwd, (torch.randn(20, 8), idx, weight)),
        (ops.three_nn_interpolate_bwd, (torch.randn(20, 8), idx, weight, 20)),
    ):
        torch.library.opcheck(op.default, arguments, test_utils=("test_schema", "test_faketensor"))
