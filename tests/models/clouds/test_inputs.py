"""What networks are given: right, or refused in a sentence; NaN propagates; coordinates are never rounded; the first graph
is of the channels that were said."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dropfold import kernels
from dropfold.models import (
    DGCNN,
    DGCNNSegmentation,
    PointNet,
    PointNet2,
    PointNet2Segmentation,
    PointNetSegmentation,
)
from dropfold.models.clouds import dgcnn, dgcnn_segmentation
from dropfold.models.clouds.pointnet2 import FeaturePropagation, Level, Points, Scale, SetAbstraction
from dropfold.models.convert import load_antao97
from dropfold.models.convert.names import ANTAO97_SCENES
from dropfold.models.layers.unfused import unfused

CATEGORIES = 2
NETWORKS = {
    "dgcnn": (lambda c: DGCNN(5, c, k=4, emb_dims=32), 3),
    "dgcnn-scenes": (lambda c: DGCNNSegmentation(5, c, k=4, emb_dims=32), 9),
    "dgcnn-parts": (lambda c: DGCNNSegmentation(5, c, CATEGORIES, k=4, emb_dims=32), 3),
    "pointnet": (lambda c: PointNet(5, c), 3),
    "pointnet-scenes": (lambda c: PointNetSegmentation(5, c), 9),
    "pointnet-parts": (lambda c: PointNetSegmentation(5, c, CATEGORIES), 3),
    "pointnet2": (lambda c: PointNet2(5, c), 3),
    "pointnet2-scenes": (lambda c: PointNet2Segmentation(5, c), 9),
    "pointnet2-parts": (lambda c: PointNet2Segmentation(5, c, CATEGORIES), 3),
}


def network(name, channels=None):
    make, own = NETWORKS[name]
    return make(channels or own).eval(), channels or own


def run(model, x):
    """Logits of x, each cloud of the first category where the network takes one."""
    clouds = len(x) if isinstance(x, torch.Tensor) and x.dim() == 3 else 1
    parts = getattr(model, "categories", None)
    return model(x, torch.zeros(clouds, dtype=torch.int64)) if parts else model(x)


REFUSED = {
    "channels first": (lambda x: x.transpose(1, 2), r"got x \[2, \d, 40\].*give x.transpose\(1, 2\)"),
    "integers": (lambda x: x.long(), r"floating point type; got x \[2, 40, \d\] int64"),
    "half": (lambda x: x.half(), r"type of .* weights, float32; got x \[2, 40, \d\] float16"),
    "double": (lambda x: x.double(), r"type of .* weights, float32; got x \[2, 40, \d\] float64"),
    "meta": (lambda x: x.to("meta"), r"where the weights are, on cpu; got x \[2, 40, \d\] float32 on meta"),
    "another width": (lambda x: x[..., :2], r"takes x \[B, N, \d\], .*; got x \[2, 40, 2\]"),
    "no points": (lambda x: x[:, :0], r"a point at least in each cloud; got x \[2, 0, \d\]"),
    "one point": (lambda x: x[0, 0], r"takes x \[B, N, \d\], .*; got x \[\d\]"),
    "a list": (lambda x: x.tolist(), "got a list, make it a tensor"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_network_cannot_take_is_refused_in_a_sentence(name, what):
    model, channels = network(name)
    change, sentence = REFUSED[what]
    for training in (False, True):
        model.train(training)
        with pytest.raises(ValueError, match=f"(?s){sentence}"):
            run(model, change(torch.randn(2, 40, channels)))


@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_network_can_take(name):
    """No clouds, strided memory, an input with gradient: the logits of a plain one, or none."""
    model, channels = network(name)
    x = torch.randn(2, 40, channels)
    wanted = run(model, x)
    assert run(model, x[:0]).shape == (0, *wanted.shape[1:])
    assert torch.equal(run(model, x.transpose(0, 1).contiguous().transpose(0, 1)), wanted)
    leaf = x.clone().requires_grad_()
    found = run(model, leaf)
    assert torch.equal(found, wanted)
    (gradient,) = torch.autograd.grad(found.square().sum(), leaf)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("dgcnn")])
def test_more_neighbours_than_points_are_refused(name):
    model, channels = network(name)
    with pytest.raises(ValueError, match=r"got k = 4 for x \[2, 3, 3\]"):
        run(model, torch.randn(2, 3, channels))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_cloud_that_is_not_finite_has_nan_logits_and_changes_no_other(name, fused):
    """One number of one point, a coordinate or the last feature; the other clouds are equal to the bit."""
    model, channels = network(name)
    x = torch.randn(3, 40, channels)
    with torch.no_grad(), nullcontext() if fused else unfused(model):
        wanted = run(model, x)
        for value, channel in ((torch.nan, 1), (torch.nan, channels - 1), (torch.inf, 0), (-torch.inf, 2)):
            spoilt = x.clone()
            spoilt[1, 7, channel] = value
            found = run(model, spoilt)
            assert found[1].isnan().all()
            assert torch.equal(found[[0, 2]], wanted[[0, 2]])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_nan_cloud_in_rows_is_as_a_dense_one(name):
    model, channels = network(name)
    sizes = (1100, 1030, 1060) if name.startswith("pointnet2") else (40, 25, 31)
    batch = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    x = torch.randn(len(batch), channels)
    spoilt = x.clone()
    spoilt[sizes[0] + 3, 0] = torch.nan
    category = (torch.zeros(3, dtype=torch.int64),) if getattr(model, "categories", None) else ()
    with torch.no_grad():
        wanted, found = (model(rows, *category, batch=batch) for rows in (x, spoilt))
    own = batch == 1 if len(found) == len(x) else torch.arange(3) == 1
    assert found[own].isnan().all()
    torch.testing.assert_close(found[~own], wanted[~own])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_nan_cloud_in_training_gives_nan_gradients(name):
    """Neither a hang nor a finite step: the loss shows it, and every gradient of the last layer is NaN."""
    model, channels = network(name)
    x = torch.randn(2, 40, channels)
    x[0, 7, 1] = torch.nan
    loss = run(model.train(), x).square().sum()
    assert loss.isnan()
    loss.backward()
    assert list(model.parameters())[-1].grad.isnan().all()


@pytest.mark.parametrize("fused", [True, False])
def test_points_of_nan_far_from_any_ball_are_seen(fused):
    """A level of its own: NaN features come from NaN positions of its points or of the level below, in that cloud alone."""
    level = Level(4, (Scale(0.1, 4, (8, 8)), Scale(0.2, 4, (8,))))
    down, up = SetAbstraction(0, level).eval(), FeaturePropagation(5 + 16, (8,)).eval()
    pos, features = torch.rand(2, 30, 3), torch.randn(2, 30, 5)
    for value in (torch.nan, torch.inf):
        spoilt = pos.clone()
        spoilt[1, 29, 2] = value
        with (
            torch.no_grad(),
            nullcontext() if fused else unfused(down),
            nullcontext() if fused else unfused(up),
        ):
            wanted, found = (down(Points.of(p, None, None, None)) for p in (pos, spoilt))
            above = [up(Points.of(p, features, None, None), wanted).features for p in (pos, spoilt)]
            centres = wanted._replace(pos=wanted.pos * torch.tensor([1, value]).view(2, 1, 1))
            below = up(Points.of(pos, features, None, None), centres).features
        for right, of_nan in ((wanted.features, found.features), (above[0], above[1]), (above[0], below)):
            right, of_nan = right.unflatten(0, (2, -1)), of_nan.unflatten(0, (2, -1))
            assert of_nan[1].isnan().all()
            assert torch.equal(of_nan[0], right[0])


class RecordRoundedValues(TorchDispatchMode):
    """Remembers what is converted to bfloat16."""

    def __init__(self):
        super().__init__()
        self.sources = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default and kwargs.get("dtype") is torch.bfloat16:
            self.sources.append(args[0].detach().clone())
        return function(*args, **kwargs)


WIDER = [
    *((f"{network}-scenes", 33) for network in ("dgcnn", "pointnet", "pointnet2")),
    ("dgcnn-parts", 9),
    ("pointnet-parts", 30),
    ("pointnet2-parts", 9),
]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("name", "channels"), [*((name, None) for name in NETWORKS), *WIDER])
def test_autocast_never_rounds_coordinates(name, channels, fused):
    """The input is never converted to bfloat16, which holds no number between 300 and 302; other values are."""
    model, channels = network(name, channels)
    x = torch.rand(2, 40, channels) + 300
    recorded = RecordRoundedValues()
    with (
        torch.no_grad(),
        nullcontext() if fused else unfused(model),
        torch.autocast("cpu", torch.bfloat16),
        recorded,
    ):
        run(model, x)
    assert recorded.sources
    # An activation between 300 and 301 may have the value of a coordinate; 40 points have 80 coordinates or more.
    assert all(torch.isin(source, x).sum() < 40 for source in recorded.sources)


@pytest.mark.parametrize("name", NETWORKS)
def test_autocast_moves_no_group_and_no_first_graph(name, monkeypatch):
    model, channels = network(name)
    x = torch.rand(2, 40, channels) + 300
    found = []

    def record(operation):
        def recorded(*args, **options):
            found.append(operation(*args, **options))
            return found[-1]

        return recorded

    for operation in ("knn", "ball_query", "farthest_point_sample"):
        monkeypatch.setattr(kernels, operation, record(getattr(kernels, operation)))
    run(model, x)
    exact, found[:] = list(found), []
    with torch.autocast("cpu", torch.bfloat16):
        run(model, x)
    assert len(exact) == len(found)
    # Of DGCNN's graphs the first is of coordinates, the others of features.
    for a, b in list(zip(exact, found))[: 1 if "dgcnn" in name else None]:
        for one, other in zip(a, b) if isinstance(a, tuple) else [(a, b)]:
            assert torch.equal(one, other)


def first_graph(model, x, monkeypatch, module):
    """The values whose distances make the first graph."""
    found = []
    original = module.neighbours

    def record(values, *args, **options):
        found.append(values)
        return original(values, *args, **options)

    monkeypatch.setattr(module, "neighbours", record)
    run(model.eval(), x)
    return found[0]


def test_the_first_graph_is_of_the_channels_that_are_said(monkeypatch):
    """Never of a number of channels: parts of 9 channels have the graph of their coordinates."""
    for channels, said, wanted in (
        (9, None, (0, 1, 2)),
        (9, (6, 7, 8), (6, 7, 8)),
        (12, (5, 3), (5, 3)),
    ):
        model = DGCNNSegmentation(5, channels, CATEGORIES, k=4, emb_dims=32, graph_channels=said)
        x = torch.randn(2, 40, channels)
        assert torch.equal(first_graph(model, x, monkeypatch, dgcnn_segmentation), x[..., wanted])
    for channels, said, wanted in ((6, (0, 1, 2), (0, 1, 2)), (6, range(6), tuple(range(6)))):
        model = DGCNN(5, channels, k=4, emb_dims=32, graph_channels=said)
        x = torch.randn(2, 40, channels)
        assert torch.equal(first_graph(model, x, monkeypatch, dgcnn), x[..., wanted])
    for wrong in ((), (0, 0), (0, 9), (-1,)):
        with pytest.raises(ValueError, match="graph_channels must be different channels from 0 to"):
            DGCNNSegmentation(5, 9, graph_channels=wrong)


@pytest.mark.parametrize("channels", [9, 10])
def test_a_converted_scene_network_has_the_graph_of_its_project(channels, monkeypatch):
    """antao97's get_graph_feature(dim9=True): neighbours by x[:, 6:], whatever the number of channels."""
    theirs = DGCNNSegmentation(13, channels, emb_dims=32)
    names = {ours: name for name, ours in ANTAO97_SCENES.items()}
    state = {}
    for key, value in theirs.state_dict().items():
        module, _, last = key.rpartition(".")
        if module in names:
            state[f"{names[module]}.{last}"] = value
    model = load_antao97(state, k=4)
    x = torch.randn(2, 40, channels)
    assert torch.equal(first_graph(model, x, monkeypatch, dgcnn_segmentation), x[..., 6:])
