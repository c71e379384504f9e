"""Networks of others with a named layer, and what is refused."""

import json

import pytest
import torch
from torch import nn

from dropfold import models
from dropfold.data_scripts.readers.ply import read_vertices
from dropfold.explain import explain
from dropfold.explain.cut.cuts import cut_of
from dropfold.explain.cut.inputs import Inputs
from dropfold.explain.cut.passes import Pass
from dropfold.explain.maps.methods import xgrad_cam
from tests.explain.conftest import X, randomized, small_pointnet

EXACT = 1e-10  # as in test_account


class Net1d(nn.Module):
    """A user's network of signals [B, 2, L]."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(2, 6, 5), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Conv1d(6, 8, 3), nn.ReLU()
        )
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.body(x).amax(2))


def test_a_users_1d_network():
    network, x = randomized(Net1d()), torch.randn(4, 2, 30, **X)
    for layer in ("body.1", "body.2", "body.4"):  # body.1: what follows works in place
        found = explain(network, x, 1, layer=layer, channels=1)
        assert found.scores.shape == (4, 26 if layer != "body.4" else 24)
        assert float(found.account["missing"].abs().max()) < EXACT


def test_a_residual_network():
    """A whole block is a cut; the convolution inside it is none, and its skip is missing."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x):
            return (x + self.norm(self.conv(x))).relu()

    network = randomized(
        nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            Block(),
            Block(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )
    )
    x = torch.rand(2, 3, 8, 8, **X)
    assert float(explain(network, x, 1, layer="2", channels=1).account["missing"].abs().max()) < EXACT
    assert float(explain(network, x, 1, layer="3.conv", channels=1).account["missing"].abs().max()) > 1e-5


def test_a_torchvision_resnet():
    resnet = pytest.importorskip("torchvision.models").resnet18(num_classes=4)
    x = torch.rand(2, 3, 64, 64, **X)
    found = explain(randomized(resnet), x, 1, layer="layer4", channels=1)
    assert found.scores.shape == (2, 2, 2)
    assert float(found.account["missing"].abs().max()) < EXACT


def test_a_pyg_network():
    pyg = pytest.importorskip("torch_geometric.nn")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.fc = pyg.GCNConv(3, 8), pyg.GCNConv(8, 8), nn.Linear(8, 3)

        def forward(self, x, edge_index, batch):
            x = self.conv2(self.conv1(x, edge_index).relu(), edge_index)
            return self.fc(pyg.global_max_pool(x, batch))

    network = randomized(Net())
    batch = torch.tensor([0] * 6 + [1] * 4)
    edges = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 0, 7, 8, 9]])
    found = explain(network, (torch.randn(10, 3, **X), edges, batch), 1, layer="conv1", channels=-1)
    assert found.scores.shape == (10,)
    assert float(found.account["missing"].abs().max()) < EXACT
    assert found.sample(1).shape == (4,)


def images():
    """A small network of pictures, a batch of them, and the features and gradients of class 1 at its ReLU."""
    network = randomized(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(72, 4),
        )
    )  # fmt: skip
    x = torch.rand(2, 3, 12, 12, **X)
    run = Pass(network, cut_of(network, "2", 1), Inputs.of(network, x))
    leaves, logits = run.capture()
    f = leaves["evidence"]
    return network, x, f.detach(), torch.autograd.grad(logits[:, 1].sum(), f)[0]


def assert_weights_are_ours(theirs, f, g):
    """Un-normalised weights [B, C], where a channel's sum is not rounding alone: the peers add eps to a signed sum."""
    sums, sizes = f.sum((2, 3)), f.abs().sum((2, 3))
    counted = sums.abs() > torch.maximum(torch.tensor(0.01), 1e-3 * sizes)
    ours = xgrad_cam(f.flatten(2).mT, g.flatten(2).mT).sum(1) / sums
    assert counted.sum() >= 8
    assert torch.allclose(ours[counted], theirs[counted], rtol=1e-5)


def test_the_weights_of_grad_cam_are_ours():
    peer = pytest.importorskip("pytorch_grad_cam").XGradCAM
    _, x, f, g = images()
    assert_weights_are_ours(
        torch.from_numpy(peer.get_cam_weights(None, x, None, None, f.numpy(), g.numpy())), f, g
    )


