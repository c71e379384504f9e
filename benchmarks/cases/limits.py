"""What our step would take at least through torch: its own matrix products run alone in torch's libraries, and its bytes
at the speed of a copy. A peer whose products are faster, or fewer, may be below.

"limit: GEMMs" runs the products of one of our steps (forward, backward, neighbour search) in a row, with nothing between
them, at their shapes and in their type: through ATen and, in float32 on a CPU, through oneDNN as well, for which is faster
depends on the processor. They are recorded from the step itself, on one thread, and with the passes of groups one by one,
whose tiles are larger than those of the compiled chain and filled up to 256 rows; a product that a Triton kernel makes in
a loop of its own is not seen. "limit: bytes" copies as many bytes as the step must move: half of them read, half written.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from benchmarks.harness import Case
from dropfold.kernels.group_mlp_max import compiled_chain
from dropfold.kernels.points.knn.operation import MAX_SUMMED_CHANNELS

GEMMS, ONEDNN, BYTES = "limit: GEMMs", "limit: GEMMs, oneDNN", "limit: bytes"
DTYPES = {
    "float": torch.float32, "double": torch.float64, "c10::BFloat16": torch.bfloat16, "c10::Half": torch.float16
}  # fmt: skip


class Product(NamedTuple):
    """`batch` products of [m, k] and [k, n]."""

    batch: int
    m: int
    k: int
    n: int
    dtype: torch.dtype

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.m * self.k * self.n


def products(step: Callable[[], Any]) -> tuple[Product, ...]:
    """The products that one call of the step asks for, in order, without empty ones. The step must have run before."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would write that it starts and stops
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the products of other threads are not recorded
    try:
        with (
            mock.patch.object(compiled_chain, "routine", return_value=0),  # nor those in compiled loops
            torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True, acc_events=True
            ) as profile,
        ):
            step()
    finally:
        torch.set_num_threads(threads)
    events = (
        _product(event.name().rstrip("_"), event.shapes(), event.dtypes())
        for event in profile.profiler.kineto_results.events()
    )
    return tuple(product for product in events if product is not None and product.flops)


def _product(name: str, shapes: Sequence[Any], dtypes: Sequence[str]) -> Product | None:
    match name:
        case "aten::mm" | "aten::bmm":
            a, b = shapes[:2]
        case "aten::addmm" | "aten::baddbmm":
            (a, b), dtypes = shapes[1:3], dtypes[1:]
        case "dropfold::knn":  # of clouds of one size, whose products are made in its loops
            (rows, channels), clouds = shapes[0], shapes[1][0] - 1
            if channels <= MAX_SUMMED_CHANNELS:
                return None
            points = rows // clouds
            return Product(clouds, points, channels, points, DTYPES[dtypes[0]])
        case "mkldnn::_linear_pointwise":  # [.., k] and a linear layer's weight [n, k]
            a, b = [math.prod(shapes[0][:-1]), shapes[0][-1]], shapes[1][::-1]
        case "aten::convolution_backward":  # of a 1 x 1 convolution: pixels, summed over
            dy, x = ([s[1], s[0] * math.prod(s[2:])] for s in shapes[:2])
            a, b = dy, x[::-1]
        case _:
            return None
    (m, k), n = a[-2:], b[-1]
    return Product(a[0] if len(a) == 3 else 1, m, k, n, DTYPES[dtypes[0]])


def gemms(wanted: Sequence[Product], library: str, device: str) -> Callable[[], None]:
    """The products in a row; equal operands share their memory."""
    calls: dict[Product, Callable[[], Any]] = {}
    for product in wanted:
        if product in calls:
            continue
        batch, m, k, n, dtype = product
        size = (batch,) if batch > 1 else ()
        a, b, out = (torch.zeros(*size, *s, device=device, dtype=dtype) for s in ((m, k), (k, n), (m, n)))
        if library == ONEDNN and batch == 1 and dtype == torch.float32:
            weight = b.T.contiguous()
            calls[product] = partial(torch.ops.mkldnn._linear_pointwise, a, weight, None, "none", [], "")
        else:
            calls[product] = partial(torch.matmul, a, b, out=out)

    def step() -> None:
        for product in wanted:
            calls[product]()

    return step


def copy(size: int, device: str) -> Callable[[], Tensor]:
    """A copy that moves `size` bytes: half read, half written."""
    x = torch.zeros(size // 2, dtype=torch.uint8, device=device)
    out = torch.zeros_like(x)
    return lambda: out.copy_(x)


def nbytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def kept(step: Callable[[], Any], parameters: Iterable[Tensor]) -> int:
    """The bytes that one call of the step keeps from forward to backward, besides parameters; shared memory counts once."""
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    return sum(t.untyped_storage().nbytes() for address, t in saved.items() if address not in own)


def least_of_training(step: Callable[[], Any], parameters: Sequence[Tensor]) -> int:
    """Of a training step: what it keeps for backward written and read once; weights, gradients and momenta, too."""
    return 2 * kept(step, parameters) + 6 * nbytes(*parameters)


def with_limits(cases: Iterable[Case], least: int, device: str, step: Callable[[], Any]) -> list[Case]:
    """The cases of one comparison with their limits, and the limits as cases; `step` is ours and has run before."""
    wanted = products(step)
    flops = sum(product.flops for product in wanted) or None
    limited = [replace(case, bytes_least=least, flops_least=flops) for case in cases]
    makes: dict[str, Callable[[], Callable[[], Any]]] = {BYTES: partial(copy, least, device)}
    libraries = [GEMMS] if wanted else []
    if device == "cpu" and any(product.dtype == torch.float32 for product in wanted):
        libraries += [ONEDNN] if torch.backends.mkldnn.is_available() else []
    makes |= {library: partial(gemms, wanted, library, device) for library in libraries}
    return limited + [
        replace(limited[0], provider=name, make=make, memory=False) for name, make in makes.items()
    ]
