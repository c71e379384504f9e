"""The passes of cpu_passes.py in Triton. A row's sums run over lists of its entries, without atomics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv, next_power_of_2
from dropfold.kernels.backend.triton import jit
from dropfold.kernels.group_mlp_max.entries import ROWS_PER_BLOCK, Entries, Tile
from dropfold.kernels.noise.draw import NoiseArguments
from dropfold.kernels.noise.draw.triton import noise_tile
from dropfold.kernels.noise.elementwise.triton import leaky_relu
from dropfold.kernels.norm.triton_max import finish_maximum, take_rows
from dropfold.kernels.points.clouds import transpose_lists

GROUPS_PER_CHUNK = 256  # of which one program collects the maxima


@jit
def _group_rows_fwd_kernel(
    p_q, p_p, p_idx, p_owner, p_vectors, slope, p_offset, p_z, rows, channels, GATHER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    o_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_m, mask_c = o_m < rows, o_c < channels
    inside = mask_m[:, None] & mask_c[None, :]
    if GATHER:
        j = tl.load(p_idx + o_m, mask=mask_m, other=0)
        i = tl.load(p_owner + o_m, mask=mask_m, other=0).to(tl.int64)
        y = tl.load(p_q + j[:, None] * channels + o_c[None, :], mask=inside, other=0.0)
        y += tl.load(p_p + i[:, None] * channels + o_c[None, :], mask=inside, other=0.0)
    else:
        y = tl.load(p_q + o_m[:, None] * channels + o_c[None, :], mask=inside, other=0.0)
    scale = tl.load(p_vectors + o_c, mask=mask_c, other=0.0)
    shift = tl.load(p_vectors + channels + o_c, mask=mask_c, other=0.0)
    offset = tl.load(p_offset + o_c, mask=mask_c, other=0.0)
    u = scale[None, :] * y + shift[None, :]
    z = leaky_relu(u, slope) - offset[None, :]
    tl.store(p_z + o_m[:, None] * channels + o_c[None, :], z, mask=inside)


@jit
def _group_moments_fwd_kernel(
    p_y, p_count, p_means, p_m2s, p_weights, rows, channels, WEIGHTED: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    i_block = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    o_m = i_block * ROWS + tl.arange(0, ROWS)
    inside = (o_m[:, None] < rows) & (o_c[None, :] < channels)
    y = tl.load(p_y + o_m[:, None] * channels + o_c[None, :], mask=inside, other=0.0)
    w = tl.where(o_m < rows, 1.0, 0.0)
    if WEIGHTED:
        w = tl.load(p_count + o_m, mask=o_m < rows, other=0.0)
    n = tl.sum(w, axis=0)
    mean = tl.sum(w[:, None] * y, axis=0) / n
    d = y - mean[None, :]
    o = i_block * channels + o_c
    tl.store(p_means + o, mean, mask=o_c < channels)
    tl.store(p_m2s + o, tl.sum(w[:, None] * d * d, axis=0), mask=o_c < channels)
    if tl.program_id(1) == 0:
        tl.store(p_weights + i_block, n)


@jit
def _group_max_fwd_kernel(
    p_y, p_ptr, p_idx, p_keep_scale, p_probability, p_noise_scale, p_seed, p_maximum, p_argmax, first, start, points,
    channels, MODE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BY_FOUR: tl.constexpr,
):  # fmt: skip
    g = first + tl.program_id(0).to(tl.int64)
    i_c = tl.program_id(1) * BLOCK_C
    o_c = i_c + tl.arange(0, BLOCK_C)
    mask_c = o_c < channels
    lo = tl.load(p_ptr + g)
    hi = tl.load(p_ptr + g + 1)
    maximum = tl.full((BLOCK_C,), float("-inf"), tl.float32)
    argmax = tl.full((BLOCK_C,), -1, tl.int64)
    for i_m in range(lo, hi, BLOCK_M):
        o_m = i_m + tl.arange(0, BLOCK_M).to(tl.int64)
        keep = (o_m[:, None] < hi) & mask_c[None, :]
        y = tl.load(p_y + (o_m[:, None] - start) * channels + o_c[None, :], mask=keep, other=0.0)
        if MODE != 0:
            j = tl.load(p_idx + o_m, mask=o_m < hi, other=0)
            f = noise_tile(
                *(MODE, p_keep_scale, p_probability, p_noise_scale, p_seed, points, j, i_c, channels),
                *(BLOCK_M, BLOCK_C, BY_FOUR),
            )
            keep = keep & (f > 0)
        maximum, argmax = take_rows(maximum, argmax, y, keep, o_m, hi)
    tl.store(p_maximum + g * channels + o_c, finish_maximum(maximum), mask=mask_c)
    tl.store(p_argmax + g * channels + o_c, argmax.to(tl.int32), mask=mask_c)


@jit
def _group_last_bwd_kernel(
    p_dense, p_z, p_constant, p_count, slope, p_offset, p_g, p_weight, p_ptr, p_entries, c_in, c_out,
    WEIGHTED: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = o_c < c_in
    d = tl.load(p_dense + m * c_in + o_c, mask=mask_c, other=0.0)
    d += tl.load(p_constant + o_c, mask=mask_c, other=0.0)
    if WEIGHTED:
        d *= tl.load(p_count + m)
    for e in range(tl.load(p_ptr + m), tl.load(p_ptr + m + 1)):
        entry = tl.load(p_entries + e)
        d += tl.load(p_g + entry) * tl.load(p_weight + (entry % c_out) * c_in + o_c, mask=mask_c, other=0.0)
    z = tl.load(p_z + m * c_in + o_c, mask=mask_c, other=0.0)
    offset = tl.load(p_offset + o_c, mask=mask_c, other=0.0)
    tl.store(p_dense + m * c_in + o_c, tl.where(z > -offset, d, slope * d), mask=mask_c)


@jit
def _group_collect_bwd_kernel(
    p_z, p_g, p_argmax, p_partial, first, last, start, c_in, c_out, CHUNK: tl.constexpr, BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    i_chunk = tl.program_id(2).to(tl.int64)
    o_o = tl.program_id(0).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_o = o_o < c_out
    total = tl.zeros((BLOCK_O, BLOCK_C), tl.float32)
    lo = first + i_chunk * CHUNK
    for g in range(lo, tl.minimum(last, lo + CHUNK)):
        e = tl.load(p_argmax + g * c_out + o_o, mask=mask_o, other=-1).to(tl.int64)
        value = tl.load(p_g + g * c_out + o_o, mask=mask_o, other=0.0)
        inside = (e >= 0)[:, None] & (o_c[None, :] < c_in)
        total += value[:, None] * tl.load(
            p_z + (e[:, None] - start) * c_in + o_c[None, :], mask=inside, other=0.0
        )
    o = i_chunk * c_out * c_in + o_o[:, None] * c_in + o_c[None, :]
    tl.store(p_partial + o, total, mask=mask_o[:, None] & (o_c[None, :] < c_in))


@jit
def _group_sums_bwd_kernel(
    p_g, p_y, p_vectors, p_sums, rows, channels, ROWS: tl.constexpr, BLOCK_C: tl.constexpr
):
    i_block = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = o_c < channels
    o_m = i_block * ROWS + tl.arange(0, ROWS)
    o = o_m[:, None] * channels + o_c[None, :]
    inside = (o_m[:, None] < rows) & mask_c[None, :]
    g = tl.load(p_g + o, mask=inside, other=0.0)
    y = tl.load(p_y + o, mask=inside, other=0.0)
    mean = tl.load(p_vectors + 2 * channels + o_c, mask=mask_c, other=0.0)
    rstd = tl.load(p_vectors + 3 * channels + o_c, mask=mask_c, other=0.0)
    o = i_block * 2 * channels + o_c
    tl.store(p_sums + o, tl.sum(g, axis=0), mask=mask_c)
    tl.store(p_sums + o + channels, tl.sum(g * (y - mean[None, :]), axis=0) * rstd, mask=mask_c)


@jit
def _group_norm_bwd_kernel(
    p_g, p_y, p_vectors, p_count, rows, channels, WEIGHTED: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    o_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = o_c < channels
    o = o_m[:, None] * channels + o_c[None, :]
    inside = (o_m[:, None] < rows) & mask_c[None, :]
    scale = tl.load(p_vectors + o_c, mask=mask_c, other=0.0)[None, :]
    mean = tl.load(p_vectors + 2 * channels + o_c, mask=mask_c, other=0.0)[None, :]
    rstd = tl.load(p_vectors + 3 * channels + o_c, mask=mask_c, other=0.0)[None, :]
    c1 = tl.load(p_vectors + 4 * channels + o_c, mask=mask_c, other=0.0)[None, :]
    c2 = tl.load(p_vectors + 5 * channels + o_c, mask=mask_c, other=0.0)[None, :]
    g = tl.load(p_g + o, mask=inside, other=0.0)
    y = tl.load(p_y + o, mask=inside, other=0.0)
    dense = c1 + c2 * (y - mean) * rstd
    if WEIGHTED:
        dense *= tl.load(p_count + o_m, mask=o_m < rows, other=0.0)[:, None]
    tl.store(p_g + o, scale * (g - dense), mask=inside)


@jit
def _group_spread_bwd_kernel(
    p_x, p_at, p_count, p_ptr, p_entries, p_out, channels, AT: tl.constexpr, LISTED: tl.constexpr,
    WEIGHTED: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out_r += sum over the entries e of r (of a list, or ptr[r] .. ptr[r + 1] - 1) of count_e x[at[e]] (or x[e])."""
    r = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask_c = o_c < channels
    total = tl.load(p_out + r * channels + o_c, mask=mask_c, other=0.0)
    for i in range(tl.load(p_ptr + r), tl.load(p_ptr + r + 1)):
        e = i  # int64, as ptr is
        if LISTED:
            e = tl.load(p_entries + i)
        row = e
        if AT:
            row = tl.load(p_at + e).to(tl.int64)
        x = tl.load(p_x + row * channels + o_c, mask=mask_c, other=0.0)
        if WEIGHTED:
            x *= tl.load(p_count + e)
        total += x
    tl.store(p_out + r * channels + o_c, total, mask=mask_c)


