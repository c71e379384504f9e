r"""How much each channel at each position adds to a logit: small functions of features and their gradients.

F [.., P, C] are the features of a layer at P positions, g = dS/dF of a logit S. Each method returns contributions
[.., P, C], whose sum over channels is the map [.., P]. They are signed, and neither clipped nor scaled: a clipped map
has no sum.

Sources: Grad-CAM, Selvaraju et al. 2017, equations 1 and 2; XGrad-CAM, Fu et al. 2020, equation 8 in their code's form;
gradient x activation is HiResCAM, Draelos and Carin 2020; ablation, Desai and Ramaswamy 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor


def xgrad_cam(f: Tensor, g: Tensor) -> Tensor:
    r"""w_k F_k with w_k = sum_x g_k(x) F_k(x) / sum_x F_k(x): the evidence of a channel, laid where the channel is active.

    Its sum is that of `gradient_x_activation`; what differs is where it lands.
    """
    return _spread((g * f).sum(-2, keepdim=True), f)


def grad_cam(f: Tensor, g: Tensor) -> Tensor:
    """w_k F_k with w_k = mean_x g_k(x). Its sum is not the evidence."""
    return g.mean(-2, keepdim=True) * f


def gradient_x_activation(f: Tensor, g: Tensor) -> Tensor:
    """g_k(x) F_k(x): where the gradient is, the points that won a max."""
    return g * f


def ablation(f: Tensor, drops: Tensor) -> Tensor:
    """The exact drops [.., C] of the logit, a channel set to 0 after the other, laid where each channel is active."""
    return _spread(drops[..., None, :], f)


METHODS = {
    "xgrad_cam": xgrad_cam,
    "grad_cam": grad_cam,
    "gradient_x_activation": gradient_x_activation,
}
"""Of features and gradients; `ablation` is of features and drops."""


def sensitivity_error(contributions: Tensor, drops: Tensor) -> Tensor:
    """sum_k |drop_k - sum_x contributions_k(x)| / sum_k |drop_k| of each sample: Fu et al.'s second axiom, 0 if it holds."""
    return (drops - contributions.sum(-2)).abs().sum(-1) / drops.abs().sum(-1)


def _spread(amount: Tensor, f: Tensor) -> Tensor:
    """`amount` [.., 1, C] over the positions in proportion to F, as far as the sum of F is not rounding alone."""
    return amount / keep_sign(f.sum(-2, keepdim=True), f.abs().sum(-2, keepdim=True)) * f


def keep_sign(total: Tensor, size: Tensor) -> Tensor:
    """A sum that can be divided by: moved away from 0, on its own side, by the type's eps relative to `size` = sum |F|."""
    eps = torch.finfo(total.dtype).eps * size
    moved = torch.where(total < 0, total - eps, total + eps)
    return torch.where(size > 0, moved, 1)  # a channel of zeros has no evidence
