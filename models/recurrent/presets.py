"""The published compressed LSTMs by name, and what an RNN costs, weight by weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from dropfold.models.formats import FormatSpec
from dropfold.models.recurrent.plain import suffix
from dropfold.models.recurrent.tensor_rnn import TensorLSTM, TensorRNN


def tt_lstm(
    in_modes: Sequence[int] = (8, 20, 20, 18),
    out_modes: Sequence[int] = (4, 4, 4, 4),
    rank: int = 4,
    **options: Any,
) -> TensorLSTM:
    """The TT-LSTM of UCF11: 3,360 numbers for 57,600 -> 4 x 256, a dense hidden matrix."""
    return published("tt", in_modes, out_modes, (rank,), options)


def bt_lstm(
    in_modes: Sequence[int] = (8, 20, 20, 18), out_modes: Sequence[int] = (4, 4, 4, 4), rank: int = 4, blocks: int = 2,
    **options: Any,
) -> TensorLSTM:  # fmt: skip
    """The BT-LSTM of UCF11: 3,392 numbers, a dense hidden matrix."""
    return published("bt", in_modes, out_modes, (rank,), options, blocks=blocks)


def tr_lstm(
    in_modes: Sequence[int] = (4, 2, 5, 8, 6, 5, 3, 2), out_modes: Sequence[int] = (4, 4, 2, 4, 2),
    ranks: Sequence[int] = (10, *[5] * 12), **options: Any,
) -> TensorLSTM:  # fmt: skip
    """The TR-LSTM of UCF11: 1,725 numbers, a dense hidden matrix."""
    return published("tr", in_modes, out_modes, tuple(ranks), options)


def ht_lstm(
    in_modes: Sequence[int] = (8, 20, 20, 18), out_modes: Sequence[int] = (4, 4, 4, 4), rank: int = 5,
    leaves: Literal["paired", "split", "interleaved"] = "split", **options: Any,
) -> TensorLSTM:  # fmt: skip
    """The HT-LSTM of UCF11: 1,245 numbers (the layout that fits the published count), a dense hidden matrix."""
    return published("ht", in_modes, out_modes, (rank,), options, leaves=leaves)


def fdht_lstm(
    input_size: int = 57_600, in_modes: Sequence[int] = (7, 23, 20, 18), out_modes: Sequence[int] = (4, 4, 4, 4),
    rank: int = 5, **options: Any,
) -> TensorLSTM:  # fmt: skip
    """FDHT-LSTM: one hierarchical Tucker network for [x; h] -> gates. The paper's modes are not known; these are ours.

    UCF11's 57,600 + 256 do not factor (2^9 x 113): 161 x 360 rows hold 160 of x, one of h.
    """
    mega = FormatSpec("ht", tuple(in_modes), tuple(out_modes), (rank,))
    return TensorLSTM(input_size, math.prod(out_modes), mega=mega, **options)


def rnn_table(module: nn.Module) -> list[dict[str, Any]]:
    """Every weight and bias of an RNN, or of a network around one: numbers, multiply-adds, and the dense model's.

    Rows are dicts of name, kind, shape, parameters, dense_parameters, macs, dense_macs. Kinds are "cores", "bias",
    "classifier" (an nn.Linear around the RNN) and "other" (what else stands there, without its multiply-adds). Multiply-adds
    are those of one frame of one clip, lowered. Nothing is left out: the parameters add up to the module's.
    """
    rnn = next((m for m in module.modules() if isinstance(m, TensorRNN)), None)
    if rnn is None:
        raise ValueError(f"rnn_table takes a TensorLSTM, a TensorGRU or a network around one; got {module}.")
    rows: list[dict[str, Any]] = []

    def add(
        name: str, kind: str, shape: tuple[int, ...], parameters: int, dense: int, macs: int, dense_macs: int
    ) -> None:
        rows.append(
            {"name": name, "kind": kind, "shape": shape, "parameters": parameters, "dense_parameters": dense, "macs": macs,
             "dense_macs": dense_macs}
        )  # fmt: skip

    columns = rnn.gates * rnn.hidden_size
    for k in range(rnn.num_layers * rnn.directions):
        name = suffix(k, rnn.directions)
        if rnn.mega:
            mega: Any = rnn.mega[k]
            dense = (mega.input_size + mega.hidden_size) * columns
            macs = sum(part.macs() for part in mega.parts())
            add(
                f"mega_{name}", "cores", mega.weight.shape, mega.weight.parameters_count(), dense, macs, dense
            )
        for which, linears in (("ih", rnn.ih), ("hh", rnn.hh)):
            if not rnn.mega:
                w: Any = linears[k].weight
                dense = math.prod(w.shape)
                add(
                    f"{which}_{name}",
                    "cores",
                    w.shape,
                    w.parameters_count(),
                    dense,
                    min(w.lowered_macs(), dense),
                    dense,
                )
        first: Any = (rnn.mega or rnn.ih)[k]
        if first.bias is not None:
            number = first.bias.numel() + (rnn.hidden_bias[k].numel() if rnn.hidden_bias else 0)
            add(f"bias_{name}", "bias", (number,), number, 2 * columns, 0, 0)
    inside = set(rnn.modules())
    for name, m in module.named_modules():
        number = sum(p.numel() for p in m.parameters(recurse=False))
        if number and m not in inside:
            linear = isinstance(m, nn.Linear)
            shape, macs = (tuple(m.weight.shape), m.weight.numel()) if linear else ((number,), 0)
            add(name, "classifier" if linear else "other", shape, number, number, macs, macs)
    return rows


def published(
    format_: Any, in_modes: Sequence[int], out_modes: Sequence[int], ranks: tuple[int, ...], options: dict[str, Any],
    **more: Any,
) -> TensorLSTM:  # fmt: skip
    """An LSTM with the input's matrix in a format."""
    ih = FormatSpec(format_, tuple(in_modes), tuple(out_modes), ranks, **more)
    return TensorLSTM(math.prod(in_modes), math.prod(out_modes), ih=ih, **options)
