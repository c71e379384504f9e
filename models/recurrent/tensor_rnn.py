"""LSTM and GRU whose weight matrices are tensor networks: input to hidden, hidden to hidden, or both as one.

    gates = x W + h U + b;   W = ih [input, G H], U = hh [H, G H], each a `FormatSpec` of its own, dense by default

G is 4 (LSTM: i f g o) or 3 (GRU: r z n), in PyTorch's order, the gates folded into the first output mode. The input's part
is one product over all frames (kron_linear, or what `dropfold.models.formats.plan` finds cheaper); then one launch a
direction and layer walks through time (dropfold.kernels.recurrent.lstm_sequence, gru_sequence). The plain form
(`dropfold.models.unfused`) takes one frame after the other, and calls `hh`, or `mega`, at each.

`mega` (FDHT-LSTM) is one network of the stacked [x; h] -> gates instead. Its rows are a grid [p, q], cut where the network
is: x fills the first ceil(input / q) rows of the grid, h the next, with as many of a row's q places as divide H. So both
parts are Kronecker sums with shared factors, W = sum_s A_s[x rows] (x) C_s and U = sum_s A_s[h rows] (x) C_s[h places], and
x W still leaves the loop over time, exactly.

Sources: TT-LSTM, Yang et al. 2017 (arXiv 1707.01786); BT, Ye et al. 2018 (1712.05134); TR, Pan et al. 2019 (1811.07503); HT,
Yin et al. 2020 (2005.04366); both matrices in TT, Onu et al. 2020 (2010.04196); FDHT-LSTM, Wu et al. 2021 (2104.05758).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from dropfold.kernels import gru_sequence, kron_linear, lstm_sequence
from dropfold.kernels.backend.inputs import check_floating, check_tensors, check_type_of
from dropfold.kernels.recurrent.kron.factors import check_input, needs_scaling
from dropfold.kernels.recurrent.sequence.dropout import draw_keep_scale, drop_units
from dropfold.kernels.recurrent.sequence.inputs import check_lengths
from dropfold.models.formats import Kron
from dropfold.models.formats.spec import Specs, spec_of_layer
from dropfold.models.layers.tensor_linear import Mega, TensorLinear, scaled_input
from dropfold.models.layers.unfused import HasPlainForm
from dropfold.models.recurrent.plain import from_plain, to_plain

WEIGHTS = "the weights"  # in messages


class Direction(NamedTuple):
    """One layer in one direction: the input's part of the gates, and the hidden matrix."""

    gx: Tensor
    u: Kron


