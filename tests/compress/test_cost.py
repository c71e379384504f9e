"""Multiply-adds beside torch's own counter, what is left of them, and times."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dropfold.compress import Choice, apply, plan_channels
from dropfold.compress.cost import times
from dropfold.compress.cost.ledger import Ledger
from dropfold.compress.cost.times import layer_times, times_of
from dropfold.compress.cost.work import multiply_adds, parameters_of, work_of
from dropfold.compress.methods.criteria import CRITERIA
from dropfold.compress.methods.uniform import keep_share, uniform
from dropfold.compress.plan.matrices import full_ranks
from dropfold.compress.run import measures, page, target
from dropfold.compress.run.target import _count, first_within
from dropfold.models import DGCNN, PointNet, PointNet2, unfused
from dropfold.models.layers.low_rank import Halves
from tests.compress.networks import FOREIGN, OURS

# Multiply-adds of the matrices for a cloud of 1,024 points, by arithmetic from the published widths: points x in x out, in
# EdgeConv and in set abstraction members (with their copies) x in x out, and the fully connected layers.
TEXTBOOK = {
    "pointnet": (
        PointNet,
        1024 * (3 * 64 + 64 * 128 + 128 * 1024) * 2  # input transform, and the network with its first layer
        + 1024 * (64 * 64 + 64 * 128 + 128 * 1024)  # feature transform
        + 3 * (1024 * 512 + 512 * 256) + 256 * (9 + 4096 + 40),
    ),
    "dgcnn": (
        DGCNN,
        20 * 1024 * (6 * 64 + 128 * 64 + 128 * 128 + 256 * 256) + 1024 * 512 * 1024 + 2048 * 512 + 512 * 256 + 256 * 40,
    ),
    "ssg": (
        PointNet2,
        512 * 32 * (3 * 64 + 64 * 64 + 64 * 128) + 128 * 64 * (131 * 128 + 128 * 128 + 128 * 256)
        + 128 * (259 * 256 + 256 * 512 + 512 * 1024) + 1024 * 512 + 512 * 256 + 256 * 40,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(TEXTBOOK))
def test_the_textbook_form_is_the_arithmetic(name):
    make, expected = TEXTBOOK[name]
    assert multiply_adds(work_of(make(), torch.rand(1, 1024, 3), form="textbook")) == expected


@pytest.mark.parametrize("name", ["ssg", "msg-parts", "residual", "plain"])
def test_the_textbook_form_is_torchs_count(name):
    """Of networks without products between features."""
    network, example = {**OURS, **FOREIGN}[name]()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), unfused(network):
        network(*example)
    assert 2 * multiply_adds(work_of(network, *example, form="textbook")) == counter.get_total_flops()


def test_our_form_multiplies_points_and_not_edges():
    network, x = DGCNN(10, k=5), torch.rand(2, 32, 3)
    by_layer = {name: multiply_adds({name: work}) for name, work in work_of(network, x).items()}
    assert by_layer["edge2.linear"] == 2 * 32 * 128 * 64
    assert network.training
    textbook = work_of(network, x, form="textbook")
    assert multiply_adds({"": textbook["edge2.linear"]}) == 5 * by_layer["edge2.linear"]


@pytest.mark.parametrize("ranks", [False, True])
@pytest.mark.parametrize("name", [*OURS, *FOREIGN])
def test_the_ledger_is_the_small_networks_own_count(name, ranks):
    network, example = {**OURS, **FOREIGN}[name]()
    plan, work = plan_channels(network, *example), work_of(network, *example)
    choice = Choice(keep_share(plan, CRITERIA["random"], 0.6, align=1))
    if ranks:
        sizes = apply(plan, choice)[1].sizes
        thin = {k: min(sizes[k][:2]) // 3 for k in full_ranks(network) if min(sizes[k][:2]) > 8}
        choice = Choice(choice.channels, thin)
    ledger, numbers = Ledger(plan, work), Ledger(plan, parameters_of(network))
    choice = ledger.drop_costly_ranks(choice)
    small, _ = apply(plan, choice, *example)
    left, own = ledger.cost([ledger.entry(choice)]), multiply_adds(work_of(small, *example))
    if name == "pointnet-parts":  # the rows of one product are channels of conv4
        assert own < left < 1.6 * own
    else:
        assert left == own
    counted = {
        k: m for k, m in small.named_modules() if isinstance(m, nn.Linear | Halves | nn.Conv1d | nn.Conv2d)
    }
    assert numbers.cost([numbers.entry(choice)]) == sum(m.weight.numel() for m in counted.values())


@pytest.mark.parametrize("form", ["own", "textbook"])
def test_thin_maps_are_counted_as_they_run(form):
    """An EdgeConv's first map meets points in our form, and edges in the textbook's."""
    network, example = OURS["dgcnn"]()
    points, edges = 2 * 48, 2 * 48 * 5
    small, _ = apply(plan_channels(network), Choice({}, {"edge2.linear": 16, "embed.linear": 32}))
    found = work_of(small, *example, form=form)
    by_layer = {
        name: sum(w.macs() for k, w in found.items() if k.startswith(name)) for name in ("edge2", "embed")
    }
    assert by_layer["embed"] == points * 32 * (512 + 1024)
    if form == "own":
        assert by_layer["edge2"] == points * 16 * (64 + 2 * 64)
    else:
        assert by_layer["edge2"] == edges * 16 * (2 * 64 + 2 * 64)


def test_a_convolution_that_is_called_twice_counts_twice_and_what_is_not_counted_is_named():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Conv2d(3, 3, 3, padding=1)
            self.rnn = nn.LSTM(8, 4)

        def forward(self, x):
            return self.rnn(self.c(self.c(x).relu()).flatten(0, 2))[0]

    with pytest.warns(UserWarning, match=r"rnn \(LSTM\) are not counted"):
        assert multiply_adds(work_of(Twice(), torch.rand(1, 3, 8, 8))) == 2 * 64 * 81


def test_layer_times_are_parts_of_the_whole():
    network, example = OURS["dgcnn"]()
    whole, layers = times_of([network], *example, seconds=0.1)[0], layer_times(network, *example, seconds=0.1)
    assert list(layers) == ["edge1", "edge2", "edge3", "edge4", "embed", "fc1", "fc2", "fc3"]
    assert 0 < sum(layers.values()) < 3 * whole.p80
    assert not any(module._forward_hooks for module in network.modules())


def test_the_calls_of_a_layer_add_up_within_a_call_of_the_network(monkeypatch):
    """By a clock of its own: in the n-th call of the network a layer takes n milliseconds each time."""
    now, calls = 0.0, 0

    class Timed(nn.Linear):
        def forward(self, x):
            nonlocal now
            now += 1e-3 * calls
            return x

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.once, self.never = Timed(2, 2), Timed(2, 2), Timed(2, 2)

        def forward(self, x):
            nonlocal calls
            calls += 1
            return self.once(self.twice(self.twice(x)))

    monkeypatch.setattr(times, "time", SimpleNamespace(perf_counter=lambda: now))
    found = layer_times(Network(), torch.rand(1, 2), seconds=0)
    assert calls == 17
    assert found == {"twice": pytest.approx(20, rel=1e-6), "once": pytest.approx(10, rel=1e-6)}  # of 3 .. 17


def test_two_thin_maps_are_a_layer_and_one_that_is_gone_has_no_time(monkeypatch):
    monkeypatch.setattr(measures, "layer_times", partial(layer_times, seconds=0))
    network, example = FOREIGN["plain"]()
    small, _ = apply(plan_channels(network, *example), Choice({}, {"features.4": 4, "head.0": 8}))
    found = measures.layers(SimpleNamespace(network=network), SimpleNamespace(network=small), example)
    assert list(found["ms"]) == ["features.0", "features.3", "features.4", "head.0", "head.3"]
    assert all(after > 0 for _, after in found["ms"].values())
    small.head = nn.Linear(12 * 4, 5)
    found = measures.layers(SimpleNamespace(network=network), SimpleNamespace(network=small), example)
    assert [name for name, (_, after) in found["ms"].items() if after is None] == ["head.0", "head.3"]
    sections = page.sections(
        {"run": "a", "method": "cc", "epochs": 1, "scores": {"original": {"accuracy": 0.5}}, "layers": found}
        | {"cost": {"ms at batch 1": [2.0, 1.0]}}
    )
    assert [row[5] for row in sections[1].rows if row[0] in ("head.0", "head.3")] == ["none", "none"]


def test_times_take_turns_and_leave_modes_as_they_were():
    slow, fast = torch.nn.Linear(2000, 2000).train(), torch.nn.Linear(2000, 20).train()
    found = times_of([slow, fast], torch.rand(64, 2000), seconds=0.1)
    assert slow.training
    assert found[0].p20 <= found[0].p50 <= found[0].p80
    assert found[1].p50 < found[0].p50


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_the_most_important_channels_stay(criterion):
    network, _ = OURS["vanilla"]()
    with (
        torch.no_grad()
    ):  # channels 3, 11, 40 of conv2: zero rows, columns and scales; the others far from each other
        for c in (3, 11, 40):
            network.conv2.linear.weight[c] = 0
            network.conv3.linear.weight[:, c] = 0
            network.conv2.norm.weight[c] = 0
            network.conv2.norm.bias[c] = 0
        rest = [c for c in range(128) if c not in (3, 11, 40)]
        network.conv2.linear.weight[rest] = torch.nn.functional.normalize(torch.randn(125, 64), dim=1) * 10
    plan = plan_channels(network)
    kept = keep_share(plan, CRITERIA[criterion], 125 / 128, align=1)["conv2"]
    assert len(kept) == 125
    if (
        criterion == "fpgm"
    ):  # the zeros are nearer to all others than these to one another, but not alike in count
        assert (
            CRITERIA["fpgm"](plan, plan["conv2"])[[3, 11, 40]].max()
            < CRITERIA["fpgm"](plan, plan["conv2"])[rest].min()
        )
    if criterion != "random":
        assert kept == rest
    assert keep_share(plan, CRITERIA[criterion], 125 / 128, align=1)["conv2"] == kept


@pytest.mark.parametrize(("what", "near"), [("macs", 0.42), ("parameters", 0.42)])
def test_uniform_width_meets_its_target_in_whole_vectors(what, near):
    network, example = OURS["dgcnn"]()
    plan = plan_channels(network)
    choices = uniform(plan, CRITERIA["l1"])
    choice = first_within(plan, choices, what, 0.5, example)
    count = partial(_count, what=what, example=example)
    assert near * count(network) < count(apply(plan, choice)[0]) <= 0.5 * count(network)
    assert count(apply(plan, choices[choices.index(choice) - 1])[0]) > 0.5 * count(network)
    assert all(len(kept) % 8 == 0 for kept in choice.channels.values())
    with pytest.raises(
        ValueError, match=r"out of reach: the least that this method comes to is 0\.\d+ of the"
    ):
        first_within(plan, choices, what, 1e-9, example)


def kept(found, name, measure):
    if name not in found:
        found[name] = measure()
    return found[name]


def test_a_time_is_met_by_the_first_choice_that_is_quick_enough_twice(monkeypatch):
    """A millisecond a parameter; beside the original alone the first one that is quick enough comes out slower."""
    network = nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 4))
    x = torch.rand(2, 8)
    plan = plan_channels(network, x)
    choices = uniform(plan, CRITERIA["l1"])
    costs = [_count(apply(plan, choice)[0], "parameters", (x,)) for choice in choices]
    picked = [round(i * (len(choices) - 1) / 15) for i in range(16)]
    within = [i for i in picked if costs[i] <= 0.6 * costs[0]]
    assert costs[picked[picked.index(within[0]) - 1]] > 0.6 * costs[0]
    beside = []

    def counted(networks, *_, **__):
        ms = [float(_count(each, "parameters", (x,))) for each in networks]
        if len(networks) == 2:
            beside.append(ms[1])
            ms[1] = 0.61 * ms[0] if len(beside) < slower else ms[1]
        return [SimpleNamespace(p50=value) for value in ms]

    monkeypatch.setattr(target, "times_of", counted)
    for slower in (1, 2):  # the first, or the second of them is quick enough
        beside.clear()
        found = {}
        choice = first_within(plan, choices, "latency", 0.6, (x,), partial(kept, found))
        assert choice == choices[within[slower - 1]]
        assert beside == [costs[i] for i in within[:slower]]
        assert [ms for _, ms in found["choices"]] == [costs[i] for i in picked]
        assert found["choices"][0][0] == 1.0
        beside.clear()
        assert first_within(plan, choices, "latency", 0.6, (x,), partial(kept, found)) == choice
        assert beside == []  # what is kept is not measured again
    beside.clear()
    slower = len(within) + 1
    with pytest.raises(
        ValueError, match=r"out of reach: the original takes [\d.]+ ms here, .* comes to is 0\.61"
    ):
        first_within(plan, choices, "latency", 0.6, (x,))


@pytest.mark.parametrize(("part", "near"), [(0.55, True), (0.9, False)])
def test_a_time_that_takes_nearly_all_multiply_adds_is_said(part, near, monkeypatch):
    """Half of the time is not the multiply-adds'."""
    network = nn.Sequential(nn.Linear(8, 512, bias=False), nn.ReLU(), nn.Linear(512, 4, bias=False))
    x = torch.rand(1, 8)
    plan, whole = plan_channels(network, x), 512 * 12
    said = []
    monkeypatch.setattr(target, "say", said.append)

    def half(networks, *_, **__):
        return [SimpleNamespace(p50=5 + 5 * _count(each, "macs", (x,)) / whole) for each in networks]

    monkeypatch.setattr(target, "times_of", half)
    small, _ = apply(plan, first_within(plan, uniform(plan, CRITERIA["l1"]), "latency", part, (x,)))
    left = _count(small, "macs", (x,)) / whole
    assert left <= 2 * part - 1
    assert [f"is met with {left:.3f} of the multiply-adds" in text for text in said] == [True] * near


def test_a_criterion_that_does_not_apply_says_so():
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    plan = plan_channels(network, torch.rand(2, 3))
    with pytest.raises(
        ValueError, match="bn_scale needs a BatchNorm with a scale behind each group, and 0 has none"
    ):
        CRITERIA["bn_scale"](plan, plan["0"])


def test_what_is_held_in_eight_bits_is_not_counted_and_said():
    from dropfold.models import lower_precision

    network = PointNet(5).eval()
    with pytest.warns(UserWarning, match=r"\(Int8Linear\).* are not counted"):
        work_of(lower_precision(network, "int8"), torch.rand(2, 64, 3))
