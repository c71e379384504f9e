"""Images: the layer that maps are of, the account, the identity of CAMs, the peers' weights, units, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dropfold.__main__ import main
from dropfold.explain import ablate, explain
from dropfold.explain.cut.images import last_convolution
from dropfold.explain.cut.inputs import Inputs
from dropfold.explain.run.command import OF_CLOUDS
from dropfold.explain.run.image_units import inputs_of, last_linear, without_each
from dropfold.explain.run.images import dropped
from dropfold.models import VGG16, ImageClassifier, ResNet
from dropfold.train.config.configs import ImageConfig, Signature
from dropfold.train.tasks.trained import Trained
from tests.explain.conftest import X, randomized
from tests.explain.test_command import content_of
from tests.train.conftest import bars, image_folder, image_run  # noqa: F401

EXACT = 1e-10  # as in test_account


class Skipping(nn.Module):
    """As torchvision's residual networks: one ReLU for all, and a convolution at the end of a branch."""

    def __init__(self, around=False):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(inplace=True)
        self.layer = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.block = nn.ModuleDict({"conv": nn.Conv2d(6, 6, 1), "norm": nn.BatchNorm2d(6)})
        self.fc, self.around = nn.Linear(6, 3), around

    def forward(self, x):
        stem = self.relu(self.stem(x))
        y = self.relu(self.layer(stem) + stem)
        y = self.relu(y + self.block["norm"](self.block["conv"](y)))
        return self.fc(y.mean((2, 3))) + (self.fc(stem.mean((2, 3))) if self.around else 0)


def layer_of(network, x):
    return last_convolution(network, Inputs.of(network, x))


def test_the_layer_of_maps():
    """The last convolution that nothing goes round and that leaves 4 x 4 positions."""
    x = torch.rand(2, 1, 28, 28)
    assert layer_of(ResNet(3, 8, 1), x) == "stage3"
    classifier = ImageClassifier(ResNet(3, 8, 1), [0.2], [0.3])
    assert layer_of(classifier, torch.zeros(2, 28, 28, 1, dtype=torch.uint8)) == "network.stage3"
    assert layer_of(ResNet(3, 8, 1), torch.rand(2, 1, 8, 8)) == "stage2"
    vgg = VGG16(3, 1).eval()
    name = layer_of(vgg, x)
    assert isinstance(vgg.get_submodule(name), nn.ReLU)
    assert vgg.features[: int(name.split(".")[1]) + 1](x).shape == (2, 256, 7, 7)
    convolutions = (nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.LeakyReLU())
    plain = nn.Sequential(*convolutions, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(80, 3))
    assert layer_of(plain, torch.rand(2, 2, 12, 12)) == "4"
    assert layer_of(Skipping(), torch.rand(2, 2, 8, 8)) == "stem"  # its blocks are no modules
    assert layer_of(Skipping(around=True), torch.rand(2, 2, 8, 8)) == "stem"
    assert layer_of(nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), torch.rand(2, 8)) is None


def test_nothing_is_left_behind():
    network = ResNet(3, 8).train()
    network.stage2.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    explain(network, torch.rand(2, 3, 16, 16))
    assert network.training
    assert not network.stage2.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(p.grad is None for p in network.parameters())


NETWORKS = {"resnet": lambda: ResNet(4, 8, 2), "vgg": lambda: VGG16(4, 2)}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_account_adds_up_to_the_logit(name):
    network, x = randomized(NETWORKS[name]()), torch.rand(1, 2, 16, 16, **X)
    found = explain(network, x, 1)
    assert found.scores.shape == (1, 4, 4)
    account = found.account
    size = account["evidence"].abs() + account["bias"].abs()
    assert float((account["missing"].abs() / size).max()) < EXACT
    assert torch.allclose(found.scores.sum((1, 2)), account["evidence"], rtol=1e-10)
    assert torch.allclose(found.logit, network(x)[:, 1], rtol=1e-12)


