"""Networks in fewer bits: what changes, what does not, and what is refused."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from dropfold.data_scripts.schemas import shape_schema
from dropfold.models import (
    DGCNN,
    LowPrecision,
    PointNet,
    PointNet2,
    PointNetSegmentation,
    TensorLSTM,
    lower_precision,
    unfused,
)
from dropfold.models.layers.precision import Precision
from dropfold.models.layers.rounded import Int8Linear

FURNITURE = Path(__file__).parents[3] / "data" / "furniture.h5"


def settled(network):
    """In evaluation mode, with statistics that are not the initial ones."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def outputs_of(network, names, *inputs):
    """What some modules make."""
    found = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: found.update({name: out})
        )
        for name in names
    ]
    with torch.no_grad():
        network(*inputs)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_the_network_given_stays_as_it_is(precision):
    network, x = settled(DGCNN(5, k=4, emb_dims=64)), torch.rand(2, 40, 3)
    before = deepcopy(network.state_dict())
    with torch.no_grad():
        exact = network(x)
        lowered = lower_precision(network, precision)(x)
        assert torch.equal(network(x), exact)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), network.state_dict().values(), strict=True))
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert 0 < float((lowered - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_coordinates_are_not_rounded(precision):
    """The first layer and the T-Net's last make what they do in float32: of the same input, to its rounding."""
    x = torch.rand(2, 40, 3) + 100  # bfloat16 has steps of half a unit here
    for network, names in (
        (DGCNN(5, k=4, emb_dims=64), ["edge1"]),
        (PointNet(5, feature_transform=False), ["input_transform.conv1"]),
    ):
        network = settled(network)
        exact = outputs_of(network, names, x)
        lowered = outputs_of(lower_precision(network, precision).network, names, x)
        for name in names:
            torch.testing.assert_close(lowered[name].float(), exact[name], rtol=1e-5, atol=1e-4)
    lowered = lower_precision(network, precision)
    assert isinstance(lowered.network.input_transform.fc3, nn.Linear)


def test_what_is_left_is_said():
    network = settled(PointNet2(5))
    lowered = lower_precision(network, "int8")
    assert list(lowered.left) == ["sa1.scales.0.layers.0", "sa2.scales.0.layers.0", "sa3.layers.0"]
    for name in lowered.left:
        assert type(lowered.network.get_submodule(name).linear) is nn.Linear
    assert type(lowered.network.sa2.scales[0].layers[1].linear) is Int8Linear
    said = lowered.describe()
    assert "9 matrices in 8 bits" in said
    assert "sa3.layers.0 (it reads coordinates)" in said
    parts = lower_precision(settled(PointNetSegmentation(6, 3, categories=3)), "int8")
    assert parts.left["conv5"] == "the head reads its matrix"
    assert parts.left["head1"] == "its matrix is applied in parts"
    assert parts.left["input_transform.fc3"] == "its matrix moves coordinates"
    assert "feature_transform.fc3" not in parts.left


def test_the_plain_form_rounds_the_same_numbers():
    for network in (PointNet(5), DGCNN(5, k=4, emb_dims=64), PointNetSegmentation(5)):
        lowered = lower_precision(settled(network), "int8")
        x = torch.rand(2, 40, network.in_channels)
        with torch.no_grad():
            fused = lowered(x)
            with unfused(lowered):
                plain = lowered(x)
        # A number at a half may be rounded up here and down there, which moves what follows by a step of 1/127.
        assert float((fused - plain).norm() / fused.norm()) < 1e-3


def test_weights_take_a_quarter_and_are_read_again():
    network = settled(PointNet(5))
    lowered = lower_precision(network, "int8")
    held = sum(t.numel() * t.element_size() for t in lowered.state_dict().values())
    assert held < 0.28 * lowered.bytes_before
    other = lower_precision(settled(PointNet(5)), "int8")
    other.load_state_dict(lowered.state_dict())
    x = torch.rand(2, 30, 3)
    with torch.no_grad():
        assert torch.equal(other(x), lowered(x))


def test_shapes_keep_their_class():
    """A vanilla PointNet trained for some seconds on the furniture that ships: of its 360 shapes nearly all."""
    torch.manual_seed(0)
    clouds = shape_schema.read(FURNITURE)
    x, label = torch.from_numpy(clouds.points[:, :128]), torch.from_numpy(clouds.label)
    network = PointNet(12, input_transform=False, feature_transform=False, dropout=0.0)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(60):
        chosen = torch.randperm(len(x))[:32]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[chosen]), label[chosen]).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        exact = network(x)
        assert float((exact.argmax(1) == label).float().mean()) > 0.4
        for precision, least in (("int8", 0.97), ("bf16", 0.97)):
            found = lower_precision(network, precision)(x)
            assert float((found.argmax(1) == exact.argmax(1)).float().mean()) >= least


