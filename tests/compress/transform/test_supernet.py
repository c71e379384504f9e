"""An architecture's network against the whole one with masks, written in plain torch, and the supernet restricted to it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dropfold import kernels
from dropfold.compress.cost.times import Times
from dropfold.compress.cost.work import multiply_adds, work_of
from dropfold.compress.plan.channels import plan_channels
from dropfold.compress.transform import costs
from dropfold.compress.transform.families import canonical, family_of, network_of
from dropfold.compress.transform.supernet import Supernet, TrainSupernet
from dropfold.models import DGCNN, DropCluster, DropPoint, PointNet2
from dropfold.models.clouds.dgcnn import EDGES
from dropfold.models.images.cells import CellNetwork
from dropfold.models.images.resnet import ResNet
from dropfold.models.images.vgg import VGG16
from dropfold.models.layers.unfused import unfused
from dropfold.models.operations.balls import Balls
from dropfold.models.operations.edges import EdgeOperation
from dropfold.models.operations.replace import operations_of, replace_operations


def with_statistics(network):
    """BatchNorms that are none of their initial ones."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.data.uniform_(-1, 1.5)
                module.bias.data.uniform_(-0.3, 0.3)
    return network.double().eval()


@pytest.fixture(scope="module")
def points():
    torch.manual_seed(0)
    return with_statistics(DGCNN(5, k=20, emb_dims=32)), torch.rand(3, 40, 3, dtype=torch.float64)


def masked_dgcnn(network, operations, order, x):
    """The whole network's matrices on features that are zero where a channel is not kept."""

    def norm(y, module):
        y = (y - module.running_mean) / (module.running_var + module.eps).sqrt() * module.weight + module.bias
        return F.leaky_relu(y, 0.2)

    width, h, places, graph, features = 3, x, range(3), None, []
    for layer, name in operations.items():
        operation, module = EdgeOperation.parse(name), getattr(network, layer)
        whole = h.new_zeros(*h.shape[:2], width)
        whole[..., list(places)] = h
        if operation.kind == "edge_conv":
            if not operation.reused:
                graph = torch.cdist(h, h).topk(operation.k, largest=False).indices
            graph = graph[..., : operation.k]
            near = torch.stack([cloud[idx] for cloud, idx in zip(whole, graph, strict=True)])
            here = whole[:, :, None].expand_as(near)
            y = norm(torch.cat([near - here, here], -1) @ module.linear.weight.T, module.norm).amax(2)
        elif operation.kind == "pointwise":
            y = norm(whole @ module.linear.weight[:, width:].T, module.norm)
        width = EDGES[layer]
        if operation.kind in ("edge_conv", "pointwise"):
            places = sorted(order[layer][: operation.width or width].tolist())
            h = y[..., places]
        else:
            h = h if operation.kind == "skip" else torch.zeros_like(h[..., :1])
            places = range(h.shape[-1])
        part = h.new_zeros(*h.shape[:2], width)
        part[..., list(places)] = h
        features.append(part)
    y = norm(torch.cat(features, -1) @ network.embed.linear.weight.T, network.embed.norm)
    y = torch.cat([y.amax(1), y.mean(1)], -1)
    return network.fc3(network.fc2(network.fc1(y)))


@torch.no_grad()
@pytest.mark.parametrize("seed", range(8))
def test_an_architecture_of_dgcnn_is_the_masked_whole(points, seed):
    network, x = points
    family = family_of(network, x)
    supernet = Supernet(copy.deepcopy(network), family).eval()
    operations = family.space.draw(torch.Generator().manual_seed(seed))
    small, expected = supernet.restricted(operations), masked_dgcnn(network, operations, family.order, x)
    torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-10)
    supernet.path = operations
    torch.testing.assert_close(supernet(x), expected, rtol=0, atol=1e-10)
    rows = torch.arange(3).repeat_interleave(40)
    torch.testing.assert_close(small(x.flatten(0, 1), rows), expected, rtol=0, atol=1e-10)
    with unfused(small):
        torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize(
    "operations",
    [
        ("skip", "edge_conv_10_w32", "edge_conv_5_reused", "null"),
        ("pointwise_w32", "skip", "skip", "edge_conv_20"),
        ("edge_conv_5", "edge_conv_5_reused_w48", "null", "null"),
        ("edge_conv_10_w48", "pointwise", "edge_conv_10_reused_w64", "skip"),
        ("null", "null", "null", "null"),
    ],
)
def test_every_kind_of_edge_operation(points, operations):
    network, x = points
    family = family_of(network, x)
    chosen = dict(zip(EDGES, operations, strict=True))
    assert canonical(chosen) == chosen
    small = Supernet(copy.deepcopy(network), family).restricted(chosen).eval()
    torch.testing.assert_close(small(x), masked_dgcnn(network, chosen, family.order, x), rtol=0, atol=1e-10)
    assert small.operations() == chosen


