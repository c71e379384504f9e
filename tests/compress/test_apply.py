"""The small network equals the masked one, for every network here and for others; what a plan does not know is found."""

import copy
import json

import pytest
import torch
from torch import nn

from dropfold.compress import Choice, apply, masked, plan_channels, prunable
from dropfold.compress.plan.plan import Plan
from dropfold.models import PointNet
from dropfold.models.images.resnet import ResNet
from dropfold.models.images.vgg import VGG16
from dropfold.models.layers.sizes import resize, sizes_of
from tests.compress.networks import FOREIGN, OURS, Plain, used


def random_channels(plan, share=0.55):
    generator = torch.Generator().manual_seed(1)
    return {
        g.name: torch.randperm(g.size, generator=generator)[: max(1, int(share * g.size))].tolist()
        for g in plan.groups
    }


@pytest.mark.parametrize("name", [*OURS, *FOREIGN])
def test_the_small_network_equals_the_masked_one(name):
    """By `apply` itself, and here again: masked by hooks at the outputs of the layers that make the channels."""
    network, example = {**OURS, **FOREIGN}[name]()
    before = copy.deepcopy(network.state_dict())
    plan = plan_channels(network, *example)
    channels = random_channels(plan)
    small, choice = apply(plan, channels, *example)
    assert type(small) is type(network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    for group in plan.groups:
        made = next(s.tensor for s in group.slices if s.axis == 0 and s.tensor.endswith("weight"))
        assert choice.sizes[made.rpartition(".")[0]][0] <= 0.6 * group.size
    exact = tuple(v.double() if v.is_floating_point() else v for v in example)
    given, expected = small.double()(*exact), masked(plan, channels).double().eval()(*exact)
    torch.testing.assert_close(given, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["residual", "plain", "edges"])
def test_outputs_masked_by_hand_give_the_same(name):
    """Zeros at the inputs of the matrices that read a channel, by hooks: nothing of the plan's masking is used."""
    network, example = FOREIGN[name]()
    plan = plan_channels(network, *example)
    channels = random_channels(plan)
    small, _ = apply(plan, channels, *example)

    def zero(positions, axis):
        def hook(module, inputs):
            return inputs[0].index_fill(axis, positions, 0.0)

        return hook

    network = network.double()
    for group in plan.groups:
        gone = [c for c in range(group.size) if c not in channels[group.name]]
        for tensor, axis, positions in group.slices:
            if axis == 1:
                module = network.get_submodule(tensor.removesuffix(".weight"))
                where = -1 if isinstance(module, nn.Linear) else 1
                module.register_forward_pre_hook(zero(positions[gone].flatten().unique(), where))
    if (
        name == "edges"
    ):  # a channel that nobody reads still moves its graph: it has to be zero where it is made
        network.conv1.register_forward_hook(
            lambda _, __, y: y.index_fill(
                1, torch.tensor([c for c in range(8) if c not in channels["conv1.0"]]), 0.0
            )
        )
    exact = tuple(v.double() for v in example)
    torch.testing.assert_close(small.double()(*exact), network(*exact), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["pointnet", "dgcnn", "ssg", "residual", "plain"])
def test_a_plan_with_a_wrong_reader_is_found(name):
    network, example = {**OURS, **FOREIGN}[name]()
    plan = plan_channels(network, *example)
    group = plan.groups[len(plan.groups) // 2]
    readers = [s for s in group.slices if s.axis == 1]
    wrong = type(group)(
        group.name,
        tuple(
            s._replace(positions=s.positions.roll(group.size // 2, 0)) if s is readers[0] else s
            for s in group.slices
        ),
    )
    bad = Plan(network, tuple(wrong if g is group else g for g in plan.groups))
    with pytest.raises(ArithmeticError, match=rf"the plan does not know.*plan.without\('{group.name}'\)"):
        apply(bad, {g.name: range(g.size // 2) for g in bad.groups}, *example)


def test_code_that_knows_a_width_by_heart_is_named():
    class Written(Plain):
        def forward(self, x):
            return self.head(self.features(x).reshape(-1, 12 * 4))

    network = Written().eval()
    x = torch.rand(2, 3, 8, 8)
    plan = plan_channels(network, x)
    channels = random_channels(plan)
    with pytest.raises(ArithmeticError, match=r"knows a width by heart.*plan.without\('features.4'\)\."):
        apply(plan, channels, x)
    apply(plan.without("features.4"), {k: v for k, v in channels.items() if k != "features.4"}, x)


STREAMS = "stage2.0.conv2", "stage3.0.conv2"  # what option A pads knows where its channels are


@pytest.mark.parametrize(
    ("make", "stay"),
    [
        pytest.param(lambda: ResNet(10, 20), STREAMS, id="20"),
        pytest.param(lambda: ResNet(10, 56), STREAMS, id="56", marks=pytest.mark.slow),
        pytest.param(lambda: VGG16(10), (), id="vgg"),
    ],
)
def test_the_networks_for_images(make, stay):
    network, x = used(make()), torch.rand(1, 3, 16, 16)
    plan = plan_channels(network, x).without(*stay)
    small, _ = apply(plan, {group.name: range(group.size // 2) for group in plan.groups}, x)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    left = [m for m in small.modules() if isinstance(m, nn.Conv2d)]
    assert all(a.out_channels < b.out_channels for a, b in zip(left, convolutions, strict=True))


def test_what_relies_on_where_its_channels_are_stays():
    network, x = used(ResNet(10, 8)), torch.rand(1, 3, 8, 8)
    found = prunable(plan_channels(network, x), x)
    assert set(found.fixed) == {*STREAMS, "fc"}
    assert "relies on its width" in found.fixed[STREAMS[0]]
    assert [g.name for g in found.groups] == ["conv", "stage1.0.conv1", "stage2.0.conv1", "stage3.0.conv1"]


def test_a_choice_builds_the_network_anew():
    network, example = OURS["pointnet"]()
    plan = plan_channels(network)
    small, choice = apply(plan, random_channels(plan), *example)
    read = Choice.from_json(choice.to_json())
    assert read == choice
    again = resize(PointNet(10), read.sizes).eval()
    again.load_state_dict(small.state_dict())
    torch.testing.assert_close(again(*example), small(*example), rtol=0, atol=0)
    assert all(p.requires_grad for p in resize(PointNet(10), read.sizes).parameters())
    assert sizes_of(again) == read.sizes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"channels": {}, "ranks": {"a": -1}, "sizes": {}}',
        '{"channels": {"a": [-1]}, "sizes": {}}',
        '{"channels": {"a": [true]}, "sizes": {}}',
    ],
)
def test_what_is_no_choice_is_refused(text):
    with pytest.raises(ValueError, match="a choice is a JSON object: channels and sizes map"):
        Choice.from_json(text)


def test_wrong_channels_and_sizes_are_refused():
    network, _ = OURS["vanilla"]()
    plan = plan_channels(network)
    for kept in ([], [0, 0], [64], [-1], list(range(65))):
        with pytest.raises(ValueError, match=r"conv1 keeps channels .* different ones of 0 \.\. 63"):
            apply(plan, {"conv1": kept})
    with pytest.raises(KeyError, match="'conv9' is no group of this plan; there are conv"):
        apply(plan, {"conv9": [0]})
    with pytest.raises(KeyError, match="vetoed"):
        apply(plan.without("conv2"), {"conv2": [0]})
    with pytest.raises(KeyError, match="output of PointNet"):
        apply(plan, {"fc3": [0]})
    before = json.dumps(sizes_of(network))
    for sizes in ({"conv1.linear": [8]}, {"conv1": [8, 6]}, {"nothing": [1, 1]}, {"conv1.linear": [0, 6]}):
        with pytest.raises(ValueError, match="sizes has"):
            resize(network, {"fc1.linear": [4, 1024], **sizes})
    assert json.dumps(sizes_of(network)) == before


def test_groups_that_lose_nothing_change_nothing():
    network, example = OURS["dgcnn"]()
    small, choice = apply(plan_channels(network), {}, *example)
    assert choice.channels == {}
    torch.testing.assert_close(small(*example), network(*example), rtol=0, atol=0)
