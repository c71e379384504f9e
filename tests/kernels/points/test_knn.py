"""knn against its reference, all distances sorted, and that against SciPy's k-d tree."""

import io

import pytest
import torch
from scipy.spatial import cKDTree

from dropfold.kernels import knn
from dropfold.kernels.points.distances import nearest, squared_distances
from dropfold.kernels.points.knn import reference


@pytest.mark.parametrize("channels", [3, 8, 9, 20])
def test_the_reference_finds_the_neighbours_of_a_k_d_tree(channels):
    """No two distances of random points are equal."""
    x = torch.randn(2, 300, channels, dtype=torch.float64)
    for cloud, idx in zip(x.numpy(), reference(x, 9).numpy()):
        assert (idx == cKDTree(cloud).query(cloud, 9)[1]).all()


@pytest.mark.parametrize("rows", [False, True])
def test_points_without_channels_are_all_the_same(rows):
    """Every distance is a sum of nothing, 0: the smallest indices are the neighbours."""
    x = torch.empty(2, 7, 0)
    expected = torch.arange(3).expand(2, 7, 3)
    options = {}
    if rows:
        x, options = x.flatten(0, 1), {"batch": torch.arange(2).repeat_interleave(7)}
        expected = (expected + torch.tensor([0, 7])[:, None, None]).flatten(0, 1)
    assert torch.equal(reference(x, 3, **options), expected)
    assert torch.equal(knn(x, 3, **options), expected)


def test_of_equal_distances_the_reference_takes_the_smaller_index():
    square = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1], [1, 0]])
    right = [[0, 1, 2, 4, 3], [1, 4, 0, 3, 2], [2, 0, 3, 1, 4], [3, 1, 2, 4, 0], [1, 4, 0, 3, 2]]
    assert reference(square, 5).tolist() == right
    assert reference(torch.zeros(40, 3), 40).tolist() == [list(range(40))] * 40
    x = torch.randn(1, 50, 12)
    assert torch.equal(reference(x.repeat(1, 2, 1), 2)[0, :, 0] % 50, torch.arange(50).repeat(2))


# Torch's exporter warns of its own code.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("channels", [3, 12])
def test_the_reference_is_exported(channels):
    """To torch.export and to ONNX, where other points have the same neighbours as here."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")

    class Knn(torch.nn.Module):
        def forward(self, x):
            return reference(x, 5)

    def points():
        return torch.randint(-3, 4, (2, 40, channels)).float()  # many equal distances

    exported = torch.export.export(Knn(), (points(),))
    x = points()
    assert torch.equal(exported.module()(x), reference(x, 5))
    file = io.BytesIO()
    torch.onnx.export(exported, f=None, dynamo=True).save(file)
    session = runtime.InferenceSession(file.getvalue())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    if channels == 3:
        assert torch.equal(torch.from_numpy(found), reference(x, 5))
    else:  # another product may round otherwise where distances are equal
        d = squared_distances(x, x)
        torch.testing.assert_close(d.gather(2, torch.from_numpy(found)), d.gather(2, reference(x, 5)))


@pytest.mark.parametrize(
    ("shape", "k"), [((2, 63, 3), 5), ((1, 300, 2), 300), ((3, 1, 3), 1), ((2, 500, 8), 20)], ids=str
)
def test_coordinates_are_exact_and_the_smaller_index_wins_ties(shape, k):
    x = torch.randint(-3, 4, shape).float()  # many equal distances, all exact
    assert torch.equal(knn(x, k), reference(x, k))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_clouds_have_the_same_neighbours(dtype):
    from dropfold.kernels.points.knn.cpu import MIN_POINTS_FOR_BOXES as LARGE

    sizes = [LARGE + 100, 7, 300]
    batch = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    for x in (torch.randint(-9, 10, (sum(sizes), 3)).to(dtype), torch.rand(sum(sizes), 3, dtype=dtype) ** 4):
        x[5] = torch.nan  # it is nobody's neighbour but its own
        found = knn(x, 7, batch=batch)
        assert (found[5] == 5).all()
        apart = [knn(cloud, 7) for cloud in x[LARGE + 100 :].split(sizes[1:])]
        assert torch.equal(found[LARGE + 100 : LARGE + 107], apart[0] + LARGE + 100)
        assert torch.equal(found[LARGE + 107 :], apart[1] + LARGE + 107)
        cloud, queries = x[: LARGE + 100], torch.randperm(LARGE + 100)[:300]
        right = nearest(squared_distances(cloud[queries], cloud).nan_to_num(nan=torch.inf), 7)
        live = queries != 5
        assert torch.equal(found[queries][live], right[live])


@pytest.mark.parametrize("channels", [9, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_agree_in_distance(channels, dtype):
    x = torch.randn(2, 333, channels, dtype=dtype) + 5
    found, right = knn(x, 20), reference(x.double(), 20)
    for cloud, idx, expected in zip(x.double(), found, right):
        d = squared_distances(cloud, cloud)
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
        if channels == 3:
            assert torch.equal(found, reference(x, 4, batch=batch))


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
