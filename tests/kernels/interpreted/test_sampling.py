"""The Triton kernels that sample and search points against the CPU's: the same points, the rest to rounding."""

import os

import pytest
import torch

from dropfold.kernels.points.ball_query import cpu as ball_query_cpu
from dropfold.kernels.points.ball_query import triton as ball_query_triton
from dropfold.kernels.points.farthest_point_sample import cpu as farthest_point_sample_cpu
from dropfold.kernels.points.farthest_point_sample import triton as farthest_point_sample_triton
from dropfold.kernels.points.three_nn_interpolate import cpu as three_nn_interpolate_cpu
from dropfold.kernels.points.three_nn_interpolate import triton as three_nn_interpolate_triton

PTR, OTHER = torch.tensor([0, 3, 103, 200]), torch.tensor([0, 20, 20, 50])


def points(kind, n):
    return torch.rand(n, 3) if kind == "uniform" else torch.randint(0, 3, (n, 3)).float()


def to(device, *values):
    return [v.to(device) if isinstance(v, torch.Tensor) else v for v in values]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ["uniform", "ties"])
def test_the_same_points_are_farthest(kind, large, device, monkeypatch):
    if large:  # a launch a point, several programs a cloud
        monkeypatch.setattr(farthest_point_sample_triton, "MAX_POINTS_IN_REGISTERS", 0)
        monkeypatch.setattr(farthest_point_sample_triton, "POINTS_PER_PROGRAM", 32)
    x, start = points(kind, 200), torch.tensor([2, 0, 5])
    for m in (1, 3):
        cpu = farthest_point_sample_cpu.farthest_point_sample(x, PTR, start, m, 100)
        assert torch.equal(
            farthest_point_sample_triton.farthest_point_sample(*to(device, x, PTR, start), m, 100).cpu(), cpu
        )
    cloud, ptr = x[3:103].contiguous(), torch.tensor([0, 100])
    cpu = farthest_point_sample_cpu.farthest_point_sample(cloud, ptr, start[1:2], 40, 100)
    assert torch.equal(
        farthest_point_sample_triton.farthest_point_sample(
            *to(device, cloud, ptr, start[1:2]), 40, 100
        ).cpu(),
        cpu,
    )


@pytest.mark.parametrize(("radius", "k"), [(0.01, 1), (0.3, 5), (2.0, 200)])
@pytest.mark.parametrize("kind", ["uniform", "ties"])
def test_the_same_points_are_in_a_ball(kind, radius, k, device):
    x, centres = points(kind, 200), points(kind, 50)
    cpu = ball_query_cpu.ball_query(x, PTR, centres, OTHER, radius, k)
    found = ball_query_triton.ball_query(*to(device, x, PTR, centres, OTHER), radius, k)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, cpu))


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("kind", ["uniform", "ties"])
def test_interpolation(kind, k, device):
    x, query = points(kind, 200), points(kind, 50)
    idx, weight = three_nn_interpolate_cpu.three_nn(x, PTR, query, OTHER, k)
    found, share = three_nn_interpolate_triton.three_nn(*to(device, x, PTR, query, OTHER), k)
    assert torch.equal(found.cpu(), idx)
    torch.testing.assert_close(share.cpu(), weight)
    for dtype in (torch.float32, torch.bfloat16):
        features, dout = torch.randn(200, 7).to(dtype), torch.randn(50, 7).to(dtype)
        forward, backward = (features, idx, weight), (dout, idx, weight, 200)
        for launch, cpu, arguments in (
            (
                three_nn_interpolate_triton.three_nn_interpolate_fwd,
                three_nn_interpolate_cpu.three_nn_interpolate_fwd,
                forward,
            ),
            (
                three_nn_interpolate_triton.three_nn_interpolate_bwd,
                three_nn_interpolate_cpu.three_nn_interpolate_bwd,
                backward,
            ),
        ):
            torch.testing.assert_close(launch(*to(device, *arguments)).cpu(), cpu(*arguments))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="bytes are counted in the interpreter")
def test_bytes_are_within_a_tenth_of_the_least():
    from benchmarks.ledger import sampling

    found = sampling()
    assert len(found) == 5
    for entry in found:
        assert entry.ratio <= 1.1, entry
