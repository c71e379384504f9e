"""TensorLSTM and TensorGRU are nn.LSTM and nn.GRU with reconstructed weights: values and gradients."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dropfold.kernels import kron_linear
from dropfold.kernels.recurrent.gru_sequence import reference as gru_reference
from dropfold.models import TensorGRU, TensorLSTM
from dropfold.models.formats import FormatSpec
from dropfold.models.recurrent.plain import suffix

D = torch.float64
T, B, H = 4, 3, 12
LENGTHS = torch.tensor([2, 4, 1])
EXACT = {"rtol": 0, "atol": 1e-10}

MODES = (2, 3, 2)
SPECS = {
    "tt": FormatSpec("tt", MODES, MODES, (2,)),
    "tr": FormatSpec("tr", MODES, MODES, (2,)),
    "bt": FormatSpec("bt", MODES, MODES, (2,)),
    "cp": FormatSpec("cp", MODES, MODES, (2,)),
    "cp-paired": FormatSpec("cp", MODES, MODES, (2,), paired=True),
    "tucker": FormatSpec("tucker", MODES, MODES, (2,)),
    "tucker-split": FormatSpec("tucker", MODES, MODES, (2,), paired=False),
    "ht": FormatSpec("ht", MODES, MODES, (2,)),
    "ht-split": FormatSpec("ht", MODES, MODES, (2,), leaves="split"),
    "ht-interleaved": FormatSpec("ht", MODES, MODES, (2,), leaves="interleaved"),
    "dense": FormatSpec(),
}
CELLS = ["lstm", "gru-after", "gru-before"]
GRID = [
    (name, place, cell)
    for name, place, cell in itertools.product(SPECS, ("ih", "hh", "both", "mega"), CELLS)
    if not (place == "mega" and (cell == "gru-after" or name == "dense"))
]


def rnn(name, place, cell, layers=1, **options):
    """One layer or more of 12 -> 12; mega: of 11, which leaves a place of the grid's second row of 6 unused."""
    spec = SPECS[name]
    matrices = {
        "ih": {"ih": spec},
        "hh": {"hh": spec},
        "both": {"ih": spec, "hh": spec},
        "mega": {"mega": replace(spec, in_modes=(4, 3, 2))},
    }[place]
    size = 11 if place == "mega" else 12
    if cell == "lstm":
        made = TensorLSTM(size, H, layers, **matrices, **options)
    else:
        made = TensorGRU(size, H, layers, reset=cell[4:], **matrices, **options)
    made.to(D)
    for which, parameter in made.named_parameters():
        if "bias" in which:
            nn.init.normal_(parameter)
    return made


def inputs(m):
    """x and first states, all leaves."""
    shape = (B, T) if m.batch_first else (T, B)
    states = [
        torch.randn(m.num_layers * m.directions, B, H, dtype=D) for _ in range(2 if m.gates == 4 else 1)
    ]
    return [v.requires_grad_() for v in (torch.randn(*shape, m.input_size, dtype=D), *states)]


def flat(out, last):
    return [out, *(last if isinstance(last, tuple) else (last,))]


def as_state(states):
    return tuple(states) if len(states) == 2 else states[0]


def pack(x, batch_first, enforce_sorted=False, lengths=LENGTHS):
    return pack_padded_sequence(x, lengths, batch_first, enforce_sorted=enforce_sorted)


def unpacked(m, x, states, packed):
    """Outputs and last states of a module, ours or PyTorch's."""
    if not packed:
        return flat(*m(x, as_state(states)))
    out, last = m(pack(x, m.batch_first), as_state(states))
    return flat(pad_packed_sequence(out, m.batch_first)[0], last)


def plain(m, x, states, packed, seeds):
    """Values and gradients of PyTorch's module, those of its weights pulled back to the cores through to_dense."""
    other = m.to_nn_lstm() if m.gates == 4 else m.to_nn_gru()
    values = unpacked(other, x, states, packed)
    names, weights = zip(*other.named_parameters())
    grads = torch.autograd.grad(values, [x, *states, *weights], seeds)
    of = dict(zip(names, grads[1 + len(states) :]))
    outs, theirs = [], []
    for k in range(m.num_layers * m.directions):
        name = suffix(k, m.directions)
        outs += [*m.matrices(k), (m.mega or m.ih)[k].bias]
        theirs += [of[f"weight_ih_{name}"].T, of[f"weight_hh_{name}"].T, of[f"bias_ih_{name}"]]
        if m.hidden_bias:
            outs.append(m.hidden_bias[k])
            theirs.append(of[f"bias_hh_{name}"][2 * H :])
    return values, [*grads[: 1 + len(states)], *torch.autograd.grad(outs, list(m.parameters()), theirs)]