def test_images_of_bytes_have_an_account():
    network = randomized(ImageClassifier(ResNet(4, 8), [0.3, 0.4, 0.5], [0.2, 0.3, 0.4]))
    x = torch.randint(0, 256, (3, 16, 18, 3), dtype=torch.uint8)
    found = explain(network, x)
    assert found.scores.shape == (3, 4, 5)
    assert float(found.account["missing"].abs().max()) < EXACT
    assert torch.equal(found.target, network(x).argmax(1))


def test_where_the_mean_feeds_a_linear_layer_all_methods_are_cam():
    """CAM, Zhou et al. 2016: sum_k w_ck F_k / positions."""
    network, x = randomized(ResNet(4, 8, 1)), torch.rand(2, 1, 16, 16, **X)
    features = []
    network.stage3.register_forward_hook(lambda m, a, out: features.append(out.detach()))
    target = network(x).argmax(1)
    cam = torch.einsum("bkhw,bk->bhw", features[0], network.fc.weight.detach()[target]) / 16
    for method in ("xgrad_cam", "grad_cam", "gradient_x_activation"):
        found = explain(network, x, target, method=method).scores
        assert float((found - cam).abs().max()) < 1e-12, method


def test_on_a_network_with_a_max_they_differ():
    network, x = randomized(VGG16(4, 1)), torch.rand(1, 1, 16, 16, **X)
    maps = [explain(network, x, 1, method=name).scores for name in ("xgrad_cam", "grad_cam")]
    assert float((maps[0] - maps[1]).abs().max()) > 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_the_weights_are_those_of_the_peers(name):
    """grad-cam 1.5.7, XGradCAM.get_cam_weights, and torchcam 0.5.0, XGradCAM._get_weights, restated: they add 1e-7 and 1e-8
    to a signed sum, so channels whose sum is rounding alone are left out."""
    network, x = randomized(NETWORKS[name]()), torch.rand(1, 2, 16, 16, **X)
    kept = []
    layer = network.get_submodule(layer_of(network, x))
    handle = layer.register_forward_hook(
        lambda m, a, out: kept.append(out.requires_grad_() if out.is_leaf else out)
    )
    logits = network(x)
    handle.remove()
    f = kept[0]
    g = torch.autograd.grad(logits[:, 1].sum(), f)[0]
    sums, sizes = f.sum((2, 3)), f.abs().sum((2, 3))
    counted = sums.abs() > torch.maximum(torch.tensor(0.01), 1e-3 * sizes)
    assert counted.sum() > 20
    ours = explain(network, x, 1).scores
    for eps in (1e-7, 1e-8):
        weights = (g * f).sum((2, 3)) / (sums + eps)
        own = (g * f).sum((2, 3)) / sums
        assert torch.allclose(weights[counted], own[counted], rtol=1e-5)
        theirs = (weights[..., None, None] * f).sum(1)
        left_out = (torch.where(counted, 0, weights)[..., None, None] * f).sum(1).abs()
        assert bool(
            ((ours - theirs).abs() <= 1e-5 * (weights[..., None, None] * f).abs().sum(1) + 2 * left_out).all()
        )


def test_a_unit_without_a_pass():
    """Rank one beside a forward with the unit's map replaced everywhere, by 0 and by its mean."""
    network, x = (
        randomized(ImageClassifier(ResNet(4, 8), [0.5] * 3, [0.25] * 3)),
        torch.rand(3, 16, 16, 3, **X),
    )
    layer = last_linear(network, x)
    assert layer == "network.fc"
    assert last_linear(nn.Sequential(nn.Flatten(), nn.Linear(768, 3), nn.ReLU()).double(), x) is None
    p, weight = inputs_of(network, layer, x), network.network.fc.weight.detach()
    for r in (torch.zeros(64, **X), p.mean(0)):
        without = without_each(network(x), p, r, weight)
        for u in (0, 17, 63):
            expected = ablate(network, x, "network.stage3", [u], to=(r,), channels=1)
            assert torch.allclose(without[u], expected, rtol=0, atol=EXACT)