def test_architectures_that_are_the_same_have_one_form():
    said = dict(
        zip(
            EDGES,
            ("pointwise", "edge_conv_10_reused", "edge_conv_20_reused_w64", "edge_conv_5_reused"),
            strict=True,
        )
    )
    done = ("pointwise", "edge_conv_10", "edge_conv_20_w64", "edge_conv_5_reused")
    assert tuple(canonical(said).values()) == done
    assert tuple(canonical({**said, "edge2": "null"}).values()) == ("pointwise", "null", "null", "null")


@torch.no_grad()
def test_a_reused_graph_that_is_not_there_is_found_anew(points):
    network, x = points
    one = network_of(network, {"edge1": "pointwise", "edge2": "edge_conv_10_reused"})
    two = network_of(network, {"edge1": "pointwise", "edge2": "edge_conv_10"})
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(x), two(x))


def test_gradients_of_all_paths_reach_the_shared_weights(points):
    network, x = points
    family = family_of(network, x)
    supernet = Supernet(copy.deepcopy(network), family).train()
    supernet.path = dict(
        zip(EDGES, ("edge_conv_10_w48", "pointwise_w32", "skip", "edge_conv_5"), strict=True)
    )
    supernet(x).square().sum().backward()
    gradient = supernet.network.edge2.linear.weight.grad
    out = sorted(family.order["edge2"][:32].tolist())
    columns = [64 + c for c in sorted(family.order["edge1"][:48].tolist())]
    used = torch.zeros_like(gradient, dtype=torch.bool)
    used[torch.tensor(out)[:, None], torch.tensor(columns)] = True
    assert (gradient[used] != 0).all()
    assert (gradient[~used] == 0).all()
    assert supernet.network.edge3.linear.weight.grad is None


def test_a_layer_that_carries_noise_is_not_left_out(points):
    x = points[1].float()
    network = DGCNN(5, noise={"edge2": DropPoint(0.2)}).eval()
    options = family_of(network, x).space.options
    assert "skip" not in options["edge2"]
    assert "null" not in options["edge2"]
    assert "skip" in options["edge3"]
    assert ["null" in options[name] for name in EDGES] == [False, False, True, True]
    space = family_of(network, x).space
    for seed in range(100):
        network_of(network, space.draw(torch.Generator().manual_seed(seed)))
    with pytest.raises(ValueError, match="edge2 carries noise, which skip would leave out"):
        network_of(network, {"edge2": "skip"})
    draws = DGCNN(5, noise={"edge2": DropCluster(0.2, 4)}).train()
    assert network_of(draws, {"edge2": "pointwise"})(x).isfinite().all()


class OfAUser(nn.Module):
    """Convolutions with biases, a stride, a residual sum, and one that no other can stand in for."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, padding=2)
        self.second = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.own = nn.Conv2d(12, 12, 3)
        self.last = nn.Conv2d(12, 12, 1)
        self.out = nn.Linear(12, 4)

    def forward(self, x):
        x = self.own(self.second(self.first(x).relu()).relu())
        return self.out((x + self.last(x)).mean((2, 3)))


@torch.no_grad()
@pytest.mark.parametrize(
    "make", [lambda: ResNet(10, in_channels=1), lambda: VGG16(10), OfAUser], ids=["resnet", "vgg", "user"]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_architecture_of_a_cnn_is_the_whole_with_other_operations_called(make, seed):
    """Against the whole network whose convolutions are hooked, each to give another operation's output."""
    torch.manual_seed(seed)
    network = with_statistics(make())
    channels = 1 if isinstance(network, ResNet) else 3
    x = torch.randn(2, channels, 24, 24, dtype=torch.float64)
    family = family_of(network, x)
    supernet = Supernet(copy.deepcopy(network), family).double().eval()
    with_statistics(supernet.own)
    operations = family.space.draw(torch.Generator().manual_seed(seed))
    hooked = copy.deepcopy(network)
    for edge in family.space.original.edges:
        if operations[edge.name] != edge.operation:
            other = supernet.own[edge.name.replace(".", "/")][operations[edge.name]]
            hooked.get_submodule(edge.name).register_forward_hook(
                lambda _, given, __, other=other: other(given[0])
            )
    expected = hooked(x)
    torch.testing.assert_close(supernet.restricted(operations).eval()(x), expected, rtol=0, atol=1e-10)
    supernet.path = operations
    torch.testing.assert_close(supernet(x), expected, rtol=0, atol=1e-10)


