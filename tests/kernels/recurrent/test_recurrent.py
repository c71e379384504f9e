"""kron_linear and the sequences: the reference in float64, gradcheck, one graph, opcheck, no spill, one launch."""

from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from dropfold.kernels import gru_sequence, kron_linear, lstm_sequence
from dropfold.kernels.noise.philox.operation import uniform
from dropfold.kernels.recurrent.gru_sequence import operation as gru_operation
from dropfold.kernels.recurrent.gru_sequence import reference as gru_reference
from dropfold.kernels.recurrent.gru_sequence import triton as gru_sequence_triton
from dropfold.kernels.recurrent.kron_linear import cpu as kron_linear_cpu
from dropfold.kernels.recurrent.kron_linear import operation as kron_linear_operation
from dropfold.kernels.recurrent.kron_linear import reference as kron_reference
from dropfold.kernels.recurrent.kron_linear import triton as kron_linear_triton
from dropfold.kernels.recurrent.lstm_sequence import operation as lstm_operation
from dropfold.kernels.recurrent.lstm_sequence import reference as lstm_reference
from dropfold.kernels.recurrent.lstm_sequence import triton as lstm_sequence_triton
from tests.kernels.cases import EXACT
from tests.kernels.gates import compile_only, launches

D = torch.float64
T, B, H = 5, 3, 12

# A and C for [12, 12 gates]: u (v if u is 1) is 4 times as large for an LSTM, and 3 times for a GRU.
FACTORS = {
    "square": ((3, 4, 4), (3, 3, 3)),
    "right": ((9, 2, 6), (9, 6, 2)),
    "left": ((5, 6, 2), (5, 2, 6)),
    "low-rank": ((2, 12, 1), (2, 1, 12)),
    "dense": ((1, 1, 1), (1, 12, 12)),
}


def factors(name, gates=1, dtype=D):
    (s, p, u), (_, q, v) = FACTORS[name]
    u, v = (gates * u, v) if u > 1 else (u, gates * v)
    a = torch.ones(1, 1, 1, dtype=dtype) if name == "dense" else torch.randn(s, p, u, dtype=dtype) / 2
    return a.requires_grad_(), (torch.randn(s, q, v, dtype=dtype) / 2).requires_grad_()


def as_tuple(out):
    return out if isinstance(out, tuple) else (out,)


def compare(mine, right, leaves):
    mine, right = as_tuple(mine), as_tuple(right)
    seeds = [torch.randn_like(v) for v in right]
    for a, b in zip(mine, right, strict=True):
        torch.testing.assert_close(a, b, **EXACT)
    for a, b in zip(
        torch.autograd.grad(mine, leaves, seeds), torch.autograd.grad(right, leaves, seeds), strict=True
    ):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("bytes_", [False, True])
@pytest.mark.parametrize("name", FACTORS)
def test_kron_linear_is_its_reference(name, bytes_):
    a, c = factors(name)
    bias = torch.randn(12, dtype=D, requires_grad=True)
    x = torch.randint(0, 256, (4, 7, 12), dtype=torch.uint8) if bytes_ else torch.randn(4, 7, 12, dtype=D)
    leaves = [a, c, bias] + ([] if bytes_ else [x.requires_grad_()])
    mine, right = (f(x, a, c, bias, scale=0.01, shift=-0.7) for f in (kron_linear, kron_reference))
    compare(mine, right, leaves)


def test_the_reference_of_kron_linear_is_numpys_kronecker_product():
    a, c = (t.detach() for t in factors("square"))
    x = torch.randint(0, 256, (5, 12), dtype=torch.uint8)
    w = sum(np.kron(a[s].numpy(), c[s].numpy()) for s in range(len(a)))
    right = (x.numpy() * 0.01 - 0.7) @ w + 3.0
    mine = kron_reference(x, a, c, torch.full((12,), 3.0, dtype=D), scale=0.01, shift=-0.7)
    np.testing.assert_allclose(mine, right, **EXACT)


def test_kron_linear_takes_chunks_of_a_large_input():
    """More rows than one chunk that stays in the cache, and a last one that is not whole."""
    a, c = (torch.randn(2, n, 3, dtype=D, requires_grad=True) for n in (300, 200))
    x = torch.randn(41, 60_000, dtype=D, requires_grad=True)
    assert x.numel() > 2 * kron_linear_cpu.NUMBERS_PER_CHUNK
    compare(kron_linear(x, a, c) / 100, kron_reference(x, a, c) / 100, [x, a, c])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [5, 1, 3]])
