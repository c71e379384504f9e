"""TensorLinear and its three ways to multiply; the presets, what they count, and how they start."""

import itertools
import math
from unittest import mock

import pytest
import torch

from dropfold.models import (
    TensorGRU,
    TensorLinear,
    TensorLSTM,
    VideoClassifier,
    bt_lstm,
    fdht_lstm,
    ht_lstm,
    rnn_table,
    tr_lstm,
    tt_lstm,
)
from dropfold.models.formats import FormatSpec
from dropfold.models.formats.plan import plan, switches
from tests.models.recurrent.test_tensor_rnn import CELLS, EXACT, SPECS, D, rnn

WAYS = ("lowered", "cores", "reconstructed")
USELESS = "ignore:.*largest useful one"  # the published ranks


@pytest.mark.parametrize("gates", [1, 4])
@pytest.mark.parametrize("name", SPECS)
def test_three_executions_are_one_function(name, gates):
    layer = TensorLinear(12, 12 * gates, SPECS[name], gates=gates).to(D)
    torch.nn.init.normal_(layer.bias)
    leaves = [torch.randn(2, 5, 12, dtype=D, requires_grad=True), *layer.parameters()]
    bytes_ = torch.randint(0, 256, (2, 5, 12), dtype=torch.uint8)
    seed = torch.randn(2, 5, 12 * gates, dtype=D)

    def outcome(run):
        y = run(leaves[0], scale=0.5, shift=-0.25)
        more = run(bytes_, scale=1 / 255, shift=-0.5)
        return [y, more, *torch.autograd.grad(y, leaves, seed)]

    expected = outcome(
        lambda x, scale, shift: (x.to(D) * scale + shift) @ layer.weight.to_dense() + layer.bias
    )
    for way in (None, *WAYS):
        layer.execution = way
        for a, b in zip(outcome(layer), expected):
            torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("name", ["tt", "dense"])
@pytest.mark.parametrize("way", WAYS)
def test_each_execution_is_one_graph_under_compile(name, way):
    layer = TensorLinear(12, 48, SPECS[name], gates=4, execution=way)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 12)
    found = []
    for run in (compiled, layer):
        y = run(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), list(layer.parameters()))])
    for mine, right in zip(*found, strict=True):
        torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("name", ["tt", "dense"])
def test_inputs_have_the_type_of_the_weight_or_autocast_gives_it(name):
    layer, x = TensorLinear(12, 12, SPECS[name]), torch.randn(3, 12)
    for way in (None, *WAYS):
        layer.execution = way
        for scale in (1.0, 2.0):
            with pytest.raises(
                ValueError, match=r"the type of the weight, torch\.float32; got x \[3, 12\] float64"
            ):
                layer(x.to(D), scale=scale)
            with torch.autocast("cpu", torch.bfloat16):
                rounded = layer(x.bfloat16(), scale=scale)
                right = layer(x.bfloat16().float(), scale=scale)
            torch.testing.assert_close(rounded, right)


def test_the_planner_chooses_and_can_be_overruled():
    layer = TensorLinear(256, 1024, FormatSpec("tt", (4,) * 4, (4,) * 4, (4,)), gates=4)
    small, large = torch.randn(1, 256), torch.randn(40, 256)
    with mock.patch.object(layer.weight, "absorb", side_effect=layer.weight.absorb) as absorb:
        layer(small)
        assert absorb.call_count == 1
        layer(large)
        assert absorb.call_count == 1
        layer.execution = "cores"
        layer(large)
        assert absorb.call_count == 2
    with mock.patch.object(layer.weight, "lower", side_effect=layer.weight.lower) as lower:
        layer.execution = "lowered"
        layer(small)
        assert lower.call_count == 1


