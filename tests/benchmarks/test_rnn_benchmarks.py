"""The recurrent benchmarks: counts against publications, and that what is timed side by side computes the same."""

import importlib.util

import pytest
import torch

from benchmarks import counts, plan, rnn
from benchmarks.cases import gpu_rnn, rnn_steps
from dropfold.models.formats import FormatSpec

PUBLISHED = {
    "dense, 57,600 -> 4 x 256": 58_982_400,
    "TT, rank 4, 57,600 -> 4 x 256": 3_360,
    "TT, rank 4, 57,600 -> 3 x 256": 3_232,
    "BT, rank 4, 2 blocks, 57,600 -> 4 x 256": 3_392,
    "TR, rank 5, closed by 10, 57,600 -> 4 x 256": 1_725,
    "HT, split, rank 5, 57,600 -> 4 x 256": 1_245,
    "TR, rank 20, 2,048 -> 4 x 2,048": 115_200,
    "TT, rank 10, 2,048 -> 4 x 2,048": 102_400,
    "BT, rank 5, 2 blocks, 2,048 -> 4 x 2,048": 102_450,
    "CP, rank 400, 2,048 -> 4 x 2,048": 115_200,
    "Tucker-2, rank 10, 2,048 -> 4 x 2,048": 94_880,
}


def test_counts_are_the_published():
    found = counts.published()
    assert {count.what: count.parameters for count in found} == PUBLISHED
    assert all(count.parameters == count.published for count in found)
    macs = {count.what.split(",")[0]: count.macs for count in found if "57,600 -> 4 x 256" in count.what}
    # The least over all orders of absorbing cores.
    assert macs == {"dense": 58_982_400, "TT": 1_937_408, "BT": 4_825_088, "TR": 2_567_100, "HT": 395_145}


@pytest.mark.parametrize("name", ["tt_lstm", "bt_lstm", "tr_lstm", "ht_lstm", "fdht_lstm"])
def test_an_inventory_hides_nothing(name):
    model = counts.presets()[name]
    total = counts.inventory(model)[-1]
    columns = ("cores", "dense", "biases", "classifier")
    assert sum(total[column] for column in columns) == sum(p.numel() for p in model.parameters())
    assert (total["biases"], total["classifier"]) == (1024, 256 * 11 + 11)
    assert total["dense"] == (0 if name == "fdht_lstm" else 256 * 1024)
    assert total["dense_macs"] == (57_600 + 256) * 1024 + 256 * 11


def tiny(**options):
    modes = rnn_steps.specs((3, 4, 2), (2, 2, 2), tt=2, tr=2, bt=2, cp=2, ht=2, ht_split=2)
    hidden = rnn_steps.specs((2, 2, 2), (2, 2, 2), tt=2, tr=2, bt=2, cp=2, ht=2, ht_split=2)
    return rnn_steps.Shape(
        24, 8, 3, modes, hidden, FormatSpec("ht", (3, 2, 8), (2, 2, 2), (2,)), batch=2, **options
    )


