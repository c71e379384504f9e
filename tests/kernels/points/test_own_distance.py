"""A point is its own first neighbour, at distance 0 exactly, also where distances are differences of products."""

import pytest
import torch

from dropfold.kernels import knn


@pytest.mark.parametrize("channels", [9, 64, 131])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_twin_comes_before_the_point_itself(channels, dtype):
    """Each point has a twin of a larger index so close that rounding cannot tell their distance from 0."""
    n, tiny = 400, torch.finfo(dtype).eps
    x = 10 * torch.randn(n, channels, dtype=dtype)
    twins = torch.cat([x, x + tiny * torch.randn(n, channels, dtype=dtype)])
    found = knn(twins[None], 2)[0]
    assert torch.equal(found[:n, 0], torch.arange(n))
    # The twin finds itself, too, but after a twin whose rounded distance is 0 and whose index is smaller.
    pair = torch.arange(n)[:, None] + torch.tensor([0, n])
    assert torch.equal(found[n:].sort(1).values, pair)
    assert torch.equal(found[:n].sort(1).values, pair)


def test_a_sole_neighbour_is_the_point_itself():
    """k = 1, points that lie closer to each other than float32 can tell products apart."""
    x = 100 + 1e-3 * torch.randn(2, 300, 64)
    assert torch.equal(knn(x, 1)[..., 0], torch.arange(300).expand(2, -1))
