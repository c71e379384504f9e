"""Scores of points beside independent formulas, dropping curves, the two-shape game, the check with a randomised head."""

import pytest
import torch
from torch import nn

from dropfold.explain.maps.explanation import effective_points
from dropfold.explain.score.curves import (
    cascade,
    dropping,
    inserted_shares,
    linear_layers,
    rank_correlation,
    sanity,
    unrelated,
    with_random_layers,
)
from dropfold.explain.score.game import pairs, two_shape_game
from dropfold.explain.score.infidelity import Drops, infidelity, random_drops
from dropfold.explain.score.saliency import CLASS_AGNOSTIC, SCORES, saliency
from tests.explain.conftest import CLOUDS, randomized, small_pointnet

TARGET = torch.tensor([2, 0, 4])


@pytest.mark.parametrize("network", ["PointNet", "PointNet2", "DGCNN"])
def test_every_score_gives_each_point_one(network, clouds):
    network = randomized(CLOUDS[network]())
    for name in (*SCORES, "xgrad_cam"):
        found = saliency(network, clouds, TARGET, name)
        assert found.shape == (3, 48)
        assert bool(found.isfinite().all())
        agnostic = saliency(network, clouds, TARGET.flip(0), name)
        if name in CLASS_AGNOSTIC:
            assert agnostic.equal(found)
        assert all(p.grad is None for p in network.parameters())


def test_critical_points_are_pointnets_own(clouds):
    network = small_pointnet()
    counts = torch.stack([torch.bincount(row, minlength=48) for row in network.critical_points(clouds)])
    assert saliency(network, clouds, TARGET, "critical_points").equal(counts.double())
    two = randomized(CLOUDS["PointNet2"]())
    assert torch.allclose(
        saliency(two, clouds, TARGET, "critical_points").sum(1), torch.full((3,), 1024.0).double()
    )


def test_zheng_is_its_formula(clouds):
    """-dL/dr r^2, the slope along the ray from the median by finite differences."""
    network = small_pointnet()
    found = saliency(network, clouds, TARGET, "zheng")
    median = clouds.median(1, keepdim=True).values
    ray, step = clouds - median, 1e-6
    r = ray.norm(dim=2)

    def loss(x):
        return nn.functional.cross_entropy(network(x), TARGET, reduction="none").detach()

    moved = found.abs().argmax(1)  # a point with a gradient in each cloud
    for i, k in enumerate(moved.tolist()):
        unit = torch.zeros_like(clouds)
        unit[i, k] = ray[i, k] / r[i, k]
        slope = (loss(clouds + step * unit) - loss(clouds - step * unit))[i] / (2 * step)
        assert float(found[i, k]) == pytest.approx(float(-slope * r[i, k] ** 2), rel=1e-4)


def test_zheng_iterative_drops_first_what_the_first_round_scores_highest(clouds):
    network = small_pointnet()
    once, iterative = (saliency(network, clouds, TARGET, name) for name in ("zheng", "zheng_iterative"))
    assert once.argmax(1).equal(iterative.argmax(1))
    assert [len(row.unique()) for row in iterative] == [48, 48, 48]


