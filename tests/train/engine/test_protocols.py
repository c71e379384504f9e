"""Recipes that are a peer's by name: their epochs, rates, momenta, first weights, order and metrics, each against a count of
its own, made from what the peer's files say (docs/recipes/protocols.md names the commits)."""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from dropfold.models.convert.names import YANX27, YANX27_PARTS, YANX27_SCENES, pointnet2
from dropfold.train.config.configs import Signature, VideoConfig
from dropfold.train.config.ranges import check_options
from dropfold.train.config.recipes import RECIPES, recipe
from dropfold.train.data.input_channels import channels_of
from dropfold.train.engine.check import check
from dropfold.train.engine.methods import methods_of
from dropfold.train.engine.schedule import learning_rate
from dropfold.train.scoring import metrics
from dropfold.train.tasks import parts, points, scenes
from tests.train.small_segmentation import small_parts, write_shapes

PAGE = Path(__file__).parents[3] / "docs/recipes/protocols.md"
PEERS = {
    "modelnet40-pointnet": "yanx27",
    "modelnet40-dgcnn": "antao97",
    "shapenet-part-pointnet": "yanx27",
    "shapenet-part-pointnet2": "yanx27",
    "shapenet-part-dgcnn": "antao97",
    "s3dis-pointnet": "yanx27",
    "s3dis-pointnet2": "yanx27",
    "s3dis-dgcnn": "antao97",
    "ucf11-tt-lstm": "TT_RNN",
    "youtube-celebrities-tt-lstm": "TT_RNN",
    "hollywood2-tt-lstm": "TT_RNN",
    "hmdb51-tt-lstm": "TT_RNN",
}


# --- Rates -----------------------------------------------------------------------------------------------------------


def rates(first, epochs, schedule, ahead=False, floor=0.0):
    """The rate of each epoch, by a scheduler of torch that is stepped before the epoch's steps (`ahead`) or after them."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], first)
    scheduler, found = schedule(optimizer), []
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Detected call of `lr_scheduler.step"
        )  # as the peer calls it
        for _ in range(epochs):
            if ahead:
                scheduler.step()
            found.append(max(floor, optimizer.param_groups[0]["lr"]))
            optimizer.step()
            if not ahead:
                scheduler.step()
    return found


def cosine(epochs):
    return rates(0.1, epochs, lambda optimizer: CosineAnnealingLR(optimizer, epochs, eta_min=1e-3))


def steps(epochs, size, factor, **options):
    return rates(1e-3, epochs, lambda optimizer: StepLR(optimizer, size, factor), **options)


RATES = {
    "modelnet40-pointnet": lambda: steps(200, 20, 0.7, ahead=True),
    "modelnet40-dgcnn": lambda: cosine(250),
    "shapenet-part-pointnet": lambda: steps(251, 20, 0.5, floor=1e-5),
    "shapenet-part-pointnet2": lambda: steps(251, 20, 0.5, floor=1e-5),
    "shapenet-part-dgcnn": lambda: cosine(200),
    "s3dis-pointnet": lambda: steps(128, 10, 0.7, floor=1e-5),
    "s3dis-pointnet2": lambda: steps(128, 10, 0.7, floor=1e-5),
    "s3dis-dgcnn": lambda: cosine(100),
    "ucf11-tt-lstm": lambda: 1001 * [1e-4],
    "youtube-celebrities-tt-lstm": lambda: 101 * [1e-3],
    "hollywood2-tt-lstm": lambda: 501 * [1e-3],
    "hmdb51-tt-lstm": lambda: 401 * [1e-4],
}


@pytest.mark.parametrize("name", PEERS)
def test_the_rate_of_every_epoch_is_the_peers(name):
    config, expected = recipe(name), RATES[name]()
    assert config.epochs == len(expected)
    for step in (0, 3):  # no rate moves within an epoch
        found = [learning_rate(config, epoch, step, 7) for epoch in range(config.epochs)]
        assert found == pytest.approx(expected, rel=1e-9)


def test_a_step_schedule_can_be_one_epoch_ahead_and_has_a_floor():
    """By hand: yanx27's classification has its first rate for 19 epochs, its parts are at 1e-5 from epoch 141 on."""
    config, parts_config = recipe("modelnet40-pointnet"), recipe("shapenet-part-pointnet")
    found = [learning_rate(config, epoch) for epoch in range(200)]
    assert found[:19] == 19 * [1e-3]
    assert found[19:39] == pytest.approx(20 * [7e-4])
    assert found[199] == pytest.approx(1e-3 * 0.7**10)
    found = [learning_rate(parts_config, epoch) for epoch in range(251)]
    assert found[139] == pytest.approx(1e-3 / 2**6)
    assert found[140:] == 111 * [1e-5]


