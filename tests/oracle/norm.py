"""BatchNorm, activation, linear layers and pools as PyTorch has them; `kept` marks what may win a max."""

import torch
import torch.nn.functional as F


def norm_act(y, norm, slope):
    """BatchNorm over all dimensions but the last, then LeakyReLU. Moves the running buffers in training."""
    gamma, beta, mean, var, training, momentum, eps, _ = norm
    z = F.batch_norm(y.reshape(-1, y.shape[-1]), mean, var, gamma, beta, training, momentum, eps)
    return torch.where(z > 0, z, slope * z).view_as(y)


def pool(z, kept, dim):
    """`(max, mean)` over `dim` of what is kept (bool, like z); 0 where nothing is."""
    some = kept.any(dim)
    top = torch.where(kept, z, -torch.inf).max(dim).values
    mean = torch.where(kept, z, 0).sum(dim) / kept.sum(dim).clamp(min=1)
    return torch.where(some, top, 0), mean


def linear_norm_max(x, weight, bias, norm, kept, slope):
    """x [B, N, C_in], kept [B, N, C_out]."""
    return pool(norm_act(F.linear(x, weight, bias), norm, slope), kept, 1)[0]


def edge_conv(x, idx, weight, bias, norm, kept, slope):
    """x [B, N, C_in], idx [B, N, k], kept [B, N, C_out] of the neighbours' features."""
    cloud = torch.arange(x.shape[0])[:, None, None]
    near, centre = x[cloud, idx], x[:, :, None].expand(-1, -1, idx.shape[2], -1)
    y = F.linear(torch.cat([near - centre, centre], -1), weight, bias)
    return pool(norm_act(y, norm, slope), kept[cloud, idx], 2)[0]