@pytest.mark.parametrize("name", FACTORS)
def test_lstm_sequence_is_its_reference(name, lengths, reverse):
    a, c = factors(name, 4)
    gx, h0, c0 = (torch.randn(n, dtype=D, requires_grad=True) for n in ((T, B, 4 * H), (B, H), (B, H)))
    options = {"reverse": reverse, "lengths": lengths and torch.tensor(lengths)}
    options |= {"recurrent_dropout": 0.4, "seed": torch.tensor(5)}
    mine, right = (f(gx, a, c, h0, c0, **options) for f in (lstm_sequence, lstm_reference))
    compare(mine, right, [gx, a, c, h0, c0])


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [5, 1, 3]])
@pytest.mark.parametrize("name", FACTORS)
def test_gru_sequence_is_its_reference(name, lengths, reverse, reset):
    a, c = factors(name, 3)
    gx, h0 = (torch.randn(n, dtype=D, requires_grad=True) for n in ((T, B, 3 * H), (B, H)))
    b_n = torch.randn(H, dtype=D, requires_grad=True) if reset == "after" else None
    options = {"reverse": reverse, "lengths": lengths and torch.tensor(lengths)}
    options |= {"recurrent_dropout": 0.4, "seed": torch.tensor(5)}
    mine, right = (f(gx, a, c, b_n, h0, **options) for f in (gru_sequence, gru_reference))
    compare(mine, right, [gx, a, c, h0] + ([] if b_n is None else [b_n]))


def test_first_states_are_zero_where_none_are_given():
    gx, zeros = torch.randn(T, B, 4 * H, dtype=D), torch.zeros(B, H, dtype=D)
    for run in (lstm_sequence, lstm_reference):
        for mine, right in zip(run(gx, *factors("square", 4)), run(gx, *factors("square", 4), zeros, zeros)):
            assert mine.shape == right.shape
    a, c = factors("square", 4)
    compare(lstm_sequence(gx, a, c), lstm_reference(gx, a, c, zeros, zeros), [a, c])
    a, c = factors("square", 3)
    compare(gru_sequence(gx[..., : 3 * H], a, c), gru_reference(gx[..., : 3 * H], a, c, None, zeros), [a, c])


def packed(module, gx, lengths, states):
    """Outputs and last states of PyTorch's module, both directions, on a packed sequence."""
    x = nn.utils.rnn.pack_padded_sequence(gx, lengths, enforce_sorted=False)
    out, last = module(x, states)
    return nn.utils.rnn.pad_packed_sequence(out)[0], last


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_references_are_pytorchs_modules(kind):
    """With the same weights, in both directions, on packed sequences: the identity as W passes gx on."""
    torch.manual_seed(3)
    gates, lengths = 4 if kind == "lstm" else 3, torch.tensor([5, 1, 3])
    make = nn.LSTM if kind == "lstm" else nn.GRU
    module = make(gates * H, H, bidirectional=True, dtype=D).requires_grad_(False)
    gx, h0, c0 = torch.randn(T, B, gates * H, dtype=D), *torch.randn(2, 2, B, H, dtype=D)
    b_n = torch.randn(2, H, dtype=D)
    for direction in ("l0", "l0_reverse"):
        nn.init.eye_(getattr(module, f"weight_ih_{direction}"))
        for bias in ("ih", "hh"):
            nn.init.zeros_(getattr(module, f"bias_{bias}_{direction}"))
    if kind == "gru":
        module.bias_hh_l0[2 * H :], module.bias_hh_l0_reverse[2 * H :] = b_n
    right, last = packed(module, gx, lengths, (h0, c0) if kind == "lstm" else h0)
    for d, weight in enumerate((module.weight_hh_l0, module.weight_hh_l0_reverse)):
        a, c = torch.ones(1, 1, 1, dtype=D), weight.T[None]
        options = {"lengths": lengths, "reverse": d == 1}
        if kind == "lstm":
            out, *states = lstm_reference(gx, a, c, h0[d], c0[d], **options)
        else:
            out, *states = gru_reference(gx, a, c, b_n[d], h0[d], **options)
        torch.testing.assert_close(out, right[..., d * H : (d + 1) * H], **EXACT)
        for mine, its in zip(states, last if kind == "lstm" else (last,), strict=True):
            torch.testing.assert_close(mine, its[d], **EXACT)