def test_the_weights_of_torchcam_are_ours():
    peer = pytest.importorskip("torchcam.methods").XGradCAM
    network, x, f, g = images()
    with peer(network, "2", input_shape=(3, 12, 12)) as extractor:
        scores = network(x)
        theirs = extractor._get_weights(1, scores)[0]
    assert_weights_are_ours(theirs.detach(), f, g)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer": "conv7"}, "no layer 'conv7'; the nearest are .*'conv"),
        ({"target": 7}, "class from 0 to 4; got 7"),
        ({"target": torch.tensor([0, 1])}, "one for each of the 3 samples"),
        ({"method": "cam"}, "one of xgrad_cam, grad_cam"),
        ({"points": 3}, "networks that label points"),
        ({"layer": "conv2", "channels": 1, "method": "lime"}, "method must be"),
    ],
)
def test_refused(options, said, clouds):
    with pytest.raises(ValueError, match=said):
        explain(small_pointnet(), clouds, **options)


def test_refused_inputs(clouds):
    network = small_pointnet()
    broken = clouds.clone()
    broken[1, 4, 2] = float("nan")
    with pytest.raises(ValueError, match=r"not finite, first at \[1, 4, 2\]"):
        explain(network, broken)
    with pytest.raises(TypeError, match="cannot be called"):
        explain(network, {"points": clouds})
    with pytest.raises(TypeError, match="must be a tensor"):
        explain(network, "chair")


def test_refused_networks():
    x = torch.rand(2, 2, 30, **X)
    with pytest.raises(ValueError, match=r"give layer=.*channels="):
        explain(randomized(Net1d()), x)
    with pytest.raises(ValueError, match="which axis"):
        explain(randomized(Net1d()), x, layer="body.2")
    with pytest.raises(ValueError, match="other than its first"):
        explain(randomized(Net1d()), x, layer="body.2", channels=0)
    smooth = nn.Sequential(nn.Linear(30, 8), nn.GELU(), nn.Flatten(), nn.Linear(16, 3)).double()
    with pytest.raises(ValueError, match="nothing in Sequential is piecewise linear"):
        explain(smooth, x, layer="0", channels=-1)
    assert "missing" not in explain(smooth, x, layer="0", channels=-1, account=False).account
    shared = nn.Linear(30, 30)
    twice = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Flatten(), nn.Linear(60, 3)).double()
    with pytest.raises(ValueError, match="called 2 times"):
        explain(twice, x, layer="0", channels=-1)


def test_part_networks_refuse_points_that_are_not_there(clouds):
    network = randomized(models.PointNetSegmentation(5, 3))
    for points, said in (
        (48, "one of the 48"),
        (clouds[..., 0] > 9, "chooses none of sample 0"),
        (1.5, "bool"),
    ):
        with pytest.raises(ValueError, match=said):
            explain(network, clouds, 2, points=points)


def test_an_explanation_prints_is_json_a_file_and_a_page(clouds, tmp_path):
    found = explain(small_pointnet(), clouds, 2, class_names=["a", "b", "<i>", "d", "e"])
    assert "evidence" in repr(found)
    assert "logit of <i>" in repr(found)
    values = json.loads(json.dumps(found.to_json()))
    assert sum(v[0] for v in values["account"].values()) == pytest.approx(values["logit"][0])
    shown = found._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "<script" not in shown  # escaped, it is an attribute
    found.to_ply(tmp_path / "a.ply", 1)
    read = read_vertices(tmp_path / "a.ply")
    assert torch.allclose(torch.from_numpy(read["quality"]).double(), found.scores[1], rtol=1e-6)
    assert torch.allclose(torch.from_numpy(read["y"]).double(), clouds[1, :, 1], rtol=1e-6)


def test_no_positive_evidence_is_said_in_words(clouds):
    network = small_pointnet()
    with torch.no_grad():
        network.fc3.weight[2] = 0
    assert "no positive evidence for class 2: bias alone makes its score" in explain(
        network, clouds, 2
    ).sentence(0)