def test_dropped_pixels_are_the_mean():
    """The pixels of the most salient half, where scores are of single pixels; the others stay."""
    seen = []

    def network(images):
        seen.append(images)
        return images.flatten(1)

    x = torch.randint(0, 256, (2, 4, 6, 1), dtype=torch.uint8)
    scores = torch.rand(2, 4, 6)
    dropped(network, x, scores, torch.tensor([0.3]), 0.5, True)
    gone = scores > scores.flatten(1).sort(1).values[:, 11, None, None]
    assert torch.equal(seen[0][..., 0], torch.where(gone, torch.tensor(0.3), x[..., 0] / 255))
    dropped(network, x, scores, torch.tensor([0.3]), 0.5, False)
    assert torch.equal(seen[1][..., 0], torch.where(gone, x[..., 0] / 255, torch.tensor(0.3)))


def test_why_of_pictures(tmp_path, monkeypatch, capsys):
    """A folder and a file: each gets its own page, with an account that adds up to the logit of the predicted class."""
    torch.manual_seed(0)
    network = ImageClassifier(ResNet(3, 8, 1), [0.5], [0.3]).eval()
    signature = Signature(["row", "column", "noise"], (16, 16, 1), channel_mean=[0.5], channel_std=[0.3])
    trained = Trained(tmp_path / "run", ImageConfig(data=tmp_path / "none.h5"), signature, network=network)
    monkeypatch.setattr(Trained, "of", classmethod(lambda cls, run: trained))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16)).astype(np.uint8)
    (tmp_path / "more").mkdir()
    files = [tmp_path / "more" / "b.png", tmp_path / "more" / "c.png", tmp_path / "a.png"]
    for file, one in zip(files, pixels, strict=True):
        Image.fromarray(one).save(file)
    main(["predict", str(tmp_path / "run"), str(tmp_path / "more"), str(files[2]), "--explain", "--json"])
    rows = json.loads(capsys.readouterr().out)
    logits = network(torch.from_numpy(pixels)[..., None]).detach()
    for file, row, own in zip(files, rows, logits, strict=True):
        stem = f"{file.parent / file.stem}-explained"
        assert row["file"] == str(file)
        assert row["explanation"] == [f"{stem}.html", f"{stem}.json"]
        predicted = json.loads(Path(f"{stem}.json").read_text())["predicted"]
        assert predicted["logit"] == pytest.approx([float(own.max())], rel=1e-4)
        total = sum(np.array(v) for v in predicted["account"].values())
        assert total == pytest.approx([float(own.max())], rel=1e-4)
        content = content_of(Path(f"{stem}.html").read_text())
        assert [one["title"] for one in content["images"]] == [file.name]
        assert not content["images"][0]["wrong"]


def test_the_command(image_run, bars, capsys):  # noqa: F811
    main(["explain", str(image_run), "--classes", "row", "column"])
    said = capsys.readouterr().out
    assert "missing at most" in said
    assert "random: accuracy" in said
    values = json.loads((image_run / "explanation.json").read_text())
    account = values["predicted"]["account"]
    assert np.allclose(sum(np.array(v) for v in account.values()), values["predicted"]["logit"])
    assert values["predicted"]["layer"] == "network.stage3"
    assert set(values["dropping"]["methods"]) == {"xgrad_cam", "grad_cam", "feature_norm", "random"}
    with np.load(image_run / "explanation.npz") as arrays:
        assert arrays["scores/difference"].shape == (7, 4, 4)
        assert arrays["units/loss"].shape == (64,)
    content = content_of((image_run / "explanation.html").read_text())
    assert [len(one["maps"]) for one in content["images"]] == [3] * 7
    assert content["images"][0]["size"] == [16, 16, 1]
    assert content["units"]["rows"][0]["shapes"]
    for words, said in (
        (["--methods", "zheng"], "zheng is no score of images; these take xgrad_cam"),
        (["--methods", *OF_CLOUDS], "radius is no score of images"),  # the default of clouds, but asked for
        (["--classes", "rows"], "Did you mean 'row'"),
    ):
        with pytest.raises(SystemExit, match=said):
            main(["explain", str(image_run), *words])