@pytest.mark.parametrize("name", SPECS)
def test_the_chosen_way_is_the_cheapest_for_every_number_of_rows(name):
    network = SPECS[name].build(12, 12, 4)
    ways = switches(network)
    assert ways[-1][0] == 0
    assert all(a[1] != b[1] for a, b in itertools.pairwise(ways))
    for rows in (*range(1, 200), 1000, 10_000):
        chosen = next(way for start, way in ways if rows >= start)
        found = plan(network, rows)
        assert found.chosen == chosen
        assert found.costs[chosen].total == min(cost.total for cost in found.costs.values())
    assert str(plan(network, 7)).startswith(f"{plan(network, 7).chosen} (lowered 0.0 M multiply-adds, ")


def test_ranks_that_buy_nothing_are_named():
    with pytest.warns(UserWarning, match="TT: rank 9 at bond 1 .* the largest useful one is 4"):
        TensorLinear(4, 4, FormatSpec("tt", (2, 2), (2, 2), (9,)))
    with pytest.warns(UserWarning, match="HT: rank 5 at node 1 .* the largest useful one is 4"):
        TensorLSTM(
            4,
            4,
            hh=FormatSpec("ht", (2, 2, 1), (1, 2, 2), (5, 5, 2, 2)),
            ih=FormatSpec("tt", (2, 2), (2, 2), (4,)),
        )


