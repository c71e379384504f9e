"""nn.LSTM and nn.GRU from TensorLSTM and TensorGRU, and the reverse: the nearest networks to trained matrices.

PyTorch's weights are [G H, input]: the transposes of ours, which multiply rows from the right. PyTorch adds two biases;
we have their sum, and, in a GRU that resets after the product, the hidden one of n apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dropfold.models.formats.spec import FormatSpec, Specs, spec_of_layer


def to_plain(rnn: Any) -> Any:
    """PyTorch's module with equal outputs, its matrices reconstructed."""
    biases: list[Any] = [m.bias for m in (rnn.mega or rnn.ih)]
    plain = rnn.plain(
        rnn.input_size,
        rnn.hidden_size,
        rnn.num_layers,
        bias=biases[0] is not None,
        batch_first=rnn.batch_first,
        dropout=rnn.dropout if rnn.num_layers > 1 else 0.0,  # there nn.LSTM warns, and drops nothing
        bidirectional=rnn.bidirectional,
    ).to(rnn.matrices(0)[0])
    with torch.no_grad():
        for k, bias in enumerate(biases):
            name = suffix(k, rnn.directions)
            w, u = rnn.matrices(k)
            getattr(plain, f"weight_ih_{name}").copy_(w.T)
            getattr(plain, f"weight_hh_{name}").copy_(u.T)
            if bias is not None:
                getattr(plain, f"bias_ih_{name}").copy_(bias)
                hidden = getattr(plain, f"bias_hh_{name}").zero_()
                if rnn.hidden_bias:
                    hidden[2 * rnn.hidden_size :] = rnn.hidden_bias[k]
    return plain.train(rnn.training)


def from_plain(
    cls: Any, plain: Any, ih: Specs, hh: Specs, mega: Specs, eps: float | None, **options: Any
) -> Any:
    """A TensorLSTM or TensorGRU (`cls`) nearest to PyTorch's module, at the specs' ranks or, without, within `eps`."""
    first = [specs if eps is None else _with_ranks(specs) for specs in (ih, hh, mega)]
    rnn = cls(
        *(plain.input_size, plain.hidden_size, plain.num_layers),
        ih=first[0], hh=first[1], mega=first[2], bias=plain.bias, batch_first=plain.batch_first, dropout=plain.dropout,
        bidirectional=plain.bidirectional, proj_size=plain.proj_size, **options,
    )  # fmt: skip
    rnn.to(plain.weight_ih_l0)

    def fitted(specs: Specs, layer: int, factor: int, matrix: Tensor) -> Any:
        spec = spec_of_layer(specs, layer, plain.num_layers, factor)
        return spec.fitted(matrix, rnn.gates, eps, mega=specs is mega)

    with torch.no_grad():
        for k in range(plain.num_layers * rnn.directions):
            layer, name = k // rnn.directions, suffix(k, rnn.directions)
            w, u = getattr(plain, f"weight_ih_{name}").T, getattr(plain, f"weight_hh_{name}").T
            if mega is not None:
                module = rnn.mega[k]
                stacked = w.new_zeros(module.weight.shape)
                x, h = (rows.to(w.device) for rows in module.places())
                stacked[x], stacked[h] = w, u
                module.weight = fitted(mega, layer, rnn.directions + 1, stacked)
            else:
                module = rnn.ih[k]
                module.hold(fitted(ih, layer, rnn.directions, w))
                rnn.hh[k].hold(fitted(hh, layer, 0, u))
            if plain.bias:
                own, hidden = getattr(plain, f"bias_ih_{name}"), getattr(plain, f"bias_hh_{name}")
                module.bias.copy_(own + hidden)
                if rnn.hidden_bias:
                    cut = 2 * plain.hidden_size
                    module.bias[cut:] = own[cut:]
                    rnn.hidden_bias[k].copy_(hidden[cut:])
    return rnn.train(plain.training)


def suffix(k: int, directions: int) -> str:
    """PyTorch's suffix of layer and direction."""
    return f"l{k // directions}" + ("_reverse" if k % directions else "")


def _with_ranks(specs: Specs) -> Specs:
    """Specs that can be built before `eps` has found their ranks: rank 1 where there is none."""
    if specs is None or isinstance(specs, FormatSpec):
        return specs and replace(specs, ranks=specs.ranks or (1,))
    return [replace(spec, ranks=spec.ranks or (1,)) for spec in specs]
