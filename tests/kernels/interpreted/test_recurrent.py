"""The Triton kernels of kron_linear and the sequences against the CPU's, on the device or in the interpreter."""

import os

import pytest
import torch

from benchmarks.gates import ledger
from dropfold.kernels import gru_sequence, kron_linear, lstm_sequence
from dropfold.kernels.recurrent.gru_sequence import cpu as gru_sequence_cpu
from dropfold.kernels.recurrent.gru_sequence import triton as gru_sequence_triton
from dropfold.kernels.recurrent.kron_linear import cpu as kron_linear_cpu
from dropfold.kernels.recurrent.kron_linear import triton as kron_linear_triton
from dropfold.kernels.recurrent.lstm_sequence import cpu as lstm_sequence_cpu
from dropfold.kernels.recurrent.lstm_sequence import triton as lstm_sequence_triton

# Shapes of A and C for H = 12: a Kronecker sum in either order, low rank, dense.
FACTORS = {
    "right": ((3, 2, 8), (3, 6, 1)),
    "left": ((2, 6, 1), (2, 2, 8)),
    "square": ((3, 4, 4), (3, 3, 2)),
    "low-rank": ((5, 12, 1), (5, 1, 8)),
    "dense": ((1, 1, 1), (1, 12, 8)),
}


def factors(name, gates=1):
    """A and C [12, 12 gates], the gates in A's columns where it has any."""
    (s, p, u), (_, q, v) = FACTORS[name]
    target = 12 * gates
    if u > 1:
        u, v = gates * u * 12 // (u * v), v
    else:
        v = target
    torch.manual_seed(len(name))
    return torch.randn(s, p, u) / (s * p) ** 0.5, torch.randn(s, q, v) / q**0.5


def active(outputs, lengths):
    """Outputs whose last, the saved gates [T, B, ..], is 0 in the inactive rows, where nobody reads it."""
    if lengths is None:
        return outputs
    inside = (torch.arange(len(outputs[-1]))[:, None] < lengths)[..., None]
    return *outputs[:-1], outputs[-1].cpu().where(inside, 0)


def check(mine, right, device):
    for a, b in zip(mine, right):
        # Sums of at most a hundred float32 products of size 1.
        torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=2e-5, equal_nan=True)


@pytest.mark.parametrize("bytes_", [False, True])
@pytest.mark.parametrize("name", [name for name in FACTORS if name != "dense"])
def test_kron_linear(name, bytes_, device):
    a, c = factors(name)
    x = torch.randint(0, 256, (21, 12), dtype=torch.uint8) if bytes_ else torch.randn(21, 12)
    bias, dy = torch.randn(12), torch.randn(21, 12)
    scale, shift = (1 / 64, -2.0) if bytes_ else (1.0, 0.0)
    right = kron_linear_cpu.kron_linear_fwd(x, a, c, bias, scale, shift)
    moved = [v.to(device) for v in (x, a, c)]
    mine = kron_linear_triton.kron_linear_fwd(*moved, bias.to(device), scale, shift)
    check(mine[:1], right[:1], device)  # t has a layout of its own in each
    right_gradients = kron_linear_cpu.kron_linear_bwd(dy, x, right[1], a, c, scale, shift, not bytes_)
    gradients = kron_linear_triton.kron_linear_bwd(
        dy.to(device), moved[0], mine[1], *moved[1:], scale, shift, not bytes_
    )
    check(gradients, right_gradients, device)


def test_partial_sums_of_a_weight_gradient_do_not_overlap(device):
    """300 rows are two parts of 150, which no tile of 16 rows divides."""
    a, c = (torch.randn(2, n, 3) for n in (2, 6))
    x, dy = torch.randn(150, 12), torch.randn(150, 9)
    _, t = kron_linear_cpu.kron_linear_fwd(x, a, c, None, 1.0, 0.0)
    right = kron_linear_cpu.kron_linear_bwd(dy, x, t, a, c, 1.0, 0.0, False)
    x, a, c, dy = to(device, x, a, c, dy)
    _, t = kron_linear_triton.kron_linear_fwd(x, a, c, None, 1.0, 0.0)
    assert len(x) * 2 > kron_linear_triton.ROWS_PER_PART
    for mine, expected in zip(kron_linear_triton.kron_linear_bwd(dy, x, t, a, c, 1.0, 0.0, False), right):
        # Sums of 300 float32 products of size 1 to 10.
        torch.testing.assert_close(mine.cpu(), expected, rtol=1e-5, atol=1e-4)


def to(device, *values):
    return [v if v is None else v.to(device) for v in values]


