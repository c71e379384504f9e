"""farthest_point_sample, ball_query and three_nn_interpolate against their references, and those against numbers by hand."""

import pytest
import torch

from dropfold.kernels import ball_query, farthest_point_sample, three_nn_interpolate
from dropfold.kernels.points import ball_query as ball
from dropfold.kernels.points import farthest_point_sample as farthest
from dropfold.kernels.points import three_nn_interpolate as interpolation
from dropfold.kernels.points.distances import squared_distances

SIZES = [3, 200, 497]
BATCH = torch.arange(3).repeat_interleave(torch.tensor(SIZES))


def lattice(*shape):
    """Points with many copies and equal distances, all exact in float32."""
    return torch.randint(-3, 4, (*shape, 3)).float()


def uniform(*shape):
    return torch.rand(*shape, 3, dtype=torch.float64)


def outlier(*shape):
    """All points but one in a small part of the cloud's box."""
    x = uniform(*shape)
    x[..., 0, :] += 1e4
    return x


def copies(*shape):
    """One point, many times."""
    return torch.zeros(*shape, 3)


CLOUDS = [lattice, uniform, outlier, copies]


def on_axis(*places):
    """One cloud of points at these places on the first axis."""
    return torch.tensor(places)[:, None] * torch.tensor([1.0, 0, 0])


def test_the_references_give_numbers_made_by_hand():
    x = on_axis(0.0, 1.0, 2.0, 10.0, 6.0)
    # 3 is farthest from 0; 4 lies 4 from 3; of 1 and 2, then, 2 is 2 from 0 and 1 is 1.
    assert farthest.reference(x, 5).tolist() == [0, 3, 4, 2, 1]
    # 0 and 2 are as far from 1; the smaller index is taken.
    assert farthest.reference(x[:3], 3, start=torch.tensor([1])).tolist() == [1, 0, 2]
    groups = ball.reference(x, on_axis(1.0, 7.5, -5.0), 1.0, 2)
    assert groups.ptr.tolist() == [0, 2, 3, 4]
    assert groups.idx.tolist() == [0, 1, 4, 0]  # the first two of three; none, so the nearest, twice
    assert groups.count.tolist() == [1, 1, 2, 2]
    # 0 and 1 lie within 1 of 0.5; of two the first is repeated.
    assert ball.reference(x, on_axis(0.5), 1.0, 4).padded(4).tolist() == [[0, 1, 0, 0]]
    features = torch.tensor([[1.0], [2], [4], [8], [16]])
    out = interpolation.reference(features, x, on_axis(4.0, 1.0), k=2)
    # 4 lies 2 from the third and the last point, equally; 1 is the second point.
    torch.testing.assert_close(out, torch.tensor([[10.0], [2.0]]))
    assert squared_distances(torch.tensor([[3.0, 4]]), torch.tensor([[0.0, 0], [3, 3]])).tolist() == [
        [25.0, 1.0]
    ]


