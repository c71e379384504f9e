"""Evaluation on the CPU: a thread multiplies some rows and passes over their product while it is in its nearest cache."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from dropfold.kernels.backend.gemm import mm
from dropfold.kernels.backend.integers import round_rows
from dropfold.kernels.backend.numba import launch, njit, threads_for
from dropfold.kernels.backend.panels import (
    BYTES_PER_PANEL_ROW,
    multiply_rows,
    pack,
    routine_for,
    take_rows,
    view_panels,
)
from dropfold.kernels.backend.vector import elementwise, larger, largest_of_rows, leaky_relu
from dropfold.kernels.noise.elementwise.cpu import scalar
from dropfold.kernels.norm.evaluation.operation import empty_pools

ROWS_PER_BLOCK = 48  # which a thread takes at a time
PANELS_PER_PASS = 8  # multiplied before a pass over their columns: a block of them fits the nearest cache
MIN_ROWS = 24  # with fewer, packing the weight costs more than it saves
PANELS_PER_GRAPH = 4  # of Q at a time: those of 1,024 points fit a core's own cache
NANOSECONDS_PER_MULTIPLY_ADD = 0.1  # on one thread, with the passes
NANOSECONDS_PER_NUMBER = 0.3


@elementwise
def _affine_act(y, scale, shift, slope):
    return (leaky_relu(y.multiply_add(scale, shift), slope),)


@elementwise
def _affine_larger(y, scale, shift, largest):
    return (larger(y.multiply_add(scale, shift), largest),)


@elementwise
def _affine_act_add(y, scale, shift, slope, total):
    return (leaky_relu(y.multiply_add(scale, shift), slope) + total,)


@elementwise
def _act(x, slope):
    return (leaky_relu(x, slope),)


@elementwise
def _larger(x, y):
    return (larger(x, y),)


@elementwise
def _add(x, y):
    return (x + y,)


@elementwise
def _sum_affine_act(x, y, scale, shift, slope):
    return (leaky_relu((x + y).multiply_add(scale, shift), slope),)


@elementwise
def _scale(y, scale):
    return (y * scale,)


@elementwise
def _affine_add_act(y, scale, shift, term, slope):
    return (leaky_relu(y.multiply_add(scale, shift) + term, slope),)


@njit(parallel=True)
def _apply(routine, x, weight, scale, shift, slope, out):
    (rows, channels), panels = out.shape, pack(weight)
    count, width = panels.shape[0], panels.shape[2]
    flat, row = out.reshape(-1), PANELS_PER_PASS * width
    for block in prange((rows + ROWS_PER_BLOCK - 1) // ROWS_PER_BLOCK):
        first = block * ROWS_PER_BLOCK
        n = min(rows, first + ROWS_PER_BLOCK) - first
        y, taken = np.empty(n * row, x.dtype), take_rows(x, first, n, panels)
        for begin in range(0, count, PANELS_PER_PASS):
            at = begin * width
            own = min(channels - at, row)
            multiply_rows(routine, taken, n, panels, begin, min(count, begin + PANELS_PER_PASS), y, row)
            for m in range(n):
                to = (first + m) * channels + at
                _affine_act(own, (y, m * row, scale, at, shift, at, slope, 0, flat, to))


@njit(parallel=True)
def _apply_few(x, weight, scale, shift, slope, out):
    """`_apply` of few rows and integers: a channel after the other, for each weight is read but once."""
    numbers, scales = round_rows(x, 0, x.shape[0])
    for c in prange(weight.shape[0]):
        for m in range(x.shape[0]):
            total = np.int32(0)
            for i in range(weight.shape[1]):
                total += np.int32(numbers[m, i]) * np.int32(weight[c, i])
            z = scale[c] * (scales[m] * np.float32(total)) + shift[c]
            out[m, c] = z if z > 0 or z != z else slope * z if slope else np.float32(0)


@njit(parallel=True)
def _pool(routine, x, weight, ptr, scale, shift, slope, mean, maxima, means):
    """Blocks of rows of one cloud first; then clouds, so that sums do not depend on how many threads there are."""
    panels = pack(weight)
    channels, count, width = scale.shape[0], panels.shape[0], panels.shape[2]
    block_ptr = np.zeros(ptr.shape[0], np.int64)
    for b in range(ptr.shape[0] - 1):
        block_ptr[b + 1] = block_ptr[b] + (ptr[b + 1] - ptr[b] + ROWS_PER_BLOCK - 1) // ROWS_PER_BLOCK
    blocks, row = block_ptr[-1], PANELS_PER_PASS * width
    best, total = np.full(blocks * channels, -np.inf, x.dtype), np.zeros(blocks * channels, x.dtype)
    for block in prange(blocks):
        b = np.searchsorted(block_ptr, block, side="right") - 1
        first = ptr[b] + (block - block_ptr[b]) * ROWS_PER_BLOCK
        n = min(ptr[b + 1], first + ROWS_PER_BLOCK) - first
        y, taken = np.empty(n * row, x.dtype), take_rows(x, first, n, panels)
        for begin in range(0, count, PANELS_PER_PASS):
            at = begin * width
            own, to = min(channels - at, row), block * channels + at
            multiply_rows(routine, taken, n, panels, begin, min(count, begin + PANELS_PER_PASS), y, row)
            for m in range(n):
                _affine_larger(own, (y, m * row, scale, at, shift, at, best, to, best, to))
            if mean:
                for m in range(n):
                    _affine_act_add(own, (y, m * row, scale, at, shift, at, slope, 0, total, to, total, to))
    for b in prange(maxima.shape[0]):
        points = ptr[b + 1] - ptr[b]
        top, added = np.full(channels, -np.inf, x.dtype), np.zeros(channels, x.dtype)
        for block in range(block_ptr[b], block_ptr[b + 1]):
            _larger(channels, (best, block * channels, top, 0, top, 0))
            _add(channels, (total, block * channels, added, 0, added, 0))
        _act(channels, (top, 0, slope, 0, top, 0))
        for c in range(channels):
            maxima[b, c] = top[c] if points else 0
            means[b, c] = added[c] / max(points, 1)


@njit(parallel=True)
def _edge_conv(routine, x, central, near, idx, scale, shift, slope, out):
    """Some channels at a time: Q of all points, which for one cloud stays in a core's cache, and then, for some rows, P and
    the max over their neighbours."""
    (rows, k), channels = idx.shape, out.shape[1]
    central, near = pack(central), pack(near)
    count, width = near.shape[0], near.shape[2]
    row, flat, lists = PANELS_PER_GRAPH * width, out.reshape(-1), idx.reshape(-1)
    q = np.empty(rows * row, x.dtype)
    for begin in range(0, count, PANELS_PER_GRAPH):
        at, end = begin * width, min(count, begin + PANELS_PER_GRAPH)
        own = min(channels - at, row)
        for block in prange((rows + ROWS_PER_BLOCK - 1) // ROWS_PER_BLOCK):
            first = block * ROWS_PER_BLOCK
            n = min(rows, first + ROWS_PER_BLOCK) - first
            taken = take_rows(x, first, n, near)
            multiply_rows(routine, taken, n, near, begin, end, q[first * row :], row)
            for m in range(first, first + n):
                _scale(own, (q, m * row, scale, at, q, m * row))
        for block in prange((rows + ROWS_PER_BLOCK - 1) // ROWS_PER_BLOCK):
            first = block * ROWS_PER_BLOCK
            n = min(rows, first + ROWS_PER_BLOCK) - first
            p, best = np.empty(n * row, x.dtype), np.empty(row, x.dtype)
            taken = take_rows(x, first, n, central)
            multiply_rows(routine, taken, n, central, begin, end, p, row)
            for m in range(n):
                i = first + m
                largest_of_rows(q, row, lists, i * k, k, best, 0, own)
                to = i * channels + at
                _affine_add_act(own, (p, m * row, scale, at, shift, at, best, 0, slope, 0, flat, to))


@njit
def _cut(ptr, rows):
    """Where pieces of whole groups begin, which have at most so many rows together, or are one group; and the end."""
    groups = ptr.shape[0] - 1
    pieces, count, g = np.empty(groups + 1, np.int64), 0, 0
    while g < groups:
        pieces[count] = g
        count += 1
        begin, g = ptr[g], g + 1
        while g < groups and ptr[g + 1] - begin <= rows:
            g += 1
    pieces[count] = groups
    return pieces[: count + 1]


@njit(parallel=True)
def _group_mlp(routine, q, p, ptr, idx, channels, weights, scale, shift, slopes, out):
    """Some groups a thread, some of their entries at a time, through all layers. `weights` are those of all layers one after
    another in memory, and so are scale and shift; a slope each.

    A group is one thread's, and few large groups would leave the others idle. Our networks have none: the last level of
    PointNet++, whose group is all points, is `linear_norm_max`."""
    layers, widest, width = channels.shape[0], channels.max(), BYTES_PER_PANEL_ROW // q.itemsize
    padded = (channels + width - 1) // width * width
    starts, places = np.zeros(layers + 1, np.int64), np.zeros(layers, np.int64)  # of vectors, of panels
    beside = max(1, 4 // weights.itemsize)  # numbers that lie beside each other along a panel's rows
    depths = (channels[:-1] + beside - 1) // beside * beside
    starts[1:], places[1:] = np.cumsum(channels), np.cumsum(depths * padded[1:])
    panels, at = np.empty(places[-1], weights.dtype), 0
    for i in range(1, layers):
        size = channels[i] * channels[i - 1]
        packed = pack(weights[at : at + size].reshape(channels[i], channels[i - 1]))
        panels[places[i - 1] : places[i]] = packed.reshape(-1)
        at += size
    pieces, row = _cut(ptr, ROWS_PER_BLOCK), PANELS_PER_PASS * width
    flat_q, flat_p, flat_out, last = q.reshape(-1), p.reshape(-1), out.reshape(-1), channels[-1]
    for piece in prange(pieces.shape[0] - 1):
        z, other = np.empty(ROWS_PER_BLOCK * widest, q.dtype), np.empty(ROWS_PER_BLOCK * widest, q.dtype)
        y, owner = np.empty(ROWS_PER_BLOCK * row, q.dtype), np.empty(ROWS_PER_BLOCK, np.int64)
        g, stop = pieces[piece], pieces[piece + 1]
        out[g:stop] = -np.inf
        for first in range(ptr[g], ptr[stop], ROWS_PER_BLOCK):
            n, c = min(ptr[stop], first + ROWS_PER_BLOCK) - first, channels[0]
            for m in range(n):
                while ptr[g + 1] <= first + m:
                    g += 1
                owner[m] = g
                at = idx[first + m] * c
                _sum_affine_act(c, (flat_q, at, flat_p, g * c, scale, 0, shift, 0, slopes[0], 0, z, m * c))
            for i in range(1, layers):
                x, inner, c = z[: n * c].reshape(n, c), c, channels[i]
                of_layer = view_panels(panels[places[i - 1] : places[i]], padded[i] // width, inner, width)
                taken = take_rows(x, 0, n, of_layer)
                for begin in range(0, of_layer.shape[0], PANELS_PER_PASS):
                    at, end = begin * width, min(of_layer.shape[0], begin + PANELS_PER_PASS)
                    own, of = min(c - at, row), starts[i] + at
                    multiply_rows(routine, taken, n, of_layer, begin, end, y, row)
                    for m in range(n):
                        if i == layers - 1:
                            to = owner[m] * last + at
                            _affine_larger(
                                own, (y, m * row, scale, of, shift, of, flat_out, to, flat_out, to)
                            )
                        else:
                            to = m * c + at
                            _affine_act(own, (y, m * row, scale, of, shift, of, slopes[i], 0, other, to))
                z, other = other, z
        for g in range(pieces[piece], stop):
            if ptr[g + 1] > ptr[g]:
                _act(last, (flat_out, g * last, slopes[-1], 0, flat_out, g * last))
            else:
                out[g] = 0


def linear_act_eval(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, slope: float) -> Tensor:
    rows = x.shape[0]
    if rows < MIN_ROWS and not weight.is_floating_point():
        out = x.new_empty((rows, weight.shape[0]))
        with threads_for(NANOSECONDS_PER_MULTIPLY_ADD * rows * weight.numel()):
            options = scale, shift, scalar(slope, x.dtype)
            launch(_apply_few, x.contiguous(), weight.contiguous(), *options, out)
        return out
    if rows < MIN_ROWS:
        y = torch.addcmul(shift, mm(x, weight.T), scale)
        return y.relu_() if slope == 0 else y if slope == 1 else torch.nn.functional.leaky_relu_(y, slope)
    out = x.new_empty((rows, weight.shape[0]))
    with threads_for(NANOSECONDS_PER_MULTIPLY_ADD * rows * weight.numel()):
        options = scale, shift, scalar(slope, x.dtype)
        launch(_apply, routine_for(weight), x.contiguous(), weight.contiguous(), *options, out)
    return out


def linear_pool_eval(
    x: Tensor, weight: Tensor, ptr: Tensor, scale: Tensor, shift: Tensor, slope: float, mean: bool
) -> tuple[Tensor, Tensor]:
    pools = empty_pools(x, weight, ptr)
    with threads_for(NANOSECONDS_PER_MULTIPLY_ADD * x.shape[0] * weight.numel()):
        options = ptr, scale, shift, scalar(slope, x.dtype), mean
        launch(_pool, routine_for(weight), x.contiguous(), weight.contiguous(), *options, *pools)
    return pools


def edge_conv_eval(
    x: Tensor, central: Tensor, near: Tensor, idx: Tensor, scale: Tensor, shift: Tensor, slope: float
) -> Tensor:
    out = x.new_empty((x.shape[0], near.shape[0]))
    with threads_for(NANOSECONDS_PER_NUMBER * idx.shape[1] * out.numel()):
        graph = central.contiguous(), near.contiguous(), idx.contiguous()
        options = scale, shift, scalar(slope, x.dtype)
        launch(_edge_conv, routine_for(near), x.contiguous(), *graph, *options, out)
    return out


def group_mlp_eval(
    q: Tensor, p: Tensor, ptr: Tensor, idx: Tensor, weights: list[Tensor], scale: Tensor, shift: Tensor,
    slopes: list[float],
) -> Tensor:  # fmt: skip
    channels = torch.tensor([q.shape[1], *(weight.shape[0] for weight in weights)])
    of_layers = torch.cat([weight.flatten() for weight in weights])
    out = q.new_empty((p.shape[0], weights[-1].shape[0]))
    with threads_for(NANOSECONDS_PER_MULTIPLY_ADD * idx.shape[0] * sum(weight.numel() for weight in weights)):
        graph = q.contiguous(), p.contiguous(), ptr.contiguous(), idx.contiguous()
        options = scale, shift, q.new_tensor(slopes)
        launch(_group_mlp, routine_for(weights[0]), *graph, channels, of_layers, *options, out)
    return out