# --- Networks: momentum and first weights ------------------------------------------------------------------------------


def network_of(name, seed=0):
    """The network of a recipe as a run builds it, of the published size."""
    config = recipe(name)
    classes = {"clouds": 40, "parts": 50, "scenes": 13, "blocks": 13}[config.task]
    names = [str(c) for c in range(classes)]
    signature = Signature(names, channels=channels_of(config))
    if config.task == "parts":
        signature = replace(signature, categories=[str(c) for c in range(16)])
    build = points.build_classifier if config.task == "clouds" else points.build_segmenter
    torch.manual_seed(seed)
    return build(config, signature)


def halved(epochs, every):
    """0.1, halved every so many epochs, at least 0.01."""
    found, momentum = [], 0.1
    for epoch in range(epochs):
        if epoch and epoch % every == 0:
            momentum /= 2
        found.append(max(momentum, 0.01))
    return found


MOMENTA = {
    "shapenet-part-pointnet": 20,
    "shapenet-part-pointnet2": 20,
    "s3dis-pointnet": 10,
    "s3dis-pointnet2": 10,
}
POINTS = [name for name, peer in PEERS.items() if peer != "TT_RNN"]


@pytest.mark.parametrize("name", POINTS)
def test_the_momentum_of_every_epoch_is_the_peers(name):
    config, network = recipe(name), network_of(name)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    found = []
    for epoch in range(config.epochs):
        for method in methods_of(config):
            method.before_epoch(network, epoch)
        (momentum,) = {norm.momentum for norm in norms}
        found.append(momentum)
    expected = halved(config.epochs, MOMENTA[name]) if name in MOMENTA else config.epochs * [0.1]
    assert found == pytest.approx(expected, rel=1e-12)


def names_of(name, network):
    """Modules of yanx27's network by those of ours."""
    tables = {
        "modelnet40-pointnet": YANX27,
        "shapenet-part-pointnet": YANX27_PARTS,
        "s3dis-pointnet": YANX27_SCENES,
    }
    table = tables.get(name) or pointnet2(network)
    return {ours: theirs for theirs, ours in table.items()}


def assert_xavier(linear):
    """The weight is normal, of standard deviation sqrt(2 / (inputs + outputs)); its own estimate strays by 1 / sqrt(2 n)."""
    w = linear.weight.detach().double().flatten()
    outputs, inputs = linear.weight.shape
    std = (2 / (inputs + outputs)) ** 0.5
    assert abs(float(w.std()) / std - 1) < 5 / (2 * len(w)) ** 0.5
    assert abs(float(w.mean())) < 5 * std / len(w) ** 0.5
    beyond = float(
        (w.abs() > 2 * std).double().mean()
    )  # 4.55 % of a normal distribution, none of the uniform one
    assert abs(beyond - 0.0455) < 5 * (0.0455 / len(w)) ** 0.5
    assert not linear.bias.any()


def assert_torchs(linear):
    """Weight and bias are uniform, within 1 / sqrt(inputs)."""
    w, bound = linear.weight.detach().double().flatten(), linear.in_features**-0.5
    assert 0.98 * bound < float(w.abs().max()) <= bound * (1 + 1e-6)
    assert abs(float(w.std()) / (bound / 3**0.5) - 1) < 5 / (2 * len(w)) ** 0.5
    if linear.bias is not None:
        assert 0 < float(linear.bias.detach().abs().max()) <= bound * (1 + 1e-6)


@pytest.mark.parametrize("name", POINTS)
def test_the_first_weights_are_the_peers(name):
    """yanx27's segmentation draws Linear and Conv2d by Xavier and leaves Conv1d; its classification and antao97 draw none.
    Its fc layers are Linear, those of set abstraction Conv2d, all others Conv1d."""
    network = network_of(name)
    linears = {key: module for key, module in network.named_modules() if isinstance(module, nn.Linear)}
    theirs = names_of(name, network) if PEERS[name] == "yanx27" else {}
    drawn = set()
    for key, linear in linears.items():
        if name in MOMENTA and re.search(r"(^|\.)fc\d$|^sa\d", theirs[key]):
            assert_xavier(linear)
            drawn.add(key)
        elif name.endswith("-dgcnn") and key == "input_transform.fc3":  # antao97's begins as the identity
            assert not linear.weight.any()
            assert torch.equal(linear.bias.view(3, 3), torch.eye(3))
        else:
            assert_torchs(linear)
    assert len(drawn) == {
        "shapenet-part-pointnet": 6,
        "s3dis-pointnet": 6,
        "shapenet-part-pointnet2": 18,
    }.get(name, 12 if name == "s3dis-pointnet2" else 0)
    again, other = network_of(name), network_of(name, seed=1)
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    key = next(iter(drawn or linears)) + ".weight"
    assert not torch.equal(network.state_dict()[key], other.state_dict()[key])


