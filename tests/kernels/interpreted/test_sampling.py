"""The Triton kernels that sample and search points against the CPU's: the same points, the rest to rounding."""

import importlib
import os

import pytest
import torch

SAMPLE, BALL, INTERPOLATE = (
    importlib.import_module(f"dropfold.kernels.points.{name}")
    for name in ("farthest_point_sample", "ball_query", "three_nn_interpolate")
)
PTR, OTHER = torch.tensor([0, 3, 103, 200]), torch.tensor([0, 20, 20, 50])


def points(kind, n):
    return torch.rand(n, 3) if kind == "uniform" else torch.randint(0, 3, (n, 3)).float()


def to(device, *values):
    return [v.to(device) if isinstance(v, torch.Tensor) else v for v in values]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ["uniform", "ties"])
def test_the_same_points_are_farthest(kind, large, device, monkeypatch):
    if large:  # a launch a point, several programs a cloud
        monkeypatch.setattr(SAMPLE, "IN_REGISTERS", 0)
        monkeypatch.setattr(SAMPLE, "BLOCK", 32)
    x, start = points(kind, 200), torch.tensor([2, 0, 5])
    for m in (1, 3):
        cpu = SAMPLE._cpu_sample(x, PTR, start, m, 100)
        assert torch.equal(SAMPLE._launch_sample(*to(device, x, PTR, start), m, 100).cpu(), cpu)
    cloud, ptr = x[3:103].contiguous(), torch.tensor([0, 100])
    cpu = SAMPLE._cpu_sample(cloud, ptr, start[1:2], 40, 100)
    assert torch.equal(SAMPLE._launch_sample(*to(device, cloud, ptr, start[1:2]), 40, 100).cpu(), cpu)


@pytest.mark.parametrize(("radius", "k"), [(0.01, 1), (0.3, 5), (2.0, 200)])
@pytest.mark.parametrize("kind", ["uniform", "ties"])
def test_the_same_points_are_in_a_ball(kind, radius, k, device):
    x, centres = points(kind, 200), points(kind, 50)
    cpu = BALL._cpu_query(x, PTR, centres, OTHER, radius, k)
    found = BALL._launch_query(*to(device, x, PTR, centres, OTHER), radius, k)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, cpu))


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("kind", ["uniform", "ties"])
def test_interpolation(kind, k, device):
    x, query = points(kind, 200), points(kind, 50)
    idx, weight = INTERPOLATE._cpu_nearest(x, PTR, query, OTHER, k)
    found, share = INTERPOLATE._launch_nearest(*to(device, x, PTR, query, OTHER), k)
    assert torch.equal(found.cpu(), idx)
    torch.testing.assert_close(share.cpu(), weight)
    for dtype in (torch.float32, torch.bfloat16):
        features, dout = torch.randn(200, 7).to(dtype), torch.randn(50, 7).to(dtype)
        forward, backward = (features, idx, weight), (dout, idx, weight, 200)
        for launch, cpu, arguments in (
            (INTERPOLATE._launch_interpolate, INTERPOLATE._cpu_interpolate, forward),
            (INTERPOLATE._launch_backward, INTERPOLATE._cpu_backward, backward),
        ):
            torch.testing.assert_close(launch(*to(device, *arguments)).cpu(), cpu(*arguments))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="bytes are counted in the interpreter")
def test_bytes_are_within_a_tenth_of_the_least():
    from benchmarks.ledger import sampling

    found = sampling()
    assert len(found) == 5
    for entry in found:
        assert entry.ratio <= 1.1, entry
