"""The peers' networks as their papers draw them: edges made, groups padded with copies, features repeated; any type.

Weights have the peers' names. A form asks a `Weights` for what it needs, and what is not there yet is drawn: running a
form once gives a whole checkout's state dict, which owes nothing to our modules.
"""

import torch
import torch.nn.functional as F


class Weights(dict):
    """A state dict that draws what it lacks: leaves with gradients, and buffers as after some training."""

    def __init__(self, training, dtype=torch.float64):
        super().__init__()
        self.training, self.dtype = training, dtype
        self.generator = torch.Generator().manual_seed(1)

    def uniform(self, name, shape, low, high, leaf=True):
        if name not in self:
            value = torch.rand(shape, generator=self.generator, dtype=torch.float64) * (high - low) + low
            self[name] = value.to(self.dtype).requires_grad_(leaf)
        return self[name]

    def linear(self, name, x, width, bias=True, dims=1):
        """x W^T + b, the weight with `dims` trailing dimensions of one, as a convolution has."""
        bound = x.shape[-1] ** -0.5
        weight = self.uniform(f"{name}.weight", (width, x.shape[-1], *[1] * dims), -bound, bound)
        b = self.uniform(f"{name}.bias", (width,), -bound, bound) if bias else None
        return F.linear(x, weight.flatten(1), b)

    def norm(self, name, y, slope=0.0):
        """BatchNorm over all dimensions but the last, then LeakyReLU; some gammas are negative."""
        channels = (y.shape[-1],)
        gamma = self.uniform(f"{name}.weight", channels, -0.5, 1.5)
        beta = self.uniform(f"{name}.bias", channels, -0.5, 0.5)
        mean = self.uniform(f"{name}.running_mean", channels, -0.5, 0.5, leaf=False)
        var = self.uniform(f"{name}.running_var", channels, 0.5, 1.5, leaf=False)
        tracked = self.setdefault(f"{name}.num_batches_tracked", torch.tensor(0))
        tracked += self.training
        z = F.batch_norm(y.flatten(0, -2), mean, var, gamma, beta, self.training)
        return torch.where(z > 0, z, slope * z).view_as(y)

    def alias(self, other, name):
        """The tensors of BatchNorm `name` under a second name, as a file has them."""
        for key in [key for key in self if key.startswith(f"{name}.")]:
            self[f"{other}.{key.removeprefix(f'{name}.')}"] = self[key]


def spread(g, x):
    """A feature of each cloud [B, C] at each of its points."""
    return g[:, None].expand(-1, x.shape[1], -1)


def gathered(x, idx):
    """x [B, N, C] at idx [B, ...] of its own cloud."""
    return torch.stack([cloud[i] for cloud, i in zip(x, idx)])


def squared_distances(a, b):
    return (a[:, :, None] - b[:, None]).square().sum(-1)


# --- yanx27: PointNet ----------------------------------------------------------------------------------------------


def stn(w, name, x, k):
    for i, width in ((1, 64), (2, 128), (3, 1024)):
        x = w.norm(f"{name}.bn{i}", w.linear(f"{name}.conv{i}", x, width))
    x = x.amax(1)
    for i, width in ((1, 512), (2, 256)):
        x = w.norm(f"{name}.bn{i + 3}", w.linear(f"{name}.fc{i}", x, width, dims=0))
    return w.linear(f"{name}.fc3", x, k * k, dims=0).view(-1, k, k) + torch.eye(k, dtype=x.dtype)


def moved(w, name, x):
    return torch.cat([x[..., :3] @ stn(w, name, x, 3), x[..., 3:]], -1)


def pointnet_sem_seg(w, x, classes=5):
    x = moved(w, "feat.stn", x)
    x = w.norm("feat.bn1", w.linear("feat.conv1", x, 64))
    local = x @ stn(w, "feat.fstn", x, 64)
    x = w.norm("feat.bn2", w.linear("feat.conv2", local, 128))
    top = w.norm("feat.bn3", w.linear("feat.conv3", x, 1024), 1.0).amax(1)
    x = torch.cat([spread(top, local), local], -1)
    for i, width in ((1, 512), (2, 256), (3, 128)):
        x = w.norm(f"bn{i}", w.linear(f"conv{i}", x, width))
    return w.linear("conv4", x, classes)