def _width(channels: int, most: int = 128) -> int:
    return min(most, max(16, next_power_of_2(channels)))


class OnGPU:
    """The passes as launches; the methods are those of `cpu_passes.OnCPU`."""

    @staticmethod
    def parts() -> int:
        return 1

    @staticmethod
    def each(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [work(item) for item in items]

    @staticmethod
    def tile(channels: int) -> int:
        """A GiB for each of a pass's few tensors."""
        return (1 << 28) // channels

    @staticmethod
    def rows(e: Entries, t: Tile, vectors: Tensor, slope: float, offset: Tensor) -> Tensor:
        z = e.q.new_empty((t.stop - t.start, e.q.shape[1]))
        at = (e.q, e.p, e.idx[t.start : t.stop], e.owner[t.start : t.stop])
        return launch_rows(*at, vectors, slope, offset, z, True)

    @staticmethod
    def activate(y: Tensor, t: Tile, vectors: Tensor, slope: float, offset: Tensor) -> Tensor:
        return launch_rows(y, y, y, y, vectors, slope, offset, torch.empty_like(y), False)

    @staticmethod
    def moments(y: Tensor, e: Entries, t: Tile) -> tuple[Tensor, Tensor, Tensor]:
        (rows, channels), block_c = y.shape, _width(y.shape[1], 32)
        means, m2s = y.new_empty((2, cdiv(rows, ROWS_PER_BLOCK), channels))
        weights = y.new_empty(means.shape[0])
        _group_moments_fwd_kernel[(means.shape[0], cdiv(channels, block_c))](
            *(y, e.count[t.start : t.stop], means, m2s, weights, rows, channels),
            WEIGHTED=e.count.numel() > 0,
            ROWS=ROWS_PER_BLOCK,
            BLOCK_C=block_c,
        )
        return means, m2s, weights

    @staticmethod
    def highest(
        y: Tensor, e: Entries, t: Tile, noise: NoiseArguments, maximum: Tensor, argmax: Tensor
    ) -> None:
        channels, block_c = y.shape[1], _width(y.shape[1], 64)
        mode, *pointers = noise
        _group_max_fwd_kernel[(t.last - t.first, cdiv(channels, block_c))](
            *(y, e.ptr, e.idx, *pointers, maximum, argmax, t.first, t.start, len(e.q), channels),
            MODE=mode,
            BLOCK_M=16,
            BLOCK_C=block_c,
            BY_FOUR=channels % 4 == 0,
        )

    @staticmethod
    def last_back(
        dense: Tensor, z: Tensor, e: Entries, t: Tile, constant: Tensor, slope: float, offset: Tensor,
        g: Tensor, argmax: Tensor, weight: Tensor,
    ) -> Tensor:  # fmt: skip
        (rows, c_in), c_out = z.shape, weight.shape[0]
        ptr, entries = transpose_lists(argmax[t.first : t.last].long() - t.start, rows)
        block_c = _width(c_in)
        _group_last_bwd_kernel[(rows, cdiv(c_in, block_c))](
            *(dense, z, constant, e.count[t.start : t.stop], slope, offset, g[t.first : t.last], weight),
            *(ptr, entries, c_in, c_out),
            WEIGHTED=e.count.numel() > 0,
            BLOCK_C=block_c,
            num_warps=1,
        )
        return dense

    @staticmethod
    def collect(z: Tensor, e: Entries, t: Tile, g: Tensor, argmax: Tensor, dweight: Tensor) -> None:
        (c_out, c_in), block_c = dweight.shape, _width(dweight.shape[1])
        chunks = cdiv(t.last - t.first, GROUPS_PER_CHUNK)
        partial = z.new_empty((chunks, c_out, c_in))
        _group_collect_bwd_kernel[(cdiv(c_out, 16), cdiv(c_in, block_c), chunks)](
            *(z, g, argmax, partial, t.first, t.last, t.start, c_in, c_out),
            CHUNK=GROUPS_PER_CHUNK,
            BLOCK_O=16,
            BLOCK_C=block_c,
        )
        dweight += partial.sum(0)

    @staticmethod
    def mask(dz: Tensor, z: Tensor, slope: float) -> Tensor:
        return torch.where(z > 0, dz, slope * dz)

    @staticmethod
    def sums(g: Tensor, y: Tensor, t: Tile, vectors: Tensor) -> Tensor:
        (rows, channels), block_c = y.shape, _width(y.shape[1], 32)
        sums = y.new_empty((cdiv(rows, ROWS_PER_BLOCK), 2, channels))
        _group_sums_bwd_kernel[(sums.shape[0], cdiv(channels, block_c))](
            g, y, vectors, sums, rows, channels, ROWS=ROWS_PER_BLOCK, BLOCK_C=block_c
        )
        return sums.sum(0, dtype=torch.float64)

    @staticmethod
    def norm_back(g: Tensor, y: Tensor, vectors: Tensor, e: Entries, t: Tile) -> Tensor:
        (rows, channels), block_c = y.shape, _width(y.shape[1])
        block_m = 2048 // block_c
        _group_norm_bwd_kernel[(cdiv(rows, block_m), cdiv(channels, block_c))](
            *(g, y, vectors, e.count[t.start : t.stop], rows, channels),
            WEIGHTED=e.count.numel() > 0,
            BLOCK_M=block_m,
            BLOCK_C=block_c,
        )
        return g

    @staticmethod
    def spread(g: Tensor, e: Entries, t: Tile, gq: Tensor, gp: Tensor, s: Tensor) -> None:
        idx, count = e.idx[t.start : t.stop], e.count[t.start : t.stop]
        once = e.count[:0]
        launch_spread(g, None, once, *transpose_lists(idx, len(gq)), gq)
        ptr = e.ptr[t.first : t.last + 1] - t.start
        launch_spread(g, None, once, ptr, None, gp[t.first : t.last])
        launch_spread(e.q, idx, count, ptr, None, s[t.first : t.last])

    @staticmethod
    def spread_groups(e: Entries, d: Tensor) -> None:
        launch_spread(e.p, e.owner, e.count, *transpose_lists(e.idx, len(d)), d)


def launch_rows(
    q: Tensor, p: Tensor, idx: Tensor, owner: Tensor, vectors: Tensor, slope: float, offset: Tensor, z: Tensor,
    gather: bool,
) -> Tensor:  # fmt: skip
    (rows, channels), block_c = z.shape, _width(z.shape[1])
    block_m = 2048 // block_c
    _group_rows_fwd_kernel[(cdiv(rows, block_m), cdiv(channels, block_c))](
        *(q, p, idx, owner, vectors, slope, offset, z, rows, channels),
        GATHER=gather,
        BLOCK_M=block_m,
        BLOCK_C=block_c,
    )
    return z


def launch_spread(
    x: Tensor, at: Tensor | None, count: Tensor, ptr: Tensor, entries: Tensor | None, out: Tensor
) -> Tensor:
    channels, block_c = x.shape[1], _width(x.shape[1])
    _group_spread_bwd_kernel[(out.shape[0], cdiv(channels, block_c))](
        *(x, ptr if at is None else at, count, ptr, ptr if entries is None else entries, out, channels),
        AT=at is not None,
        LISTED=entries is not None,
        WEIGHTED=count.numel() > 0,
        BLOCK_C=block_c,
        num_warps=1,
    )
    return out
