"""Steps of LSTMs at published shapes: ours in each format, nn.LSTM, the peers, and one GEMM as the limit; equal names have
equal weights."""

from __future__ import annotations

import functools
import importlib.util
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.cases import peers
from benchmarks.harness import Case
from dropfold.kernels import linear
from dropfold.models import TensorLSTM
from dropfold.models.formats import FormatSpec
from dropfold.models.recurrent.tensor_rnn import TensorRNN

Group = Literal["ucf11", "ucf11-long", "cnn", "sweep"]
Run = Callable[[Tensor], Tensor]
GEMM = "limit: one GEMM"
NEEDS = {"tednet": "tednet", "tensorly-torch": "tltorch"}


@dataclass(frozen=True)
class Shape:
    """One LSTM: its sizes, and the networks that are measured at it, by name."""

    input_size: int
    hidden_size: int
    frames: int
    ih: dict[str, FormatSpec]
    hh: dict[str, FormatSpec]
    mega: FormatSpec
    peers: tuple[str, ...] = ()
    batch: int = 16
    kept: bool = False  # freed memory stays with the process

    def __str__(self) -> str:
        sizes = f"M{self.input_size}-H{self.hidden_size}-B{self.batch}-T{self.frames}"
        return f"{sizes}-kept" if self.kept else sizes

    def providers(self) -> list[str]:
        """Ours first; "both" has hidden to hidden in the format, too."""
        ours = [f"dropfold {name}{both}" for name in self.ih for both in ("", " both")]
        plain = ["nn.LSTM", "reconstructed tt", "reconstructed tt both"]
        return [*ours, "dropfold fdht", "dropfold tt uint8", *plain, *self.peers, GEMM]


def specs(
    in_modes: Sequence[int], out_modes: Sequence[int], **ranks: int | tuple[int, ...]
) -> dict[str, FormatSpec]:
    """A spec for each format named; "ht" has paired leaves, "ht_split" a root between inputs and outputs."""
    made = {}
    for name, rank in ranks.items():
        ranks_of_bonds = (rank,) if isinstance(rank, int) else rank
        format_: Any = name.split("_")[0]
        spec = FormatSpec(format_, tuple(in_modes), tuple(out_modes), ranks_of_bonds)
        spec.leaves = "split" if name == "ht_split" else "paired"
        spec.paired = True
        made[name] = spec
    return made


def shapes() -> dict[Group, list[Shape]]:
    """What each group measures."""
    video, hidden = (8, 20, 20, 18), (4, 4, 4, 4)
    ring = FormatSpec("tr", (4, 2, 5, 8, 6, 5, 3, 2), (4, 4, 2, 4, 2), (10, *[5] * 12))
    ucf_ih = specs(video, hidden, tt=4, tr=5, bt=4, cp=8, ht=5, ht_split=5) | {"tr": ring}
    ucf_hh = specs(hidden, hidden, tt=4, tr=5, bt=4, cp=8, ht=5, ht_split=5)
    ucf_mega = FormatSpec("ht", (7, 23, 20, 18), hidden, (5,))
    few = ("tednet tt", "tednet tr", "tensorly-torch tt", "tensorly-torch cp")
    every = (*few, "tednet bt")  # which keeps 1.4 GiB for 6 frames, and would keep 15 for 64
    ucf = partial(Shape, 57_600, 256, ih=ucf_ih, hh=ucf_hh, mega=ucf_mega)
    cnn = specs((64, 32), (32, 64), tt=10, tr=20, bt=5, cp=400, ht=10, ht_split=10)
    cnn["cp"].paired = False
    mega = FormatSpec("ht", (8, 8, 8, 8), (8, 8, 8, 4), (5,))
    return {
        "ucf11": [ucf(6, peers=every)],
        "ucf11-long": [ucf(64, peers=few)],
        "cnn": [Shape(2048, 2048, 6, cnn, cnn, mega, every)],
        "sweep": [_sweep(*at) for at in SWEEP],
    }


# Modes of the hidden size, and of a grid that holds [x; h].
SWEEP = [
    ((4, 4, 4, 4), (9, 4, 8, 8)),
    ((8, 4, 4, 4), (8, 5, 8, 8)),
    ((8, 8, 4, 4), (8, 6, 8, 8)),
    ((8, 8, 8, 4), (8, 8, 8, 8)),
]


def _sweep(hidden: tuple[int, ...], grid: tuple[int, ...]) -> Shape:
    ih, hh = (specs(modes, hidden, tt=8, ht=8) for modes in ((8, 8, 8, 4), hidden))
    mega = FormatSpec("ht", grid, hidden, (8,))
    return Shape(2048, math.prod(hidden), 64, ih, hh, mega, ("tednet tt", "tensorly-torch tt"))


