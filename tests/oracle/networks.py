"""PointNet and DGCNN as their papers draw them, edges made, on the state dicts of our modules. Evaluation mode."""

import torch
import torch.nn.functional as F


def layer(state, name, x, slope):
    """linear -> BatchNorm (running statistics) -> LeakyReLU."""
    y = F.linear(x, state[f"{name}.linear.weight"], state.get(f"{name}.linear.bias"))
    mean, var = state[f"{name}.norm.running_mean"], state[f"{name}.norm.running_var"]
    z = (y - mean) / torch.sqrt(var + 1e-5) * state[f"{name}.norm.weight"] + state[f"{name}.norm.bias"]
    return torch.where(z > 0, z, slope * z)


def linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def transform_net(state, name, x, k):
    for i in (1, 2, 3):
        x = layer(state, f"{name}.conv{i}", x, 0.0)
    x = x.amax(1)
    for i in (1, 2):
        x = layer(state, f"{name}.fc{i}", x, 0.0)
    return linear(state, f"{name}.fc3", x).view(-1, k, k) + torch.eye(k, dtype=x.dtype)


def pointnet(state, x):
    x = x @ transform_net(state, "input_transform", x, 3)
    x = layer(state, "conv1", x, 0.0)
    x = x @ transform_net(state, "feature_transform", x, 64)
    x = layer(state, "conv3", layer(state, "conv2", x, 0.0), 1.0).amax(1)
    return linear(state, "fc3", layer(state, "fc2", layer(state, "fc1", x, 0.0), 0.0))


def dgcnn(state, x, k):
    features, cloud = [], torch.arange(len(x))[:, None, None]
    for i in (1, 2, 3, 4):
        idx = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").topk(k, largest=False).indices
        near, centre = x[cloud, idx], x[:, :, None].expand(-1, -1, k, -1)
        x = layer(state, f"edge{i}", torch.cat([near - centre, centre], -1), 0.2).amax(2)
        features.append(x)
    x = layer(state, "embed", torch.cat(features, -1), 0.2)
    x = torch.cat([x.amax(1), x.mean(1)], -1)
    return linear(state, "fc3", layer(state, "fc2", layer(state, "fc1", x, 0.2), 0.2))
