"""Noise as modules: the schedule, evaluation, and which neighbours fall together."""

import contextlib

import pytest
import torch

from dropfold.kernels import knn
from dropfold.kernels.noise.draw import row_keep_scale
from dropfold.models import DropCluster, DropFeat, DropPoint, unfused

KINDS = {"feat": DropFeat, "point": DropPoint, "cluster": lambda p, **o: DropCluster(p, k=4, **o)}


def draw(noise, pos, features=None, graph=None):
    found = noise.draw(pos, pos if features is None else features, None, graph)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_grows_in_equal_steps_to_p_and_stays(kind):
    noise, x = KINDS[kind](0.6, schedule="linear", warmup_steps=4).train(), torch.rand(1, 20, 3)
    assert float(noise.rate) == 0
    assert [float(draw(noise, x).p) for _ in range(7)] == pytest.approx([0.15, 0.3, 0.45, 0.6, 0.6, 0.6, 0.6])
    assert int(noise.step) == 7
    constant = KINDS[kind](0.6).train()
    assert [float(draw(constant, x).p) for _ in range(3)] == pytest.approx([0.6] * 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_goes_on_from_its_state_and_stands_still_in_evaluation(kind):
    noise, x = KINDS[kind](0.5, schedule="linear", warmup_steps=10).train(), torch.rand(1, 20, 3)
    for _ in range(3):
        draw(noise, x)
    noise.eval()
    assert noise.draw(x, x) is None
    assert noise(x) is x
    other = KINDS[kind](0.5, schedule="linear", warmup_steps=10).train()
    other.load_state_dict(noise.state_dict())
    assert float(draw(other, x).p) == pytest.approx(0.2)
    assert KINDS[kind](0.0).train().draw(x, x) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_drops_its_share_and_scales_the_rest(kind):
    noise, x = KINDS[kind](0.4).train(), torch.ones(64, 200, 3)
    pos = torch.rand(64, 200, 3)
    out = noise(x, pos)
    share = (out == 0).float().mean()
    # Points of a cluster fall together: about 12,800 / 4 draws. Five standard deviations.
    assert abs(share - 0.4) < 5 * (0.24 / 3200) ** 0.5
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / 0.6))


@pytest.mark.parametrize("plain", [False, True], ids=["fused", "plain"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_module_scales_as_it_was_asked_to(kind, plain):
    x = torch.ones(4, 50, 3)
    scales = {"none": 1.0, "unbiased": 2.0} | ({} if kind == "feat" else {"count": None})
    for scaling, scale in scales.items():
        noise = KINDS[kind](0.5, scaling=scaling).train()
        with unfused(noise) if plain else contextlib.nullcontext():
            out = noise(x, torch.rand(4, 50, 3))
        kept = out != 0
        per_cloud = 50 / kept[..., 0].sum(1)
        wanted = per_cloud[:, None, None] if scale is None else torch.tensor(scale)
        torch.testing.assert_close(out, torch.where(kept, wanted, 0))


@pytest.mark.parametrize(("scaling", "scale"), [("none", 1.0), ("unbiased", 2.0)])
def test_a_dropped_channel_is_one_of_a_whole_cloud(scaling, scale):
    noise, x = DropFeat(0.5, per="channel", scaling=scaling).train(), torch.ones(3, 20, 40)
    out = noise(x)
    assert (out == out[:, :1]).all()  # all points of a cloud alike
    assert set(out.unique().tolist()) == {0.0, scale}
    assert not (out[0] == out[1]).all()  # each cloud its own
    rows = noise(x.flatten(0, 1), batch=torch.arange(3).repeat_interleave(20)).view(3, 20, 40)
    assert (rows == rows[:, :1]).all()
    assert not (rows[0] == rows[1]).all()


@pytest.mark.parametrize("reading", ["gather", "scatter"])
def test_clusters_are_of_the_space_that_was_asked_for(reading):
    pos, features = torch.rand(2, 30, 3), torch.randn(2, 30, 12)
    graph = torch.randint(30, (2, 30, 6))
    starts = 30 * torch.arange(2)[:, None, None]
    for space, expected in (
        ("coordinates", knn(pos, 5)),
        ("features", knn(features, 5)),
        ("graph", graph),
    ):
        noise = DropCluster(0.3, k=5, space=space, reading=reading).train()
        found, lists = draw(noise, pos, features, graph), (expected + starts).flatten(0, 1)
        assert found.reading == reading
        by_lists = found._replace(neighbours=lists, kept=None)
        assert torch.equal(*(row_keep_scale(one, torch.tensor([0, 30, 60]), 60) for one in (found, by_lists)))
        with unfused(noise):  # the plain form has lists
            assert torch.equal(draw(noise, pos, features, graph).neighbours, lists)
    with pytest.raises(ValueError, match="this layer has none"):
        DropCluster(0.3, space="graph").train().draw(pos, features)


@pytest.mark.parametrize(("radius", "reach"), [(0.4, 0), (0.6, 1), (1.6, 3)])
def test_a_ball_holds_the_points_within_its_radius_and_repeats_the_point_itself(radius, reach):
    """Points 0.5 apart on a line: each has as many on either side as the radius reaches."""
    pos = torch.stack([0.5 * torch.arange(10.0), torch.zeros(10), torch.zeros(10)], 1)[None]
    noise = DropCluster(0.3, k=9, radius=radius).train()
    lists = draw(noise, pos).neighbours
    assert (lists[:, 0] == torch.arange(10)).all()
    for i, row in enumerate(lists.tolist()):
        assert set(row) == {j for j in range(10) if abs(i - j) <= reach}


@pytest.mark.parametrize("reading", ["gather", "scatter"])
def test_clusters_of_no_points_are_refused_in_every_form(reading):
    noise = DropCluster(0.5, k=5, reading=reading).train()
    for inputs in ({"x": torch.randn(2, 0, 3)}, {"x": torch.randn(0, 3), "batch": torch.empty(0).long()}):
        for form in (contextlib.nullcontext(), unfused(noise)):
            with form, pytest.raises(ValueError, match=r"^cloud 0 of the batch has no points; clusters need"):
                noise(**inputs)