def loop(m, x, states, packed, seeds):
    """The same for a GRU with the reset before the product, step by step."""
    y, last = x.transpose(0, 1) if m.batch_first else x, []
    for k in range(m.num_layers * m.directions):
        if k % m.directions == 0:
            below, outs = y, []
        w, u = m.matrices(k)
        gx = below @ w + (m.mega or m.ih)[k].bias
        options = {"lengths": LENGTHS if packed else None, "reverse": k % m.directions == 1}
        out, h = gru_reference(gx, gx.new_ones(1, 1, 1), u[None], None, states[0][k], **options)
        outs.append(out)
        last.append(h)
        y = torch.cat(outs, -1)
    values = [y.transpose(0, 1) if m.batch_first else y, torch.stack(last)]
    return values, torch.autograd.grad(values, [x, *states, *m.parameters()], seeds)


def assert_equal_to_the_plain_form(m, packed=True):
    x, *states = inputs(m)
    mine = unpacked(m, x, states, packed)
    seeds = [torch.randn_like(v) for v in mine]
    grads = torch.autograd.grad(mine, [x, *states, *m.parameters()], seeds, retain_graph=True)
    reference = loop if getattr(m, "reset", None) == "before" else plain
    values, theirs = reference(m, x, states, packed, seeds)
    for a, b in zip([*mine, *grads], [*values, *theirs], strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize(("name", "place", "cell"), GRID)
def test_every_format_and_place_is_the_plain_module(name, place, cell):
    """Two layers, both directions, packed and unsorted, with first states; batch first for the GRUs."""
    assert_equal_to_the_plain_form(rnn(name, place, cell, 2, bidirectional=True, batch_first=cell != "lstm"))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True}, {"recompute": True}, {"bias": False}], ids=str
)
def test_options_are_the_plain_modules(cell, batch_first, options):
    if options.get("bias", True):
        assert_equal_to_the_plain_form(rnn("ht", "both", cell, 2, batch_first=batch_first, **options), False)
        return
    m = rnn("ht", "both", cell, 2, batch_first=batch_first, **options)
    biased = rnn("ht", "both", cell, 2, batch_first=batch_first)
    biased.load_state_dict(m.state_dict(), strict=False)
    for which, parameter in biased.named_parameters():
        if "bias" in which:
            nn.init.zeros_(parameter)
    x, *states = inputs(m)
    for a, b in zip(flat(*m(x, as_state(states))), flat(*biased(x, as_state(states)))):
        assert torch.equal(a, b)


