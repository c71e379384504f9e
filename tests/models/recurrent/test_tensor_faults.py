"""Bad input to the tensor RNNs and the video classifier: each a sentence that says what was given and what to do."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from dropfold.models import TensorGRU, TensorLSTM, VideoClassifier
from dropfold.models.formats import FormatSpec
from dropfold.models.layers.unfused import unfused
from tests.models.recurrent.test_tensor_rnn import LENGTHS, SPECS, B, H, T, pack


def lstm(**options):
    return TensorLSTM(12, H, **options)


MEGA = replace(SPECS["tt"], in_modes=(4, 3, 2))
BAD = {
    "in modes": (lambda: TensorLSTM(13, H, ih=SPECS["tt"]), r"tt: in_modes \[2, 3, 2\] multiply to 12, and the size is 13"),
    "out modes": (lambda: TensorLSTM(12, 13, ih=SPECS["ht"]), r"out_modes \[2, 3, 2\] multiply to 12, and the size is 13"),
    "no modes": (lambda: lstm(ih=FormatSpec("tt", ranks=(2,))), r"in_modes \[\] multiply to nothing"),
    "ranks": (lambda: lstm(ih=replace(SPECS["tt"], ranks=(2, 2, 2))), r"TT takes 2 ranks here .* got \[2, 2, 2\]"),
    "one rank": (lambda: FormatSpec("tt", (3, 4), (3, 4), 4), r"ranks is a tuple, as \(4,\); got 4"),
    "no ranks": (lambda: lstm(hh=replace(SPECS["tt"], ranks=())), "tt needs ranks: one for all bonds"),
    "format": (lambda: FormatSpec("tucer"), r"there is no format 'tucer'; .* Did you mean 'tucker'\?"),
    "format far": (lambda: FormatSpec("xyz"), r"there is no format 'xyz'; expected one of \['dense', 'tt'"),
    "proj_size": (lambda: lstm(proj_size=4), "proj_size 4 is not supported: a projected state makes"),
    "sizes": (lambda: TensorLSTM(12, 0), "must be at least 1; got 12, 0 and 1"),
    "mega and ih": (lambda: TensorLSTM(11, H, mega=MEGA, ih=SPECS["tt"]), "give either mega, .* got both"),
    "mega gru": (lambda: TensorGRU(11, H, mega=MEGA), "use reset='before', the form that it expresses"),
    "mega small": (lambda: TensorLSTM(13, H, mega=MEGA), r"multiply to 24, and the size is 25. .* of 25 or more"),
    "mega rows": (
        lambda: TensorLSTM(13, 11, mega=FormatSpec("tt", (4, 6), (11, 1), (2,))),
        r"the grid of \(4, 6\) is 4 x 6; the input of 13 takes 3 rows of 6 and the hidden state 11 rows of 1",
    ),
    "mega dense": (lambda: TensorLSTM(11, H, mega=FormatSpec()), "a dense mega matrix is a dense ih"),
    "reset": (lambda: TensorGRU(12, H, reset="never"), "reset must be 'after' or 'before' .* got 'never'"),
    "layers": (lambda: TensorLSTM(12, H, 2, ih=[SPECS["tt"]] * 3), "one for each of 2; got 3"),
    "length 0": (lambda: lstm()(torch.zeros(T, B, 12), lengths=torch.tensor([4, 0, 1])), "from 1 to T = 4; got 0 to 4"),
    "length 5": (lambda: lstm()(torch.zeros(T, B, 12), lengths=torch.tensor([4, 5, 1])), "from 1 to T = 4; got 1 to 5"),
    "lengths": (
        lambda: lstm()(torch.zeros(T, B, 12), lengths=torch.tensor([4, 2])),
        r"lengths must be an int64 tensor \[3\], the frames of each row; got \[2\] int64",
    ),
    "lengths on another device": (
        lambda: lstm().to("meta")(torch.zeros(T, B, 12, device="meta"), lengths=torch.tensor([4, 0, 1])),
        "from 1 to T = 4; got 0 to 4",
    ),
    "lengths twice": (
        lambda: lstm()(pack(torch.zeros(T, B, 12), False), lengths=LENGTHS),
        "a packed x has its lengths with it",
    ),
    "no frames": (lambda: lstm()(torch.zeros(0, B, 12)), r"with a frame at least; got \[0, 3, 12\]"),
    "no rows": (lambda: lstm()(torch.zeros(T, 0, 12)), r"with a frame at least; got \[4, 0, 12\]"),
    "input size": (lambda: lstm()(torch.zeros(T, B, 13)), r"x must be \[T, B, 12\] or \[T, 12\], .* got \[4, 3, 13\]"),
    "input order": (
        lambda: lstm(batch_first=True)(torch.zeros(1, T, B, 12)),
        r"x must be \[B, T, 12\] or \[T, 12\], .* got \[1, 4, 3, 12\]",
    ),
    "state": (
        lambda: lstm()(torch.zeros(T, B, 12), (torch.zeros(1, 2, H), torch.zeros(1, 2, H))),
        r"first state must be \(h_0, c_0\), each \[1, 3, 12\]; got \[\[1, 2, 12\], \[1, 2, 12\]\]",
    ),
    "state of one sequence": (
        lambda: lstm()(torch.zeros(T, 12), (torch.zeros(1, 1, H), torch.zeros(1, 1, H))),
        r"first state must be \(h_0, c_0\), each \[1, 12\]; got \[\[1, 1, 12\], \[1, 1, 12\]\]",
    ),
    "state of an lstm": (
        lambda: lstm()(torch.zeros(T, B, 12), torch.zeros(1, B, H)),
        r"first state must be \(h_0, c_0\), each \[1, 3, 12\]; got \[\[1, 3, 12\]\]",
    ),
    "state of a gru": (
        lambda: TensorGRU(12, H)(torch.zeros(T, B, 12), (torch.zeros(1, B, H), torch.zeros(1, B, H))),
        r"first state must be h_0, \[1, 3, 12\]; got \[\[1, 3, 12\], \[1, 3, 12\]\]",
    ),
    "dropout": (lambda: lstm(dropout=1.5), "dropout must be from 0 to 1, .* got 1.5 and 0.0"),
    "recurrent dropout": (lambda: lstm(recurrent_dropout=1.0), "at least 0 and below 1; got 0.0 and 1.0"),
    "batch_first": (lambda: VideoClassifier(lstm(), 3), "make the RNN with batch_first=True"),
    "frames": (lambda: VideoClassifier(lstm(batch_first=True), 3)(torch.zeros(B, T)), r"frames must be \[B, T, \.\.\]"),
    "reset of a plain form": (
        lambda: TensorGRU(12, H, reset="before").to_nn_gru(),
        "a TensorGRU with reset='before' has no plain form",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what):
    call, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [TensorLSTM, TensorGRU])
def test_a_nan_frame_makes_its_row_nan_from_there_on_and_no_other_row(kind, bidirectional, fused):
    rnn = kind(12, H, 2, ih=SPECS["tt"], bidirectional=bidirectional).eval()
    x = torch.randn(T, B, 12)
    spoilt = x.clone()
    spoilt[2, 1, 4] = torch.nan
    with torch.no_grad(), nullcontext() if fused else unfused(rnn):
        wanted, found = rnn(x)[0], rnn(spoilt)[0]
        cut = [rnn(frames, lengths=torch.tensor([4, 2, 4]))[0] for frames in (x, spoilt)]
    assert found[2:, 1].isnan().all()
    assert bidirectional or torch.equal(found[:2], wanted[:2])
    assert torch.equal(found[:, [0, 2]], wanted[:, [0, 2]])
    assert torch.equal(*cut)  # a frame after a row's length is not read


@pytest.mark.parametrize("fused", [True, False])
def test_a_nan_clip_has_nan_logits(fused):
    model = VideoClassifier(lstm(batch_first=True), 3).eval()
    clips = torch.randn(B, T, 2, 2, 3)
    spoilt = clips.clone()
    spoilt[1, 2, 0, 1, 1] = torch.nan
    with torch.no_grad(), nullcontext() if fused else unfused(model):
        wanted, found = model(clips), model(spoilt)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], wanted[[0, 2]])
