"""Clusters of nearest points, found without lists, drop what the lists of the plain knn drop, bit for bit."""

import pytest
import torch

from dropfold.kernels import Noise
from dropfold.kernels.noise.draw import keep_by_nearest, keep_scale, row_keep_scale
from dropfold.kernels.points.knn import reference
from dropfold.kernels.points.knn.cpu import MIN_POINTS_FOR_BOXES, near_marked


def both_ways(x, sizes, k, p, seed, scaling="unbiased"):
    """The keep scales [M] without lists, and with all distances sorted, in plain torch."""
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    noise = Noise("cluster", torch.tensor(p), torch.tensor(seed), scaling=scaling)
    found = keep_by_nearest(noise, x, ptr, k)
    assert found.neighbours is None
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    lists = noise._replace(neighbours=reference(x, k, batch=batch))
    right = keep_scale(lists, ptr, len(x), 1)[:, 0]
    assert torch.equal(keep_scale(found, ptr, len(x), 1)[:, 0], right)
    return row_keep_scale(found, ptr, len(x)), right


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["random", "ties"])
@pytest.mark.parametrize(
    ("sizes", "k"), [((64,), 1), ((64,), 64), ((7, 300, 129), 5), ((500, 500), 32)], ids=str
)
def test_the_same_points_are_dropped(sizes, k, kind, dtype):
    """Among few different coordinates many distances are equal, and the smaller index is nearer."""
    dropped = 0
    for seed, p in enumerate((0.05, 0.3, 0.7, 0.95)):
        shape = (sum(sizes), 3)
        x = torch.randint(-2, 3, shape).to(dtype) if kind == "ties" else torch.randn(shape, dtype=dtype)
        kept, right = both_ways(x, sizes, k, p, seed, "count" if seed % 2 else "unbiased")
        assert torch.equal(kept, right)
        dropped += int((kept == 0).sum())
    assert 0 < dropped < 4 * sum(sizes)


@pytest.mark.parametrize("channels", [1, 8, 12])
def test_in_any_number_of_channels(channels):
    """Coordinates are small integers: also the products of features are exact."""
    x = torch.randint(-3, 4, (256, channels)).double()
    x[:128] -= x[:128].mean(0).round()
    x[:128] = torch.cat([x[:64], -x[:64]])  # mean 0 exactly, so that centring does not round
    x[128:] = torch.cat([x[128:192], -x[128:192]])
    assert torch.equal(*both_ways(x, (128, 128), 9, 0.5, 3))


def test_in_large_clouds():
    sizes = (MIN_POINTS_FOR_BOXES, 40)
    assert torch.equal(*both_ways(torch.rand(sum(sizes), 3), sizes, 8, 0.5, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("bad", [1, 97])
def test_points_that_are_nowhere_are_nobodys_neighbours(bad, value, dtype):
    """Their lists repeat the point itself, and repetitions do not count, so thresholds differ from point to point."""
    for seed in range(5):
        x = torch.randn(100, 3).to(dtype)
        x[torch.randperm(100)[:bad]] = value
        assert torch.equal(*both_ways(x, (100,), 6, 0.5, seed))


def test_nothing_is_marked_or_everything():
    x, ptr = torch.rand(90, 3), torch.tensor([0, 50, 90])
    assert not near_marked(x, ptr, 4, torch.zeros(90, dtype=torch.bool)).any()
    assert near_marked(x, ptr, 1, torch.ones(90, dtype=torch.bool)).all()
    one = torch.arange(90) == 60  # in the second cloud
    found = near_marked(x, ptr, 40, one)
    assert not found[:50].any()
    assert found[50:].all()


def test_it_is_for_the_points_that_it_was_drawn_for():
    noise = keep_by_nearest(
        Noise("cluster", torch.tensor(0.5), torch.tensor(1)), torch.rand(8, 3), torch.tensor([0, 8]), 2
    )
    with pytest.raises(ValueError, match="has neighbours for 8 points and is applied to 9"):
        row_keep_scale(noise, torch.tensor([0, 9]), 9)