@pytest.mark.parametrize("cell", ["lstm", "gru-after"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_packed_padded_and_single_sequences(cell, batch_first):
    m = rnn("tt", "both", cell, 2, bidirectional=True, batch_first=batch_first)
    other = m.to_nn_lstm() if cell == "lstm" else m.to_nn_gru()
    x, *states = inputs(m)
    state = as_state(states)

    for lengths, enforce_sorted in ((LENGTHS, False), (torch.tensor([4, 2, 2]), True)):
        packed = pack(x, batch_first, enforce_sorted, lengths)
        (out, last), (theirs, their_last) = m(packed, state), other(packed, state)
        torch.testing.assert_close(out.data, theirs.data, **EXACT)
        for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
            a, b = getattr(out, field), getattr(theirs, field)
            assert (a is None and b is None) or torch.equal(a, b)
        padded, padded_last = m(x, state, lengths=lengths)
        for a, b, c in zip(
            flat(pad_packed_sequence(out, batch_first)[0], last),
            flat(padded, padded_last),
            flat(pad_packed_sequence(theirs, batch_first)[0], their_last),
        ):
            assert torch.equal(a, b)
            torch.testing.assert_close(a, c, **EXACT)

    one, first = x.select(0 if batch_first else 1, 0), [s[:, 0] for s in states]
    for given in (None, as_state(first)):
        mine, theirs = flat(*m(one, given)), flat(*other(one, given))
        assert [v.shape for v in mine] == [v.shape for v in theirs]
        for a, b in zip(mine, theirs):
            torch.testing.assert_close(a, b, **EXACT)
    for a, b in zip(flat(*m(x)), flat(*other(x))):
        torch.testing.assert_close(a, b, **EXACT)


def test_lengths_may_stand_on_the_cpu_wherever_x_is():
    m = rnn("dense", "both", "lstm", bidirectional=True).to("meta")
    out, (h, _) = m(torch.empty(T, B, 12, dtype=D, device="meta"), lengths=LENGTHS)
    assert (out.shape, h.shape) == ((T, B, 2 * H), (2, B, H))


@pytest.mark.parametrize(
    "case",
    [("tt", "both", "lstm"), ("ht", "mega", "lstm"), ("tr", "hh", "gru-before")],
    ids="-".join,
)
def test_gradcheck_through_the_cores(case):
    m = rnn(*case)
    x = torch.randn(2, 2, m.input_size, dtype=D, requires_grad=True)
    names, parameters = zip(*m.named_parameters())

    def run(x, *values):
        return torch.func.functional_call(
            m, dict(zip(names, values)), (x,), {"lengths": torch.tensor([2, 1])}
        )[0]

    assert torch.autograd.gradcheck(run, (x, *parameters), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize(
    "case",
    [("tt", "both", "lstm"), ("ht", "mega", "lstm"), ("dense", "ih", "gru-after")],
    ids="-".join,
)
def test_bytes_are_read_as_their_scaled_numbers(case):
    """By the first layer: the second one takes the first's outputs as they are."""
    m = rnn(*case, layers=2, bidirectional=True)
    x = torch.randint(0, 256, (T, B, m.input_size), dtype=torch.uint8)
    bytes_, floats = m(x, scale=1 / 64, shift=-2.0), m(x.to(D) / 64 - 2)
    for a, b in zip(flat(*bytes_), flat(*floats)):
        torch.testing.assert_close(a, b, **EXACT)


def test_upper_layers_take_the_output_modes_below():
    """With both directions, and in a mega matrix h beside them, folded into the first mode."""
    spec = FormatSpec("tt", (3, 4), (4, 2), (2,))
    assert TensorLSTM(12, 8, 2, ih=spec).ih[1].weight.in_modes == (4, 2)
    assert TensorLSTM(12, 8, 2, ih=spec, bidirectional=True).ih[2].weight.in_modes == (2 * 4, 2)
    mega = replace(spec, in_modes=(6, 4))
    assert TensorLSTM(12, 8, 2, mega=mega, bidirectional=True).mega[2].weight.in_modes == (3 * 4, 2)


@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_dropout_is_unbiased_seeded_and_off_in_eval(cell):
    m = rnn("tt", "both", cell, recurrent_dropout=0.4)
    x, *states = inputs(m)

    def run(seed):
        torch.manual_seed(seed)
        return m(x)[0]

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    assert torch.equal(m.eval()(x)[0], m(x)[0])
    again = rnn("tt", "both", cell)
    again.load_state_dict(m.state_dict())
    assert torch.equal(m(x)[0], again(x)[0])

    # With a small U the step is linear in h U, up to 1e-5 of it: then the mean over masks is what no dropout gives.
    with torch.no_grad():
        m.hh[0].weight.cores[-1].mul_(1e-5)
        rows = 1000
        frames, first = torch.randn(1, 1, 12, dtype=D).expand(1, rows, 12), torch.randn(1, 1, H, dtype=D)
        state = [first.expand(1, rows, H).contiguous()] * len(states)
        whole = m(frames, as_state(state))[0][0]
        dropped = m.train()(frames, as_state(state))[0][0]
        nothing = copy.deepcopy(m).eval()
        nothing.hh[0].weight.cores[-1].zero_()
        without = nothing(frames, as_state(state))[0][0]
    errors = (dropped - whole).std(0) / rows**0.5
    assert ((dropped - whole).mean(0).abs() < 4.5 * errors + 1e-4 * (whole - without).abs()).all()
    assert (errors > 1e-3 * (whole - without).abs()).any()


@pytest.mark.parametrize("cell", ["lstm", "gru-before"])
@pytest.mark.parametrize("name", [name for name in SPECS if name != "dense"])
def test_the_two_parts_of_a_mega_matrix_are_its_rows(name, cell):
    """x W leaves the loop exactly: x part + h part = the stacked [x; h] times the whole matrix."""
    mega = rnn(name, "mega", cell).mega[0]
    dense = mega.weight.to_dense()
    at_x, at_h = mega.places()
    assert len(at_x) == 11
    assert len(set(at_x.tolist()) | set(at_h.tolist())) == 11 + H
    x, h = torch.randn(5, 11, dtype=D), torch.randn(5, H, dtype=D)
    stacked = torch.zeros(5, len(dense), dtype=D)
    stacked[:, at_x], stacked[:, at_h] = x, h
    w, u = mega.parts()
    wide = nn.functional.pad(x, (0, w.a.shape[1] * w.c.shape[1] - 11))
    torch.testing.assert_close(kron_linear(wide, *w) + kron_linear(h, *u), stacked @ dense, **EXACT)


def test_rows_of_a_mega_grid_that_hold_nothing_do_not_matter():
    """4 of 5 rows of 6 are taken: the fifth slice of the first core is no one's, and has no gradient."""
    m = TensorLSTM(11, H, mega=replace(SPECS["ht"], in_modes=(5, 3, 2)))
    x = torch.randn(T, B, 11)
    before = m(x)[0]
    before.sum().backward()
    core = m.mega[0].weight.cores[0]
    assert torch.equal(core.grad[4], torch.zeros_like(core[4]))
    assert core.grad[:4].abs().min() > 0
    with torch.no_grad():
        core[4] = 1e3
    assert torch.equal(m(x)[0], before)


@pytest.mark.parametrize(("size", "hidden", "in_modes"), [(7, 4, (6, 2)), (9, 6, (5, 4)), (13, 8, (5, 6))])
def test_a_mega_grid_takes_sizes_that_do_not_fill_it(size, hidden, in_modes):
    """x ends inside a row, and h takes only as many places of a row as divide H."""
    m = TensorLSTM(size, hidden, mega=FormatSpec("tt", in_modes, (2, hidden // 2), (2,))).to(D)
    x = torch.randn(T, B, size, dtype=D)
    for a, b in zip(flat(*m(x)), flat(*m.to_nn_lstm()(x))):
        torch.testing.assert_close(a, b, **EXACT)


def test_the_grid_of_a_mega_matrix_does_not_depend_on_ranks():
    """The cut of block terms does; but ranks found for `eps` come after x and h have taken their places."""
    spec = FormatSpec("bt", (2, 4, 3, 4), (2, 2, 2, 2))
    megas, cuts = [], set()
    for rank in (1, 2, 4):
        ranked = replace(spec, ranks=(rank,))
        megas.append(TensorLSTM(72, 16, mega=ranked).mega[0])
        cuts.add(ranked.build(96, 16, 4).kron_shapes()[1][1])
    assert cuts == {12, 48}
    assert {(m.x_rows, m.h_rows, m.h_places) for m in megas} == {(6, 2, 8)}


def outcome(run, m, *arguments, **options):
    m.zero_grad()
    torch.manual_seed(3)
    out = run(*arguments, **options)
    out = out[0] if isinstance(out, tuple) else out
    out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in m.parameters())]


@pytest.mark.parametrize(
    "make",
    [
        lambda: rnn("tt", "both", "lstm", bidirectional=True, recurrent_dropout=0.3).float(),
        lambda: rnn("ht", "mega", "gru-before", batch_first=True).float(),
        lambda: rnn("tt", "both", "gru-after", 2, recompute=True, recurrent_dropout=0.3).float(),
    ],
    ids=["lstm", "gru-mega", "recompute"],
)
def test_one_graph_under_compile(make):
    m = make()
    torch._dynamo.reset()
    compiled = torch.compile(m, fullgraph=True, backend="aot_eager")
    x, *states = (v.detach().float() for v in inputs(m))
    for a, b in zip(outcome(compiled, m, x, as_state(states)), outcome(m, m, x, as_state(states))):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cell", CELLS)
def test_recompute_keeps_the_input_of_a_layer_alone(cell):
    """The same gradients, recurrent dropout included, from x and the first layer's hidden states."""
    found, kept = [], []
    x = torch.randn(T, B, 12, dtype=D)

    def pack(t):
        saved[t.untyped_storage().data_ptr()] = t.numel()
        return t

    for recompute in (False, True):
        torch.manual_seed(1)
        m = rnn("tt", "both", cell, 2, recompute=recompute, recurrent_dropout=0.3)
        saved = {}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            found.append(outcome(m, m, x))
        kept.append(sum(saved.values()))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    assert kept[1] == 3 * x.numel() < kept[0] / 3  # and the output, which `outcome` squares


@pytest.mark.parametrize("cell", CELLS)
def test_autocast_is_near(cell):
    """Two layers of three rounded products a step, over four steps: within 24 units in the last place of 1."""
    m = rnn("ht", "both", cell, 2).float()
    x = torch.randn(T, B, 12)
    right = outcome(m, m, x)
    with torch.autocast("cpu", torch.bfloat16):
        mine = outcome(m, m, x)
    assert mine[0].dtype == torch.bfloat16
    assert (mine[0].float() - right[0]).abs().max() < 24 * torch.finfo(torch.bfloat16).eps
    for a, b in zip(mine[1:], right[1:]):
        assert torch.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.99


@pytest.mark.parametrize(
    "case",
    [("tt", "both", "lstm"), ("ht", "mega", "gru-before"), ("cp", "ih", "gru-after")],
    ids="-".join,
)
def test_copies_and_state_dicts_are_the_same_module(case):
    m = rnn(*case, layers=2, bidirectional=True)
    x, *states = inputs(m)
    expected = m(x, as_state(states))[0]
    again = rnn(*case, layers=2, bidirectional=True)
    assert again.load_state_dict(m.state_dict(), strict=True)
    for other in (copy.deepcopy(m), again):
        assert torch.equal(other(x, as_state(states))[0], expected)
        assert all(a is not b for a, b in zip(other.parameters(), m.parameters()))
