"""Which inputs lstm_sequence and gru_sequence refuse, and whether they need gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.inputs import check_floating, check_type_of
from dropfold.kernels.recurrent.kron.factors import check_kron


def check_sequence(
    gx: Tensor,
    a: Tensor,
    c: Tensor,
    gates: int,
    h0: Tensor | None,
    lengths: Tensor | None,
    **more: Tensor | None,
) -> int:
    """Refuse what does not fit together, `more` by type and device alone; returns H."""
    check_floating(gx=gx, a=a, c=c, h0=h0, **more)
    check_type_of("gx", gx, a=a, c=c, h0=h0, **more)
    rows, columns = check_kron(a, c)
    if columns != gates * rows:
        raise ValueError(
            f"a and c must make a matrix [H, {gates} H]; a {describe(a)} and c {describe(c)} make [{rows}, {columns}]."
        )
    if gx.dim() != 3 or gx.shape[2] != columns or 0 in gx.shape:
        raise ValueError(f"gx must be [T, B, {columns}] with T, B >= 1; got {describe(gx)}.")
    if h0 is not None and h0.shape != (gx.shape[1], rows):
        raise ValueError(f"a first state must be [B, H] = [{gx.shape[1]}, {rows}]; got {describe(h0)}.")
    if lengths is not None:
        check_lengths(lengths, gx.shape[1], gx.shape[0])
        if lengths.device != gx.device:
            raise ValueError(f"lengths must be where gx is, on {gx.device}; they are on {lengths.device}.")
    return rows


def check_lengths(lengths: Tensor, batch: int, frames: int) -> None:
    """Refuse what is not the frames of each row, from 1 to T.

    The values are read on the CPU alone: reading them on a GPU would make every step wait.
    """
    is_tensor = isinstance(lengths, Tensor)
    if not is_tensor or lengths.shape != (batch,) or lengths.dtype != torch.int64:
        given = describe(lengths) if is_tensor else lengths
        raise ValueError(f"lengths must be an int64 tensor [{batch}], the frames of each row; got {given}.")
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if lengths.is_cpu and not traced:
        least, most = (int(n) for n in lengths.aminmax())
        if least < 1 or most > frames:
            raise ValueError(f"lengths must be from 1 to T = {frames}; got {least} to {most}.")


def needs_grad(*inputs: Tensor | None) -> bool:
    """Whether backward can follow, so that the gates must be saved.

    Asked outside the autograd function: inside one, `no_grad` is not seen.
    """
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
