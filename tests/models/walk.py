"""Every public operation, layer and network with a good call: what tests/models/test_walk.py changes one argument of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dropfold import kernels, models
from dropfold.kernels import Groups
from dropfold.kernels.group_mlp_max import operation as group_mlp_max
from dropfold.kernels.noise import drop_cluster, drop_feat, drop_point
from dropfold.kernels.norm import edge_conv, linear_norm_max, norm_act, norm_pool
from dropfold.kernels.points import ball_query, farthest_point_sample, knn, three_nn_interpolate
from dropfold.kernels.recurrent import gru_sequence, kron_linear, lstm_sequence
from dropfold.models.clouds.pointnet import Regularized, TransformNet
from dropfold.models.clouds.pointnet2 import (
    FeaturePropagation,
    GlobalAbstraction,
    Level,
    Points,
    Scale,
    SetAbstraction,
)
from dropfold.models.formats import FormatSpec
from dropfold.models.layers.grouped import EdgeConv2
from dropfold.models.layers.unfused import unfused
from tests.kernels.cases import batch_norm

CLOUDS, POINTS, CHANNELS, K = 2, 30, 9, 4
Tensors = dict[str, Tensor]


class Call(NamedTuple):
    """A call of tensors by name, and the same result in plain torch."""

    run: Callable[..., Any]
    plain: Callable[..., Any]
    tensors: Callable[..., Tensors]
    """Of how many clouds (rows, clips) and points (frames)."""
    exact: bool = False
    """Whether the plain form has the result to the bit, as indices are."""
    weights: bool = False
    """Whether it is a module, whose weights are float32."""


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def lists(clouds: int, points: int, k: int = K) -> Tensor:
    """Neighbours, counted within the cloud."""
    base = torch.arange(points)[:, None] + torch.arange(k)
    return (base % max(points, 1)).expand(clouds, -1, -1).contiguous()


def norm_of(tensors: dict[str, Any], channels: int) -> Any:
    """A BatchNorm in evaluation, in the type in which the call stands."""
    found = [t for t in tensors.values() if isinstance(t, Tensor) and t.is_floating_point()]
    double, meta = any(t.dtype == torch.float64 for t in found), bool(found) and all(t.is_meta for t in found)
    return batch_norm(channels, False, torch.float64 if double else torch.float32, "meta" if meta else "cpu")


def with_norm(function: Callable[..., Any], channels: int, **options: Any) -> Callable[..., Any]:
    """The call with a BatchNorm of so many channels."""
    return lambda **tensors: function(**tensors, norm=norm_of(tensors, channels), **options)


def operation(
    function: Callable[..., Any], plain: Callable[..., Any], tensors: Callable[..., Tensors], **options: Any
) -> Call:
    exact = options.pop("exact", False)
    return Call(lambda **t: function(**t, **options), lambda **t: plain(**t, **options), tensors, exact)


def normed(function: Any, plain: Any, channels: int, tensors: Callable[..., Tensors]) -> Call:
    return Call(with_norm(function, channels), with_norm(plain, channels), tensors)


def seeded(function: Any) -> Any:
    return lambda **t: function(**t, p=0.5, seed=torch.tensor(5))


def module(
    make: Callable[[], Any], tensors: Callable[..., Tensors], call: Any = None, textbook: Any = None
) -> Call:
    """A module in evaluation, its plain form beside it, in the type and on the device of its weights; `textbook` is called
    there instead of `call`."""
    torch.manual_seed(0)
    layer = make().eval()
    call = call or (lambda m, **t: m(*t.values()))

    def plain(**t: Any) -> Any:
        wide = layer.double() if any(x.dtype == torch.float64 for x in t.values()) else layer
        try:
            with unfused(wide):
                return (textbook or call)(wide, **t)
        finally:
            layer.float()

    return Call(lambda **t: call(layer, **t), plain, tensors, weights=True)


def x_of(clouds: int = CLOUDS, points: int = POINTS) -> Tensors:
    return {"x": random(clouds, points, CHANNELS)}


def pos_of(clouds: int = CLOUDS, points: int = POINTS) -> Tensors:
    return {"x": random(clouds, points, 3)}


def balls(clouds: int = CLOUDS, points: int = POINTS) -> Tensors:
    return pos_of(clouds, points) | {"centres": random(clouds, points // 2, 3)}


def nearest(clouds: int = CLOUDS, points: int = POINTS) -> Tensors:
    return {
        "features": random(clouds, points, 5),
        "pos": random(clouds, points, 3),
        "query": random(clouds, points + 1, 3),
    }


def clusters(clouds: int = CLOUDS, points: int = POINTS) -> Tensors:
    return x_of(clouds, points) | {"neighbours": lists(clouds, points)}


def edges(clouds: int = CLOUDS, points: int = POINTS) -> Tensors:
    return x_of(clouds, points) | {
        "idx": lists(clouds, points),
        "weight": random(7, 2 * CHANNELS),
        "bias": random(7),
    }


def matrix(clouds: int = CLOUDS, points: int = POINTS) -> Tensors:
    return x_of(clouds, points) | {"weight": random(7, CHANNELS), "bias": random(7)}


def groups(clouds: int = CLOUDS, points: int = POINTS) -> Tensors:
    rows = clouds * points
    return {
        "q": random(rows, 6), "p": random(rows, 6), "ptr": torch.arange(rows + 1) * K,
        "idx": lists(1, rows).flatten(), "count": torch.ones(rows * K, dtype=torch.int64), "weight": random(5, 6),
    }  # fmt: skip


def perceptron(function: Any) -> Any:
    def run(q: Tensor, p: Tensor, ptr: Tensor, idx: Tensor, count: Tensor, weight: Tensor) -> Any:
        norms = [norm_of({"q": q}, 6), norm_of({"q": q}, 5)]
        return function(q, p, Groups(ptr, idx, count), [weight], norms)

    return run


def kron(clouds: int = CLOUDS, points: int = POINTS) -> Tensors:
    return {"x": random(clouds, points, 6), "a": random(2, 2, 3), "c": random(2, 3, 4), "bias": random(12)}


def sequence(gates: int) -> Callable[..., Tensors]:
    def tensors(clouds: int = CLOUDS, points: int = 5) -> Tensors:
        found = {"gx": random(points, clouds, gates * 6), "a": random(1, 2, gates), "c": random(1, 3, 6)}
        found["h0"] = random(clouds, 6)
        if gates == 4:
            found["c0"] = random(clouds, 6)
        else:
            found["b_n"] = random(6)
        return found | {"lengths": torch.arange(clouds) % max(points, 1) + 1}

    return tensors


def level(m: Any, x: Tensor, features: Tensor) -> Any:
    return m(Points.of(x, features, None, None)).features


def below(m: Any, x: Tensor, features: Tensor, pos_below: Tensor, below: Tensor) -> Any:
    return m(Points.of(x, features, None, None), Points.of(pos_below, below, None, None)).features


def level_tensors(clouds: int = CLOUDS, points: int = POINTS) -> Tensors:
    return pos_of(clouds, points) | {"features": random(clouds, points, 5)}


def below_tensors(clouds: int = CLOUDS, points: int = POINTS) -> Tensors:
    return level_tensors(clouds, points) | {"pos_below": random(clouds, 8, 3), "below": random(clouds, 8, 6)}


def frames(clouds: int = CLOUDS, points: int = 5) -> Tensors:
    return {"x": random(points, clouds, 12), "h0": random(1, clouds, 6)}


def lstm_frames(clouds: int = CLOUDS, points: int = 5) -> Tensors:
    return frames(clouds, points) | {"c0": random(1, clouds, 6)}


def clips(clouds: int = CLOUDS, points: int = 5) -> Tensors:
    return {"x": random(clouds, points, 3, 4)}


def images(clouds: int = CLOUDS, points: int = 16) -> Tensors:
    return {"x": random(clouds, 3, points, points)}


def pixels(clouds: int = CLOUDS, points: int = 16) -> Tensors:
    return {"x": random(clouds, points, points, 3).abs()}


def parts(clouds: int = CLOUDS, points: int = 40) -> Tensors:
    return {"x": random(clouds, points, 3), "category": torch.arange(clouds) % 2}


class Orthogonal(Regularized):
    """A feature transform alone, and its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = TransformNet(CHANNELS, 3)

    def forward(self, x: Tensor) -> Tensor:
        self._remember(self.transform(x))
        return self.regularization()


