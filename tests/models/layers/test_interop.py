"""Other people's tools work inside `unfused`: Captum, parametrizations, torch.ao, torch.export, ONNX."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from dropfold.models import DGCNN, PointNet, TensorLSTM, reestimate_batch_norm, unfused
from tests.models.clouds.test_networks import lived_in


def make(name):
    """A network whose logits are of size 1: BatchNorm's statistics are those of clouds."""
    torch.manual_seed(1)
    model = lived_in({"pointnet": lambda: PointNet(5), "dgcnn": lambda: DGCNN(5, k=6, emb_dims=64)}[name]())
    reestimate_batch_norm(model, [torch.rand(16, 40, 3)])
    return model.eval()


@pytest.mark.filterwarnings("ignore")  # of Captum's imports
@pytest.mark.parametrize("name", ["pointnet", "dgcnn"])
def test_integrated_gradients(name):
    """Captum's in the plain form are the formula (Sundararajan et al. 2017) with the fused form's gradients."""
    attr = pytest.importorskip("captum.attr")
    model, steps = make(name).double(), 8
    x, baseline = torch.rand(2, 1, 32, 3, dtype=torch.float64)
    with unfused(model):
        found = attr.IntegratedGradients(model).attribute(
            x, baseline, target=1, n_steps=steps, method="riemann_middle"
        )
        inner = attr.LayerGradientXActivation(model, model.fc2.activation).attribute(x, target=1)
        logits = model(x)
    path = [baseline + (i + 0.5) / steps * (x - baseline) for i in range(steps)]
    gradients = [torch.autograd.grad(model(at)[0, 1], at)[0] for at in (p.requires_grad_() for p in path)]
    expected = (x - baseline) * sum(gradients) / steps
    assert float(expected.abs().max()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    # fc3 is linear: gradient times activation adds up to the logit without its bias.
    torch.testing.assert_close(inner.sum(), logits[0, 1] - model.fc3.bias[1])


class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


@pytest.mark.parametrize("name", ["pointnet", "dgcnn"])
def test_parametrized_weights_act_in_both_forms(name):
    model, plain, x = make(name).double(), make(name).double(), torch.rand(2, 32, 3, dtype=torch.float64)
    before = model(x)
    for each in (model, plain):
        for module in [m for m in each.modules() if isinstance(m, nn.Linear)]:
            generator = torch.Generator().manual_seed(module.weight.numel())
            mask = torch.rand(module.weight.shape, generator=generator) > 0.3
            parametrize.register_parametrization(module, "weight", Masked(mask))
    with unfused(plain):
        found = plain(x)
    torch.testing.assert_close(found, model(x), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(found, before)


@pytest.mark.filterwarnings("ignore")  # torch.ao announces its successor
def test_dynamic_quantization_changes_the_linear_maps():
    model, x = make("pointnet"), torch.rand(2, 64, 3)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    kinds = [type(m).__module__ for m in quantized.modules() if type(m).__name__ == "Linear"]
    assert kinds
    assert all("quantized" in kind for kind in kinds)
    with unfused(quantized):
        found = quantized(x)
    # Eight bits a weight through ten layers: near, and not equal.
    expected = model(x)
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["pointnet", "dgcnn"])
def test_onnx_agrees(name, tmp_path):
    for needed in ("onnx", "onnxscript"):
        pytest.importorskip(needed)
    runtime = pytest.importorskip("onnxruntime")
    model, x = make(name), torch.rand(2, 40, 3)
    with unfused(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    other = torch.rand(2, 40, 3)
    for given in (x, other):
        found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: given.numpy()})[0])
        expected = model(given)
        assert float(expected.std()) > 0.05
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_export_of_a_recurrent_network():
    model = TensorLSTM(6, 4, batch_first=True).eval()
    x = torch.randn(2, 5, 6)
    with unfused(model):
        program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))