@pytest.mark.parametrize(("extras", "reverse"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("name", FACTORS)
def test_lstm_sequence(name, extras, reverse, device):
    a, c = factors(name, 4)
    frames, batch = 3, 4
    gx = torch.randn(batch, frames, 48).transpose(0, 1)  # as the modules give it for batch_first
    h0, c0 = torch.randn(2, batch, 12)
    lengths = torch.tensor([1, 3, 2, 3]) if extras else None
    if extras:
        gx[1:, 0] = torch.nan  # after its length
    keep_scale = (torch.rand(batch, 12) > 0.3) / 0.7 if extras else None
    right = lstm_sequence_cpu.lstm_sequence_fwd(gx, a, c, h0, c0, lengths, keep_scale, reverse, True)
    mine = lstm_sequence_triton.lstm_sequence_fwd(
        *to(device, gx, a, c, h0, c0, lengths, keep_scale), reverse, True
    )
    check(active(mine, lengths), active(right, lengths), device)
    grads = torch.randn(frames, batch, 12), *torch.randn(2, batch, 12)
    right_gradients = lstm_sequence_cpu.lstm_sequence_bwd(
        *grads, right[2], *right[:2], a, c, lengths, keep_scale, reverse
    )
    gradients = lstm_sequence_triton.lstm_sequence_bwd(
        *to(device, *grads), mine[2], *mine[:2], *to(device, a, c, lengths, keep_scale), reverse
    )
    check(gradients, right_gradients, device)


@pytest.mark.parametrize(("extras", "reverse"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("name", FACTORS)
def test_gru_sequence(name, reset, extras, reverse, device):
    a, c = factors(name, 3)
    frames, batch = 3, 4
    gx, h0 = torch.randn(frames, batch, 36), torch.randn(batch, 12)
    b_n = torch.randn(12) if reset == "after" else None
    lengths = torch.tensor([1, 3, 2, 3]) if extras else None
    if extras:
        gx[1:, 0] = torch.nan  # after its length
    keep_scale = (torch.rand(batch, 12) > 0.3) / 0.7 if extras else None
    right = gru_sequence_cpu.gru_sequence_fwd(gx, a, c, b_n, h0, lengths, keep_scale, reverse, True)
    mine = gru_sequence_triton.gru_sequence_fwd(
        *to(device, gx, a, c, b_n, h0, lengths, keep_scale), reverse, True
    )
    check(active(mine, lengths), active(right, lengths), device)
    dout, dh = torch.randn(frames, batch, 12), torch.randn(batch, 12)
    right_gradients = gru_sequence_cpu.gru_sequence_bwd(
        dout, dh, right[1], right[0], a, c, b_n, lengths, keep_scale, reverse
    )
    gradients = gru_sequence_triton.gru_sequence_bwd(
        *to(device, dout, dh), mine[1], mine[0], *to(device, a, c, b_n, lengths, keep_scale), reverse
    )
    check(gradients, right_gradients, device)


def with_gaps(t):
    """The same numbers with a wrong one after each."""
    return torch.stack([t, torch.ones_like(t)], -1)[..., 0]


@pytest.mark.parametrize("name", ["right", "left"])
def test_inputs_need_not_be_contiguous(name, device):
    gx, h, x = (torch.randn(n).to(device) for n in ((3, 2, 48), (2, 12), (5, 12)))
    (a, c), (a3, c3), (a4, c4) = (to(device, *factors(name, gates)) for gates in (1, 3, 4))
    lengths = torch.tensor([3, 2], device=device)
    for run, inputs, others in (
        (kron_linear, (x, a, c, x[0].clone()), ()),
        (lambda g, a, c, h, n: lstm_sequence(g, a, c, h, h, lengths=n), (gx, a4, c4, h), (lengths,)),
        (
            lambda g, a, c, b, h, n: gru_sequence(g, a, c, b, h, lengths=n),
            (gx[..., :36].clone(), a3, c3, h[0].clone(), h),
            (lengths,),
        ),
    ):
        outcomes = []
        for change in (torch.clone, with_gaps):
            leaves = [change(t).requires_grad_() for t in inputs]
            out = run(*leaves, *map(change, others))
            out = out if isinstance(out, tuple) else (out,)
            outcomes.append([*out, *torch.autograd.grad([y.square().sum() for y in out], leaves)])
        for mine, right in zip(*outcomes, strict=True):
            # On some processors products of memory that is aligned otherwise round otherwise.
            torch.testing.assert_close(mine, right)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="loads are seen in the interpreter")
@pytest.mark.parametrize("name", FACTORS)
def test_a_barrier_stands_between_threads_that_write_and_read(name):
    gx, h = torch.randn(3, 2, 48), torch.randn(2, 12)
    a, c = factors(name, 4)
    books = [ledger(lstm_sequence_triton.lstm_sequence_fwd, gx, a, c, h, h, None, None, False, True)]
    hs, cs, gates = books[0].result
    books.append(
        ledger(lstm_sequence_triton.lstm_sequence_bwd, hs[1:], h, h, gates, hs, cs, a, c, None, None, False)
    )
    a, c = factors(name, 3)
    for b_n in (None, h[0]):
        books.append(
            ledger(gru_sequence_triton.gru_sequence_fwd, gx[..., :36], a, c, b_n, h, None, None, False, True)
        )
        hs, gates = books[-1].result
        books.append(
            ledger(gru_sequence_triton.gru_sequence_bwd, hs[1:], h, gates, hs, a, c, b_n, None, None, False)
        )
    if name != "dense":
        x, (a, c) = torch.randn(5, 12), factors(name)
        books.append(ledger(kron_linear_triton.kron_linear_fwd, x, a, c, None, 1.0, 0.0))
    assert all(book.stored_bytes for book in books)
    assert [book.unfenced_loads for book in books] == [0] * len(books)
