"""One frame at a time is the whole sequence."""

import pytest
import torch

from dropfold.models import TensorLSTM
from tests.models.recurrent.test_tensor_rnn import EXACT, B, D, H, T, inputs, rnn


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("place", ["both", "mega"])
@pytest.mark.parametrize("cell", ["lstm", "gru-after", "gru-before"])
def test_steps_are_the_sequence(cell, place, batch_first):
    if (cell, place) == ("gru-after", "mega"):
        place = "hh"
    m = rnn("tt", place, cell, 2, batch_first=batch_first, dropout=0.4, recurrent_dropout=0.4).eval()
    x, *states = inputs(m)
    state = tuple(states) if cell == "lstm" else states[0]
    right, last = m(x, state)
    for t in range(T):
        h, state = m.step(x[:, t] if batch_first else x[t], state)
        assert h.shape == (B, H)
        torch.testing.assert_close(h, right[:, t] if batch_first else right[t], **EXACT)
    for mine, theirs in zip(
        state if cell == "lstm" else [state], last if cell == "lstm" else [last], strict=True
    ):
        torch.testing.assert_close(mine, theirs, **EXACT)


def test_a_frame_of_one_row_has_no_batch():
    m = rnn("tt", "both", "lstm").eval()
    x = torch.randint(0, 256, (T, 12), dtype=torch.uint8)
    right, _ = m(x, scale=0.1, shift=-1.0)
    state = None
    for t in range(T):
        h, state = m.step(x[t], state, scale=0.1, shift=-1.0)
        assert h.shape == (H,)
        torch.testing.assert_close(h, right[t], **EXACT)


def test_what_a_step_cannot_know_is_refused():
    x = torch.zeros(B, 12, dtype=D)
    with pytest.raises(ValueError, match="needs the frames to come"):
        rnn("tt", "both", "lstm", bidirectional=True).step(x)
    with pytest.raises(ValueError, match=r"recurrent_dropout 0.2 drops the same units .* call eval\(\)"):
        rnn("tt", "both", "lstm", recurrent_dropout=0.2).step(x)
    with pytest.raises(ValueError, match=r"one frame, \[B, 12\] or \[12\]; got \[1, 2, 12\]"):
        TensorLSTM(12, H).step(torch.zeros(1, 2, 12))
