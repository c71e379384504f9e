"""Networks for images: published counts, the residual block beside plain loops, sizes and channels, and names."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dropfold.models import VGG16, ImageClassifier, ResNet, image_network
from dropfold.models.images.networks import multiply_adds
from dropfold.models.images.resnet import BasicBlock


@pytest.mark.parametrize(
    ("name", "parameters", "millions"),
    [
        ("resnet20", 269_722, 40.55),
        ("resnet32", 464_154, 68.86),
        ("resnet56", 853_018, 125.49),
        ("resnet110", 1_727_962, 252.89),
        ("vgg16", 14_724_042, 313.20),
    ],
)
def test_parameters_and_multiply_adds_are_the_published_ones(name, parameters, millions):
    """For CIFAR-10. VGG-16's by arithmetic: convolutions without bias, BatchNorm, and one linear layer."""
    with torch.device("meta"):
        network, x = image_network(name, 10), torch.zeros(1, 3, 32, 32)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert multiply_adds(network, x) == pytest.approx(1e6 * millions, abs=5e3)
    assert network.training


def convolve(x, weight, stride):
    """A 3 x 3 convolution of [C, H, W] with zeros around it, by its definition."""
    C, H, W = x.shape
    padded = np.zeros((C, H + 2, W + 2))
    padded[:, 1:-1, 1:-1] = x
    out = np.zeros((len(weight), -(-H // stride), -(-W // stride)))
    for o, i, j in np.ndindex(out.shape):
        out[o, i, j] = (padded[:, i * stride : i * stride + 3, j * stride : j * stride + 3] * weight[o]).sum()
    return out


@pytest.mark.parametrize(
    ("channels", "out", "stride", "size"), [(3, 3, 1, (4, 5)), (4, 8, 2, (6, 4)), (3, 6, 2, (7, 5))]
)
def test_the_block_is_the_papers(channels, out, stride, size):
    """In float64, with the shortcut of option A written out: rows 0, 2, 4, .., and zeros before and after the channels."""
    block = BasicBlock(channels, out, stride).double().eval()
    for norm in (block.norm1, block.norm2):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -1, 1)

    def normalise(y, norm):
        mean, var, gamma, beta = (
            t.detach().numpy()[:, None, None]
            for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return gamma * (y - mean) / np.sqrt(var + 1e-5) + beta

    x = torch.randn(2, channels, *size, dtype=torch.float64)
    weights = [conv.weight.detach().numpy() for conv in (block.conv1, block.conv2)]
    for one, found in zip(x.numpy(), block(x).detach().numpy()):
        y = np.maximum(normalise(convolve(one, weights[0], stride), block.norm1), 0)
        y = normalise(convolve(y, weights[1], 1), block.norm2)
        before = (out - channels) // 2
        for c in range(channels):
            for i in range(y.shape[1]):
                for j in range(y.shape[2]):
                    y[before + c, i, j] += one[c, stride * i, stride * j]
        assert np.allclose(found, np.maximum(y, 0), rtol=0, atol=1e-12)  # sums of 72 products of about 1


def test_sizes_and_channels():
    for channels, size in ((1, (28, 28)), (3, (32, 32)), (4, (17, 40))):
        x = torch.rand(2, channels, *size)
        assert ResNet(7, 8, channels)(x).shape == (2, 7)
        assert VGG16(7, channels)(x).shape == (2, 7)
    for network, x, said in (
        (ResNet(7, 8), torch.rand(2, 1, 8, 8), r"images \[B, 3, H, W\]; got \[2, 1, 8, 8\]"),
        (ResNet(7, 8), torch.rand(3, 8, 8), r"got \[3, 8, 8\]"),
        (VGG16(7), torch.rand(2, 3, 15, 32), r"H and W at least 16; got \[2, 3, 15, 32\]"),
    ):
        with pytest.raises(ValueError, match=said):
            network(x)
    with pytest.raises(TypeError, match="x must be of a floating point type"):
        ResNet(7, 8)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    for depth in (2, 21, 0):
        with pytest.raises(ValueError, match=f"depth must be 6 n \\+ 2.*got {depth}"):
            ResNet(7, depth)


def test_the_last_max_of_vgg_is_the_fifth_at_32_pixels():
    network, x = VGG16(5).eval(), torch.rand(2, 3, 32, 32)
    maps = network.features(x)
    assert maps.shape == (2, 512, 2, 2)
    assert torch.equal(network(x), network.fc(nn.functional.max_pool2d(maps, 2).flatten(1)))


def test_pixels_are_scaled_before_the_network_sees_them():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 12, bias=False))
    nn.init.eye_(network[1].weight)
    model = ImageClassifier(network, [0.2, 0.4, 0.6], [0.5, 0.25, 2.0])
    pixels = torch.tensor([0, 51, 255, 102], dtype=torch.uint8).repeat(3).view(1, 2, 2, 3)
    expected = (pixels.double() / 255 - torch.tensor([0.2, 0.4, 0.6])) / torch.tensor([0.5, 0.25, 2.0])
    found = model(pixels).view(3, 2, 2).permute(1, 2, 0)
    assert torch.allclose(found.double(), expected[0], atol=1e-6)  # a few roundings of numbers up to 2
    assert torch.allclose(model(pixels / 255), model(pixels), atol=1e-6)
    assert set(model.state_dict()) == {"mean", "std", "network.1.weight"}
    for images in (pixels[..., :1], pixels[0]):
        with pytest.raises(ValueError, match=r"images must be \[B, H, W, 3\]"):
            model(images)
    with pytest.raises(ValueError, match="std above 0"):
        ImageClassifier(network, [0.2], [0.0])


def test_names():
    with pytest.raises(
        ValueError, match=r"no network 'resnet-20' .* mean 'resnet20'\? There are .* torchvision:NAME"
    ):
        image_network("resnet-20", 10)
    network = image_network("vgg16", 4, 1, 0.3)
    assert (network.fc.out_features, network.dropout.p, network.in_channels) == (4, 0.3, 1)


class Theirs(nn.Module):
    """As torchvision's: a first convolution of three channels somewhere inside."""

    def __init__(self, num_classes=1000, aux_logits=True):
        super().__init__()
        self.aux_logits = aux_logits
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        )
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


def test_torchvisions_networks_by_name(monkeypatch):
    """With a module in its place, which has the two functions that are called."""
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ImportError, match="torchvision:resnet18 needs torchvision: pip install torchvision"):
        image_network("torchvision:resnet18", 10)
    fake = SimpleNamespace(
        list_models=lambda module: ["resnet18", "resnet34", "vgg11"],
        get_model=lambda name, weights, num_classes, **options: Theirs(num_classes),
    )
    monkeypatch.setitem(sys.modules, "torchvision.models", fake)
    assert image_network("torchvision:resnet18", 10)(torch.rand(2, 3, 8, 8)).shape == (2, 10)
    network = image_network("torchvision:resnet18", 10, 1)
    first = network.features[0][0]
    assert (first.in_channels, first.out_channels, first.padding, first.bias) == (1, 4, (1, 1), None)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(ValueError, match="no network 'resnet19' that classifies; the nearest are resnet18"):
        image_network("torchvision:resnet19", 10)
    with pytest.raises(ValueError, match=r"dropout must be 0, got 0\.5"):
        image_network("torchvision:resnet18", 10, dropout=0.5)