# --- The order of blocks -------------------------------------------------------------------------------------------------


class Sizes:
    """A split of rooms of which only the sizes are known."""

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)


@pytest.mark.parametrize("name", ["s3dis-pointnet", "s3dis-pointnet2"])
def test_the_blocks_of_an_epoch_are_shuffled_over_all_rooms(name):
    """As many points as areas 1 to 4 and 6 have: yanx27's log counts 47,623 blocks of 4,096, here of 204 rooms."""
    random = np.random.default_rng(0)
    share = random.uniform(0.2, 1.8, 204)
    sizes = np.round(share / share.sum() * 195_068_000).astype(np.int64)
    config, split = recipe(name), Sizes(sizes)
    order = scenes.slots(split, config, 0)
    assert len(order) == int(sizes.sum() / 4096)
    counts = np.bincount(order, minlength=204)
    assert np.abs(counts - len(order) * sizes / sizes.sum()).max() < 1
    # A shuffle spreads a room's blocks over the epoch: their mean place is the middle, within 5 standard errors.
    place = (np.arange(len(order)) + 0.5) / len(order)
    middle = np.bincount(order, place) / counts
    assert np.abs((middle - 0.5) * np.sqrt(12 * counts)).max() < 5
    by_pools = scenes.slots(split, replace(config, pool_points=1 << 25), 0)
    middle = np.bincount(by_pools, place) / counts
    assert np.abs((middle - 0.5) * np.sqrt(12 * counts)).max() > 20
    assert not np.array_equal(order, scenes.slots(split, config, 1))


# --- Metrics -------------------------------------------------------------------------------------------------------------


def antao97_ious(target, predicted, category, part_category):
    """Of each shape, the mean over its category's parts of |both| / |either|, 1 where neither is."""
    found = []
    for truth, said, kind in zip(target, predicted, category):
        each = []
        for part in [p for p, c in enumerate(part_category) if c == kind]:
            both = sum(a == part == b for a, b in zip(truth, said))
            either = sum(part in (a, b) for a, b in zip(truth, said))
            each.append(both / either if either else 1.0)
        found.append(sum(each) / len(each))
    return found


class Fixed(nn.Module):
    """The logits of each shape, by its category and its first coordinate."""

    def __init__(self, parts_count):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.mix = torch.randn(3, parts_count, generator=torch.Generator().manual_seed(5))

    def forward(self, x, category):
        return torch.sin(7 * x[..., :3]) @ self.mix + self.weight


@pytest.mark.parametrize("all_parts", [True, False], ids=["antao97", "yanx27"])
def test_a_part_is_chosen_among_those_that_the_peer_chooses_among(all_parts, tmp_path):
    write_shapes(tmp_path / "parts.h5")
    config = small_parts(tmp_path, own_parts=False, all_parts=all_parts)
    split, network = parts.load(config).test, Fixed(4)
    found = parts.predict_split(network, split, config)
    (x, category), target = parts.fixed(split, list(range(len(split))), config)
    logits = network(x, category).detach()
    part_category = split.part_category.tolist()
    if not all_parts:
        for i, kind in enumerate(category.tolist()):
            others = [p for p, c in enumerate(part_category) if c != kind]
            logits[i, :, others] = -1e9
    predicted = logits.argmax(-1).tolist()
    strangers = np.array(part_category)[np.array(predicted)] != category.numpy()[:, None]
    assert strangers.any() == all_parts
    expected = antao97_ious(target.tolist(), predicted, category.tolist(), part_category)
    np.testing.assert_array_equal(found["predicted"], predicted)
    np.testing.assert_allclose(found["iou"], expected, rtol=1e-12)
    figures = parts.scores(found, Signature(["a", "b", "c", "d"], categories=["pole", "plate"])).figures
    right = np.array(predicted) == target.numpy()
    assert figures["instance_mean_iou"] == pytest.approx(np.mean(expected))
    assert figures["overall_accuracy"] == pytest.approx(right.mean())
    # Every point of a cloud, as `dropfold predict` labels it, is chosen in the same way.
    signature = Signature(["a", "b", "c", "d"], categories=["pole", "plate"], part_category=part_category)
    cloud = x[0].numpy()
    labels = parts.label_cloud(network, cloud, int(category[0]), replace(config, points=1), signature, 1)
    assert labels.tolist() == predicted[0]


