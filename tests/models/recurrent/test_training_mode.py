"""How recurrent networks begin, and what is random in training alone."""

import pytest
import torch
from torch import nn

from dropfold.models import TensorGRU, TensorLSTM, VideoClassifier


def test_an_lstm_begins_by_remembering():
    """Bias 1 for the forget gate, the second of four, and 0 for the others."""
    for linear in TensorLSTM(6, 8, 2).ih:
        expected = torch.zeros(32)
        expected[8:16] = 1
        assert torch.equal(linear.bias.detach(), expected)
    gru = TensorGRU(6, 8)
    assert not gru.ih[0].bias.any()
    assert not gru.hidden_bias[0].any()


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", [TensorLSTM, TensorGRU])
def test_the_hidden_matrix_begins_with_its_gain(kind, gain):
    """Of unit states it makes values of this deviation; of unit inputs the input matrix makes 1."""
    rnn = kind(40, 64, hidden_gain=gain)
    w, u = rnn.matrices(0)
    # Entries of W are scaled to the mean square exactly.
    assert (64 * u.square().mean()).sqrt().item() == pytest.approx(gain, rel=1e-4)
    assert (40 * w.square().mean()).sqrt().item() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("kind", [TensorLSTM, TensorGRU])
def test_dropout_between_layers_is_that_of_the_plain_module_s_layers(kind):
    """Two layers one by one, with torch's dropout of the same seed between them; none after the last, none in evaluation."""
    rnn, x = kind(5, 6, 2, dropout=0.5).double(), torch.randn(4, 3, 5, dtype=torch.float64)
    one, two = kind(5, 6).double(), kind(6, 6).double()
    for k, layer in enumerate((one, two)):
        layer.load_state_dict(
            {
                name.replace(f".{k}.", ".0.", 1).replace(f"hidden_bias.{k}", "hidden_bias.0"): value
                for name, value in rnn.state_dict().items()
                if f".{k}." in name[:6] or name == f"hidden_bias.{k}"
            }
        )
    for training in (True, False):
        rnn.train(training)
        torch.manual_seed(3)
        found, _ = rnn(x)
        torch.manual_seed(3)
        between = nn.functional.dropout(one(x)[0], 0.5, training)
        torch.testing.assert_close(found, two(between)[0])
    rnn.train()
    assert not torch.equal(rnn(x)[0], rnn(x)[0])


@pytest.mark.parametrize("kind", [TensorLSTM, TensorGRU])
def test_recurrent_dropout_has_one_mask_for_all_frames_and_another_for_each_clip(kind):
    """Without inputs and biases, from a first state: the mask of the first frame explains all frames."""
    hidden, clips, frames = 12, 40, 5
    rnn = kind(3, hidden, recurrent_dropout=0.5, bias=False).double().train()
    x = torch.zeros(frames, clips, 3, dtype=torch.float64)
    h0 = torch.randn(1, clips, hidden, dtype=torch.float64).requires_grad_()
    start = (h0, torch.zeros_like(h0)) if kind is TensorLSTM else h0
    with torch.no_grad():
        u = rnn.matrices(0)[1]
    torch.manual_seed(1)
    out, _ = rnn(x, start)
    # A unit is dropped where the first frame's other units do not feel it.
    masks = torch.zeros(clips, hidden, dtype=torch.float64)
    for unit in range(2):
        (felt,) = torch.autograd.grad(out[0, :, unit].sum(), h0, retain_graph=True)
        others = torch.arange(hidden) != unit
        masks[:, others] = (felt[0] != 0).double()[:, others]
    assert 0.35 < masks.mean() < 0.65
    assert len({tuple(mask.tolist()) for mask in masks}) > clips // 2
    torch.testing.assert_close(loop(kind, u, h0.detach(), masks / 0.5, frames), out.detach())
    rnn.eval()
    torch.testing.assert_close(
        loop(kind, u, h0.detach(), torch.ones_like(masks), frames), rnn(x, start)[0].detach()
    )


def loop(kind, u, h0, factor, frames):
    """nn.LSTM's and nn.GRU's cells without inputs and biases, on factor * h."""
    h, c, found = h0[0], torch.zeros_like(h0[0]), []
    for _ in range(frames):
        gates = (factor * h) @ u
        if kind is TensorLSTM:
            i, f, g, o = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        else:
            r, z, n = gates.chunk(3, 1)
            h = (1 - z.sigmoid()) * (r.sigmoid() * n).tanh() + z.sigmoid() * h
        found.append(h)
    return torch.stack(found)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_classifier_reads_the_last_layer_at_each_clip_s_own_end(bidirectional):
    """Clips of several lengths, alone and padded with noise; two layers; uint8 pixels as (x / 255 - mean) / std."""
    rnn = TensorLSTM(12, 5, 2, batch_first=True, bidirectional=bidirectional)
    model = VideoClassifier(rnn, 3, mean=0.4, std=0.3).eval()
    clips = torch.randint(256, (4, 6, 2, 2, 3), dtype=torch.uint8)
    lengths = torch.tensor([6, 1, 4, 2])
    found = model(clips, lengths)
    for i, n in enumerate(lengths.tolist()):
        pixels = (clips[i : i + 1, :n].float() / 255 - 0.4) / 0.3
        _, (h, _) = rnn(pixels.flatten(2))
        last = torch.cat([h[2, 0], h[3, 0]]) if bidirectional else h[1, 0]
        torch.testing.assert_close(found[i], model.head(last), rtol=1e-4, atol=1e-5)