def test_the_reset_stands_anywhere_for_a_diagonal_matrix():
    """(r h) diag(d) = r (h diag(d)): the form "before", which nn.GRU does not have, is then the form "after"."""
    u = torch.randn(H, 3 * H, dtype=D)
    u[:, 2 * H :] = torch.randn(H, dtype=D).diag()
    gx, h0, zeros = torch.randn(T, B, 3 * H, dtype=D), torch.randn(B, H, dtype=D), torch.zeros(H, dtype=D)
    a, c = torch.ones(1, 1, 1, dtype=D), u[None]
    for mine, right in zip(gru_reference(gx, a, c, None, h0), gru_reference(gx, a, c, zeros, h0)):
        torch.testing.assert_close(mine, right, **EXACT)
    u[0, 3 * H - 1] = 1.0  # not diagonal: the forms differ
    assert (gru_reference(gx, a, c, None, h0)[0] - gru_reference(gx, a, c, zeros, h0)[0]).abs().max() > 1e-3


def test_recurrent_dropout_multiplies_h_by_one_mask_at_all_steps():
    """Frame by frame: a call for each, on states whose dropped units are 0 and whose others are divided by 1 - p."""
    (a, c), seed = factors("square", 4), torch.tensor(5)
    gx, h, cell = torch.randn(T, B, 4 * H, dtype=D), *torch.randn(2, B, H, dtype=D)
    keep_scale = (uniform(seed, B * H) >= 0.4).view(B, H) / 0.6
    assert 0 < (keep_scale == 0).sum() < B * H
    outs = [
        run(gx, a, c, h, cell, recurrent_dropout=0.4, seed=seed)[0] for run in (lstm_sequence, lstm_reference)
    ]
    for t in range(T):
        frame, h, cell = lstm_sequence(gx[t : t + 1], a, c, h * keep_scale, cell)
        for out in outs:
            torch.testing.assert_close(out[t], frame[0], **EXACT)