def test_a_part_of_another_category_is_a_miss():
    """A shape of parts 0 and 1, seen as 0 0 2 2: of part 0 a half of four points, of part 1 none of two."""
    part_category = np.array([0, 0, 1, 1])
    label, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 2, 2])
    (iou,) = metrics.shape_ious(label, predicted, np.array([0, 4]), np.array([0]), part_category)
    assert iou == (1.0 + 0.0) / 2
    label = np.array([0, 0, 0, 0])  # part 1 is neither there nor said: it counts 1
    (iou,) = metrics.shape_ious(label, predicted, np.array([0, 4]), np.array([0]), part_category)
    assert iou == (2 / 4 + 1.0) / 2


def test_antao97s_recipe_alone_chooses_among_all_parts():
    configs = {name: recipe(name) for name in RECIPES}
    assert [name for name, config in configs.items() if getattr(config, "all_parts", False)] == [
        "shapenet-part-dgcnn"
    ]


def test_a_class_that_is_nowhere():
    """Where all classes are there, mean IoU is both peers'. One that is neither there nor said does not count here; it is 0
    in yanx27's mean, and antao97's is NaN."""
    random = np.random.default_rng(0)
    label, predicted = random.integers(4, size=(2, 200))
    for classes in (4, 5):
        both = np.array([((label == c) & (predicted == c)).sum() for c in range(classes)])
        either = np.array([((label == c) | (predicted == c)).sum() for c in range(classes)])
        found = metrics.scene_scores(metrics.confusion(label, predicted, classes)).figures["mean_iou"]
        yanx27 = np.mean(both / (either + 1e-6))
        assert found * 4 / classes == pytest.approx(yanx27, rel=1e-6)
        if classes == 4:
            assert found == pytest.approx(np.mean(both / either), rel=1e-12)


# --- What a recipe cannot be asked for -----------------------------------------------------------------------------------


def test_options_that_make_no_sense_are_named(tmp_path):
    write_shapes(tmp_path / "parts.h5")
    config = small_parts(tmp_path)
    with pytest.raises(ValueError, match=r"--no-own-parts or --no-all-parts"):
        parts.load(replace(config, own_parts=True, all_parts=True))
    with pytest.raises(ValueError, match="no DGCNN; give --initial-weights torch"):
        points.build_segmenter(replace(config, initial_weights="xavier"), parts.load(config).signature)
    data = parts.load(config)
    with pytest.raises(ValueError, match=r"lr_floor 0\.1 is above lr 0\.001"):
        check(replace(config, lr_floor=0.1), data)
    with pytest.raises(ValueError, match="lr_ahead must be at least 0"):
        check_options(replace(config, lr_ahead=-1))


# --- The page ------------------------------------------------------------------------------------------------------------


def table_rows(first_column):
    """Rows of the page's table whose head begins with `first_column`, by their first cell."""
    rows, inside = {}, False
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith(f"| {first_column} |"):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|-"):
            rows |= dict.fromkeys(re.findall(r"`([\w-]+)`", cells[0]), cells[1:])
    return rows


def test_the_page_tells_the_peer_and_every_rate_and_momentum():
    sources, figures = table_rows("recipe"), table_rows("recipes")
    assert sources.keys() == figures.keys() == PEERS.keys()
    for name, peer in PEERS.items():
        config, expected = recipe(name), RATES[name]()
        assert peer in sources[name][0]
        assert re.search(r"\b[0-9a-f]{7}\b", sources[name][1])
        epochs, told, momenta = figures[name]
        assert epochs == str(config.epochs)
        for cell, values in ((told, expected), (momenta, None)):
            if values is None and isinstance(config, VideoConfig):
                assert cell == "none"
                continue
            values = values or (
                halved(config.epochs, MOMENTA[name]) if name in MOMENTA else config.epochs * [0.1]
            )
            changes = [(int(a), float(b)) for a, b in re.findall(r"(\d+): ([\d.e-]+)", cell)]
            if config.schedule == "cosine" and not isinstance(config, VideoConfig) and values is expected:
                assert len(changes) >= 3
                for epoch, value in changes:
                    assert values[epoch - 1] == pytest.approx(value, rel=1e-3)
                continue
            each = range(1, config.epochs + 1)
            spread = [max(change for change in changes if change[0] <= epoch)[1] for epoch in each]
            assert values == pytest.approx(spread, rel=1e-3)
