"""The recurrent comparisons of `python -m benchmarks.gpu`: compressed LSTMs and GRUs beside cuDNN's.

Both matrices are hierarchical Tucker networks of rank 8 and the input is as large as the state, so that the recurrence is
what is timed. "reconstructed" contracts them once a step and calls PyTorch's module, the strongest thing that dense
kernels can do. In float32 no side may round to TF32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Case

MODES = {
    16: (4, 4),
    256: (4, 4, 4, 4),
    512: (8, 4, 4, 4),
    1024: (8, 8, 4, 4),
    2048: (8, 8, 8, 4),
}
# FlashRNN's own figures (Poeppel et al. 2024, arXiv 2412.07752): milliseconds, forward / forward + backward, by head size.
FLASHRNN = {
    "Triton fused": {16: "1.97 / 3.47", 32: "1.44 / 4.10", 64: "1.99 / 18.94", 128: "3.23 / -"},
    "CUDA fused": {
        16: "3.56 / 8.22", 32: "2.90 / 8.20", 64: "3.10 / 8.64", 128: "3.22 / 9.02", 256: "3.62 / 11.3", 768: "4.87 / 13.61"
    },
    "PyTorch loop": {16: "150.2 / 479.6", 256: "154.2 / 542.1", 768: "147.5 / 484.3"},
    "nn.LSTM (fp16)": {768: "2.01 / 5.19"},
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Shapes of the recurrences, and of the first product of a video."""

    batch: int
    frames: tuple[int, ...]
    hidden: tuple[int, ...]
    video_rows: int
    video: tuple[tuple[int, int, int], tuple[int, int, int]]


FULL = Sizes(16, (64, 1024), (256, 512, 1024, 2048), 1024, ((4, 160, 64), (4, 360, 16)))
SMALL = Sizes(2, (3,), (16,), 3, ((2, 4, 4), (2, 6, 3)))


def comparisons(sizes: Sizes, device: str) -> list[list[Case]]:
    """Each inner list is timed interleaved; its first case is ours."""
    lists = []
    (s, p, u), (_, q, v) = sizes.video
    for dtype in ("bfloat16", "float32"):
        shape = f"{sizes.video_rows}x{p * q}-S{s}-to{u * v}"
        lists.append(
            [
                Case("kron_linear", name, shape, dtype, partial(kron_linear, name, sizes, dtype, device))
                for name in ("dropfold", "dropfold_uint8", "two_gemms")
            ]
        )
    for frames in sizes.frames:
        for hidden in sizes.hidden:
            for dtype in ("bfloat16", "float32"):
                for kind in ("lstm", "gru") if hidden == sizes.hidden[0] else ("lstm",):
                    for backward in (False, True):
                        lists.append(
                            _recurrences(kind, (frames, sizes.batch, hidden), backward, dtype, device)
                        )
    return lists


def _recurrences(
    kind: str, size: tuple[int, int, int], backward: bool, dtype: str, device: str
) -> list[Case]:
    operation = f"{kind}_forward_backward" if backward else f"{kind}_forward"
    shape = "T{}-B{}-H{}".format(*size)
    return [
        Case(operation, name, shape, dtype, partial(recurrence, name, kind, size, backward, dtype, device))
        for name in ("dropfold", "dense", "reconstructed")
    ]


def kron_linear(name: str, sizes: Sizes, dtype: str, device: str) -> Callable[[], Any]:
    """Forward and backward of all frames of some clips, from floats or bytes; no gradient of x, as in a first layer."""
    from dropfold import kernels

    torch.manual_seed(0)
    number = getattr(torch, dtype)
    a, c = (torch.randn(s, device=device, dtype=number, requires_grad=True) for s in sizes.video)
    (s, p, u), (_, q, v) = sizes.video
    pixels = torch.randint(256, (sizes.video_rows, p * q), dtype=torch.uint8, device=device)
    x = pixels if name == "dropfold_uint8" else pixels.to(number).mul_(1 / 127.5).sub_(1)

    def step() -> None:
        if name == "two_gemms":
            t = x.view(-1, q) @ c.transpose(0, 1).reshape(q, s * v)
            y = a.transpose(0, 1).reshape(p * s, u).T @ t.view(-1, p * s, v)
        elif name == "dropfold_uint8":
            y = kernels.kron_linear(x, a, c, scale=1 / 127.5, shift=-1.0)
        else:
            y = kernels.kron_linear(x, a, c)
        y.sum().backward()
        a.grad = c.grad = None

    return step


def recurrence(
    name: str, kind: str, size: tuple[int, int, int], backward: bool, dtype: str, device: str
) -> Callable[[], Any]:
    """One layer over a batch of sequences [T, B, H], by one of three: ours, PyTorch's dense one, ours reconstructed."""
    from benchmarks.cases.rnn_steps import reconstructed
    from dropfold.models import TensorGRU, TensorLSTM
    from dropfold.models.formats import FormatSpec

    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    number, hidden = getattr(torch, dtype), size[-1]
    x = torch.randn(size, device=device, dtype=number)
    module: Any
    if name == "dense":
        module = (nn.LSTM if kind == "lstm" else nn.GRU)(hidden, hidden)
    else:
        spec = FormatSpec("ht", MODES[hidden], MODES[hidden], (8,))
        module = (TensorLSTM if kind == "lstm" else TensorGRU)(hidden, hidden, ih=spec, hh=spec)
    module.to(device, number)
    run = reconstructed(module) if name == "reconstructed" else lambda x: module(x)[0]
    parameters: list[Tensor] = list(module.parameters())

    def step() -> None:
        with torch.set_grad_enabled(backward):
            out = run(x)
        if backward:
            out.sum().backward()
            for parameter in parameters:
                parameter.grad = None

    return step


def published() -> str:
    """FlashRNN's figures as a text, labelled."""
    lines = [
        "published by FlashRNN, not measured here: ms forward / forward + backward of an LSTM on an H100 SXM, bf16,"
    ]
    lines.append("batch 16, 1,024 steps, hidden 768 in total as heads of the size named (- did not fit):")
    for name, figures in FLASHRNN.items():
        lines.append(f"  {name}: " + ", ".join(f"head {size}: {figure}" for size, figure in figures.items()))
    return "\n".join(lines)
