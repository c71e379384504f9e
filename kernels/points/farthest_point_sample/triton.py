"""farthest_point_sample in Triton: a program a cloud with all points in registers, or a launch a point for large clouds."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dropfold.kernels.backend.launch import cdiv, next_power_of_2
from dropfold.kernels.backend.triton import jit

MAX_POINTS_IN_REGISTERS = 8192  # of a cloud that one program holds
POINTS_PER_PROGRAM = 2048  # of a larger cloud
LARGEST_INT32 = 0x7FFFFFFF


@jit
def _farthest(least, o):
    """The largest key: it has the distance above, and below what is larger for a smaller number.

    Non-negative floats are ordered as their bits are.
    """
    bits = least.to(tl.int32, bitcast=True).to(tl.int64)
    return tl.max((bits << 32) | (0x7FFFFFFF - o.to(tl.int64)), axis=0)


@jit
def _distances(p_point, x, y, z):
    a, b, c = x - tl.load(p_point), y - tl.load(p_point + 1), z - tl.load(p_point + 2)
    return a * a + b * b + c * c


@jit
def _farthest_point_sample_fwd_kernel(p_x, p_ptr, p_start, p_out, m, BLOCK: tl.constexpr):
    """One program a cloud, which holds all its points in registers."""
    i_b = tl.program_id(0).to(tl.int64)
    start, stop = tl.load(p_ptr + i_b), tl.load(p_ptr + i_b + 1)
    o = tl.arange(0, BLOCK)
    mask, p_own = o < stop - start, p_x + start * 3
    x = tl.load(p_own + o * 3, mask=mask, other=0.0)
    y = tl.load(p_own + o * 3 + 1, mask=mask, other=0.0)
    z = tl.load(p_own + o * 3 + 2, mask=mask, other=0.0)
    least = tl.where(mask, float("inf"), -1.0)
    i = tl.load(p_start + i_b)
    for t in range(m):
        tl.store(p_out + i_b * m + t, start + i)
        least = tl.minimum(least, _distances(p_own + i * 3, x, y, z))
        i = 0x7FFFFFFF - (_farthest(least, o) & 0x7FFFFFFF)


@jit
def _farthest_point_sample_step_kernel(
    p_x, p_ptr, p_least, p_keys, p_next, p_out, blocks, BLOCK: tl.constexpr, BLOCKS: tl.constexpr
):
    """One point of each cloud: the farthest by the keys of the launch before, and from it the keys for the next."""
    i_b = tl.program_id(1).to(tl.int64)
    start, stop = tl.load(p_ptr + i_b), tl.load(p_ptr + i_b + 1)
    o_k = tl.arange(0, BLOCKS)
    keys = tl.load(p_keys + i_b * blocks + o_k, mask=o_k < blocks, other=-0x7FFFFFFFFFFFFFFF)
    i = 0x7FFFFFFF - (tl.max(keys, axis=0) & 0x7FFFFFFF)
    if tl.program_id(0) == 0:
        tl.store(p_out + i_b, start + i)
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask, p_own = o < stop - start, p_x + (start + o) * 3
    x = tl.load(p_own, mask=mask, other=0.0)
    y = tl.load(p_own + 1, mask=mask, other=0.0)
    z = tl.load(p_own + 2, mask=mask, other=0.0)
    before = tl.load(p_least + start + o, mask=mask, other=-1.0)
    least = tl.minimum(before, _distances(p_x + (start + i) * 3, x, y, z))
    tl.store(p_least + start + o, least, mask=mask & (least < before))
    tl.store(p_next + i_b * blocks + tl.program_id(0), _farthest(least, o))


def farthest_point_sample(x: Tensor, ptr: Tensor, start: Tensor, m: int, largest: int) -> Tensor:
    """Large clouds take m launches, because all their programs must end before the next point is known."""
    clouds = start.shape[0]
    if largest <= MAX_POINTS_IN_REGISTERS:
        out = torch.empty((clouds, m), dtype=torch.int64, device=x.device)
        block = max(32, next_power_of_2(largest))
        _farthest_point_sample_fwd_kernel[(clouds,)](
            *(x, ptr, start, out, m),
            BLOCK=block,
            num_warps=max(1, min(16, block // 128)),
            enable_fp_fusion=False,
        )
        return out
    blocks = cdiv(largest, POINTS_PER_PROGRAM)
    steps = torch.empty((m, clouds), dtype=torch.int64, device=x.device)
    least = torch.full((x.shape[0],), torch.inf, device=x.device)
    keys = torch.full((2, clouds, blocks), -LARGEST_INT32, dtype=torch.int64, device=x.device)
    keys[0, :, 0] = LARGEST_INT32 - start
    for t in range(m):
        _farthest_point_sample_step_kernel[(blocks, clouds)](
            *(x, ptr, least, keys[t % 2], keys[1 - t % 2], steps[t], blocks),
            BLOCK=POINTS_PER_PROGRAM,
            BLOCKS=next_power_of_2(blocks),
            num_warps=8,
            enable_fp_fusion=False,
        )
    return steps.T.contiguous()
