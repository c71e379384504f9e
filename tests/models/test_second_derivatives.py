"""Second derivatives: of fused operations refused in a sentence, however they are asked for; of the plain form right."""

import pytest
import torch

from dropfold.kernels import drop_feat, kron_linear, lstm_sequence
from dropfold.models import DGCNN, PointNet, PointNet2, TensorGRU, TensorLSTM, unfused

D = torch.float64


def penalty(network, x, weight):
    """The derivative by an earlier weight of the squared gradient at z = x W, as a gradient penalty has it."""
    z = x @ weight
    out = network(z)
    out = out[0] if isinstance(out, tuple) else out
    (g,) = torch.autograd.grad(out.square().sum(), z, create_graph=True)
    return torch.autograd.grad(g.square().sum(), weight)[0]


NETWORKS = {
    "lstm": (lambda: TensorLSTM(3, 6), (4, 2, 3)),
    "gru": (lambda: TensorGRU(3, 6), (4, 2, 3)),
    "pointnet": (lambda: PointNet(4, feature_transform=False), (2, 30, 3)),
    "pointnet2": (lambda: PointNet2(4), (2, 600, 3)),
    "dgcnn": (lambda: DGCNN(4, k=5), (2, 30, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_refused_and_the_plain_form_has_them(name):
    make, shape = NETWORKS[name]
    network = make().to(D).eval()
    x, weight = torch.rand(shape, dtype=D), torch.eye(3, dtype=D, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"no second derivatives: .* `with dropfold.models.unfused"):
        penalty(network, x, weight)
    if name in ("lstm", "gru"):
        with unfused(network):
            assert torch.isfinite(penalty(network, x, weight)).all()


def test_a_hessian_is_refused():
    network = TensorLSTM(3, 4).to(D)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.functional.hessian(
            lambda x: network(x)[0].square().sum(), torch.rand(2, 1, 3, dtype=D)
        )


A, C = torch.ones(1, 1, 1), torch.rand(1, 2, 8)
FORWARD = {
    "lstm_sequence": (lambda x: lstm_sequence(x, A, C)[0], (3, 1, 8)),
    "kron_linear": (lambda x: kron_linear(x, torch.rand(2, 1, 2), torch.rand(2, 2, 2)), (3, 2)),
    "drop_feat": (lambda x: drop_feat(x, 0.5), (1, 3, 8)),
}


@pytest.mark.parametrize("name", FORWARD)
def test_forward_derivatives_are_refused(name):
    """A tangent is no gradient that is asked for, and must not become 0."""
    run, shape = FORWARD[name]
    x = torch.rand(shape)
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.jvp(run, (x,), (torch.ones_like(x),))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match=r"jvp|forward"):
        run(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