def pointnet_part_seg(w, x, category, classes=5):
    features, x = [], moved(w, "stn", x)
    for i, width in ((1, 64), (2, 128), (3, 128)):
        x = w.norm(f"bn{i}", w.linear(f"conv{i}", x, width))
        features.append(x)
    x = x @ stn(w, "fstn", x, 128)
    x = w.norm("bn4", w.linear("conv4", x, 512))
    last = w.norm("bn5", w.linear("conv5", x, 2048), 1.0)
    top = torch.cat([last.amax(1), category], -1)
    x = torch.cat([spread(top, x), *features, x, last], -1)
    for i, width in ((1, 256), (2, 256), (3, 128)):
        x = w.norm(f"bns{i}", w.linear(f"convs{i}", x, width))
    return w.linear("convs4", x, classes)


# --- yanx27: PointNet++ --------------------------------------------------------------------------------------------


def farthest_points(x, m):
    """Indices [B, m]: the first point, then each time the one farthest from all chosen; of equals the first."""
    chosen = [torch.zeros(len(x), dtype=torch.int64)]
    nearest = torch.full(x.shape[:2], torch.inf, dtype=x.dtype)
    for _ in range(m - 1):
        newest = x[torch.arange(len(x)), chosen[-1]][:, None]
        nearest = torch.minimum(nearest, (x - newest).square().sum(-1))
        chosen.append((nearest == nearest.amax(1, keepdim=True)).int().argmax(1))
    return torch.stack(chosen, 1)


def balls(x, centres, radius, k):
    """Indices [B, S, k] of the first k points within the radius, and copies of the first one."""
    points = x.shape[1]
    far = squared_distances(centres, x) > radius**2
    order = torch.where(far, points, torch.arange(points)).sort(-1).values[..., :k]
    return torch.where(order == points, order[..., :1], order)


def group_mlp(w, layers, x):
    """ReLU layers named (linear, norm), then the max over the members [B, S, k, C]."""
    for linear, norm, width in layers:
        x = w.norm(norm, w.linear(linear, x, width, dims=2))
    return x.amax(2)


def set_abstraction(w, name, pos, x, level, msg):
    """One level at (points, ((radius, k, widths), ...)); MSG joins [features ; xyz], SSG [xyz ; features]."""
    points, scales = level
    centres, found = gathered(pos, farthest_points(pos, points)), []
    for i, (radius, k, widths) in enumerate(scales):
        idx = balls(pos, centres, radius, k)
        parts = [gathered(pos, idx) - centres[:, :, None]] + ([] if x is None else [gathered(x, idx)])
        linear, norm = (
            (f"{name}.conv_blocks.{i}", f"{name}.bn_blocks.{i}")
            if msg
            else (f"{name}.mlp_convs", f"{name}.mlp_bns")
        )
        layers = [(f"{linear}.{j}", f"{norm}.{j}", width) for j, width in enumerate(widths)]
        found.append(group_mlp(w, layers, torch.cat(parts[::-1] if msg else parts, -1)))
    return centres, torch.cat(found, -1)


def group_all(w, name, pos, x, widths=(256, 512, 1024)):
    layers = [(f"{name}.mlp_convs.{j}", f"{name}.mlp_bns.{j}", width) for j, width in enumerate(widths)]
    return group_mlp(w, layers, torch.cat([pos, x], -1)[:, None])[:, 0]


def propagated(w, name, query, pos, skip, x, widths):
    """x at pos [B, S, 3] carried to query [B, N, 3] (pos None: one feature for all), beside skip."""
    if pos is None:
        carried = spread(x, query)
    else:
        squared, idx = squared_distances(query, pos).topk(3, largest=False)
        weights = 1 / (squared + 1e-8)
        carried = (gathered(x, idx) * (weights / weights.sum(-1, keepdim=True))[..., None]).sum(2)
    y = carried if skip is None else torch.cat([skip, carried], -1)
    for j, width in enumerate(widths):
        y = w.norm(f"{name}.mlp_bns.{j}", w.linear(f"{name}.mlp_convs.{j}", y, width))
    return y


def pointnet2_cls(w, x, levels, msg, classes=5):
    pos, features = x[..., :3], x[..., 3:] if x.shape[-1] > 3 else None
    for i, level in enumerate(levels, 1):
        pos, features = set_abstraction(w, f"sa{i}", pos, features, level, msg)
    x = group_all(w, "sa3", pos, features)
    for i, width in ((1, 512), (2, 256)):
        x = w.norm(f"bn{i}", w.linear(f"fc{i}", x, width, dims=0))
    return w.linear("fc3", x, classes, dims=0)