def test_smaller_kernels_begin_as_the_middle_of_the_trained_one():
    network = OfAUser()
    own = family_of(network, torch.randn(1, 3, 9, 9)).own["first"]
    assert torch.equal(own["conv_3x3"].weight, network.first.weight[:, :, 1:4, 1:4])
    assert torch.equal(own["conv_1x1"].weight, network.first.weight[:, :, 2:3, 2:3])
    assert torch.equal(own["conv_1x1"].bias, network.first.bias)


def test_a_layer_that_is_kept_stays_whatever_is_drawn(points):
    """Also behind a null, which would leave it nothing to read."""
    network, x = points
    space = family_of(network, x).space.keeping(["edge3"])
    assert ["null" in space.options[name] for name in EDGES] == [False, False, False, True]
    for seed in range(50):
        assert space.draw(torch.Generator().manual_seed(seed))["edge3"] == "edge_conv_20"


def test_noise_that_reads_the_graph_is_refused():
    network = DGCNN(5, noise=DropCluster(0.2, 4, space="graph"))
    with pytest.raises(ValueError, match="drops the neighbours of its graphs"):
        family_of(network, torch.rand(1, 30, 3))


def test_convolutions_that_are_shared_or_have_hooks_stay():
    network = OfAUser()
    network.again = network.second
    network.last.register_forward_pre_hook(lambda *_: None)
    assert list(operations_of(network)) == ["first"]


class ReadsItsWeight(OfAUser):
    def forward(self, x):
        return super().forward(x.to(self.first.weight.dtype))


def test_a_layer_that_the_code_reads_stays_a_convolution(caplog):
    space = family_of(ReadsItsWeight(), torch.randn(1, 3, 9, 9)).space
    assert space.options["first"] == ("conv_5x5", "conv_3x3", "conv_1x1")
    assert "null" in space.options["second"]
    assert "first stays a convolution: without one, ReadsItsWeight fails" in caplog.text


def test_options_cost_no_more_at_the_layers_own_widths():
    """Separable convolutions cost more than a convolution to very few channels."""
    network = nn.Sequential(nn.Conv2d(64, 3, 3, padding=1), nn.Conv2d(3, 64, 3, padding=1))
    options = family_of(network, torch.randn(1, 64, 8, 8)).space.options
    assert "sep_conv_3x3" not in options["0"]
    assert "sep_conv_3x3" in options["1"]
    for plan in ("resnet", "darts"):
        cells = CellNetwork(4, plan, channels=6, cells=4)
        x, found = torch.rand(1, 3, 16, 16), family_of(cells, torch.rand(1, 3, 16, 16)).space
        whole = found.original.operations()
        most = multiply_adds(work_of(cells.eval(), x))
        for name, choices in found.options.items():
            for option in choices:
                one = network_of(cells, {**whole, name: option})
                assert multiply_adds(work_of(one, x)) <= most, (name, option)


def test_layers_that_change_get_the_networks_own_initial_weights():
    drawn = []
    network = PointNet2(5, grouping="msg")
    network.draw_weights = lambda layers: drawn.extend(name for name, _ in layers)
    replace_operations(network, {"sa2": "balls_scale2"})
    assert "sa2.scales.0.layers.0.linear" in drawn
    assert "sa3.layers.0.linear" in drawn
    assert not any(name.startswith(("sa1", "fc")) for name in drawn)


def test_the_random_state_is_left_alone():
    network = DGCNN(5)
    before = torch.get_rng_state()
    network_of(network, {"edge2": "pointwise_w32"})
    assert torch.equal(before, torch.get_rng_state())


class FakeStep:
    """A step of the engine on a given batch."""

    def __init__(self, network, inputs):
        self.network, self.inputs, self.updates = network, inputs, 0

    def forward(self):
        return self.network(self.inputs)

    def loss(self, logits):
        return logits.square().mean()

    def backward(self, loss):
        loss.backward()

    def update(self):
        self.updates += 1