@pytest.mark.parametrize("both", ["", " both"])
def test_reconstructed_is_the_same_lstm(both):
    """Equal names have equal weights: hidden states and the gradients of the cores agree to rounding."""
    x, found = torch.randn(3, 2, 24), []
    for provider in ("dropfold", "reconstructed"):
        run, parameters = rnn_steps.run_of(tiny(), f"{provider} tt{both}")
        out = run(x)
        found.append([out, *torch.autograd.grad(out.square().sum(), parameters)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_what_a_gpu_times_is_the_same_recurrence(kind):
    from dropfold.models import TensorGRU, TensorLSTM

    spec = FormatSpec("ht", (4, 4), (4, 4), (2,))
    module = {"lstm": TensorLSTM, "gru": TensorGRU}[kind](16, 16, ih=spec, hh=spec)
    with torch.no_grad():
        for bias in (*module.hidden_bias, module.ih[0].bias):
            bias.normal_()
    x = torch.randn(3, 2, 16)
    torch.testing.assert_close(rnn_steps.reconstructed(module)(x), module(x)[0], rtol=1e-4, atol=1e-5)


def test_bytes_are_the_same_pixels():
    shape = tiny()
    from_bytes, _ = rnn_steps.run_of(shape, "dropfold tt uint8")
    from_floats, _ = rnn_steps.run_of(shape, "dropfold tt")
    pixels, numbers = (rnn_steps.frames_of(3, 2, 24, as_bytes) for as_bytes in (True, False))
    torch.testing.assert_close(from_bytes(pixels), from_floats(numbers), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")
@pytest.mark.parametrize("kind", ["tt", "tr", "bt"])
def test_tednet_is_built_with_the_same_modes_and_ranks(kind):
    pytest.importorskip("tednet")
    shape = tiny()
    for _ in range(2):  # its constructors change lists that they are given
        run, parameters = rnn_steps.run_of(shape, f"tednet {kind}")
        assert run(torch.randn(3, 2, 24)).shape == (3, 2, 8)
        own = shape.ih[kind].build(24, 8, 4).parameters_count()
        assert sum(p.numel() for p in parameters) == own + 4 * 8 * 8 + 2 * 4 * 8


def test_rows_of_all_providers_name_the_limit(capsys):
    """Every provider that is not a peer, forward and in training; a peer that is not installed is left out."""
    shape = tiny(peers=("tednet tt",))
    rows = rnn.measure(shape, repetitions=1, memory=False)
    chosen = [p for p in shape.providers() if not rnn_steps.missing(p)]
    assert ("tednet tt" in chosen) == (importlib.util.find_spec("tednet") is not None)
    assert [row.provider for row in rows] == chosen * 2
    step = next(row for row in rows if row.operation == "lstm_forward_backward")
    p, q, columns = rnn_steps.first_factor(shape)
    assert step.bytes_least == 2 * 6 * 24 * 4  # x of 6 frames, in forward and in backward
    assert step.flops_least == 2 * 6 * 2 * p * q * columns
    rnn.show(rows)
    assert "limit: one GEMM" in capsys.readouterr().out


def test_every_shape_fits_its_networks():
    for shapes in rnn_steps.shapes().values():
        for shape in shapes:
            assert set(shape.ih) == set(shape.hh)
            for spec in (*shape.ih.values(), *shape.hh.values()):
                spec.checked_modes(shape.input_size if spec in shape.ih.values() else shape.hidden_size,
                                   shape.hidden_size, 4)  # fmt: skip
            assert rnn_steps.tensor_lstm(shape, "fdht").mega


@pytest.mark.filterwarnings("ignore:.*largest useful one")
def test_plans_at_the_benchmarked_shapes():
    """Two GEMMs at every shape: what the measurement of `python -m benchmarks.plan --measure` found fastest."""
    from dropfold.models.formats.plan import plan as planned

    chosen = {
        title: planned(plan.linear(spec).weight, rows).chosen
        for title, spec, rows in plan.entries()
        if "57,600" not in title
    }
    assert len(chosen) == 20
    assert set(chosen.values()) == {"lowered"}


def test_published_figures_are_labelled():
    text = gpu_rnn.published()
    assert text.startswith("published by FlashRNN, not measured here")
    assert "head 768: 2.01 / 5.19" in text


def test_bytes_beyond_the_least_are_those_between_two_products(run_python):
    """What the kernels touch, to the byte."""
    done = run_python(
        "-c",
        "from benchmarks.ledger import recurrent\nfor e in recurrent(): print(e.operation, e.touched - e.least, sep='=')",
        TRITON_INTERPRET="1",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    more = dict(line.split("=") for line in done.stdout.splitlines())
    number, states = 4, 4 * 4 * 64 * 4  # bytes; 4 steps of [4, 64]
    assert (
        int(more["kron_linear forward, bytes"]) == 32 * 8 * 3 * 8 * number
    )  # T is written anyway, and read once
    sums, between = 4 * 256 * number, 4 * 8 * 3 * 8 * number
    # Both written and read; of h and c the first step's are the inputs, and every other is read after it was written.
    assert int(more["lstm_sequence forward"]) == 2 * (sums + between) + 2 * (states - 2 * 4 * 64 * number)
