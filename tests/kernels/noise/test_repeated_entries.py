"""A neighbourhood with fewer members than k repeats its first entry; a repetition is no member."""

import pytest
import torch

from dropfold.kernels import drop_cluster
from dropfold.kernels.noise.philox.operation import uniform

N, K, P = 3000, 9, 0.4


def dropped(neighbours, seed, reading):
    """Which points one draw drops, [N], of a single cloud."""
    ones = torch.ones(1, len(neighbours), 1)
    out = drop_cluster(ones, P, neighbours[None], seed=torch.tensor(seed), reading=reading)
    return out[0, :, 0] == 0


def lists(kind):
    """int64 [N, K] and the members of each list as sets."""
    random = torch.Generator().manual_seed(1)
    own = torch.arange(N)[:, None]
    if kind == "pairs":  # a point and the next one
        idx = torch.cat([own.repeat(1, K - 1), (own + 1) % N], 1)
    elif kind == "first is another":  # the next one, many times, and the point in the middle
        idx = ((own + 1) % N).repeat(1, K)
        idx[:, K // 2] = own[:, 0]
    else:  # 1 to K members
        idx = torch.cat([own, torch.randint(N, (N, K - 1), generator=random)], 1)
        members = torch.randint(1, K + 1, (N, 1), generator=random)
        idx = torch.where(torch.arange(K) < members, idx, own)
    return idx, [set(row) for row in idx.tolist()]


def gamma_of(in_degrees):
    """mean_i (1 - gamma)^(d_i) = 1 - P, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        kept = ((1 - middle) ** in_degrees).mean()
        low, high = (middle, high) if kept > 1 - P else (low, middle)
    return low


@pytest.mark.parametrize("kind", ["pairs", "first is another", "uneven"])
@pytest.mark.parametrize("reading", ["gather", "scatter"])
def test_exactly_the_members_count(reading, kind):
    idx, members = lists(kind)
    u = uniform(torch.tensor(5), N).double()
    if reading == "gather":
        expected = torch.tensor([float(u[list(m)].min()) < 1 - (1 - P) ** (1 / len(m)) for m in members])
    else:
        degrees = torch.zeros(N, dtype=torch.float64)
        for m in members:
            degrees[list(m)] += 1
        expected = torch.zeros(N, dtype=torch.bool)
        gamma = gamma_of(degrees)
        if kind != "uneven":
            assert gamma == pytest.approx(1 - (1 - P) ** 0.5)  # two members, two lists that hold a point
        for j in torch.nonzero(u < gamma)[:, 0].tolist():
            expected[list(members[j])] = True
    found = dropped(idx, 5, reading)
    # Numbers within float32's rounding of the threshold may fall on either side: at most one of 3,000 lies there.
    assert (found != expected).sum() <= K
    # Three standard deviations of pairs that fall together.
    assert abs(found.float().mean() - P) < 3 * (2 * P * (1 - P) / N) ** 0.5


@pytest.mark.parametrize("reading", ["gather", "scatter"])
def test_each_cloud_is_dropped_by_its_own_lists(reading):
    """A cloud of pairs, a point and the next one, beside a cloud of points alone: in both a point is dropped with P."""
    own = torch.arange(N)[:, None]
    lists_of_both = torch.stack([torch.cat([own.repeat(1, K - 1), (own + 1) % N], 1), own.repeat(1, K)])
    out = drop_cluster(torch.ones(2, N, 1), P, lists_of_both, seed=torch.tensor(5), reading=reading)
    u = uniform(torch.tensor(5), 2 * N).double()
    below = u[:N] < 1 - (1 - P) ** 0.5
    expected = torch.stack([below | below.roll(-1 if reading == "gather" else 1), u[N:] < P])
    assert ((out[..., 0] == 0) != expected).sum() <= K  # within float32's rounding of the threshold, as above


@pytest.mark.parametrize("reading", ["gather", "scatter"])
def test_repetitions_change_no_draw(reading):
    idx, _ = lists("uneven")
    longer = torch.cat([idx, idx[:, :1].repeat(1, 7)], 1)
    assert torch.equal(dropped(idx, 3, reading), dropped(longer, 3, reading))