def pointnet2_part_seg(w, x, category, levels, msg, classes=5):
    pos = x[..., :3]
    pos1, x1 = set_abstraction(w, "sa1", pos, x, levels[0], msg)
    pos2, x2 = set_abstraction(w, "sa2", pos1, x1, levels[1], msg)
    x2 = propagated(w, "fp3", pos2, None, x2, group_all(w, "sa3", pos2, x2), (256, 256))
    x1 = propagated(w, "fp2", pos1, pos2, x1, x2, (256, 128))
    skip = torch.cat([spread(category, x), pos, x], -1)
    return head(w, propagated(w, "fp1", pos, pos1, skip, x1, (128, 128) if msg else (128, 128, 128)), classes)


def pointnet2_sem_seg(w, x, levels, msg, classes=5):
    positions, features = [x[..., :3]], [x]
    for i, level in enumerate(levels, 1):
        pos, y = set_abstraction(w, f"sa{i}", positions[-1], features[-1], level, msg)
        positions.append(pos)
        features.append(y)
    features[0] = None
    for i, widths in ((4, (256, 256)), (3, (256, 256)), (2, (256, 128)), (1, (128, 128, 128))):
        y = propagated(w, f"fp{i}", positions[i - 1], positions[i], features[i - 1], y, widths)
    return head(w, y, classes)


def head(w, x, classes):
    return w.linear("conv2", w.norm("bn1", w.linear("conv1", x, 128)), classes)


# --- antao97: DGCNN ------------------------------------------------------------------------------------------------


def edges(x, k, graph=None):
    """[x_j - x_i ; x_i] of the k nearest neighbours in `graph` (x itself): [B, N, k, 2 C]."""
    graph = x if graph is None else graph
    idx = squared_distances(graph, graph).topk(k, largest=False).indices
    near, centre = gathered(x, idx), x[:, :, None].expand(-1, -1, k, -1)
    return torch.cat([near - centre, centre], -1)


def block(w, name, x, width, dims=1, bn=None):
    """A linear layer without bias, BatchNorm (with its second name, `bn`) and LeakyReLU 0.2."""
    y = w.norm(f"{name}.1", w.linear(f"{name}.0", x, width, bias=False, dims=dims), 0.2)
    if bn:
        w.alias(bn, f"{name}.1")
    return y


def dgcnn_features(w, x, k, graph=None):
    x1 = block(w, "conv1", edges(x, k, graph), 64, 2, "bn1")
    x1 = block(w, "conv2", x1, 64, 2, "bn2").amax(2)
    x2 = block(w, "conv4", block(w, "conv3", edges(x1, k), 64, 2, "bn3"), 64, 2, "bn4").amax(2)
    x3 = block(w, "conv5", edges(x2, k), 64, 2, "bn5").amax(2)
    return torch.cat([x1, x2, x3], -1)


def dgcnn_semseg(w, x, k, classes=5, emb_dims=1024):
    local = dgcnn_features(w, x, k, x[..., 6:])
    top = block(w, "conv6", local, emb_dims, 1, "bn6").amax(1)
    x = block(w, "conv7", torch.cat([spread(top, local), local], -1), 512, 1, "bn7")
    return w.linear("conv9", block(w, "conv8", x, 256, 1, "bn8"), classes, bias=False)


def dgcnn_partseg(w, x, category, k, classes=5, emb_dims=1024):
    t = block(w, "transform_net.conv1", edges(x, k), 64, 2, "transform_net.bn1")
    t = block(w, "transform_net.conv2", t, 128, 2, "transform_net.bn2").amax(2)
    t = block(w, "transform_net.conv3", t, 1024).amax(1)
    for i, width in ((1, 512), (2, 256)):
        y = w.linear(f"transform_net.linear{i}", t, width, bias=False, dims=0)
        t = w.norm(f"transform_net.bn{i + 2}", y, 0.2)
    x = x @ w.linear("transform_net.transform", t, 9, dims=0).view(-1, 3, 3)
    local = dgcnn_features(w, x, k)
    top = block(w, "conv6", local, emb_dims, 1, "bn6").amax(1)
    top = torch.cat([top, block(w, "conv7", category, 64, 1, "bn7")], -1)
    x = block(w, "conv8", torch.cat([spread(top, local), local], -1), 256, 1, "bn8")
    x = block(w, "conv10", block(w, "conv9", x, 256, 1, "bn9"), 128, 1, "bn10")
    return w.linear("conv11", x, classes, bias=False)