@pytest.mark.parametrize("points", [512, 47, 8])
def test_zheng_iterative_drops_half_in_20_rounds_at_most(points, monkeypatch):
    """The gradient is asked for once a round, of the points that are left, and once more of the second half."""
    seen = []

    def ask(network, x, target, seed):
        seen.append(x.shape[1])
        return x[..., 0]

    monkeypatch.setattr("dropfold.explain.score.saliency.zheng", ask)
    x = torch.rand(1, points, 3, generator=torch.Generator().manual_seed(0))
    found = saliency(small_pointnet(), x, TARGET[:1], "zheng_iterative")
    assert len(seen) == min(20, points // 2) + 1
    assert seen[0] == points
    assert seen[-1] == points - points // 2
    assert seen == sorted(set(seen), reverse=True)
    highest = x[0, :, 0].argsort(descending=True)[: points // 2]
    assert found[0].argsort(descending=True)[: points // 2].equal(highest)


def test_random_is_of_its_seed(clouds):
    network = small_pointnet()
    a, b, c = (saliency(network, clouds, TARGET, "random", seed) for seed in (0, 0, 1))
    assert a.equal(b)
    assert not a.equal(c)


def test_dropping_drops_the_highest_and_insertion_keeps_them(clouds):
    network = small_pointnet()
    scores = torch.rand(3, 48)
    for fraction in (0.25, 0.5):
        k = round(48 * fraction)
        least = scores.sort(1).values[:, 48 - k, None]
        for i in range(3):
            left, kept = clouds[i][scores[i] < least[i]], clouds[i][scores[i] >= least[i]]
            most = dropping(network, clouds, scores, [fraction]).logits[0, i]
            insertion = dropping(network, clouds, scores, [fraction], "insertion").logits[0, i]
            assert torch.allclose(most, network(left[None])[0])
            assert torch.allclose(insertion, network(kept[None])[0])
    curve = dropping(network, clouds, scores, [0.0, 0.5])
    assert torch.allclose(curve.logits[0], network(clouds))
    assert curve.accuracy(curve.logits[0].argmax(1))[0] == 1
    assert torch.allclose(curve.probability(TARGET)[1], curve.logits[1].softmax(-1)[torch.arange(3), TARGET])
    reverse = dropping(network, clouds, -scores, [0.5]).logits
    assert torch.allclose(reverse, dropping(network, clouds, scores, [0.5], "least").logits)


def test_dropping_refuses(clouds):
    network = small_pointnet()
    with pytest.raises(ValueError, match=r"must be \[3, 48\]"):
        dropping(network, clouds, torch.rand(3, 47))
    with pytest.raises(ValueError, match="leaves 0 of 48 points"):
        dropping(network, clouds, torch.rand(3, 48), [1.0])
    with pytest.raises(ValueError, match="order must be"):
        dropping(network, clouds, torch.rand(3, 48), order="best")
    with pytest.raises(ValueError, match="a score of points is one of xgrad_cam"):
        saliency(network, clouds, TARGET, "lime")


def test_the_game_is_won_where_the_truth_is_planted(monkeypatch):
    """A score that is 1 on the shape of the class and 0 on the other gets everything."""
    network = small_pointnet()
    x = torch.rand(4, 32, 3).double()
    label = torch.tensor([0, 1, 0, 1])
    logits = torch.nn.functional.one_hot(label, 5).double()
    chosen = pairs(logits, label, 10)
    assert len(chosen) == 2
    assert all(label[a] != label[b] for a, b in chosen.tolist())
    assert len(chosen.unique()) == 4

    def own(network, both, target, seed):
        first = label[chosen[:, 0]] == target
        front = (torch.arange(64) < 32).double()
        return torch.where(first[:, None], front, 1 - front)

    monkeypatch.setitem(SCORES, "own", own)
    monkeypatch.setitem(SCORES, "other", lambda *given: -own(*given))
    assert two_shape_game(network, x, label, chosen, "own").top.eq(1).all()
    assert two_shape_game(network, x, label, chosen, "own").mass.eq(1).all()
    assert two_shape_game(network, x, label, chosen, "other").top.eq(0).all()
    for name in CLASS_AGNOSTIC:
        top = two_shape_game(network, x, label, chosen, name).top
        assert torch.allclose(top.mean(1), torch.full((2,), 0.5).double())


def test_a_game_is_valid_where_both_classes_are_among_the_first_three(monkeypatch):
    """A network whose logits are the mean of a cloud: which classes come first is planted. Of two classes both always do."""

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(1)

    monkeypatch.setitem(SCORES, "first", lambda network, x, target, seed: x[..., 0])
    plain = torch.eye(5)[:, None].expand(-1, 4, -1)
    loud = plain.clone()
    loud[0, :, 1:] = torch.tensor([0.0, 9, 9, 9])  # drowns class 1, and class 0 of its own
    label, chosen = torch.arange(5), torch.tensor([[0, 1], [2, 3], [1, 4]])
    game = two_shape_game(Mean(), loud, label, chosen, "first")
    assert game.valid.tolist() == [False, True, True]
    assert game.share_valid == pytest.approx(2 / 3)
    assert game.mean_top()[0] == pytest.approx(float(game.top[1:].mean()))
    two = two_shape_game(Mean(), plain[:2, :, :2], label[:2], chosen[:1], "first")
    assert two.valid.tolist() == [True]


def test_a_game_without_valid_pairs_says_nothing(clouds):
    network = small_pointnet()
    game = two_shape_game(
        network, clouds, torch.tensor([0, 1, 2]), torch.zeros(0, 2, dtype=torch.int64), "radius"
    )
    assert all(value != value for value in game.mean_top())  # NaN


def test_scores_without_a_class_fail_the_sanity_check(clouds):
    """With the last layer drawn anew they do not move; the map of a class does."""
    network = small_pointnet()
    for name in CLASS_AGNOSTIC:
        assert sanity(network, clouds, TARGET, name).tolist() == pytest.approx([1, 1, 1])
    assert float(sanity(network, clouds, TARGET, "xgrad_cam").mean()) < 0.9


def test_layers_are_drawn_anew_in_a_copy_and_by_the_seed():
    network = small_pointnet()
    before = network.fc3.weight.clone()
    a, b, c = (with_random_layers(network, 1, seed) for seed in (0, 0, 1))
    assert network.fc3.weight.equal(before)
    assert a.fc3.weight.equal(b.fc3.weight)
    assert not a.fc3.weight.equal(c.fc3.weight)
    assert a.fc1.linear.weight.equal(network.fc1.linear.weight)
    assert not with_random_layers(network, 3).fc1.linear.weight.equal(network.fc1.linear.weight)
    network.fc1.norm.running_mean += 1
    drawn = with_random_layers(network, 3)
    assert drawn.fc1.norm.running_mean.eq(0).all()
    assert drawn.conv3.norm.running_mean.equal(network.conv3.norm.running_mean)
    with pytest.raises(ValueError, match="linear layers"):
        with_random_layers(network, 99)


def test_rank_correlation_is_spearmans():
    stats = pytest.importorskip("scipy.stats")
    a, b = torch.randn(2, 40), torch.randn(2, 40)
    found = rank_correlation(a, a + b)
    for i in range(2):
        assert float(found[i]) == pytest.approx(stats.spearmanr(a[i], (a + b)[i]).statistic)
    a, b = a.clamp(min=0.3), b.clamp(min=0.3)  # most are equal
    for i, rho in enumerate(rank_correlation(a, b)):
        assert float(rho) == pytest.approx(stats.spearmanr(a[i], b[i]).statistic)
    assert rank_correlation(torch.ones(2, 40), b).tolist() == [0, 0]


def test_effective_points_count_those_that_share():
    scores = torch.tensor([[1.0, 1, 1, 1, -5, 0], [0, 0, 2, 0, 0, 0]])
    assert effective_points(scores).tolist() == pytest.approx([4, 1])


def test_the_infidelity_of_an_exact_map_is_0_and_of_a_map_of_zeros_1(clouds):
    """Of a network that adds points up, what a point adds is exactly what the logit loses without it."""

    class Sum(nn.Module):
        weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double()

        def forward(self, x):
            return (x @ self.weight).sum(1)

    exact = (clouds @ Sum.weight).gather(2, TARGET[:, None, None].expand(-1, 48, 1))[..., 0]
    drops = random_drops(Sum(), clouds, TARGET)
    assert drops.sets.sum(-1).eq(5).all()  # a tenth of 48
    for times, as_it_is in ((1.0, 0.0), (3.0, 4.0), (-1.0, 4.0)):
        found = infidelity(times * exact, drops)
        assert (found.as_it_is / found.zeros).tolist() == pytest.approx([as_it_is] * 3, abs=1e-10)
        assert found.relative(found.as_it_is) == pytest.approx(as_it_is, abs=1e-10)
        assert found.scaled.tolist() == pytest.approx([0.0] * 3, abs=1e-10)
    zeros = infidelity(torch.zeros_like(exact), drops)
    assert zeros.as_it_is.equal(zeros.zeros)
    assert zeros.scaled.equal(zeros.zeros)
    assert zeros.zeros.tolist() == pytest.approx((drops.fall**2).mean(0).tolist())
    with pytest.raises(ValueError, match="drops 0 of 48 points"):
        random_drops(Sum(), clouds, TARGET, share=0.001)
    with pytest.raises(ValueError, match=r"must be \[3, 48\]"):
        infidelity(exact[:, :40], drops)


def test_a_map_that_says_nothing_gains_nothing_by_a_factor():
    """A factor that is judged on the sets that it was fitted on would leave 7 / 8 of the infidelity of zeros."""
    generator = torch.Generator().manual_seed(0)
    sets = torch.rand(8, 2000, 40, generator=generator) < 0.25
    drops = Drops(sets, torch.randn(8, 2000, generator=generator, dtype=torch.float64))
    found = infidelity(torch.randn(2000, 40, generator=generator), drops)
    assert float(found.scaled.mean() / found.zeros.mean()) > 1.1
    same = infidelity(torch.ones(2000, 40), Drops(sets, drops.fall + 1))  # a map that says the mean fall
    assert float(same.scaled.mean() / same.zeros.mean()) < 0.9
    with pytest.raises(ValueError, match="two sets"):
        random_drops(small_pointnet(), torch.rand(1, 24, 3).double(), TARGET[:1], sets=1)


def test_unrelated_networks_agree_by_the_cloud_alone(clouds):
    network = small_pointnet()
    found = unrelated(network, clouds, TARGET, ["xgrad_cam", "radius"])
    assert found["radius"].tolist() == pytest.approx([1, 1, 1])
    assert found["xgrad_cam"].shape == (3,)
    assert (found["xgrad_cam"] < 0.99).all()
    assert found["xgrad_cam"].equal(unrelated(network, clouds, TARGET, ["xgrad_cam"])["xgrad_cam"])
    assert not found["xgrad_cam"].equal(unrelated(network, clouds, TARGET, ["xgrad_cam"], 5)["xgrad_cam"])


def test_a_cascade_goes_from_the_head_down_and_keeps_what_it_has_drawn():
    network, x = small_pointnet(), torch.rand(2, 24, 3).double()
    target = TARGET[:2]
    assert list(linear_layers(network)) == ["fc3", "fc2", "fc1", "conv3", "conv2", "conv1"]
    one, two = (with_random_layers(network, count) for count in (1, 2))
    assert one.fc3.weight.equal(two.fc3.weight)
    assert one.fc2.linear.weight.equal(network.fc2.linear.weight)
    assert not two.fc2.linear.weight.equal(network.fc2.linear.weight)
    found = cascade(network, x, target, "xgrad_cam")
    assert list(found) == list(linear_layers(network))
    assert found["fc3"].equal(sanity(network, x, target, "xgrad_cam").abs())
    assert torch.cat(list(cascade(network, x, target, "radius").values())).tolist() == pytest.approx([1] * 12)


@pytest.mark.parametrize(("name", "least"), [("PointNet", 1), ("PointNet2", 1), ("DGCNN", 6)])
def test_insertion_begins_with_the_fewest_points_that_a_network_takes(name, least, clouds):
    network = randomized(CLOUDS[name]())
    shares = inserted_shares(network, 48)
    assert shares[0] == least / 48
    assert list(shares) == sorted(set(shares))
    logits = dropping(network, clouds, torch.rand(3, 48), shares, "insertion").logits
    assert bool(logits.isfinite().all())