def run_of(shape: Shape, provider: str) -> tuple[Run, list[Tensor]]:
    """A function of x [T, B, input] that returns the hidden states [T, B, H], and its parameters."""
    torch.manual_seed(0)
    name, _, what = provider.partition(" ")
    if provider == GEMM:
        return _one_gemm(shape)
    if provider == "nn.LSTM":
        plain = nn.LSTM(shape.input_size, shape.hidden_size)
        return lambda x: plain(x)[0], list(plain.parameters())
    if name in NEEDS:
        spec = shape.ih[what]
        peer = peers.tednet_lstm(spec) if name == "tednet" else peers.TensorlyLSTM(spec)
        zeros = torch.zeros(shape.batch, shape.hidden_size)
        return lambda x: peer(x, (zeros, zeros))[0], list(peer.parameters())
    rnn = tensor_lstm(shape, what.removesuffix(" uint8"))
    parameters: list[Tensor] = list(rnn.parameters())
    if name == "reconstructed":
        return reconstructed(rnn), parameters
    if what.endswith("uint8"):
        return lambda x: rnn(x, scale=1 / 127.5, shift=-1.0)[0], parameters
    return lambda x: rnn(x)[0], parameters


def tensor_lstm(shape: Shape, what: str) -> TensorLSTM:
    """Ours by name: a format, with " both" hidden to hidden as well, or "fdht"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # published ranks above the useful ones
        if what == "fdht":
            return TensorLSTM(shape.input_size, shape.hidden_size, mega=shape.mega)
        name = what.removesuffix(" both")
        hh = shape.hh[name] if what.endswith(" both") else None
        return TensorLSTM(shape.input_size, shape.hidden_size, ih=shape.ih[name], hh=hh)


def reconstructed(rnn: TensorRNN) -> Run:
    """W and U contracted once a step, then PyTorch's module; gradients reach the cores."""
    plain = rnn.plain(rnn.input_size, rnn.hidden_size, device="meta")
    first: Any = (rnn.mega or rnn.ih)[0]

    def run(x: Tensor) -> Tensor:
        w, u = rnn.matrices(0)
        hidden = torch.zeros_like(first.bias)
        if rnn.hidden_bias:
            hidden = torch.cat([hidden[: 2 * rnn.hidden_size], rnn.hidden_bias[0]])
        matrices = {"weight_ih_l0": w.T.contiguous(), "weight_hh_l0": u.T.contiguous()}
        weights = {**matrices, "bias_ih_l0": first.bias, "bias_hh_l0": hidden}
        return torch.func.functional_call(plain, weights, (x,))[0]

    return run


def _one_gemm(shape: Shape) -> tuple[Run, list[Tensor]]:
    """x [.., q] through the first factor of a lowered TT, [q, S v], and nothing else."""
    _, q, columns = first_factor(shape)
    factor = torch.randn(columns, q, requires_grad=True)
    return lambda x: linear(x.view(-1, q), factor), [factor]


def first_factor(shape: Shape) -> tuple[int, int, int]:
    """(p, q, S v): x as [B T p, q] times [q, S v]."""
    (_, p, _), (s, q, v) = shape.ih["tt"].build(shape.input_size, shape.hidden_size, 4).kron_shapes()
    return p, q, s * v


@functools.lru_cache(maxsize=2)
def frames_of(frames: int, batch: int, size: int, as_bytes: bool) -> Tensor:
    """Random x, the same for all providers of a process."""
    x = torch.randint(
        256, (frames, batch, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return x if as_bytes else x.float().div_(127.5).sub_(1)


def step(shape: Shape, provider: str, backward: bool) -> Callable[[], Any]:
    """One forward, or one forward and backward of the sum of all hidden states."""
    run, parameters = run_of(shape, provider)
    x = frames_of(shape.frames, shape.batch, shape.input_size, provider.endswith("uint8"))

    def forward() -> None:
        with torch.no_grad():
            run(x)

    def both() -> None:
        run(x).sum().backward()
        for parameter in parameters:
            parameter.grad = None

    return both if backward else forward


def cases(shape: Shape, providers: Iterable[str], backward: bool) -> list[Case]:
    """One case for each provider, with the limit that all have."""
    p, q, columns = first_factor(shape)
    reads, rows = (2 if backward else 1), shape.batch * shape.frames
    return [
        Case(
            operation="lstm_forward_backward" if backward else "lstm_forward",
            provider=provider,
            shape=str(shape),
            dtype="uint8" if provider.endswith("uint8") else "float32",
            make=partial(step, shape, provider, backward),
            bytes_least=reads * rows * shape.input_size * (1 if provider.endswith("uint8") else 4),
            flops_least=reads * rows * 2 * p * q * columns,
        )
        for provider in providers
    ]


def missing(provider: str) -> bool:
    """Whether the provider is a peer that is not installed."""
    module = NEEDS.get(provider.split()[0])
    return module is not None and importlib.util.find_spec(module) is None
