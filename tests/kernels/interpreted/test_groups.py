"""group_mlp_max in Triton against its reference in float64, on the device or in the interpreter."""

import pytest
import torch

from dropfold.kernels import Groups, Noise, group_mlp_max
from dropfold.kernels.group_mlp_max import reference
from tests.kernels.cases import batch_norm, noise


def moved(value, device):
    return value.to(device) if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize(
    ("level", "training", "slope"),
    [(None, True, 0.0), ("cluster", True, 0.2), ("feat", True, 0.2), ("point", False, 0.0)],
)
@pytest.mark.parametrize("widths", [(5, 8), (5, 20, 7)])
def test_groups(widths, level, training, slope, device):
    B, N, G, K = 2, 14, 12, 4
    size = torch.randint(1, K + 1, (G,))
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), size.cumsum(0)])
    idx = torch.cat([torch.randperm(B * N)[:n] for n in size.tolist()])
    count = torch.ones_like(idx)
    count[ptr[:-1]] += K - size
    q, p = torch.randn(B * N, widths[0]), torch.randn(G, widths[0])
    weights = [torch.randn(o, i) for i, o in zip(widths, widths[1:])]  # noqa: RUF007
    found = noise(level, torch.randn(B, N, 3))
    mine = [t.to(device).requires_grad_() for t in (q, p, *weights)]
    theirs = [t.double().requires_grad_() for t in (q, p, *weights)]
    norms = [
        [batch_norm(c, training, dtype, on) for c in widths]
        for dtype, on in ((torch.float32, device), (torch.float64, "cpu"))
    ]
    out, argmax = group_mlp_max(
        *(mine[0], mine[1], Groups(*(t.to(device) for t in (ptr, idx, count))), mine[2:], norms[0]),
        batch_size=B,
        negative_slope=slope,
        noise=found and Noise(*(moved(t, device) for t in found)),
        return_argmax=True,
    )
    right, right_argmax = reference(
        *(theirs[0], theirs[1], Groups(ptr, idx, count), theirs[2:], norms[1]),
        batch_size=B,
        negative_slope=slope,
        noise=found,
        return_argmax=True,
    )
    assert torch.equal(argmax.cpu(), right_argmax)
    weight = torch.randn(out.shape)
    mine += [t for norm in norms[0] for t in norm[:2]]
    theirs += [t for norm in norms[1] for t in norm[:2]]
    got = torch.autograd.grad((out * weight.to(device)).sum(), mine)
    exact = torch.autograd.grad((right * weight.double()).sum(), theirs)
    buffers = [[t for norm in side for t in norm[2:4]] for side in norms]
    for a, b in zip([out, *got, *buffers[0]], [right, *exact, *buffers[1]], strict=True):
        # Sums over some fifty float32 terms of size up to 30, through three BatchNorms.
        torch.testing.assert_close(a.detach().cpu().double(), b.detach(), rtol=1e-3, atol=2e-3)