class TensorRNN(HasPlainForm):
    """The base of TensorLSTM and TensorGRU; arguments as `TensorLSTM`."""

    gates: int
    plain: Any  # the module of PyTorch with equal outputs
    # The call of the kernel: of a layer and direction k, gx, u and the first states.
    _sequence: Callable[..., Any]
    # A frame of the plain form: of k, gx, the product with U (a mega's includes the input's part, and gx is 0), h, the
    # states.
    _step: Callable[..., tuple[Tensor, ...]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        ih: Specs = None,
        hh: Specs = None,
        mega: Specs = None,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        recurrent_dropout: float = 0.0,
        hidden_gain: float = 1.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if proj_size:
            raise ValueError(
                f"proj_size {proj_size} is not supported: a projected state makes the hidden matrix low rank, which a "
                "format of `hh` does with fewer numbers. Leave it 0."
            )
        if not (0 <= dropout <= 1 and 0 <= recurrent_dropout < 1):
            raise ValueError(
                f"dropout must be from 0 to 1, and recurrent_dropout at least 0 and below 1; got {dropout} and "
                f"{recurrent_dropout}."
            )
        if hidden_gain <= 0:
            raise ValueError(f"hidden_gain must be above 0; got {hidden_gain}.")
        if mega is not None and hidden_gain != 1:
            raise ValueError(
                f"a mega matrix has one scale for [x; h]: leave hidden_gain 1; got {hidden_gain}."
            )
        if min(input_size, hidden_size, num_layers) < 1:
            raise ValueError(
                f"input_size, hidden_size and num_layers must be at least 1; got {input_size}, {hidden_size} and "
                f"{num_layers}."
            )
        if mega is not None and (ih is not None or hh is not None):
            raise ValueError("give either mega, one network of [x; h], or ih and hh; got both.")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.dropout, self.bidirectional = batch_first, dropout, bidirectional
        self.recurrent_dropout, self.recompute = recurrent_dropout, recompute
        self.hidden_gain = hidden_gain
        self.directions = 2 if bidirectional else 1
        self.ih, self.hh, self.mega = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.hidden_bias = nn.ParameterList()  # of a GRU, inside the reset
        for layer in range(num_layers):
            size = input_size if layer == 0 else self.directions * hidden_size
            for _ in range(self.directions):
                if mega is not None:
                    spec = spec_of_layer(mega, layer, num_layers, self.directions + 1)
                    self.mega.append(Mega(size, hidden_size, spec, self.gates, bias))
                else:
                    columns = self.gates * hidden_size
                    spec = spec_of_layer(ih, layer, num_layers, self.directions)
                    self.ih.append(TensorLinear(size, columns, spec, bias, gates=self.gates))
                    spec = spec_of_layer(hh, layer, num_layers, 0)
                    self.hh.append(TensorLinear(hidden_size, columns, spec, False, gates=self.gates))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """W and U with outputs of 1 and `hidden_gain` for unit inputs, biases 0 but for the LSTM's forget gate, 1."""
        module: Any
        for module in (*self.ih, *self.mega):
            module.reset_parameters()
        for module in self.hh:
            module.weight.reset_parameters(self.hidden_gain**2 / self.hidden_size)
        for module in (*self.ih, *self.mega):
            if module.bias is not None and self.gates == 4:
                nn.init.ones_(module.bias[self.hidden_size : 2 * self.hidden_size])
        for bias in self.hidden_bias:
            nn.init.zeros_(bias)

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: Any = None,
        *,
        lengths: Tensor | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> tuple[Any, Any]:
        """As PyTorch's module, and:

        Args:
            x: [T, B, input], [B, T, input] if `batch_first`, [T, input], or packed. uint8 is read as bytes.
            state: h_0 (GRU) or (h_0, c_0), each [layers directions, B, H].
            lengths: int64 [B], frames of each row, on any device; instead of packing.
            scale, shift: the first layer sees scale x + shift.

        Raises:
            ValueError: sizes do not fit, a length below 1 or above T, or x or a state is of another floating point type than
                the weights outside autocast. NaN in x is NaN in its row from there on.
        """
        if isinstance(x, PackedSequence):
            if lengths is not None:
                raise ValueError("a packed x has its lengths with it; leave `lengths` out.")
            return self._packed(x, state, scale, shift)
        check_tensors(x=x)
        batched = x.dim() == 3
        if x.dim() not in (2, 3) or x.shape[-1] != self.input_size or 0 in x.shape:
            order = "[B, T" if self.batch_first else "[T, B"
            raise ValueError(
                f"x must be {order}, {self.input_size}] or [T, {self.input_size}], with a frame at least; got "
                f"{list(x.shape)}."
            )
        check_input(x, self.input_size)
        check_type_of(WEIGHTS, next(self.parameters()), x=x)
        if not batched:
            x = x.unsqueeze(0 if self.batch_first else 1)
        batch, frames = x.shape[:2] if self.batch_first else (x.shape[1], x.shape[0])
        states = self._states(state, (batch,) if batched else ())
        if lengths is not None:
            check_lengths(lengths, batch, frames)
            lengths = lengths.to(x.device)
        y, ends = x, []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                y = nn.functional.dropout(y, self.dropout, self.training)
            scaling = (scale, shift) if layer == 0 else (1.0, 0.0)
            outs = []
            for d in range(self.directions):
                k = layer * self.directions + d
                arguments = (k, y, [s[k] for s in states], lengths, *scaling)
                if self.recompute and torch.is_grad_enabled():
                    out, *end = checkpoint(self._run, *arguments, use_reentrant=False)
                else:
                    out, *end = self._run(*arguments)
                outs.append(out)
                ends.append(end)
            y = outs[0] if self.directions == 1 else torch.cat(outs, -1)
            y = y.transpose(0, 1) if self.batch_first else y
        last = tuple(torch.stack(parts) if len(parts) > 1 else parts[0][None] for parts in zip(*ends))
        if not batched:
            y, last = y.squeeze(0 if self.batch_first else 1), tuple(s.squeeze(1) for s in last)
        return y, last[0] if len(last) == 1 else last

    def step(
        self, x_t: Tensor, state: Any = None, *, scale: float = 1.0, shift: float = 0.0
    ) -> tuple[Tensor, Any]:
        """One frame of a stream: h_t and the state after it, as the whole sequence has them.

        Args:
            x_t: [B, input] or [input].
            state: what the step before returned; None before the first frame.
            scale, shift: as for the sequence.

        Raises:
            ValueError: bidirectional, which needs the frames to come, or recurrent dropout in training, whose units stay
                the same over a sequence that a single step does not know.
        """
        if self.bidirectional:
            raise ValueError("a bidirectional network needs the frames to come; give it the whole sequence.")
        if self.training and self.recurrent_dropout:
            raise ValueError(
                f"recurrent_dropout {self.recurrent_dropout} drops the same units at all frames of a sequence, which a step "
                "cannot know in training; call eval(), or give the whole sequence."
            )
        check_tensors(x_t=x_t)
        if x_t.dim() not in (1, 2):
            raise ValueError(
                f"x_t must be one frame, [B, {self.input_size}] or [{self.input_size}]; got {list(x_t.shape)}."
            )
        time = 1 if self.batch_first and x_t.dim() == 2 else 0
        out, state = self(x_t.unsqueeze(time), state, scale=scale, shift=shift)
        return out.squeeze(time), state

    def _run(
        self, k: int, x: Tensor, states: list[Tensor], lengths: Tensor | None, scale: float, shift: float
    ) -> Any:
        """One layer in one direction: out [T, B, H], and the last states."""
        if not self.fused:
            return self._frames(k, x, states, lengths, scale, shift)
        gx, u = self._project(k, x, scale, shift)
        return self._sequence(
            k,
            gx.transpose(0, 1) if self.batch_first else gx,
            u,
            states,
            lengths=lengths,
            reverse=k % self.directions == 1,
            recurrent_dropout=self.recurrent_dropout if self.training else 0.0,
        )

    def _frames(
        self, k: int, x: Tensor, states: list[Tensor], lengths: Tensor | None, scale: float, shift: float
    ) -> tuple[Tensor, ...]:
        """The plain form of `_run`: frame by frame through the layer's own modules."""
        x = x.transpose(0, 1) if self.batch_first else x
        module: Any = (self.mega or self.hh)[k]
        if self.mega:  # which multiplies x and h at once
            x = scaled_input(x, scale, shift, module.weight.cores[0].dtype)
            gx = x.new_zeros(1, 1, 1)
        else:
            gx = self.ih[k](x, scale=scale, shift=shift)
        frames, batch = x.shape[:2]
        states = [gx.new_zeros(batch, self.hidden_size) if s is None else s for s in states]
        keep_scale = draw_keep_scale(self.recurrent_dropout if self.training else 0.0, states[0], None)
        out: list[Any] = [None] * frames
        for t in reversed(range(frames)) if k % self.directions else range(frames):

            def product(h: Tensor, t: int = t) -> Tensor:
                return module(x[t], h) if self.mega else module(h)

            h = drop_units(states[0], keep_scale)
            new = self._step(k, gx[0 if self.mega else t], product, h, states)
            if lengths is None:
                states, out[t] = list(new), new[0]
                continue
            inside = (t < lengths)[:, None]
            states = [torch.where(inside, after, before) for after, before in zip(new, states, strict=True)]
            out[t] = torch.where(inside, new[0], 0)
        return torch.stack(out), *states

    def _project(self, k: int, x: Tensor, scale: float, shift: float) -> Direction:
        """The input's part of the gates, and the hidden matrix."""
        if not self.mega:
            hidden: Any = self.hh[k]
            return Direction(self.ih[k](x, scale=scale, shift=shift), hidden.weight.lower_once())
        mega: Any = self.mega[k]
        w, u = mega.parts()
        missing = w.a.shape[1] * w.c.shape[1] - mega.input_size
        if missing:  # places in the last row of the grid, which are 0 after the shift
            x = (x.to(w.a.dtype) * scale + shift) if needs_scaling(x, scale, shift) else x
            x, scale, shift = nn.functional.pad(x, (0, missing)), 1.0, 0.0
        return Direction(kron_linear(x, w.a, w.c, mega.bias, scale=scale, shift=shift), u)

    def _packed(self, x: PackedSequence, state: Any, scale: float, shift: float) -> tuple[Any, Any]:
        padded, lengths = pad_packed_sequence(x, self.batch_first)
        # pad_packed_sequence restores the order that the caller packed in, as state has it.
        out, last = self(padded, state, lengths=lengths.to(padded.device), scale=scale, shift=shift)
        packed = pack_padded_sequence(out, lengths, self.batch_first, enforce_sorted=x.sorted_indices is None)
        return packed, last

    def _states(self, state: Any, batch: tuple[int, ...]) -> Any:
        """First states [layers directions, B, H], or None for each layer and direction."""
        number = self.num_layers * self.directions
        wanted = 2 if self.gates == 4 else 1
        if state is None:
            return [[None] * number] * wanted
        found = list(state) if isinstance(state, tuple | list) else [state]
        for name, s in zip(("h_0", "c_0"), found):
            check_floating(**{name: s})
            check_type_of(WEIGHTS, next(self.parameters()), **{name: s})
        shape = (number, *batch, self.hidden_size)
        if len(found) != wanted or any(s.shape != shape for s in found):
            what = "(h_0, c_0), each" if wanted == 2 else "h_0,"
            raise ValueError(
                f"the first state must be {what} {list(shape)}; got {[list(s.shape) for s in found]}."
            )
        return found if batch else [s[:, None] for s in found]

    def matrices(self, k: int) -> tuple[Tensor, Tensor]:
        """W [input, G H] and U [H, G H] of layer and direction k = layer directions + direction, reconstructed."""
        if not self.mega:
            linears: list[Any] = [self.ih[k], self.hh[k]]
            return linears[0].weight.to_dense(), linears[1].weight.to_dense()
        mega: Any = self.mega[k]
        dense = mega.weight.to_dense()
        x, h = mega.places()
        return dense[x.to(dense.device)], dense[h.to(dense.device)]

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, bidirectional={self.bidirectional}"


class TensorLSTM(TensorRNN):
    """nn.LSTM with its matrices as tensor networks.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: as nn.LSTM. One bias vector a layer
            and direction, where nn.LSTM adds two. `proj_size` is refused.
        ih, hh: the networks of input to hidden and hidden to hidden, one for all layers or one for each; default dense. With
            one for all, upper layers take ih's output modes as input modes, the directions folded into the first.
        mega: one network of [x; h] instead (FDHT); its in_modes make a grid that holds both, see the head of this file.
        recurrent_dropout: probability that a unit of h is dropped before the product with U, at all steps of a sequence.
        hidden_gain: U starts with outputs of this standard deviation for unit states; of a mega matrix it is the share
            of H in its rows, sqrt(H / (input + H)), and any other is refused.
        recompute: keep nothing of a layer but its input for backward, which runs the layer again.
    """

    gates, plain = 4, nn.LSTM

    def to_nn_lstm(self) -> nn.LSTM:
        """A plain nn.LSTM with equal outputs, for ONNX, cuDNN, anywhere (recurrent dropout is for training alone)."""
        return to_plain(self)

    @classmethod
    def from_nn_lstm(
        cls, lstm: nn.LSTM, *, ih: Specs = None, hh: Specs = None, mega: Specs = None, eps: float | None = None,
        **options: Any,
    ) -> TensorLSTM:  # fmt: skip
        """Compress a trained nn.LSTM: the nearest networks at the specs' ranks, or, for specs without, within `eps`.

        Each network's `error` says how far it is from its matrix: at the papers' ranks this is a start, not a lossless copy.
        """
        return from_plain(cls, lstm, ih, hh, mega, eps, **options)

    def _sequence(self, k: int, gx: Tensor, u: Kron, states: list[Tensor], **options: Any) -> Any:
        return lstm_sequence(gx, u.a, u.c, *states, **options)

    def _step(
        self, k: int, gx: Tensor, product: Callable[[Tensor], Tensor], h: Tensor, states: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        i, f, g, o = (gx + product(h)).chunk(4, -1)
        c = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class TensorGRU(TensorRNN):
    """nn.GRU with its matrices as tensor networks.

    Args:
        reset: "after" the hidden product, as cuDNN and nn.GRU; or "before" it, the form that a mega matrix can express.
        others: as `TensorLSTM`. With "after" there is a second bias, [H], inside the reset.
    """

    gates, plain = 3, nn.GRU

    def __init__(
        self,
        *sizes: int,
        reset: Literal["after", "before"] = "after",
        mega: Specs = None,
        bias: bool = True,
        **options: Any,
    ) -> None:
        if reset not in ("after", "before"):
            raise ValueError(f"reset must be 'after' or 'before' the hidden product; got {reset!r}.")
        if mega is not None and reset == "after":
            raise ValueError(
                "a mega matrix adds x W and h U before the reset can tell them apart; use reset='before', the form that it "
                "expresses."
            )
        super().__init__(*sizes, mega=mega, bias=bias, **options)
        self.reset = reset
        if bias and reset == "after":
            for _ in self.ih:
                self.hidden_bias.append(nn.Parameter(torch.zeros(self.hidden_size)))

    def to_nn_gru(self) -> nn.GRU:
        """A plain nn.GRU with equal outputs; only for reset="after"."""
        if self.reset != "after":
            raise ValueError(
                "nn.GRU resets after the product; a TensorGRU with reset='before' has no plain form."
            )
        return to_plain(self)

    @classmethod
    def from_nn_gru(
        cls, gru: nn.GRU, *, ih: Specs = None, hh: Specs = None, eps: float | None = None, **options: Any
    ) -> TensorGRU:
        """Compress a trained nn.GRU, as `TensorLSTM.from_nn_lstm`."""
        if options.get("reset", "after") != "after":
            raise ValueError(
                "nn.GRU resets after the product; a TensorGRU with reset='before' cannot hold it."
            )
        return from_plain(cls, gru, ih, hh, None, eps, **options)

    def _sequence(self, k: int, gx: Tensor, u: Kron, states: list[Tensor], **options: Any) -> Any:
        bias = None
        if self.reset == "after":
            bias = self.hidden_bias[k] if self.hidden_bias else gx.new_zeros(self.hidden_size)
        return gru_sequence(gx, u.a, u.c, bias, *states, **options)

    def _step(
        self, k: int, gx: Tensor, product: Callable[[Tensor], Tensor], h: Tensor, states: list[Tensor]
    ) -> tuple[Tensor]:
        if self.reset == "before":
            r, z, _ = (gx + product(h)).chunk(3, -1)
            r, z = r.sigmoid(), z.sigmoid()
            n = (gx + product(r * h)).chunk(3, -1)[2]
        else:
            (x_r, x_z, x_n), (h_r, h_z, h_n) = gx.chunk(3, -1), product(h).chunk(3, -1)
            r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
            n = x_n + r * (h_n + self.hidden_bias[k] if self.hidden_bias else h_n)
        return ((1 - z) * n.tanh() + z * states[0],)