def low(precision: Precision = "int8") -> LowPrecision:
    return lower_precision(PointNet(5).eval(), precision)


def with_nan(network):
    network.fc2.linear.weight.data[0, 0] = torch.nan
    return network


REFUSED = {
    "precision": (lambda: lower_precision(PointNet(5).eval(), "int4"), "one of int8, bf16; got 'int4'"),
    "training": (lambda: lower_precision(PointNet(5), "bf16"), "in training mode; call network.eval"),
    "twice": (lambda: lower_precision(low(), "int8"), "lowered already"),
    "inside": (lambda: lower_precision(low().network, "bf16"), "lowered already"),
    "train": (lambda: low("bf16").train(), "for inference; train the one"),
    "NaN": (lambda: lower_precision(with_nan(PointNet(5)).eval(), "int8"), "fc2: a weight .* NaN or infinity"),
    "float64": (lambda: lower_precision(PointNet(5).double().eval(), "int8"), "float32 on the CPU"),
    "recurrent": (lambda: lower_precision(TensorLSTM(8, 8).eval(), "int8"), "networks on point clouds.*bf16 takes it"),
    "convolution": (
        lambda: lower_precision(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Linear(4, 4)).eval(), "int8"), "Conv2d"
    ),
    "nothing": (lambda: lower_precision(nn.ReLU().eval(), "int8"), "no matrix"),
    "gradient": (lambda: low()(torch.rand(2, 30, 3, requires_grad=True)), "no gradient"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_sentences(case):
    call, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_compressed_network_keeps_its_pairs_in_float32():
    """A low-rank pair in the place of a matrix stays as it is; the others are rounded."""
    network = PointNet(5)
    network.fc1.linear = nn.Sequential(nn.Linear(1024, 8, bias=False), nn.Linear(8, 512))
    lowered = lower_precision(settled(network), "int8")
    assert lowered.left["fc1"] == "its linear map is no plain nn.Linear"
    with torch.no_grad():
        assert lowered(torch.rand(2, 30, 3)).isfinite().all()


def test_a_pair_in_the_place_of_a_bare_linear_layer_is_rounded():
    """Its two maps are plain matrices, as docs/precision.md has it."""
    network = settled(PointNet(5))
    network.fc3 = nn.Sequential(nn.Linear(256, 8, bias=False), nn.Linear(8, 5)).eval()
    lowered = lower_precision(network, "int8").network
    assert [type(map_) for map_ in lowered.fc3] == [Int8Linear, Int8Linear]


@pytest.mark.parametrize("inputs", [64, 1024])
def test_rows_overflow_from_where_the_docs_say(inputs):
    """Finite below 2.7e36 / k, the bound of s_m times the sum of integers; beyond 127 / 128 of float32's largest number
    over 127 k the largest sum is infinite, where float32 is far from it."""
    torch.manual_seed(0)
    matrix = nn.Linear(inputs, 8, bias=False).eval()
    matrix.weight.data = matrix.weight.sign() / inputs
    row = matrix.weight.detach().sign()
    low = Int8Linear(matrix)
    bound = torch.finfo(torch.float32).max / 127 / inputs
    with torch.no_grad():
        assert low(row * 0.99 * bound).isfinite().all()
        assert low(row * 2 * bound).diagonal().isinf().all()
        assert matrix(row * 2 * bound).isfinite().all()
