"""Linear layers whose weight is a tensor network: one matrix, or the mega matrix of [x; h]."""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor, nn

from dropfold.kernels import kron_linear, linear
from dropfold.kernels.backend.inputs import check_type_of
from dropfold.kernels.recurrent.kron.factors import check_input, needs_scaling
from dropfold.models.formats import Format, FormatSpec, Kron
from dropfold.models.formats.plan import Execution, switches
from dropfold.models.layers.unfused import HasPlainForm


class TensorLinear(HasPlainForm):
    """y = x W + b with W [in, out] a tensor network. The plain form contracts W and multiplies by it.

    Args:
        in_features, out_features: sizes; the spec's modes multiply to them.
        spec: the network.
        bias: whether there is a b, 0 at the start.
        gates: out_features is `gates` times what the spec's output modes multiply to.
        execution: "lowered", "cores" or "reconstructed"; None takes the cheapest for the number of rows.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        spec: FormatSpec,
        bias: bool = True,
        *,
        gates: int = 1,
        execution: Execution | None = None,
    ) -> None:
        super().__init__()
        if execution not in (None, *get_args(Execution)):
            raise ValueError(f"execution must be None or one of {get_args(Execution)}; got {execution!r}.")
        self.in_features, self.out_features = in_features, out_features
        self.hold(spec.build(in_features, out_features // gates, gates))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.execution = execution

    def forward(self, x: Tensor, *, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        """[..., in] to [..., out], of scale x + shift; x is of the weight's type or uint8, the result as the weight."""
        check_input(x, self.in_features)
        check_type_of("the weight", self.weight.cores[0], x=x)
        if not self.fused:
            x = scaled_input(x, scale, shift, self.weight.cores[0].dtype)
            return nn.functional.linear(x, self.weight.to_dense().T, self.bias)
        rows = x.numel() // self.in_features
        execution = self.execution or next(way for start, way in self._switches if rows >= start)
        if execution == "lowered":
            return kron_linear(x, *self.weight.lower_once(), self.bias, scale=scale, shift=shift)
        x = scaled_input(x, scale, shift, self.weight.cores[0].dtype)
        if execution == "reconstructed":
            return linear(x, self.weight.to_dense().T, self.bias)
        y = self.weight.absorb(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def hold(self, network: Format) -> None:
        """Take a network as the weight, and plan for it."""
        self.weight, self._switches = network, switches(network)

    def reset_parameters(self) -> None:
        """W with unit outputs for unit inputs, b = 0."""
        self.weight.reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Mega(nn.Module):
    """One network of the stacked [x; h] -> gates, and its two parts. A call is the plain form."""

    def __init__(self, input_size: int, hidden_size: int, spec: FormatSpec, gates: int, bias: bool) -> None:
        super().__init__()
        if spec.format == "dense":
            raise ValueError(
                "a dense mega matrix is a dense ih and a dense hh: leave mega out, or give it a format."
            )
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight = spec.build(input_size + hidden_size, hidden_size, gates, mega=True)
        (_, p, u), (_, q, v) = self.weight.kron_shapes()
        self.x_rows, self.h_places = math.ceil(input_size / q), largest_divisor(hidden_size, q)
        self.h_rows = hidden_size // self.h_places
        if p < self.x_rows + self.h_rows or u * v != gates * hidden_size:
            raise ValueError(
                f"mega: the grid of {spec.in_modes} is {p} x {q}; the input of {input_size} takes {self.x_rows} rows of {q} "
                f"and the hidden state {self.h_rows} rows of {self.h_places}. Give in_modes whose left part multiplies to "
                f"at least {self.x_rows + self.h_rows}."
            )
        self.bias = nn.Parameter(torch.zeros(gates * hidden_size)) if bias else None

    def reset_parameters(self) -> None:
        """A matrix with unit outputs for unit inputs and states, b = 0."""
        self.weight.reset_parameters(1 / (self.input_size + self.hidden_size))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Gates [B, G H] of x [B, input] and h [B, H], stacked as the rows of the matrix are."""
        places = torch.cat(self.places()).to(x.device)
        stacked = x.new_zeros(len(x), self.weight.shape[0]).index_copy(1, places, torch.cat([x, h], 1))
        y = self.weight.absorb(stacked)
        return y if self.bias is None else y + self.bias

    def parts(self) -> tuple[Kron, Kron]:
        """W of x [x_rows q, G H], of which the first `input_size` rows count, and U of h [H, G H]."""
        a, c = self.weight.lower_once()
        h = Kron(a[:, self.x_rows : self.x_rows + self.h_rows], c[:, : self.h_places])
        return Kron(a[:, : self.x_rows], c), h

    def places(self) -> tuple[Tensor, Tensor]:
        """The rows of the mega matrix that x and h are multiplied by."""
        q = self.weight.kron_shapes()[1][1]
        grid = torch.arange(self.weight.shape[0]).view(-1, q)
        h = grid[self.x_rows : self.x_rows + self.h_rows, : self.h_places]
        return grid.flatten()[: self.input_size], h.flatten()


def scaled_input(x: Tensor, scale: float, shift: float, dtype: torch.dtype) -> Tensor:
    """scale x + shift in `dtype`."""
    differs = needs_scaling(x, scale, shift)
    x = x.to(dtype)
    return x * scale + shift if differs else x


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`."""
    return max(d for d in range(1, min(number, most) + 1) if number % d == 0)
