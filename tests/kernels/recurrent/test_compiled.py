"""The compiled loops of the CPU: each form of a matrix, and each way in which threads share a sequence."""

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from dropfold.kernels import gru_sequence, lstm_sequence
from dropfold.kernels.backend.numba import launch, njit
from dropfold.kernels.recurrent.gru_sequence import cpu as gru_cpu
from dropfold.kernels.recurrent.gru_sequence import reference as gru_reference
from dropfold.kernels.recurrent.kron import compiled
from dropfold.kernels.recurrent.kron.factors import reconstruct
from dropfold.kernels.recurrent.lstm_sequence import cpu as lstm_cpu
from dropfold.kernels.recurrent.lstm_sequence import reference as lstm_reference
from dropfold.kernels.recurrent.sequence import compiled as shares
from tests.kernels.cases import EXACT
from tests.kernels.recurrent.test_recurrent import FACTORS, compare, factors

D = torch.float64


@njit
def multiply(w, x, rows, out):
    columns = w.rows_out * w.columns_out
    compiled.multiply_rows(w, x, 0, rows, out, 0, np.empty(w.between, x.dtype), 0, columns, 1)


def product(w, x):
    out = x.new_empty(len(x), w.rows_out * w.columns_out)
    launch(multiply, w, x.reshape(-1), len(x), out.view(-1))
    return out


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", [name for name in FACTORS if name != "dense"])
def test_factors_multiply_as_their_matrix(name, transposed):
    a, c = (t.detach() for t in factors(name, 4))
    w = reconstruct(a, c)
    w = w.T if transposed else w
    x = torch.randn(5, w.shape[0], dtype=D)
    torch.testing.assert_close(product(compiled.pack_factors(a, c, transposed), x), x @ w, **EXACT)


@pytest.mark.parametrize("rows", [1, 3, 4, 17])
@pytest.mark.parametrize("shape", [(12, 48), (7, 5), (9, 21), (600, 131)])
def test_a_dense_matrix_is_packed_or_read_as_it_is(shape, rows):
    w, x = torch.randn(shape, dtype=D), torch.randn(rows, shape[0], dtype=D)
    packed = compiled.pack_dense(w, rows)
    assert packed.form == (compiled.ROWS if rows < 4 else compiled.DENSE)
    torch.testing.assert_close(product(packed, x), x @ w, **EXACT)


# U [HIDDEN, HIDDEN gates] as itself, and as factors that are multiplied by.
HIDDEN = 96  # three panels of the widest registers, and more of others
KINDS = {"dense": ((1, 1, 1), (1, HIDDEN, HIDDEN)), "factors": ((1, 12, 8), (1, 8, 12))}


WAYS = [
    (way, batch, network, kind)
    for way, batch in (("rows", 5), ("units", 5), ("units", 3), ("alone", 3))
    for network in ("lstm", "gru after", "gru before")
    for kind in KINDS
    if way != "units" or (kind == "dense" and network != "gru before")  # units of one dense matrix
]


@pytest.mark.parametrize("lengths", [None, [6, 1, 4, 6, 2]])
@pytest.mark.parametrize(("way", "batch", "network", "kind"), WAYS)
def test_threads_share_rows_or_units(network, kind, lengths, way, batch, monkeypatch):
    frames, hidden, lengths = 6, HIDDEN, lengths and lengths[:batch]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    never, always = 1e30, 0
    monkeypatch.setattr(shares, "MIN_STEP_NANOSECONDS", always if way == "units" else never)
    monkeypatch.setattr(shares, "MIN_SHARED_NANOSECONDS", never if way == "alone" else always)
    launched, launch_shares = [], shares.launch_shares

    def record(function, plan, *arguments):
        launched.append((len(plan.parts), plan.steps_together))
        launch_shares(function, plan, *arguments)

    for cpu in (gru_cpu, lstm_cpu):
        monkeypatch.setattr(cpu, "launch_shares", record)
    gates = 4 if network == "lstm" else 3
    (s, p, u), c_shape = KINDS[kind]
    c_shape = (*c_shape[:2], c_shape[2] * (gates if kind == "dense" else 1))
    a = torch.ones(1, 1, 1, dtype=D) if kind == "dense" else torch.randn(s, p, gates * u, dtype=D) / 2
    c = torch.randn(c_shape, dtype=D) / 3
    states = torch.randn(2 if network == "lstm" else 1, batch, hidden, dtype=D)
    gx, *leaves = (
        t.requires_grad_() for t in (torch.randn(frames, batch, gates * hidden, dtype=D), a, c, *states)
    )
    run, reference = (lstm_sequence, lstm_reference) if network == "lstm" else (gru_sequence, gru_reference)
    if network != "lstm":
        leaves.insert(2, torch.randn(hidden, dtype=D, requires_grad=True) if network == "gru after" else None)
    options = {
        "lengths": lengths and torch.tensor(lengths),
        "recurrent_dropout": 0.3,
        "seed": torch.tensor(3),
    }
    mine, right = (f(gx, *leaves, **options) for f in (run, reference))
    compare(mine, right, [gx, *(leaf for leaf in leaves if leaf is not None)])
    number = 1 if way == "alone" else 3
    assert set(launched) == {(number, 1 if way == "units" else frames)}


def test_units_are_shared_where_u_is_large_and_the_rows_are_few():
    def plan(batch, hidden, frames=10):
        steps = shares.plan_steps(torch.empty(batch, hidden), frames, False, None, None)
        u = torch.empty(1, hidden, 4 * hidden)
        return shares.plan_shares(steps, compiled.make_matrix(torch.ones(1, 1, 1), u, batch, frames, False))

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert plan(1, 1024).parts.tolist() == [[0, 1, 0, 512], [0, 1, 512, 1024]]
        assert plan(256, 64).parts.tolist() == [[0, 128, 0, 64], [128, 256, 0, 64]]
        assert plan(1, 16, 1).parts.tolist() == [[0, 1, 0, 16]]
    finally:
        torch.set_num_threads(threads)
