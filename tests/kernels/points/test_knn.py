"""knn against the sorted distance matrix in float64."""

import pytest
import torch

from dropfold.kernels import knn


def brute(x, k):
    """Neighbours by (distance, index) from exact differences in float64."""
    d = (x[:, None].double() - x[None].double()).square().sum(-1)
    return torch.stack([torch.sort(row, stable=True).indices[:k] for row in d]), d


@pytest.mark.parametrize(
    ("shape", "k"), [((2, 63, 3), 5), ((1, 300, 2), 300), ((3, 1, 3), 1), ((2, 500, 8), 20)], ids=str
)
def test_coordinates_are_exact_and_the_smaller_index_wins_ties(shape, k):
    x = torch.randint(-3, 4, shape).float()  # many equal distances, all exact
    found = knn(x, k)
    for cloud, idx in zip(x, found):
        assert torch.equal(idx, brute(cloud, k)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_clouds_have_the_same_neighbours(dtype):
    from dropfold.kernels.points.knn.cpu import SEARCH

    sizes = [SEARCH + 100, 7, 300]
    batch = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    for x in (torch.randint(-9, 10, (sum(sizes), 3)).to(dtype), torch.rand(sum(sizes), 3, dtype=dtype) ** 4):
        x[5] = torch.nan  # it is nobody's neighbour but its own
        found = knn(x, 7, batch=batch)
        assert (found[5] == 5).all()
        apart = [knn(cloud, 7) for cloud in x[SEARCH + 100 :].split(sizes[1:])]
        assert torch.equal(found[SEARCH + 100 : SEARCH + 107], apart[0] + SEARCH + 100)
        assert torch.equal(found[SEARCH + 107 :], apart[1] + SEARCH + 107)
        cloud, queries = x[: SEARCH + 100], torch.randperm(SEARCH + 100)[:300]
        a = cloud[queries, None] - cloud
        d = a[..., 0].square() + a[..., 1].square() + a[..., 2].square()  # rounded as the kernel's
        d = d.nan_to_num(nan=torch.inf)
        right = d.sort(dim=1, stable=True).indices[:, :7]
        live = queries != 5
        assert torch.equal(found[queries][live], right[live])


@pytest.mark.parametrize("channels", [9, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_agree_in_distance(channels, dtype):
    x = torch.randn(2, 333, channels, dtype=dtype) + 5
    found = knn(x, 20)
    for cloud, idx in zip(x, found):
        expected, d = brute(cloud, 20)
        # |x|^2 is about `channels` after centring; the product form rounds there.
        torch.testing.assert_close(
            d.gather(1, idx), d.gather(1, expected), rtol=0, atol=20 * channels * torch.finfo(dtype).eps
        )
        assert (idx[:, 0] == torch.arange(333)).all()
        assert all(len(set(row.tolist())) == 20 for row in idx)


def test_clouds_of_different_sizes_are_searched_apart():
    sizes = [5, 9, 300]
    for channels in (3, 16):
        x = torch.randn(sum(sizes), channels)
        batch = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
        found, start = knn(x, 4, batch=batch), 0
        for cloud in x.split(sizes):
            assert torch.equal(found[start : start + len(cloud)] - start, knn(cloud, 4))
            start += len(cloud)


def test_a_permutation_permutes_the_neighbours():
    x, order = torch.rand(1, 100, 3), torch.randperm(100)
    assert torch.equal(order[knn(x[:, order], 6)[0]], knn(x, 6)[0][order])


def test_bad_k_is_named():
    with pytest.raises(ValueError, match="k = 9"):
        knn(torch.randn(2, 8, 3), 9)
    with pytest.raises(ValueError, match="a cloud of 2 points"):
        knn(torch.randn(5, 3), 3, batch=torch.tensor([0, 0, 1, 1, 1]))
    with pytest.raises(ValueError, match="at least 1"):
        knn(torch.randn(2, 8, 3), 0)
    with pytest.raises(ValueError, match="a cloud of 0 points"):
        knn(torch.randn(0, 3), 1, batch=torch.zeros(0, dtype=torch.int64))


def test_bad_batches_are_named():
    x = torch.randn(5, 3)
    with pytest.raises(ValueError, match="batch_size - 1 = 0; got 0 to 1"):
        knn(x, 1, batch=torch.tensor([0, 0, 1, 1, 1]), batch_size=1)
    with pytest.raises(ValueError, match="must be sorted"):
        knn(x, 1, batch=torch.tensor([0, 1, 0, 1, 1]))
