"""VideoClassifier reads the last states of its RNN, of bytes or floats, and compiles for any batch."""

import pytest
import torch

from dropfold.models import VideoClassifier
from tests.models.recurrent.test_tensor_rnn import EXACT, LENGTHS, B, D, T, outcome, pack, rnn


def clips(batch):
    return torch.randint(0, 256, (batch, T, 2, 2, 3), dtype=torch.uint8)


def test_a_classifier_compiles_for_any_batch_and_not_for_each():
    """A second graph has the batch as a symbol; from 26 frames on, the planner multiplies in another way."""
    v = VideoClassifier(rnn("tt", "ih", "lstm", batch_first=True).float(), 5)
    torch._dynamo.reset()
    compiled = torch.compile(v, fullgraph=True, backend="aot_eager")
    for batch in (2, 3, 4, 6, 7):
        frames, lengths = clips(batch), torch.randint(1, T + 1, (batch,))
        with torch.compiler.set_stance("fail_on_recompile" if 3 < batch < 7 else "default"):
            mine = outcome(compiled, v, frames, lengths)
        for a, b in zip(mine, outcome(v, v, frames, lengths)):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_classifier_reads_the_last_states_of_bytes_or_floats(bidirectional):
    m = rnn("tt", "both", "gru-after", 2, batch_first=True, bidirectional=bidirectional)
    v = VideoClassifier(m, 5, mean=0.4, std=0.3).to(D)
    frames = clips(B)
    logits = v(frames, LENGTHS)
    torch.testing.assert_close(logits, v(frames.to(D) / 255, LENGTHS), **EXACT)
    _, h = m.to_nn_gru()(pack((frames.flatten(2).to(D) / 255 - 0.4) / 0.3, True))
    h = torch.cat([h[-2], h[-1]], 1) if bidirectional else h[-1]
    torch.testing.assert_close(logits, v.head(h), **EXACT)
    spoilt = frames.clone()
    spoilt[0, 2:], spoilt[2, 1:] = 255, 255
    assert torch.equal(v(spoilt, LENGTHS), logits)
    assert not torch.equal(v(spoilt), v(frames))