@pytest.mark.parametrize("sandwich", [False, True])
def test_a_step_adds_the_gradients_of_what_was_drawn(points, sandwich):
    network, x = points
    family = family_of(network, x)
    method = TrainSupernet(family, sandwich)
    supernet = method.prepare(copy.deepcopy(network)).eval()
    torch.manual_seed(4)
    paths = [family.space.draw() for _ in range(2 if sandwich else 1)]
    paths = [dict.fromkeys(EDGES, "edge_conv_20"), *paths] if sandwich else paths
    expected = 0
    for path in paths:
        supernet.path = path
        loss = supernet(x).square().mean() / len(paths)
        expected += torch.autograd.grad(loss, supernet.network.edge2.linear.weight)[0]
    torch.manual_seed(4)
    step = FakeStep(supernet, x)
    method.take_step(step)
    assert step.updates == 1
    torch.testing.assert_close(supernet.network.edge2.linear.weight.grad, expected, rtol=0, atol=1e-12)


def test_each_option_is_drawn_as_often_as_another(points):
    space = family_of(*points).space
    counts = dict.fromkeys(space.options["edge1"], 0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(1400):
        counts[space.draw(generator)["edge1"]] += 1
    assert min(counts.values()) > 60
    assert max(counts.values()) < 140


def test_what_is_saved_meanwhile_is_the_original_with_measured_norms(points):
    network, x = points
    method = TrainSupernet(family_of(network, x))
    supernet = method.prepare(copy.deepcopy(network)).train()
    found = method.evaluated(supernet, lambda: iter([(x,)]))
    assert set(found.state_dict()) == set(network.state_dict())
    graph = torch.cdist(x, x).topk(20, largest=False).indices
    near = torch.stack([cloud[idx] for cloud, idx in zip(x, graph, strict=True)])
    here = x[:, :, None].expand_as(near)
    mean = (torch.cat([near - here, here], -1) @ network.edge1.linear.weight.T).flatten(0, 2).mean(0)
    torch.testing.assert_close(found.edge1.norm.running_mean, mean, rtol=0, atol=1e-10)


def test_the_table_of_times_has_what_each_operation_adds(points, monkeypatch):
    """With a time for each kind of operation, and a machine that is slower the second time."""
    network, x = points
    space = family_of(network, x).space
    asked = []

    def ms(one):
        operations = [EdgeOperation.parse(name) for name in one.operations().values()]
        kinds = {"edge_conv": 4.0, "pointwise": 1.0, "skip": 0.0, "null": 0.0}
        return 10 + sum(kinds[operation.kind] + operation.k / 10 for operation in operations)

    def times(networks, *_, seconds):
        asked.append(len(networks))
        slow = 1.0 if len(asked) == 1 else 2.0
        return [Times(slow * ms(one), 1e9, 1e9) for one in networks]

    monkeypatch.setattr(costs, "times_of", times)
    table = costs.time_table(network, space, (x,))
    assert max(asked) <= costs.AT_ONCE + 1
    scale = table["original"] / 34
    assert table["least"] == pytest.approx(10 * scale)
    assert table["added"]["edge2"]["pointwise_w32"] == pytest.approx((1 - 6) * scale)
    assert table["added"]["edge3"]["edge_conv_10"] == pytest.approx(-1 * scale)
    assert table["added"]["edge3"]["null"] == pytest.approx(
        -12 * scale
    )  # and of edge4, which has nothing left to read
    cost = costs.cost_of("latency", network, space, (x,), table)
    for operations in (space.draw(torch.Generator().manual_seed(seed)) for seed in range(30)):
        assert cost(operations) == pytest.approx(ms(network_of(network, operations)) / 34)
    assert cost(dict.fromkeys(EDGES, "null")) == pytest.approx(10 / 34)


def test_what_cannot_be_replaced_is_said():
    with pytest.raises(ValueError, match="nothing in Linear can be replaced"):
        family_of(nn.Linear(3, 3), torch.rand(1, 3))
    network = network_of(DGCNN(5), {"edge2": "skip"})
    with pytest.raises(ValueError, match="transformed already"):
        family_of(network, torch.rand(1, 30, 3))


def masked_pointnet2(network, operations, levels, x):
    """The whole network's perceptrons on groups written out: members by sorting, unused scales and layers left out."""
    pos, features = x, None
    for name in ("sa1", "sa2"):
        balls, level = Balls.parse(operations[name]), levels[name]
        chosen = kernels.farthest_point_sample(pos, min(level.centres, pos.shape[1]))
        centres = pos.gather(1, chosen[..., None].expand(-1, -1, 3))
        made = []
        for i, scale in enumerate(level.scales):
            alone = balls.scale is not None and i != balls.scale - 1
            radius, k = scale.radius * (0.75 if balls.near else 1), scale.k // balls.part
            inside = torch.cdist(centres, pos) <= radius
            rank = torch.where(inside, torch.arange(pos.shape[1]), pos.shape[1])
            members = rank.sort(-1).values[..., :k]  # the first k within the radius, and the first one again
            members = torch.where(members == pos.shape[1], members[..., :1], members)
            near = torch.stack([p[m] for p, m in zip(pos, members, strict=True)]) - centres[:, :, None]
            if features is not None:
                near = torch.cat(
                    [near, torch.stack([f[m] for f, m in zip(features, members, strict=True)])], -1
                )
            for j, layer in enumerate(getattr(network, name).scales[i].layers):
                if balls.shallow and j and scale.widths[j] == scale.widths[j - 1]:
                    continue
                near = norm_relu(near @ layer.linear.weight.T + layer.linear.bias, layer.norm)
            made.append(near.amax(2) * (0 if alone else 1))
        pos, features = centres, torch.cat(made, -1)
    h = torch.cat([pos, features], -1)
    for layer in network.sa3.layers:
        h = norm_relu(h @ layer.linear.weight.T + layer.linear.bias, layer.norm)
    return network.fc3(network.fc2(network.fc1(h.amax(1))))


def norm_relu(y, norm):
    return F.relu((y - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias)


@torch.no_grad()
@pytest.mark.parametrize("grouping", ["ssg", "msg"])
@pytest.mark.parametrize("seed", range(4))
def test_an_architecture_of_pointnet2_is_the_masked_whole(grouping, seed):
    torch.manual_seed(seed)
    network = with_statistics(PointNet2(5, grouping=grouping))
    x = torch.rand(2, 70, 3, dtype=torch.float64) - 0.5
    family = family_of(network, x)
    supernet = Supernet(copy.deepcopy(network), family).eval()
    operations = family.space.draw(torch.Generator().manual_seed(seed))
    expected = masked_pointnet2(network, operations, family.levels, x)
    small = supernet.restricted(operations).eval()
    torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-10)
    supernet.path = operations
    torch.testing.assert_close(supernet(x), expected, rtol=0, atol=1e-10)
    assert small.operations() == operations
    assert [group.name for group in plan_channels(small, x).groups][-1] == "fc2"


@torch.no_grad()
@pytest.mark.parametrize("plan", ["resnet", "vgg", "darts"])
def test_an_architecture_of_cells_is_the_sum_over_its_edges(plan):
    """Against the cells written out: each node the sum of its edges, each edge the operation of its own weights."""
    torch.manual_seed(0)
    network = with_statistics(CellNetwork(4, plan, channels=6, cells=4))
    x = torch.randn(2, 3, 14, 14, dtype=torch.float64)
    family = family_of(network, x)
    supernet = Supernet(copy.deepcopy(network), family).double().eval()
    for module in supernet.own.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
    operations = family.space.draw(torch.Generator().manual_seed(1))
    states = [network.stem(x)] * 2
    for i, cell in enumerate(network.cells):
        kind = "reduction" if i in (1, 2) else "normal"
        nodes = [cell.input0(states[0]), cell.input1(states[1])]
        for target in range(2, 6):
            parts = []
            for j, edge in enumerate(cell.plan.edges):
                if edge.target == target:
                    operation = operations[f"{kind}.{j}"]
                    own = (
                        cell.edges[j] if operation == edge.operation else supernet.own[f"{i}/{j}"][operation]
                    )
                    parts.append(own(nodes[edge.source]))
            nodes.append(sum(parts))
        states = [states[1], torch.cat([nodes[node] for node in cell.plan.gives], 1)]
    expected = network.fc(states[1].mean((2, 3)))
    torch.testing.assert_close(supernet.restricted(operations).eval()(x), expected, rtol=0, atol=1e-10)
    supernet.path = operations
    torch.testing.assert_close(supernet(x), expected, rtol=0, atol=1e-10)


def test_the_darts_network_has_the_published_number_of_parameters():
    """3.349342 million, as its authors' script prints it for 36 channels and 20 cells (the auxiliary head apart)."""
    network = CellNetwork(10, "darts", channels=36, cells=20)
    assert sum(p.numel() for p in network.parameters()) == 3_349_342


def test_cells_take_any_size_and_bad_plans_are_refused():
    network = CellNetwork(3, "vgg", channels=4, cells=3, in_channels=1).eval()
    for size in (28, 29, 15):
        assert network(torch.rand(1, 1, size, size + 2)).shape == (1, 3)
    with pytest.raises(ValueError, match="plan must be one of resnet, vgg, darts"):
        CellNetwork(3, "nasnet")
    with pytest.raises(ValueError, match="operation 'conv_7x7' is not known"):
        network.replace_operations({"normal.0": "conv_7x7"})
