"""What is timed beside our sampling operations computes the same."""

import pytest
import torch

from benchmarks.cases import scene_operations
from benchmarks.cases.scene_operations import Size

SIZES = [Size(2, 100, 20, 0.3, 8, 5), Size(1, 500, 40, 0.7, 16, 5, scene=True)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_providers_compute_the_same(size):
    def results(operation, *providers):
        return [scene_operations.OPERATIONS[operation](name, size, "cpu", None)() for name in providers]

    assert torch.equal(*results("farthest_point_sample", "dropfold", "eager"))
    ours, tree, padded = results("ball_query", "dropfold", "kd-tree", "eager")
    assert all(torch.equal(a, b) for a, b in zip(ours, tree))
    cloud = size.points * torch.arange(size.clouds)[:, None, None]
    assert torch.equal(ours.padded(size.k), (padded + cloud).flatten(0, 1))
    ours, tree, eager = results("three_nn_interpolate_fwd_bwd", "dropfold", "kd-tree", "eager")
    for other in (tree, eager):  # cdist rounds distances that are 0 to 1e-4, whose squares stand beside 1e-8
        for a, b in zip(ours, other):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    ours, eager = results("set_abstraction_fwd_bwd", "dropfold", "eager")
    largest = max(float(b.abs().max()) for b in eager)
    for a, b in zip(ours, eager, strict=True):
        # The gradient of a bias before a BatchNorm is 0, and in eager PyTorch what sums over all rows leave.
        allowed = 1e-3 * largest if not a.any() else 1e-4 * float(b.abs().max())
        torch.testing.assert_close(a, b, rtol=1e-4, atol=allowed)


def test_bytes_are_those_of_inputs_and_outputs():
    size = SIZES[0]
    ptr, idx, count = scene_operations.ball_query("dropfold", size, "cpu", None)()
    found = 8 * (len(ptr) + len(idx) + len(count))
    assert scene_operations.bytes_least("ball_query", size, "cpu") == 12 * 2 * 120 + found
    assert scene_operations.bytes_least("farthest_point_sample", size, "cpu") == 12 * 2 * 100 + 8 * 2 * 20