@pytest.mark.parametrize("points", [1, 63, 500, 3000])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_farthest_points_are_those_of_the_textbook_loop(cloud, points):
    x = cloud(2, points)
    m, start = min(points, 150), torch.tensor([0, points // 2])
    assert torch.equal(farthest_point_sample(x, m, start=start), farthest.reference(x, m, start=start))


def test_the_farthest_point_is_found_where_squared_distances_overflow():
    x = torch.rand(1, 128, 3)
    x[0, 64:] = 1e20
    assert torch.equal(farthest_point_sample(x, 2), torch.tensor([[0, 64]]))


def test_float32_points_are_the_farthest_to_rounding():
    x = torch.randn(1, 2000, 3)
    idx = farthest_point_sample(x, 500)[0]
    d = squared_distances(x[0].double(), x[0, idx].double())
    least = torch.cat([d[:, :1], d], 1).cummin(1).values[:, 1:-1]  # to the points chosen before each
    own = least[idx[1:], torch.arange(499)]
    # A difference, its square and two sums: five roundings of a distance, on either side.
    assert (own >= least.amax(0) * (1 - 10 * 2**-24)).all()


def test_a_permutation_permutes_the_farthest_points():
    x, order = uniform(1, 300), torch.randperm(300)
    start = (order == 7).nonzero()[0]
    found = farthest_point_sample(x[:, order], 60, start=start)
    assert torch.equal(order[found], farthest_point_sample(x, 60, start=torch.tensor([7])))


def test_clouds_of_different_sizes_are_sampled_apart():
    x = uniform(sum(SIZES))
    found, start = farthest_point_sample(x, 3, batch=BATCH).view(3, 3), torch.tensor([2, 0, 7])
    for cloud, idx, first in zip(x.split(SIZES), found, (0, 3, 203)):
        assert torch.equal(idx - first, farthest_point_sample(cloud[None], 3)[0])
    both = (f(x, 3, batch=BATCH, start=start) for f in (farthest_point_sample, farthest.reference))
    assert torch.equal(*both)


# A search of boxes and a scan of all points: small and large balls, few and many points wanted.
BALLS = [(0.02, 1), (0.2, 5), (0.2, 64), (1.0, 16), (1.0, 600), (3.0, 32), (20.0, 8)]


@pytest.mark.parametrize(("radius", "k"), BALLS)
@pytest.mark.parametrize("cloud", CLOUDS)
def test_balls_are_those_of_the_reference(cloud, radius, k):
    x, centres = cloud(2, 500), cloud(2, 90)
    groups = ball_query(x, centres, radius, k)
    right = ball.reference(x, centres, radius, k)
    assert all(torch.equal(a, b) for a, b in zip(groups, right))
    assert torch.equal(
        torch.segment_reduce(groups.count.double(), "sum", offsets=groups.ptr),
        torch.full((180,), float(k)).double(),
    )
    for start, stop in zip(groups.ptr[:-1], groups.ptr[1:]):
        assert (groups.idx[start:stop].diff() > 0).all()  # each different, in index order
        assert (groups.count[start + 1 : stop] == 1).all()


@pytest.mark.parametrize("radius", [0.1, 0.25, 0.3, 0.7])
def test_the_radius_is_compared_as_distances_are_rounded(radius):
    near = torch.tensor(radius) * (1 + torch.arange(-4, 5) * 2**-23)
    x = torch.cat([torch.zeros(1), near])[:, None] * torch.tensor([1.0, 0, 0])
    within = x[:, 0].square() <= torch.tensor(radius**2)  # in float32, as PyTorch compares with a number
    assert 1 < within.sum() < 10
    assert torch.equal(ball_query(x, x[:1], radius, 10).idx, within.nonzero()[:, 0])


def test_balls_of_clouds_of_different_sizes_are_searched_apart():
    x, centres = uniform(sum(SIZES)), uniform(60)
    of_centre = torch.arange(3).repeat_interleave(torch.tensor([10, 0, 50]))
    groups = ball_query(x, centres, 0.3, 8, batch=BATCH, centres_batch=of_centre)
    first = ball_query(x[:3], centres[:10], 0.3, 8).padded(8)
    last = ball_query(x[203:], centres[10:], 0.3, 8).padded(8) + 203
    assert torch.equal(groups.padded(8), torch.cat([first, last]))
    right = ball.reference(x, centres, 0.3, 8, batch=BATCH, centres_batch=of_centre)
    assert all(torch.equal(a, b) for a, b in zip(groups, right))


def interpolated(fn, features, *inputs, **options):
    features = features.clone().requires_grad_()
    out = fn(features, *inputs, **options)
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(
        out.dtype
    )
    return out.detach(), *torch.autograd.grad(out, features, dout)


@pytest.mark.parametrize(("points", "k"), [(1, 3), (2, 3), (3, 3), (60, 1), (60, 3), (400, 5)])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_interpolation_is_that_of_the_reference(cloud, points, k):
    pos, query = cloud(points).double(), cloud(150).double()
    query[: min(points, 20)] = pos[:20]  # distance 0: a weight of 1e8
    features = torch.randn(points, 7, dtype=torch.float64)
    mine = interpolated(three_nn_interpolate, features, pos, query, k=k)
    right = interpolated(interpolation.reference, features, pos, query, k=k)
    for a, b in zip(mine, right):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_interpolation_within_clouds():
    pos, query = uniform(sum(SIZES)), uniform(60)
    of_query = torch.arange(3).repeat_interleave(torch.tensor([10, 0, 50]))
    features = torch.randn(sum(SIZES), 4, dtype=torch.float64)
    out = three_nn_interpolate(features, pos, query, batch=BATCH, query_batch=of_query)
    first = three_nn_interpolate(features[:3], pos[:3], query[:10])
    last = three_nn_interpolate(features[203:], pos[203:], query[10:])
    torch.testing.assert_close(out, torch.cat([first, last]), rtol=0, atol=1e-10)
    right = interpolation.reference(features, pos, query, batch=BATCH, query_batch=of_query)
    torch.testing.assert_close(out, right, rtol=0, atol=1e-10)
    dense = [
        f(features[None], pos[None], query[None]) for f in (three_nn_interpolate, interpolation.reference)
    ]
    torch.testing.assert_close(*dense, rtol=0, atol=1e-10)


def test_half_precision_features_keep_their_type_and_positions_theirs():
    pos, query = torch.rand(50, 3) + 100, torch.rand(200, 3) + 100  # in bfloat16 all would be one point
    features = torch.randn(50, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out, df = interpolated(three_nn_interpolate, features, pos, query)
    right, right_df = interpolated(interpolation.reference, features.double(), pos.double(), query.double())
    assert out.dtype == df.dtype == torch.bfloat16
    # One rounding to 8 bits of a sum of size 3, or of 12 terms of size 2; the distances round at 1e-5.
    torch.testing.assert_close(out.double(), right, rtol=2**-8, atol=2e-3)
    torch.testing.assert_close(df.double(), right_df, rtol=2**-7, atol=5e-2)


def test_the_gradient_is_the_same_in_every_run():
    pos, query, features = torch.rand(20, 3), torch.rand(5000, 3), torch.randn(20, 9)
    first, second = (interpolated(three_nn_interpolate, features, pos, query) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_bad_input_is_named():
    x, batch = torch.rand(2, 8, 3), torch.tensor([0, 0, 1, 1, 1])
    rows, none = x[0, :5], torch.tensor([0, 0, 0, 0, 0])
    bad = x.clone()
    bad[1, 2, 0] = torch.nan
    for message, call in (
        ("m = 9", lambda: farthest_point_sample(x, 9)),
        ("m must be at least 1", lambda: farthest_point_sample(x, 0)),
        ("a cloud of 2 points", lambda: farthest_point_sample(rows, 3, batch=batch)),
        ("start must be int64", lambda: farthest_point_sample(x, 2, start=torch.zeros(3, dtype=torch.int64))),
        ("start counts within", lambda: farthest_point_sample(x, 2, start=torch.tensor([0, 8]))),
        ("positions in space", lambda: farthest_point_sample(torch.rand(2, 8, 9), 2)),
        ("floating type", lambda: farthest_point_sample(torch.zeros(8, 3, dtype=torch.int64), 2)),
        ("the first is row 10", lambda: farthest_point_sample(bad, 2)),
        ("x must be finite", lambda: ball_query(bad, x, 0.1, 4)),
        ("radius = 0", lambda: ball_query(x, x, 0, 4)),
        ("k = 0", lambda: ball_query(x, x, 0.1, 0)),
        ("the same clouds", lambda: ball_query(x, x[:1], 0.1, 4)),
        ("batches go together", lambda: ball_query(rows, rows, 0.1, 4, batch=batch)),
        ("cloud 1 of x", lambda: ball_query(rows, rows, 0.1, 4, batch=none, centres_batch=batch)),
        ("k = 0", lambda: three_nn_interpolate(x, x, x, k=0)),
        ("features must be", lambda: three_nn_interpolate(x[:, :5], x, x)),
        ("the same clouds", lambda: three_nn_interpolate(x, x, x[0])),
        ("cloud 1 of pos", lambda: three_nn_interpolate(rows, rows, rows, batch=none, query_batch=batch)),
    ):
        with pytest.raises(ValueError, match=message):
            call()