def away_from_orthogonal(m: Any, x: Tensor) -> Tensor:
    """The mean over clouds of |I - A A^T|, by its numbers."""
    a = m.transform(x)
    products = (a[:, :, None] * a[:, None]).sum(-1)
    return (products - torch.eye(3).to(a)).square().sum((1, 2)).sqrt().mean()


TT = FormatSpec("tt", (3, 4), (2, 3), (2,))
SMALL = Level(4, (Scale(0.5, 4, (8, 8)), Scale(1.0, 4, (8,))))
NOT_CALLED_WITH_TENSORS = {
    "LowPrecision",
    "lower_precision",
    "BatchNorm", "Groups", "Noise", "NETWORKS", "Network", "draw_seed", "needs_reestimation", "reestimate_batch_norm",
    "image_network", "rnn_table", "unfused",
}  # fmt: skip
KERNELS = {
    "ball_query": operation(kernels.ball_query, ball_query.reference, balls, radius=0.7, k=K, exact=True),
    "drop_cluster": Call(seeded(kernels.drop_cluster), seeded(drop_cluster.reference), clusters),
    "drop_feat": Call(seeded(kernels.drop_feat), seeded(drop_feat.reference), x_of),
    "drop_point": Call(seeded(kernels.drop_point), seeded(drop_point.reference), x_of),
    "edge_conv": normed(kernels.edge_conv, edge_conv.reference, 7, edges),
    "farthest_point_sample": operation(
        kernels.farthest_point_sample, farthest_point_sample.reference, pos_of, m=5, exact=True
    ),
    "group_mlp_max": Call(perceptron(kernels.group_mlp_max), perceptron(group_mlp_max.reference), groups),
    "gru_sequence": operation(kernels.gru_sequence, gru_sequence.reference, sequence(3)),
    "knn": operation(kernels.knn, knn.reference, pos_of, k=K, exact=True),
    "kron_linear": operation(kernels.kron_linear, kron_linear.reference, kron),
    "linear": Call(
        lambda x, **t: kernels.linear(x, *t.values()),
        lambda x, **t: torch.nn.functional.linear(x, *t.values()),
        matrix,
    ),
    "linear_norm_act": normed(kernels.linear_norm_act, norm_act.linear_reference, 7, matrix),
    "linear_norm_max": normed(kernels.linear_norm_max, linear_norm_max.reference, 7, matrix),
    "linear_norm_pool": normed(kernels.linear_norm_pool, norm_pool.linear_reference, 7, matrix),
    "lstm_sequence": operation(kernels.lstm_sequence, lstm_sequence.reference, sequence(4)),
    "norm_act": Call(
        lambda x: kernels.norm_act(x, norm_of({"x": x}, CHANNELS)),
        lambda x: norm_act.reference(x, norm_of({"x": x}, CHANNELS)),
        x_of,
    ),
    "norm_pool": Call(
        lambda x: kernels.norm_pool(x, norm_of({"x": x}, CHANNELS)),
        lambda x: norm_pool.reference(x, norm_of({"x": x}, CHANNELS)),
        x_of,
    ),
    "three_nn_interpolate": operation(kernels.three_nn_interpolate, three_nn_interpolate.reference, nearest),
}
MODELS = {
    "DGCNN": module(lambda: models.DGCNN(5, k=4, emb_dims=32), pos_of),
    "DGCNNSegmentation": module(
        lambda: models.DGCNNSegmentation(5, 3, 2, k=4, emb_dims=32, graph_channels=(0, 1, 2)), parts
    ),
    "PointNet": module(lambda: models.PointNet(5), pos_of),
    "PointNetSegmentation": module(lambda: models.PointNetSegmentation(5, 3, 2), parts),
    "PointNet2": module(lambda: models.PointNet2(5), pos_of),
    "PointNet2Segmentation": module(lambda: models.PointNet2Segmentation(5, 3, 2), parts),
    "DropCluster": module(lambda: models.DropCluster(0.5, 4), x_of),
    "DropFeat": module(lambda: models.DropFeat(0.5), x_of),
    "DropPoint": module(lambda: models.DropPoint(0.5), x_of),
    "EdgeConv": module(
        lambda: models.EdgeConv(CHANNELS, 7),
        lambda *sizes: {k: v for k, v in edges(*sizes).items() if k in ("x", "idx")},
    ),
    "LinearNormAct": module(lambda: models.LinearNormAct(CHANNELS, 7, bias=True), x_of),
    "LinearNormMax": module(lambda: models.LinearNormMax(CHANNELS, 7), x_of),
    "LinearNormPool": module(lambda: models.LinearNormPool(CHANNELS, 7), x_of),
    "TensorLinear": module(lambda: models.TensorLinear(12, 6, TT), lambda *s: {"x": frames(*s)["x"]}),
    "TensorGRU": module(lambda: models.TensorGRU(12, 6, ih=FormatSpec("tt", (3, 4), (2, 3), (2,))), frames),
    "TensorLSTM": module(
        lambda: models.TensorLSTM(12, 6, ih=FormatSpec("tt", (3, 4), (2, 3), (2,))),
        lstm_frames,
        lambda m, x, h0, c0: m(x, (h0, c0)),
    ),
    "VideoClassifier": module(
        lambda: models.VideoClassifier(models.TensorLSTM(12, 6, batch_first=True), 3), clips
    ),
    "ResNet": module(lambda: models.ResNet(4, 8), images),
    "VGG16": module(lambda: models.VGG16(4), images),
    "CellNetwork": module(lambda: models.CellNetwork(4, channels=4, cells=3), images),
    "ImageClassifier": module(
        lambda: models.ImageClassifier(models.ResNet(4, 8), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]), pixels
    ),
    "EdgeConv2": module(
        lambda: EdgeConv2(CHANNELS, (7, 6)),
        lambda *s: {k: v for k, v in edges(*s).items() if k in ("x", "idx")},
    ),
    "SetAbstraction": module(lambda: SetAbstraction(5, SMALL), level_tensors, level),
    "GlobalAbstraction": module(
        lambda: GlobalAbstraction(5, (8, 8)),
        level_tensors,
        lambda m, x, features: m(Points.of(x, features, None, None)),
    ),
    "FeaturePropagation": module(lambda: FeaturePropagation(5 + 6, (8, 8)), below_tensors, below),
    "TransformNet": module(lambda: TransformNet(CHANNELS, 3), x_of),
    "regularization": module(Orthogonal, x_of, textbook=away_from_orthogonal),
}
presets = {
    "tt_lstm": lambda: models.tt_lstm((3, 4), (2, 3), 2),
    "bt_lstm": lambda: models.bt_lstm((3, 4), (2, 3), 2, 2),
    "tr_lstm": lambda: models.tr_lstm((3, 4), (2, 3), (2, 2, 2, 2)),
    "ht_lstm": lambda: models.ht_lstm((3, 4), (2, 3), 2),
    "fdht_lstm": lambda: models.fdht_lstm(12, (5, 4), (2, 3), 2),
}
MODELS |= {
    name: module(make, lstm_frames, lambda m, x, h0, c0: m(x, (h0, c0))) for name, make in presets.items()
}
CALLS = KERNELS | MODELS
