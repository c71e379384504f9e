"""A recurrent layer takes numbers of its weights' type, as PyTorch's do, and bytes; autocast alone joins others."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from dropfold.kernels import gru_sequence, kron_linear, lstm_sequence
from dropfold.models import TensorGRU, TensorLinear, TensorLSTM, unfused
from dropfold.models.formats import FormatSpec

TT = FormatSpec("tt", (3, 4), (2, 3), (2,))
LAYERS = {
    "lstm": lambda: TensorLSTM(12, 6, ih=TT),
    "mega": lambda: TensorLSTM(12, 6, mega=FormatSpec("ht", (5, 4), (2, 3), (2,))),
    "gru": lambda: TensorGRU(12, 6, ih=TT),
}
OTHERS = [torch.float64, torch.float16, torch.bfloat16]


def first_states(layer, dtype=torch.float32):
    h = torch.randn(1, 2, 6).to(dtype)
    return (h, torch.randn(1, 2, 6).to(dtype)) if isinstance(layer, TensorLSTM) else h


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("dtype", OTHERS)
@pytest.mark.parametrize("name", LAYERS)
def test_another_type_than_the_weights_is_refused(name, dtype, plain):
    layer, x = LAYERS[name](), torch.randn(4, 2, 12)
    message = (
        r"must be of the type of the weights, torch\.float32; got {0} .*Give {0}\.to\(torch\.float32\), or"
    )
    with unfused(layer) if plain else nullcontext():
        with pytest.raises(ValueError, match=message.format("x")):
            layer(x.to(dtype))
        with pytest.raises(ValueError, match=message.format("x")):
            layer(pack_sequence([x[:, 0].to(dtype)]))
        with pytest.raises(ValueError, match=message.format("h_0")):
            layer(x, first_states(layer, dtype))
        if isinstance(layer, TensorLSTM):
            h, c = first_states(layer)
            with pytest.raises(ValueError, match=message.format("c_0")):
                layer(x, (h, c.to(dtype)))
    with pytest.raises((ValueError, RuntimeError)):  # so does PyTorch's
        layer.plain(12, 6)(x.to(dtype))


@pytest.mark.parametrize("name", LAYERS)
def test_numbers_of_the_weights_type_and_bytes_are_taken(name):
    layer, x = LAYERS[name]().double(), torch.randint(0, 256, (4, 2, 12), dtype=torch.uint8)
    right, _ = layer(x.double(), first_states(layer, torch.float64))
    assert right.dtype == torch.float64
    torch.manual_seed(0)
    state = first_states(layer, torch.float64)
    torch.testing.assert_close(layer(x, state)[0], layer(x.double(), state)[0])
    with pytest.raises(ValueError, match=r"the weights, torch\.float64"):
        layer(x.float())


@pytest.mark.parametrize("name", LAYERS)
def test_autocast_brings_all_types_together_but_float64(name):
    layer, x = LAYERS[name](), torch.randn(4, 2, 12)
    state = first_states(layer)
    right, _ = layer(x, state)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        given = tuple(s.to(dtype) for s in state) if isinstance(state, tuple) else state.to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            out, _ = layer(x.to(dtype), given)
        # Three rounded products a step, over four steps, of inputs that are rounded, too.
        assert (out.float() - right).abs().max() < 24 * torch.finfo(torch.bfloat16).eps
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ValueError, match=r"x must be .*takes all but float64"):
            layer(x.double())
        with pytest.raises(ValueError, match=r"h_0 must be .*takes all but float64"):
            layer(x, first_states(layer, torch.float64))


@pytest.mark.parametrize("dtype", OTHERS)
def test_layers_and_operations_have_the_same_rule(dtype):
    x, (a, c) = torch.randn(3, 12), (torch.randn(1, 3, 2), torch.randn(1, 4, 3))
    with pytest.raises(ValueError, match=r"x must be of the type of the weight, torch\.float32"):
        TensorLinear(12, 6, TT)(x.to(dtype))
    with pytest.raises(RuntimeError):  # so does PyTorch's
        nn.Linear(12, 6)(x.to(dtype))
    with pytest.raises(ValueError, match=r"x must be of the type of a, torch\.float32"):
        kron_linear(x.to(dtype), a, c)
    with pytest.raises(ValueError, match=r"c must be of the type of a, torch\.float32"):
        kron_linear(x, a, c.to(dtype))
    one, h = torch.ones(1, 1, 1), torch.zeros(2, 6)
    for operation, gates in ((lstm_sequence, 4), (gru_sequence, 3)):
        gx, u = torch.randn(5, 2, 6 * gates), torch.randn(1, 6, 6 * gates)
        with pytest.raises(ValueError, match=r"c must be of the type of gx, torch\.float32"):
            operation(gx, one, u.to(dtype))
        with pytest.raises(ValueError, match=r"h0 must be of the type of gx, torch\.float32"):
            operation(gx, one, u, h0=h.to(dtype))