def outcomes(run, gx, *more):
    """Values and gradients of all inputs."""
    leaves = [t.detach().clone().requires_grad_() for t in (gx, *more)]
    out = run(*leaves)
    return [*out, *torch.autograd.grad([y.square().sum() for y in out], leaves)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru after", "gru before"])
def test_frames_after_the_length_are_not_read(kind, reverse):
    """Neither in forward nor, where they are NaN, in backward; nor by the reference."""
    gates, more = (4, ()) if kind == "lstm" else (3, (torch.randn(H, dtype=D),) * (kind == "gru after"))
    gx = torch.randn(T, B, gates * H, dtype=D)
    options = {"lengths": torch.tensor([5, 1, 3]), "reverse": reverse}
    spoilt = gx.clone()
    spoilt[3:, 2] = torch.nan
    inputs = (*factors("square", gates), *more)
    for run in (lstm_sequence, lstm_reference) if kind == "lstm" else (gru_sequence, gru_reference):
        spoilt_outcomes, right_outcomes = (
            outcomes(partial(run, **options), x, *inputs) for x in (spoilt, gx)
        )
        for mine, right in zip(spoilt_outcomes, right_outcomes):
            assert torch.equal(mine, right)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gates_are_saved_for_backward_alone(kind):
    module, sequence, gates = (
        (lstm_operation, lstm_sequence, 4) if kind == "lstm" else (gru_operation, gru_sequence, 3)
    )
    inputs = (torch.randn(T, B, gates * H, dtype=D), *factors("square", gates))
    frozen = [t.detach() for t in inputs]
    with mock.patch.object(module, "_fwd", side_effect=module._fwd) as forward:
        sequence(*inputs)
        sequence(*frozen)
        with torch.no_grad():
            sequence(*inputs)
    assert [call.args[-1] for call in forward.call_args_list] == [True, False, False]


def calls(dtype=D):
    """Each operation with its differentiable inputs: name -> (function of them, inputs); two rows of three steps."""
    gx, x = torch.randn(3, 2, 4 * H, dtype=dtype), torch.randn(6, 12, dtype=dtype)
    lengths, seed = torch.tensor([3, 1]), torch.tensor(2)
    pair, four, three = (factors("square", gates, dtype) for gates in (1, 4, 3))
    h, bias = torch.randn(2, H, dtype=dtype), torch.randn(H, dtype=dtype)
    more = {"lengths": lengths, "recurrent_dropout": 0.3, "seed": seed}
    return {
        "kron_linear": (lambda x, a, c, b: kron_linear(x, a, c, b, scale=0.5, shift=0.1), (x, *pair, bias)),
        "lstm_sequence": (lambda g, a, c, h: lstm_sequence(g, a, c, h, 2 * h, **more), (gx, *four, h)),
        "lstm_sequence, reverse": (
            lambda g, a, c, h: lstm_sequence(g, a, c, h, reverse=True),
            (gx, *four, h),
        ),
        "gru_sequence": (
            lambda g, a, c, b, h: gru_sequence(g, a, c, b, h, **more),
            (gx[..., : 3 * H].clone(), *three, bias, h),
        ),
        "gru_sequence, before": (
            lambda g, a, c, h: gru_sequence(g, a, c, None, h, reverse=True, **more),
            (gx[..., : 3 * H].clone(), *three, h),
        ),
    }


NAMES = list(calls())


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    run, inputs = calls()[name]
    assert torch.autograd.gradcheck(run, [t.detach().requires_grad_() for t in inputs], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_one_graph_under_compile(name):
    run, inputs = calls(torch.float32)[name]
    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")

    def outcome(f):
        leaves = [t.detach().clone().requires_grad_() for t in inputs]
        out = as_tuple(f(*leaves))
        return [*out, *torch.autograd.grad([(y * y).sum() for y in out], leaves)]

    for a, b in zip(outcome(compiled), outcome(run)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_near(name, dtype):
    """Within 24 units in the last place of the largest value: products are rounded once a step, over three steps."""
    run, inputs = calls(torch.float32)[name]
    right = run(*inputs)
    mine = run(*(t.to(dtype) for t in inputs))
    for a, b in zip(as_tuple(mine), as_tuple(right)):
        assert a.dtype == dtype
        assert (a.float() - b).abs().max() <= 24 * torch.finfo(dtype).eps * b.abs().max()


def test_operators_pass_opcheck():
    ops, (a, c), (a4, c4), (a3, c3) = (
        torch.ops.dropfold,
        *(factors("square", g, torch.float32) for g in (1, 4, 3)),
    )
    a, c, a4, c4, a3, c3 = (v.detach() for v in (a, c, a4, c4, a3, c3))
    x, gx, h = torch.randn(6, 12), torch.randn(T, B, 4 * H), torch.randn(B, H)
    lengths, keep_scale = torch.tensor([5, 1, 3]), torch.ones(B, H)
    y, t = ops.kron_linear_fwd(x, a, c, None, 1.0, 0.0)
    hs, cs, gates = ops.lstm_sequence_fwd(gx, a4, c4, h, h, lengths, keep_scale, False, True)
    gx3 = gx[..., : 3 * H].contiguous()
    hs3, gates3 = ops.gru_sequence_fwd(gx3, a3, c3, None, h, lengths, keep_scale, False, True)
    for op, arguments in (
        (ops.kron_linear_fwd, (x, a, c, None, 1.0, 0.0)),
        (ops.kron_linear_bwd, (y, x, t, a, c, 1.0, 0.0, True)),
        (ops.lstm_sequence_fwd, (gx, a4, c4, h, h, lengths, keep_scale, False, True)),
        (ops.lstm_sequence_fwd, (gx, a4, c4, h, h, None, None, True, False)),
        (ops.lstm_sequence_bwd, (hs[1:], h, h, gates, hs, cs, a4, c4, lengths, keep_scale, False)),
        (ops.gru_sequence_fwd, (gx3, a3, c3, h[0], h, lengths, keep_scale, False, True)),
        (ops.gru_sequence_bwd, (hs3[1:], h, gates3, hs3, a3, c3, None, lengths, keep_scale, False)),
    ):
        torch.library.opcheck(op.default, arguments, test_utils=("test_schema", "test_faketensor"))


def test_bad_input_is_named():
    a, c = factors("square", 4, torch.float32)
    gx = torch.zeros(T, B, 4 * H)
    for call, message in (
        (lambda: kron_linear(torch.zeros(2, 11), a, c), r"x must be \[\.\.\., 12\], .* got \[2, 11\]"),
        (lambda: kron_linear(torch.zeros(0, 12), a, c), r"with a row at least; got \[0, 12\]"),
        (lambda: kron_linear(torch.zeros(2, 12), a, c[0]), r"a must be \[S, p, u\]"),
        (lambda: kron_linear(torch.zeros(2, 12), a, c, torch.zeros(3)), r"bias must be \[48\]"),
        (lambda: lstm_sequence(gx[..., 1:], a, c), r"gx must be \[T, B, 48\]"),
        (lambda: lstm_sequence(gx, a[:, :, :12], c), r"must make a matrix \[H, 4 H\]"),
        (lambda: lstm_sequence(gx, a, c, torch.zeros(2, H)), r"first state must be \[B, H\] = \[3, 12\]"),
        (
            lambda: lstm_sequence(gx, a, c, lengths=torch.tensor([5, 0, 3])),
            "lengths must be from 1 to T = 5; got 0 to 5",
        ),
        (
            lambda: lstm_sequence(gx, a, c, lengths=torch.tensor([5, 6, 3])),
            "lengths must be from 1 to T = 5; got 3 to 6",
        ),
        (
            lambda: lstm_sequence(gx, a, c, lengths=torch.tensor([5.0, 6, 3])),
            r"lengths must be an int64 tensor \[3\]",
        ),
        (lambda: lstm_sequence(gx, a, c, lengths=[5, 6, 3]), r"got \[5, 6, 3\]"),
        (
            lambda: lstm_sequence(gx, a, c, lengths=torch.ones(3, dtype=torch.int64, device="meta")),
            "lengths must be where gx is, on cpu; they are on meta",
        ),
        (lambda: lstm_sequence(gx, a, c, recurrent_dropout=1.0), "at least 0 and below 1; got 1.0"),
        (lambda: gru_sequence(gx, a, c), r"must make a matrix \[H, 3 H\]"),
        (
            lambda: gru_sequence(gx[..., :12], torch.zeros(2, 4, 2), torch.zeros(2, 1, 6)),
            r"u must be 1 or a multiple of 3, .* got a \[2, 4, 2\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match=r"floating point or uint8; got .* int64"):
        kron_linear(torch.zeros(2, 12, dtype=torch.int64), a, c)


@pytest.mark.parametrize(
    ("allow", "expected"),
    [
        ("backends.cuda.matmul.allow_tf32 = True", "tf32"),
        ("set_float32_matmul_precision('high')", "tf32"),
        ("backends.cuda.matmul.fp32_precision = 'tf32'", "tf32"),
        ("backends.cuda.matmul.fp32_precision = 'ieee'", "ieee"),
        ("manual_seed(0)", "ieee"),
    ],
)
def test_products_round_to_tf32_where_torch_is_allowed_to(allow, expected, run_python):
    """By each of torch's settings; once one kind is used, torch refuses to read the other."""
    code = "import torch; from types import SimpleNamespace as N; from dropfold.kernels.backend.launch import precision"
    done = run_python(
        "-c", f"{code}; torch.{allow}; print(precision(N(is_cuda=True)), precision(N(is_cuda=False)))"
    )
    assert done.stdout.split() == [expected, "ieee"], done.stderr


# Hidden matrices: A and C of UCF11's TT and HT, low rank (TR, HT split) and dense at 256; and of wider ones.
HIDDEN = {
    "tt-256": ((4, 16, 64), (4, 16, 16)),
    "ht-256": ((5, 16, 64), (5, 16, 16)),
    "low-rank-256": ((5, 256, 1), (5, 1, 1024)),
    "dense-256": ((1, 1, 1), (1, 256, 1024)),
    "ht-512": ((5, 16, 64), (5, 32, 32)),
    "ht-1024": ((8, 32, 128), (8, 32, 32)),
    "ht-2048": ((8, 32, 128), (8, 64, 64)),
    "dense-2048": ((1, 1, 1), (1, 2048, 8192)),
}
INPUT = {
    "tt-ucf11": ((4, 160, 64), (4, 360, 16)),
    "bt-ucf11": ((32, 160, 64), (32, 360, 16)),
    "low-rank-ucf11": ((50, 57_600, 1), (50, 1, 1024)),
    "tt-cnn": ((10, 64, 128), (10, 32, 64)),
}


def lstm_launches(name, dtype, extras, frames=2, batch=16):
    a, c = (torch.zeros(shape, dtype=dtype) for shape in HIDDEN[name])
    hidden = a.shape[1] * c.shape[1]
    lengths, keep_scale = (
        (torch.ones(batch, dtype=torch.int64), torch.ones(batch, hidden)) if extras else (None, None)
    )
    gx, h = torch.zeros(frames, batch, 4 * hidden, dtype=dtype), torch.zeros(batch, hidden, dtype=dtype)
    hs, wide = torch.zeros(frames + 1, batch, hidden, dtype=dtype), torch.zeros(frames + 1, batch, hidden)
    return launches(
        lstm_sequence_triton.lstm_sequence_fwd, gx, a, c, h, h, lengths, keep_scale, extras, True
    ), launches(
        lstm_sequence_triton.lstm_sequence_bwd,
        hs[1:],
        wide[0],
        wide[0],
        gx,
        hs,
        wide,
        a,
        c,
        lengths,
        keep_scale,
        extras,
    )


def gru_launches(name, dtype, extras, frames=2, batch=16):
    a, c = (torch.zeros(shape, dtype=dtype) for shape in HIDDEN[name])
    a, c = (a[:, :, : 3 * a.shape[2] // 4], c) if a.shape[2] > 1 else (a, c[:, :, : 3 * c.shape[2] // 4])
    hidden = a.shape[1] * c.shape[1]
    b_n = torch.zeros(hidden, dtype=dtype) if extras else None
    gx, h = torch.zeros(frames, batch, 3 * hidden, dtype=dtype), torch.zeros(batch, hidden, dtype=dtype)
    hs = torch.zeros(frames + 1, batch, hidden, dtype=dtype)
    gates = torch.zeros(frames, batch, (4 if extras else 3) * hidden)
    return launches(
        gru_sequence_triton.gru_sequence_fwd, gx, a, c, b_n, h, None, None, False, True
    ), launches(
        gru_sequence_triton.gru_sequence_bwd, hs[1:], h.float(), gates, hs, a, c, b_n, None, None, False
    )


def linear_launches(name, dtype, bytes_, rows=8):
    a, c = (torch.zeros(shape, dtype=dtype) for shape in INPUT[name])
    x = torch.zeros(rows, a.shape[1] * c.shape[1], dtype=torch.uint8 if bytes_ else dtype)
    y, t = kron_linear_operation.empty_fwd_outputs(x, a, c, None, 1.0, 0.0)
    return launches(kron_linear_triton.kron_linear_fwd, x, a, c, y[0], 1.0, 0.0), launches(
        kron_linear_triton.kron_linear_bwd, y, x, t, a, c, 1.0, 0.0, False
    )


def test_a_direction_of_a_layer_is_one_launch():
    for made in (
        *lstm_launches("ht-256", torch.bfloat16, True),
        *gru_launches("ht-256", torch.bfloat16, True),
        *gru_launches("ht-256", torch.float32, False),
        *linear_launches("tt-ucf11", torch.float32, True),
    ):
        assert len(made) == 1


def assert_no_spill(made, targets):
    resources = compile_only([launch for group in made for launch in group], targets)
    bad = [r for r in resources if r.spills or r.registers > 255 or r.shared_bytes > 48 * 1024]
    assert resources
    assert not bad, "\n".join(map(str, bad))


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_no_kernel_spills(target):
    made = [
        *lstm_launches("tt-256", torch.bfloat16, False),
        *lstm_launches("ht-2048", torch.bfloat16, True),
        *lstm_launches("low-rank-256", torch.float32, False),
        *gru_launches("ht-256", torch.bfloat16, True),
        *linear_launches("tt-ucf11", torch.bfloat16, True),
    ]
    assert_no_spill(made, [target])


def test_one_frame_of_one_row_compiles():
    """Triton makes a constant of an argument that is 1, and constants have no methods."""
    made = [*linear_launches("tt-ucf11", torch.float32, True, rows=1)]
    for extras in (False, True):
        made += lstm_launches("ht-256", torch.float32, extras, 1, 1)
        made += gru_launches("ht-256", torch.float32, extras, 1, 1)
    assert_no_spill(made, ["sm_90"])


@pytest.mark.slow
@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_kernel_spills_at_any_shape(dtype, extras):
    targets = ["sm_80", "sm_90", "sm_100", "gfx942"]
    for name in HIDDEN:
        assert_no_spill([*lstm_launches(name, dtype, extras), *gru_launches(name, dtype, extras)], targets)
    for name in INPUT:
        assert_no_spill(linear_launches(name, dtype, extras), targets)