def test_bad_arguments_are_named():
    layer = TensorLinear(12, 12, SPECS["ht"])
    for way in (None, *WAYS):
        layer.execution = way
        with pytest.raises(ValueError, match=r"x must be \[\.\.\., 12\], .* got \[2, 11\]"):
            layer(torch.zeros(2, 11))
        with pytest.raises(ValueError, match=r"with a row at least; got \[0, 12\]"):
            layer(torch.zeros(0, 12))
        with pytest.raises(TypeError, match=r"floating point or uint8; got \[2, 12\] int64"):
            layer(torch.zeros(2, 12, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"execution must be None or one of \('lowered', .* got 'fast'"):
        TensorLinear(12, 12, SPECS["ht"], execution="fast")
    with pytest.raises(
        ValueError, match="takes a TensorLSTM, a TensorGRU or a network around one; got Linear"
    ):
        rnn_table(torch.nn.Linear(2, 2))


PRESETS = {"tt": (tt_lstm, 3_360), "bt": (bt_lstm, 3_392), "tr": (tr_lstm, 1_725), "ht": (ht_lstm, 1_245)}


@pytest.mark.filterwarnings(USELESS)
@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_counts(name):
    make, count = PRESETS[name]
    lstm = make(batch_first=True)
    rows = {row["name"]: row for row in rnn_table(lstm)}
    assert (lstm.input_size, lstm.hidden_size) == (57_600, 256)
    assert rows["ih_l0"]["parameters"] == count
    assert rows["ih_l0"]["dense_parameters"] == rows["ih_l0"]["dense_macs"] == 58_982_400
    assert rows["hh_l0"]["parameters"] == rows["hh_l0"]["macs"] == 262_144
    assert rows["bias_l0"]["parameters"] == 1_024
    # The whole networks as VIB's table has them, with a classifier of 11 classes and without the LSTM's biases.
    whole = {"tt": 268_331, "bt": 268_363, "tr": 266_696, "ht": 266_216}[name]
    classifier = VideoClassifier(lstm, 11)
    assert sum(row["parameters"] for row in rnn_table(classifier) if row["kind"] != "bias") == whole


def test_the_whole_fdht_lstm_is_small():
    """Biases included, nothing left out: below the larger of the two counts in FDHT's abstract."""
    lstm = fdht_lstm()
    total = sum(p.numel() for p in lstm.parameters())
    assert total == sum(row["parameters"] for row in rnn_table(lstm)) == 2_055 + 1_024
    assert total <= 8_808
    assert sum(row["dense_parameters"] for row in rnn_table(lstm) if row["kind"] == "cores") == 59_244_544
    assert (lstm.mega[0].x_rows, lstm.mega[0].h_rows, lstm.mega[0].h_places) == (160, 1, 256)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("place", ["both", "mega"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_table_adds_up_to_the_module(cell, place, bias):
    if place == "mega" and cell == "gru-after":
        return
    m = rnn("ht", place, cell, layers=2, bidirectional=True, bias=bias, batch_first=True)
    v = VideoClassifier(m, 7)
    for module in (m, v):
        rows = rnn_table(module)
        assert sum(row["parameters"] for row in rows) == sum(p.numel() for p in module.parameters())
        assert len({row["name"] for row in rows}) == len(rows)
    plain = torch.nn.LSTM if cell == "lstm" else torch.nn.GRU
    dense = plain(m.input_size, 12, 2, bidirectional=True, bias=bias)
    assert sum(row["dense_parameters"] for row in rnn_table(m)) == sum(p.numel() for p in dense.parameters())
    assert {row["kind"] for row in rnn_table(v)} == {"cores", "classifier"} | ({"bias"} if bias else set())


def test_the_table_has_what_else_stands_around_the_rnn():
    m, second = (rnn("ht", place, "lstm") for place in ("both", "ih"))
    network = torch.nn.ModuleList([torch.nn.LayerNorm(12), m, second, torch.nn.Linear(12, 3)])
    rows = rnn_table(network)
    assert sum(row["parameters"] for row in rows) == sum(p.numel() for p in network.parameters())
    assert (rows[-1]["kind"], rows[-1]["parameters"], rows[-1]["macs"]) == ("classifier", 39, 36)
    others = [row for row in rows if row["kind"] == "other"]
    assert (others[0]["name"], others[0]["parameters"]) == ("0", 24)
    assert sum(row["parameters"] for row in others[1:]) == sum(p.numel() for p in second.parameters())


@pytest.mark.filterwarnings(USELESS)
@pytest.mark.parametrize("name", [*PRESETS, "fdht", "gru"])
def test_pre_activations_start_with_unit_deviation(name):
    """128 rows of N(0, 1): 1 within 5 %, three standard errors for a product through 5 dimensions (HT split)."""
    torch.manual_seed(1)
    if name == "fdht":
        module = fdht_lstm()
    elif name == "gru":
        module = TensorGRU(57_600, 256, ih=FormatSpec("tt", (8, 20, 20, 18), (4, 4, 4, 4), (4,)))
    else:
        module = PRESETS[name][0]()
    x = torch.randn(128, 57_600)
    bias = (module.mega or module.ih)[0].bias
    with torch.no_grad():
        gx = module._project(0, x[None], 1.0, 0.0).gx - bias
    assert gx.std().item() == pytest.approx(1, abs=0.05)
    assert bias.sum() == (0 if name == "gru" else 256)  # the forget gate's
    if name != "fdht":
        hidden = module.hh[0].weight.to_dense().detach()
        assert math.sqrt(hidden.square().sum() / hidden.shape[1]) == pytest.approx(1, abs=0.01)


def test_a_dense_weight_is_used_as_it_is():
    """One GEMM, neither a contraction of one core nor a copy of W before it."""
    layer = TensorLinear(60, 24, FormatSpec())
    assert layer.weight.to_dense() is layer.weight.cores[0]
    assert [way for _, way in layer._switches] == ["reconstructed"]


@pytest.mark.parametrize("hh", [None, FormatSpec("ht", (4, 4, 4), (4, 4, 4), (3,))])
def test_the_hidden_matrix_starts_with_the_gain_asked_for(hh):
    torch.manual_seed(0)
    rnn = TensorLSTM(12, 64, hh=hh, hidden_gain=0.25)
    _, u = rnn.matrices(0)
    # Formats hit the mean square exactly; of 16,384 Gaussians it is within 4 standard errors of 1.1 %.
    assert u.square().mean().item() == pytest.approx(0.25**2 / 64, rel=0.045)
    with pytest.raises(ValueError, match="hidden_gain must be above 0; got 0"):
        TensorLSTM(12, 64, hidden_gain=0)
    with pytest.raises(ValueError, match="a mega matrix has one scale"):
        TensorLSTM(8, 8, mega=FormatSpec("ht", (4, 4), (4, 2), (2,)), hidden_gain=0.5)
