"""group_mlp_max, through its two layers, equals its reference on members made whole, in float64."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dropfold.kernels import Groups, group_mlp_max, knn
from dropfold.kernels.backend.workers import each
from dropfold.kernels.group_mlp_max import compiled_chain, first_layer, operators, reference
from dropfold.kernels.group_mlp_max.cpu_passes import OnCPU
from dropfold.kernels.points.clouds import global_idx
from dropfold.models.layers.grouped import EdgeConv2, GroupMLPMax
from tests.kernels.cases import EXACT, batch_norm, noise

ROOT = Path(__file__).parents[3]
LEVELS = [None, "feat", "point", "cluster"]
B, N, G, K = 2, 60, 50, 7


def balls(points, groups, k):
    """Random groups of 1 .. k rows, the first standing for the copies that are missing."""
    size = torch.randint(1, k + 1, (groups,))
    size[:2] = torch.tensor([k, 1])
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), size.cumsum(0)])
    idx = torch.cat([torch.randperm(points)[:n] for n in size.tolist()])
    count = torch.ones_like(idx)
    count[ptr[:-1]] += k - size
    return Groups(ptr, idx, count)


def prepared(layer, training):
    """The layer in float64 with gammas of both signs and buffers of its own, and a copy for the reference."""
    layer = layer.double().train(training)
    for module, norm in ((part, batch_norm(part.norm.num_features)) for part in layer.layers):
        for name, value in zip(("weight", "bias", "running_mean", "running_var"), norm, strict=False):
            getattr(module.norm, name).data.copy_(value.detach())
    return layer, copy.deepcopy(layer)


def textbook(layer, q, p, groups, **options):
    """The layers on the members q_j + p_g of groups, all of them made."""
    weights, biases = zip(*((part.linear.weight, part.linear.bias) for part in layer.layers), strict=True)
    norms = [None, *(part.batch_norm() for part in layer.layers)]
    return reference(q, p, groups, weights, norms, [None, *biases], **options)


def compare(ours, theirs, leaves, layers):
    """Outputs, gradients of the leaves and of all parameters, running buffers."""
    torch.testing.assert_close(ours, theirs, **EXACT)
    weight = torch.randn_like(ours)
    for out in (ours, theirs):
        (out * weight).sum().backward()
    mine, other = layers
    for a, b in [*leaves, *zip(mine.parameters(), other.parameters(), strict=True)]:
        none = torch.zeros_like(a)  # a bias before a BatchNorm that trains: autograd gives it rounding
        # Sums of a few hundred float64 terms through up to four BatchNorms with gammas down to 1e-2.
        torch.testing.assert_close(
            none if a.grad is None else a.grad, none if b.grad is None else b.grad, rtol=0, atol=1e-10
        )
    for a, b in zip(mine.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def twice(*tensors):
    return [(t.clone().requires_grad_(), t.clone().requires_grad_()) for t in tensors]


def passes_in_a_row(monkeypatch):
    """As where a compiled loop has no product of this type."""
    monkeypatch.setattr(compiled_chain, "routine", lambda dtype: 0)


@pytest.fixture(params=["one tile", "small tiles", "passes in a row", "passes in a row, small tiles"])
def _tiles(request, monkeypatch):
    """Also with tiles smaller than some groups, shared by two threads, and vectors in pieces."""
    before = torch.get_num_threads()
    # On AMD's processors, too, tests take the compiled chain.
    monkeypatch.setattr(compiled_chain, "wide", lambda: False)
    if "passes" in request.param:
        passes_in_a_row(monkeypatch)
    if "small" in request.param:
        monkeypatch.setattr(compiled_chain, "NUMBERS_PER_PIECE", 30)
        monkeypatch.setattr(compiled_chain, "NUMBERS_PER_TILE", 100)
        monkeypatch.setattr(OnCPU, "tile", staticmethod(lambda channels: 5))
        monkeypatch.setattr(first_layer, "ROWS_PER_PIECE", 16)
        torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("channels", "widths"), [(5, (8,)), (0, (8, 9)), (5, (8, 12, 6)), (2, (4, 5, 6, 7))])
def test_set_abstraction_is_its_reference(channels, widths, level, training):
    pos, centres = torch.randn(B * N, 3).double() + 3, torch.randn(G, 3).double() + 3
    features = [torch.randn(B * N, channels).double()] if channels else []
    groups, found = balls(B * N, G, K), noise(level, pos.view(B, N, 3))
    slope = 0.0 if channels == 5 else 0.2
    ours, theirs = prepared(GroupMLPMax(channels, widths, negative_slope=slope), training)
    leaves = twice(pos, centres, *features)
    (p1, c1, *f1), (p2, c2, *f2) = zip(*leaves, strict=True)
    got = ours(f1[0] if f1 else None, p1, c1, groups, found, batch_size=B)
    q, p = torch.cat([p2, *f2], 1), torch.cat([-c2, c2.new_zeros(G, channels)], 1)
    right = textbook(theirs, q, p, groups, batch_size=B, negative_slope=slope, noise=found)
    compare(got, right, leaves, (ours, theirs))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("n", "k", "widths"), [(7, 7, (5, 6)), (63, 8, (16, 9)), (63, 8, (4,))])
def test_edge_conv_of_layers_is_its_reference(n, k, widths, level, training):
    x = torch.randn(B, n, 5).double()
    idx, found = knn(x, k), noise(level, x)
    ours, theirs = prepared(EdgeConv2(5, widths), training)
    ((x1, x2),) = leaves = twice(x)
    rows = x2.flatten(0, 1)
    q, p = torch.cat([rows, 0 * rows], 1), torch.cat([-rows, rows], 1)
    lists = Groups(torch.arange(len(rows) + 1) * k, global_idx(idx).flatten())
    right = textbook(theirs, q, p, lists, batch_size=B, negative_slope=0.2, noise=found)
    compare(ours(x1, idx, found).flatten(0, 1), right, leaves, (ours, theirs))


def test_a_copy_is_an_entry_more():
    groups = balls(40, 9, 4)
    padded = Groups(torch.arange(10) * 4, groups.padded(4).flatten())
    ours, theirs = prepared(GroupMLPMax(0, (6, 5, 4)), True)
    pos, centres = torch.randn(40, 3).double(), torch.randn(9, 3).double()
    leaves = twice(pos, centres)
    (p1, c1), (p2, c2) = zip(*leaves, strict=True)
    compare(ours(None, p1, c1, groups), theirs(None, p2, c2, padded), leaves, (ours, theirs))


def test_rows_and_dense_clouds_are_one():
    x = torch.randn(3, 20, 4)
    idx, layer = knn(x, 5), EdgeConv2(4, (8, 6)).eval()
    rows = layer(x.flatten(0, 1), global_idx(idx), batch=torch.arange(3).repeat_interleave(20))
    assert torch.equal(layer(x, idx).flatten(0, 1), rows)


@pytest.mark.usefixtures("_tiles")
def test_an_empty_group_and_one_whose_members_are_all_dropped_are_zero():
    layer = GroupMLPMax(0, (6, 5)).double()
    pos, centres = torch.randn(12, 3).double().requires_grad_(), torch.randn(6, 3).double()
    groups = Groups(torch.tensor([0, 0, 4, 4, 9, 9, 9]), torch.arange(9))
    out = layer(None, pos, centres, groups)
    assert (out[[0, 2, 4, 5]] == 0).all()
    assert (out[[1, 3]] != 0).any(1).all()
    found = noise("point", pos.detach()[None], p=0.999999)
    out = layer.eval()(None, pos, centres, groups, found)
    assert (out == 0).all()
    (grad,) = torch.autograd.grad(out.sum(), pos)
    assert (grad == 0).all()


@pytest.mark.parametrize("compiled", [True, False])
def test_two_runs_are_the_same_bits_and_tiles_do_not_matter(compiled, monkeypatch):
    x = torch.randn(2, 500, 6)
    idx, found = knn(x, 8), []
    monkeypatch.setattr(compiled_chain, "wide", lambda: False)
    if not compiled:
        passes_in_a_row(monkeypatch)
    for size in (100_000, 300, 300):
        monkeypatch.setattr(OnCPU, "tile", staticmethod(lambda channels, size=size: size))
        monkeypatch.setattr(compiled_chain, "NUMBERS_PER_PIECE", 24 * size)
        monkeypatch.setattr(compiled_chain, "NUMBERS_PER_TILE", 48 * size)
        torch.manual_seed(3)
        layer, leaf = EdgeConv2(6, (16, 24)), x.clone().requires_grad_()
        out = layer(leaf, idx)
        (out * out).sum().backward()
        found.append((out, leaf.grad, *(p.grad for p in layer.parameters())))
    for whole, a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(whole, a, rtol=1e-3, atol=1e-3)  # float32 sums of 8,000 terms


@pytest.mark.parametrize("level", LEVELS)
def test_float32_gradients_of_both_chains_are_float64s(level, monkeypatch):
    """One group larger than a piece beside small ones, copies, small tiles and two threads."""
    monkeypatch.setattr(compiled_chain, "wide", lambda: False)
    monkeypatch.setattr(compiled_chain, "NUMBERS_PER_PIECE", 300)
    monkeypatch.setattr(compiled_chain, "NUMBERS_PER_TILE", 900)
    ptr = torch.tensor([0, 400, *range(408, 1001, 8)])
    groups = Groups(ptr, torch.randint(300, (1000,)), torch.randint(1, 4, (1000,)))
    pos, centres = torch.randn(300, 3), torch.randn(len(ptr) - 1, 3)
    found, start = noise(level, pos[None]), prepared(GroupMLPMax(0, (12, 16, 24)), True)[0]
    before, gradients = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        for kind in ("float64", "compiled", "passes"):
            if kind == "passes":
                passes_in_a_row(monkeypatch)
            dtype = torch.float64 if kind == "float64" else torch.float32
            layer, leaf = copy.deepcopy(start).to(dtype), pos.to(dtype, copy=True).requires_grad_()
            out = layer(None, leaf, centres.to(dtype), groups, found)
            out.square().sum().backward()
            gradients.append(
                [out.detach(), leaf.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]
            )
    finally:
        torch.set_num_threads(before)
    for right, *others in zip(*gradients, strict=True):
        for got in others:
            # Relative to the largest: sums of a thousand float32 terms through three BatchNorms.
            assert float((got - right).abs().max()) <= 1e-3 * float(right.abs().max()) + 1e-3


def test_a_process_without_rows_has_no_moments():
    q = torch.empty(0, 3)
    nothing = torch.empty(0, dtype=torch.int64)
    entries = (q, q, torch.zeros(1, dtype=torch.int64), nothing, nothing.int(), q.new_empty(0))
    for found in operators.compute_moments(*entries, [], [], []):
        assert torch.equal(found, torch.zeros(3))


def test_float32_statistics_stand_a_large_mean():
    """Positions in metres far from the origin, beta far above gamma: no sum of squares may cancel."""
    layer, exact = prepared(GroupMLPMax(0, (16, 16, 16)), True)
    for part in (*layer.layers, *exact.layers):
        part.norm.weight.data.fill_(0.1)
        part.norm.bias.data.fill_(10)
    pos, groups = torch.randn(4000, 3) + 50, balls(4000, 300, 16)
    centres = pos[groups.idx[groups.ptr[:-1]]]
    got = layer.float()(None, pos, centres, groups)
    right = exact(None, pos.double(), centres.double(), groups)
    # W pos is 50 with 6e-8 of rounding, normalised to 1: 50 * 6e-8 * gamma, a few of them in each of three layers.
    torch.testing.assert_close(got.double(), right, rtol=0, atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_to_the_rounding_of_its_type_and_never_rounds_coordinates(dtype):
    torch.manual_seed(1)
    layer, groups = GroupMLPMax(4, (16, 16, 8)), balls(100, 30, 8)
    pos, centres, features = torch.randn(100, 3) / 50, torch.randn(30, 3) / 50, torch.randn(100, 4)
    exact = layer(features, pos, centres, groups)
    with torch.autocast("cpu", dtype):
        half = layer(features, pos, centres, groups)
        far = layer(features, pos + 16, centres + 16, groups)
    assert half.dtype == dtype
    # Inputs and products of three layers are rounded once each; BatchNorm scales activations to 1.
    assert (half.float() - exact).abs().max() < 24 * torch.finfo(dtype).eps
    # In bfloat16, 16 + 0.02 is 16: rounded coordinates would leave nothing of the positions.
    assert (far.float() - exact).abs().max() < 24 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_under_autocast_point_where_those_in_float32_do(dtype):
    """Units at rest have none: rounding must not wake them."""
    torch.manual_seed(2)
    layer, groups = GroupMLPMax(8, (32, 32, 64)), balls(200, 60, 16)
    pos, centres, features = torch.randn(200, 3), torch.randn(60, 3), torch.randn(200, 8)
    weight, found = torch.randn(60, 64), []
    for half in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=half):
            out = layer(features, pos, centres, groups)
        (out.float() * weight).sum().backward()
        found.append([one.linear.weight.grad.flatten().clone() for one in layer.layers])
    for exact, rounded in zip(*found):
        # Other winners of close maxima turn a textbook form in bfloat16 by some 0.1; units woken made it 0.7.
        assert torch.cosine_similarity(exact, rounded, 0) > 0.97


def test_nan_is_never_swallowed():
    layer = GroupMLPMax(0, (6, 5)).eval()
    pos, groups = torch.randn(12, 3), Groups(torch.tensor([0, 4, 12]), torch.arange(12))
    pos[3] = torch.nan
    assert layer(None, pos, torch.zeros(2, 3), groups)[0].isnan().all()


def test_bad_arguments_are_named():
    pos, centres, groups = (
        torch.randn(12, 3),
        torch.randn(2, 3),
        Groups(torch.tensor([0, 4, 12]), torch.arange(12)),
    )
    layer = GroupMLPMax(2, (6, 5))
    with pytest.raises(ValueError, match=r"features must have the 2 channels .* got 0"):
        layer(None, pos, centres, groups)
    with pytest.raises(ValueError, match="widths must be"):
        GroupMLPMax(2, ())
    plain = GroupMLPMax(0, (6, 5))
    with pytest.raises(ValueError, match=r"p \[G, C\] for the G groups"):
        plain(None, pos, centres[:1], groups)
    with pytest.raises(ValueError, match="from 0 to 11 here"):
        plain(None, pos, centres, groups._replace(idx=groups.idx + 1))
    for ptr in ([0, 4, 11], [0, 13, 12]):
        with pytest.raises(ValueError, match="ptr must go up from 0 to the 12 entries"):
            plain(None, pos, centres, groups._replace(ptr=torch.tensor(ptr)))
    with pytest.raises(ValueError, match="12 rows and batch_size 5"):
        plain(None, pos, centres, groups, batch_size=5)
    with pytest.raises(ValueError, match=r"int64 \[E\], count may be None"):
        plain(None, pos, centres, groups._replace(count=torch.ones(3)))
    with pytest.raises(ValueError, match="counts must be 1 or more; got 0"):
        plain(None, pos, centres, groups._replace(count=torch.arange(12)))
    with pytest.raises(ValueError, match="neighbours must be from 0 to 11"):
        EdgeConv2(3, (6, 5))(pos[None], torch.full((1, 12, 4), 12))
    with pytest.raises(ValueError, match="more than one value"):
        plain(None, pos, centres[:1], Groups(torch.tensor([0, 1]), torch.tensor([0])))
    norms = [batch_norm(c, dtype=torch.float32) for c in (3, 4)]
    with pytest.raises(ValueError, match=r"weights\[0\] must be \[C_out, 3\]"):
        group_mlp_max(pos, centres, groups, [torch.randn(4, 5)], norms)
    with pytest.raises(ValueError, match="at least 0"):
        group_mlp_max(pos, centres, groups, [torch.randn(4, 3)], norms, negative_slope=-1)


def test_workers_keep_to_one_thread_each_and_leave_the_callers_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = each(lambda i: (i, torch.get_num_threads(), torch.is_grad_enabled()), range(9))
        assert found == [(i, 1, False) for i in range(9)]
        assert torch.get_num_threads() == 2
        assert torch.is_grad_enabled()
        with pytest.raises(ZeroDivisionError):
            each(lambda i: 1 // i, [1, 0, 2])
    finally:
        torch.set_num_threads(before)


SYNC = """
import itertools
import sys
import torch
from dropfold.kernels import Groups
from dropfold.models.layers.grouped import GroupMLPMax

rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
pos, centres = torch.randn(80, 3).double(), torch.randn(20, 3).double()
idx, count = torch.randint(0, 80, (100,)), torch.randint(1, 4, (100,))
ptr = torch.arange(21) * 5
weight = torch.randn(20, 4).double()
# Shared out, and all entries in one process.
for widths, (lo, hi) in itertools.product(((6, 5, 4), (4,)), (((0, 7), (7, 20))[rank], ((0, 0), (0, 20))[rank])):
    layers = [GroupMLPMax(0, widths, sync=sync).double() for sync in (False, True)]
    part = Groups(ptr[lo : hi + 1] - ptr[lo], idx[5 * lo : 5 * hi], count[5 * lo : 5 * hi])
    layers[1].load_state_dict(layers[0].state_dict())
    layers[0](None, pos, centres, Groups(ptr, idx, count)).mul(weight).sum().backward()
    layers[1](None, pos, centres[lo:hi], part).mul(weight[lo:hi]).sum().backward()
    for (name, whole), mine in zip(layers[0].named_parameters(), layers[1].parameters()):
        if whole.grad is not None:
            torch.distributed.all_reduce(mine.grad)
            torch.testing.assert_close(mine.grad, whole.grad, rtol=0, atol=1e-10, msg=name)
    for whole, mine in zip(layers[0].buffers(), layers[1].buffers()):
        torch.testing.assert_close(mine, whole, rtol=0, atol=1e-11)
"""


def test_statistics_of_two_processes_are_those_of_one(tmp_path):
    code = [sys.executable, "-c", SYNC]
    running = [
        subprocess.Popen([*code, str(rank), str(tmp_path / "meet")], cwd=ROOT, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
