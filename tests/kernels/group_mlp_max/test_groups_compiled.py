"""The gates of group_mlp_max that need no GPU: compile-only resources, opcheck, one graph under torch.compile, gradcheck."""

import pytest
import torch

from dropfold.kernels import BatchNorm, Groups, group_mlp_max
from dropfold.kernels.group_mlp_max.entries import Entries, Tile
from dropfold.kernels.group_mlp_max.triton_passes import OnGPU
from dropfold.kernels.noise.draw import NoiseArguments
from tests.kernels.cases import batch_norm, noise
from tests.kernels.gates import TARGETS, compile_only, launches

WIDTHS = (5, 6, 4)


def passes(c_in, c_out, weighted, mode):
    """Every launch of one perceptron's passes, from c_in to c_out channels in the last layer."""
    points, groups, entries = 512, 128, 4096
    idx, one = torch.zeros(entries, dtype=torch.int64), torch.ones(1)
    count = torch.ones(entries if weighted else 0)
    e = Entries(
        torch.zeros(points, c_in),
        torch.zeros(groups, c_in),
        torch.arange(groups + 1) * 32,
        idx,
        idx.int(),
        count,
    )
    t, vectors, vector = Tile(0, groups, 0, entries), torch.zeros(6, c_in), torch.zeros(c_in)
    y, wide = torch.zeros(entries, c_in), torch.zeros(entries, c_out)
    top, where = torch.zeros(groups, c_out), torch.zeros(groups, c_out, dtype=torch.int32)
    weight = torch.zeros(c_out, c_in)
    noise = NoiseArguments(mode, torch.ones(points), one, one, torch.zeros(1).long())
    found = [
        launches(OnGPU.rows, e, t, vectors, 0.2, vector),
        launches(OnGPU.activate, y, t, vectors, 0.2, vector),
        launches(OnGPU.moments, y, e, t),
        launches(OnGPU.highest, wide, e, t, noise, top, where),
        launches(OnGPU.last_back, y, y, e, t, vector, 0.2, vector, top, where, weight),
        launches(OnGPU.collect, y, e, t, top, where, weight),
        launches(OnGPU.sums, y, y, t, vectors),
        launches(OnGPU.norm_back, y, y, vectors, e, t),
        launches(OnGPU.spread, y, e, t, e.q, e.p, e.p),
        launches(OnGPU.spread_groups, e, e.q),
    ]
    return [launch for group in found for launch in group]


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_no_kernel_spills(target):
    assert_no_spill(passes(64, 128, True, 1), [target])


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("c_in", "c_out", "mode"), [(9, 64, 0), (64, 64, 2), (128, 256, 1), (512, 1024, 0)])
def test_no_kernel_spills_at_any_width(c_in, c_out, mode, weighted):
    assert_no_spill(passes(c_in, c_out, weighted, mode), TARGETS)


def assert_no_spill(recorded, targets):
    bad = [
        r
        for r in compile_only(recorded, targets)
        if r.spills or r.registers > 255 or r.shared_bytes > 48 * 1024
    ]
    assert not bad, "\n".join(map(str, bad))


def call(dtype, training=True, level="cluster"):
    """The operation as a function of what it is differentiable in, and these."""
    idx = torch.randint(0, 24, (30,))
    groups = Groups(torch.tensor([0, 4, 5, 5, 12, 20, 30]), idx, torch.randint(1, 4, (30,)))
    found = noise(level, torch.randn(2, 12, 3))
    buffers = [batch_norm(c, dtype=dtype)[2:4] for c in WIDTHS]

    def run(q, p, second, third, *vectors):
        norms = [
            BatchNorm(*vectors[2 * i : 2 * i + 2], *(b.clone() for b in buffers[i]), training)
            for i in range(3)
        ]
        return group_mlp_max(
            q, p, groups, [second, third], norms, batch_size=2, negative_slope=0.1, noise=found
        )

    shapes = [(24, WIDTHS[0]), (6, WIDTHS[0]), (WIDTHS[1], WIDTHS[0]), (WIDTHS[2], WIDTHS[1])]
    vectors = [t.detach() for c in WIDTHS for t in batch_norm(c, dtype=dtype)[:2]]
    return run, [*(torch.randn(*shape, dtype=dtype) for shape in shapes), *vectors]


@pytest.mark.parametrize("training", [True, False])
def test_gradcheck(training):
    run, inputs = call(torch.float64, training)
    assert torch.autograd.gradcheck(run, [t.requires_grad_() for t in inputs], atol=1e-6)


def test_one_graph_under_compile():
    run, inputs = call(torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")

    def outcome(f):
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = f(*leaves)
        return [out, *torch.autograd.grad((out * out).sum(), leaves)]

    for a, b in zip(outcome(compiled), outcome(run), strict=True):
        torch.testing.assert_close(a, b)


def test_operators_pass_opcheck():
    ops, ptr, idx = torch.ops.dropfold, torch.tensor([0, 8, 12]), torch.randint(0, 9, (12,))
    entries = (
        torch.randn(9, 4),
        torch.randn(2, 4),
        ptr,
        idx,
        torch.tensor([0] * 8 + [1] * 4).int(),
        torch.ones(12),
    )
    weights, vectors, slopes = (
        [torch.randn(5, 4), torch.randn(3, 5)],
        [torch.ones(6, 4), torch.ones(6, 5)],
        [0.1, 0.1],
    )
    one = torch.ones(1)
    none = NoiseArguments(0, one, one, one, torch.zeros(1, dtype=torch.int64))
    offset, top = torch.zeros(5), torch.randn(2, 3)
    where = torch.tensor([[0, 1, 2], [8, 9, -1]]).int()
    gradient = (*entries, weights, vectors, slopes, torch.randn(5, 5), offset, offset, top, where)
    for op, arguments in (
        (ops.group_mlp_max_moments, (*entries, weights[:1], vectors[:1], slopes[:1])),
        (ops.group_mlp_max_moments, (*entries, [], [], [])),
        (ops.group_mlp_max_fwd, (*entries, weights, vectors, slopes, offset, True, *none)),
        (ops.group_mlp_max_sums, (*gradient, 1)),
        (ops.group_mlp_max_bwd, gradient),
    ):
        torch.library.opcheck(op.default, arguments, test_utils=("test_schema", "test_faketensor"))
