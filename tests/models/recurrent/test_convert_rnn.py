"""nn.LSTM and nn.GRU to tensor networks and back: exact where the weights have the form, within eps where asked."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from dropfold.models import TensorGRU, TensorLSTM
from dropfold.models.recurrent.plain import suffix
from tests.models.recurrent.test_tensor_rnn import EXACT, SPECS, D, H, flat, rnn

CLOSED = (
    "tt",
    "tucker",
    "tucker-split",
    "ht",
    "ht-split",
    "ht-interleaved",
    "dense",
)  # not by alternating least squares


def networks(m):
    return [module.weight for module in (*m.mega, *m.ih, *m.hh)]


def assert_same_outputs(a, b, **tolerance):
    x = torch.randn(4, 3, a.input_size, dtype=D)
    for mine, theirs in zip(flat(*a(x)), flat(*b(x)), strict=True):
        torch.testing.assert_close(mine, theirs, **(tolerance or EXACT))


@pytest.mark.parametrize("cell", ["lstm", "gru-after"])
@pytest.mark.parametrize("name", CLOSED)
def test_what_has_the_form_comes_back(name, cell):
    """Two layers, both directions; at the ranks, or with the ranks found for eps."""
    m = rnn(name, "both", cell, 2, bidirectional=True, dropout=0.3).eval()
    if cell == "lstm":
        plain, back = m.to_nn_lstm(), TensorLSTM.from_nn_lstm
        assert type(plain) is nn.LSTM
    else:
        plain, back = m.to_nn_gru(), TensorGRU.from_nn_gru
        assert type(plain) is nn.GRU
    assert (plain.dropout, plain.bidirectional, plain.training) == (0.3, True, False)
    spec = SPECS[name]
    found = [back(plain, ih=spec, hh=spec)]
    if name != "dense":
        free = replace(spec, ranks=())
        found.append(back(plain, ih=free, hh=free, eps=1e-9))
        found.append(back(plain, ih=[free, replace(free, in_modes=(4, 3, 2))], hh=[spec, free], eps=1e-9))
    for again in found:
        assert (again.dropout, again.bidirectional, again.training) == (0.3, True, False)
        assert max(w.error for w in networks(again)) < 1e-8
        assert_same_outputs(again, plain, rtol=0, atol=1e-7)
        assert [w.parameters_count() for w in networks(again)] == [w.parameters_count() for w in networks(m)]
    assert_same_outputs(found[0], plain)


@pytest.mark.parametrize("name", ["tt", "ht"])
def test_a_mega_matrix_comes_back(name):
    """Of 12 + 12 rows that fill the grid: there the plain weights say all that the matrix does."""
    spec = replace(SPECS[name], in_modes=(4, 3, 2))
    m = TensorLSTM(12, H, 2, mega=spec, bidirectional=True).to(D)
    for again in (
        TensorLSTM.from_nn_lstm(m.to_nn_lstm(), mega=spec),
        TensorLSTM.from_nn_lstm(m.to_nn_lstm(), mega=replace(spec, ranks=()), eps=1e-9),
    ):
        assert_same_outputs(again, m, rtol=0, atol=1e-7)
        assert [tuple(w.ranks) for w in networks(again)] == [tuple(w.ranks) for w in networks(m)]


def test_a_mega_matrix_that_does_not_fill_its_grid_holds_both_parts():
    lstm = nn.LSTM(11, H).to(D)
    made = TensorLSTM.from_nn_lstm(lstm, mega=replace(SPECS["tt"], in_modes=(5, 3, 2), ranks=()), eps=1e-12)
    assert_same_outputs(made, lstm)


@pytest.mark.parametrize("eps", [0.7, 0.3, 0.05])
@pytest.mark.parametrize("name", ["tt", "ht", "tucker"])
def test_eps_is_kept_and_the_error_is_true(name, eps):
    lstm = nn.LSTM(12, H, 2).to(D)
    free = replace(SPECS[name], ranks=())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*largest useful one")  # of random matrices nearly all is kept
        made = TensorLSTM.from_nn_lstm(lstm, ih=free, hh=free, eps=eps)
    for k in range(2):
        for matrix, weight, of in zip(made.matrices(k), ("ih", "hh"), (made.ih[k], made.hh[k])):
            right = getattr(lstm, f"weight_{weight}_{suffix(k, 1)}").T
            error = ((matrix - right).norm() / right.norm()).item()
            assert of.weight.error == pytest.approx(error, abs=1e-12)
            assert error <= eps * (1 + 1e-12)


def test_alternating_least_squares_report_what_they_reached():
    lstm = nn.LSTM(12, H).to(D)
    made = TensorLSTM.from_nn_lstm(lstm, ih=SPECS["cp"], hh=SPECS["bt"])
    for matrix, network in zip(made.matrices(0), networks(made)):
        right = (lstm.weight_ih_l0 if network is made.ih[0].weight else lstm.weight_hh_l0).T
        assert network.error == pytest.approx(((matrix - right).norm() / right.norm()).item(), abs=1e-9)
        assert 0.1 < network.error < 1


@pytest.mark.parametrize("bias", [False, True])
def test_biases_are_kept_apart_where_they_must(bias):
    """A GRU's hidden bias of n stands inside the reset; all others add up."""
    gru = nn.GRU(12, H, 2, bias=bias, bidirectional=True).to(D)
    made = TensorGRU.from_nn_gru(gru)
    assert_same_outputs(made, gru)
    again = made.to_nn_gru()
    assert again.bias == bias
    if bias:
        torch.testing.assert_close(again.bias_hh_l1[2 * H :], gru.bias_hh_l1[2 * H :], rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")  # the exporters' own
def test_the_plain_module_exports():
    m = rnn("tt", "both", "lstm", 2, batch_first=True).float()
    plain = m.to_nn_lstm().eval()
    x = torch.randn(2, 4, 12)
    traced = torch.jit.trace(plain, x)
    exported = torch.export.export(plain, (x,)).module()
    for other in (traced, exported):
        torch.testing.assert_close(other(x)[0], m(x)[0])


def test_one_layer_with_dropout_becomes_plain_without_a_warning():
    assert rnn("tt", "ih", "lstm", dropout=0.5).to_nn_lstm().dropout == 0


def test_what_cannot_be_converted_is_named():
    for call, message in (
        (lambda: TensorLSTM.from_nn_lstm(nn.LSTM(12, H, proj_size=3)), "proj_size 3 is not supported"),
        (
            lambda: TensorLSTM.from_nn_lstm(nn.LSTM(12, H), ih=replace(SPECS["tt"], ranks=())),
            "tt needs ranks",
        ),
        (lambda: TensorGRU.from_nn_gru(nn.GRU(12, H), reset="before"), "nn.GRU resets after the product"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
