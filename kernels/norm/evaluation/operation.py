r"""A linear map, BatchNorm, activation and max where nothing learns: no gradient, running statistics, no noise.

BatchNorm is then a scale and a shift of each channel, and nothing has to be kept for backward. With
a(z) = z for z > 0 and slope * z otherwise,

    linear_act_eval    z = a(scale * (x W^T) + shift)
    linear_pool_eval   max_b = max over the points m of cloud b of z_m,  mean_b = the mean over the same; z is not stored
    edge_conv_eval     out_i = a(scale * P_i + shift + max over j in N(i) of scale * Q_j),  P = x W_p^T,  Q = x W_q^T
    group_mlp_eval     z^1 = a(scale^1 * (q_j + p_g) + shift^1) of each entry j of group g, then linear_act_eval of each
                       further layer, and the max of the last over the group's entries

NaN wins a max; a cloud without points is 0. The scale stands behind the product instead of inside W, where it would cost a
pass over W: so nothing is kept from one call to the next, and a weight that was changed in whatever way is the next call's.
On the CPU a thread makes rows of the product that fit its own cache, and passes over them there.

Weights may be integers, int8 (of `edge_conv_eval` and `group_mlp_eval` int16), with x in float32: each row of a product's
input is rounded to 8 bits with a scale of its own (kernels/backend/integers.py). Who calls them so is
`dropfold.kernels.norm.rounded`.

The operations beside this folder take this path by themselves (`nothing_learns`); row numbers they have checked before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dropfold.kernels.backend.operator import INTERPRETED, operator
from dropfold.kernels.noise.draw import Noise
from dropfold.kernels.norm.batch_norm.operation import BatchNorm


def nothing_learns(norm: BatchNorm, noise: Noise | None, *given: Tensor | None) -> bool:
    """Whether nothing learns in an operation on the tensors `given`, and they are on the CPU and of one type that its loops
    have. In a graph of torch.compile or torch.export the operations' own forms stand."""
    if norm.training or noise is not None or INTERPRETED or torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        return False
    tensors = [t for t in (*given, *norm[:4]) if t is not None]
    dtype = tensors[0].dtype
    return (
        dtype in (torch.float32, torch.float64)
        and all(t.is_cpu and t.dtype == dtype for t in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
    )


def scale_and_shift(norm: BatchNorm, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(scale, shift) [C] with `scale * y + shift` = BatchNorm(y + bias) in evaluation."""
    scale = norm.gamma * torch.rsqrt(norm.var + norm.eps)
    centre = norm.mean if bias is None else norm.mean - bias
    return scale, torch.addcmul(norm.beta, scale, centre, value=-1)


def empty_pools(x: Tensor, weight: Tensor, ptr: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """The max and the mean [B, C_out]."""
    maximum = x.new_empty((ptr.shape[0] - 1, weight.shape[0]))
    return maximum, torch.empty_like(maximum)


linear_act_eval = operator(
    "linear_act_eval(Tensor x, Tensor weight, Tensor scale, Tensor shift, float slope) -> Tensor",
    implementations=__package__,
    cpu_alone=True,
    fake=lambda x, weight, *_: x.new_empty((x.shape[0], weight.shape[0])),
)
linear_pool_eval = operator(
    "linear_pool_eval(Tensor x, Tensor weight, Tensor ptr, Tensor scale, Tensor shift, float slope, bool mean) -> "
    "(Tensor, Tensor)",
    implementations=__package__,
    cpu_alone=True,
    fake=empty_pools,
)
edge_conv_eval = operator(
    "edge_conv_eval(Tensor x, Tensor central, Tensor near, Tensor idx, Tensor scale, Tensor shift, float slope) -> Tensor",
    implementations=__package__,
    cpu_alone=True,
    fake=lambda x, central, *_: x.new_empty((x.shape[0], central.shape[0])),
)
group_mlp_eval = operator(
    "group_mlp_eval(Tensor q, Tensor p, Tensor ptr, Tensor idx, Tensor[] weights, Tensor scale, Tensor shift, "
    "float[] slopes) -> Tensor",
    implementations=__package__,
    cpu_alone=True,
    fake=lambda q, p, ptr, idx, weights, *_: q.new_empty((p.shape[0], weights[-1].shape[0])),
)
