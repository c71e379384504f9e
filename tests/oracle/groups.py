"""Perceptrons on groups of points as they are usually written: padded groups, every member materialised."""

import torch
import torch.nn.functional as F

from tests.oracle.norm import norm_act, pool


def padded(ptr, idx, count):
    """[G, k] rows of groups with all copies there (each group must have k)."""
    return idx.repeat_interleave(count).view(len(ptr) - 1, -1)


def perceptron_max(members, weights, biases, norms, kept, slope):
    """members [G, k, C], kept [G, k, C_out]: the layers on each member, then the max over the kept ones."""
    z = members
    for weight, bias, norm in zip(weights, biases, norms):
        z = norm_act(F.linear(z, weight, bias), norm, slope)
    return pool(z, kept, 1)[0]


def set_abstraction(features, pos, centres, groups, weights, biases, norms, kept, slope):
    """features [M, C] or None, pos [M, 3], centres [G, 3], kept [M, C_out]."""
    idx = padded(groups.ptr, groups.idx, groups.count)
    members = pos[idx] - centres[:, None]
    if features is not None:
        members = torch.cat([members, features[idx]], -1)
    return perceptron_max(members, weights, biases, norms, kept[idx], slope)


def edge_conv(x, idx, weights, biases, norms, kept, slope):
    """Rows x [M, C], idx [M, k], kept [M, C_out]."""
    central = x[:, None].expand(-1, idx.shape[1], -1)
    members = torch.cat([x[idx] - central, central], -1)
    return perceptron_max(members, weights, biases, norms, kept[idx], slope)
