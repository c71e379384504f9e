"""Networks under torch.compile's default backend: one graph for every batch and number of points, forward and backward.

A compiler takes minutes for a network, so all but a few are in `make test-slow`. What operators promise to a compiler, the
shapes and strides of their outputs, is tested for all of them in seconds.
"""

import pytest
import torch
from torch._subclasses.fake_utils import CrossRefFakeMode

from dropfold.models import (
    DGCNN,
    DGCNNSegmentation,
    DropCluster,
    DropFeat,
    DropPoint,
    PointNet,
    PointNet2,
    PointNet2Segmentation,
    PointNetSegmentation,
    TensorGRU,
    TensorLinear,
    TensorLSTM,
    VideoClassifier,
)
from dropfold.models.formats import FormatSpec

MODES = (4, 2, 2)
FORMATS = {
    "dense": {},
    **{name: {"format": name} for name in ("tt", "tr", "bt", "cp", "tucker", "ht")},
    "cp-paired": {"format": "cp", "paired": True},
    "tucker-split": {"format": "tucker", "paired": False},
    "ht-split": {"format": "ht", "leaves": "split"},
    "ht-interleaved": {"format": "ht", "leaves": "interleaved"},
}
MEGA = FormatSpec("ht", (4, 2, 2, 3), (4, 2, 2, 1), (2,))


def spec(name):
    return FormatSpec(**FORMATS[name], in_modes=MODES, out_modes=MODES, ranks=(2,)) if FORMATS[name] else None


def rnn(cell, name, **options):
    return lambda: cell(16, 16, ih=spec(name), hh=spec(name), **options)


def frames(batch, n):
    return (torch.randn(n, batch, 16),)


def rows(batch, n):
    return (torch.randn(batch, n, 16),)


def clouds(channels, categories=None):
    def make(batch, n):
        x = torch.rand(batch, n, channels)
        return (x,) if categories is None else (x, torch.arange(batch) % categories)

    return make


def videos(batch, n):
    return (torch.randint(0, 256, (batch, n, 4, 4, 1), dtype=torch.uint8),)


# Name -> (network, its inputs for a batch and a number of points or frames).
RECURRENT = {
    **{f"lstm-{name}": (rnn(TensorLSTM, name), frames) for name in FORMATS},
    **{f"gru-{name}": (rnn(TensorGRU, name), frames) for name in FORMATS},
    "lstm-mega": (lambda: TensorLSTM(12, 16, mega=MEGA), lambda b, n: (torch.randn(n, b, 12),)),
    "gru-mega": (
        lambda: TensorGRU(12, 16, mega=MEGA, reset="before"),
        lambda b, n: (torch.randn(n, b, 12),),
    ),
    "lstm-bidirectional": (
        rnn(TensorLSTM, "tt", bidirectional=True, recurrent_dropout=0.3, num_layers=2, batch_first=True),
        rows,
    ),
    "video": (lambda: VideoClassifier(rnn(TensorLSTM, "tt", batch_first=True)(), 3), videos),
    "linear-cp": (lambda: TensorLinear(16, 16, spec("cp"), execution="lowered"), rows),
}
SMALL = {"k": 4, "emb_dims": 32}
NETWORKS = {
    "dgcnn": (lambda: DGCNN(5, **SMALL), clouds(3)),
    "dgcnn-scenes": (lambda: DGCNNSegmentation(5, **SMALL, noise=DropFeat(0.2)), clouds(9)),
    "dgcnn-parts": (lambda: DGCNNSegmentation(5, 3, 2, **SMALL), clouds(3, 2)),
    "pointnet-vanilla": (
        lambda: PointNet(5, input_transform=False, feature_transform=False, noise=DropPoint(0.3)),
        clouds(3),
    ),
    "pointnet": (lambda: PointNet(5, noise=DropCluster(0.3, 4)), clouds(3)),
    "pointnet-scenes": (lambda: PointNetSegmentation(5, 9), clouds(9)),
    "pointnet-parts": (lambda: PointNetSegmentation(5, 3, 2), clouds(3, 2)),
    "pointnet2": (lambda: PointNet2(5, noise=DropPoint(0.2)), clouds(3)),
    "pointnet2-msg": (lambda: PointNet2(5, 6, "msg"), clouds(6)),
    "pointnet2-scenes": (lambda: PointNet2Segmentation(5, 9), clouds(9)),
    "pointnet2-parts": (lambda: PointNet2Segmentation(5, 3, 2), clouds(3, 2)),
}
CASES = RECURRENT | NETWORKS
# torch's own, at the first use of its compiler.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
QUICK = ("gru-cp",)  # whose core is permuted


def outcome(run, model, inputs):
    """The output and its gradients, at a seed of the noise."""
    torch.manual_seed(7)
    inputs = tuple(x.detach().requires_grad_(x.is_floating_point()) for x in inputs)
    out = run(*inputs)
    out = out[0] if isinstance(out, tuple) else out
    leaves = [x for x in inputs if x.requires_grad] + list(model.parameters())
    loss = (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum()
    return [out.detach(), *torch.autograd.grad(loss, leaves, allow_unused=True)]


def assert_within_budget(found, eager, exact):
    """No farther from float64 than twice what eager float32 is, and the rounding of another order of sums."""
    size = max(float(t.norm()) for t in exact[1:] if t is not None)
    for a, b, c in zip(found, eager, exact, strict=True):
        assert (a is None) == (c is None)
        if a is None:
            continue
        assert a.shape == c.shape
        error, own = float((a - c).norm()), float((b - c).norm())
        assert error <= 2 * own + 1e-5 * float(c.norm()) + 1e-6 * size


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("name", CASES)
def test_operators_give_what_they_promise_to_a_compiler(name, small_groups):
    """Shapes, types and strides of all outputs of all our operators, forward and backward, are those of their fakes."""
    make, inputs = CASES[name]
    model = make()
    with CrossRefFakeMode(ignore_op_fn=lambda op: op.namespace != "dropfold", check_strides=True):
        outcome(model, model, inputs(2, 60))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_inductor(name, small_groups):
    """One graph, compiled once for two sizes, equal to eager mode."""
    make, inputs = CASES[name]
    model = make()
    exact = make().double()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    random = torch._inductor.config.patch(fallback_random=True)  # eager mode's random numbers
    with random, torch._dynamo.config.patch(error_on_recompile=True):
        # A batch of another size than all other dimensions: equal ones are taken for one.
        for batch, n in ((5, 40), (3, 56)):
            given = inputs(batch, n)
            start = {key: value.clone() for key, value in model.state_dict().items()}
            found = outcome(compiled, model, given)
            moved = {key: value.clone() for key, value in model.state_dict().items()}
            model.load_state_dict(start)
            eager = outcome(model, model, given)
            exact.load_state_dict(start)
            wide = tuple(x.double() if x.is_floating_point() else x for x in given)
            assert_within_budget(found, eager, outcome(exact, exact, wide))
            after = exact.state_dict()
            for key, value in model.state_dict().items():  # running statistics, steps of schedules
                if value.is_floating_point():
                    size = 1e-5 * float(after[key].norm())
                    error, own = (float((v - after[key]).norm()) for v in (moved[key], value))
                    assert error <= 2 * own + size, key
                else:
                    assert torch.equal(moved[key], value)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["pointnet2", pytest.param("pointnet2-parts", marks=pytest.mark.slow)])
def test_pointnet2_is_exported(name, small_groups):
    """torch.export takes the fused form for any batch; the program gives its logits."""
    make, inputs = NETWORKS[name]
    model, given = make().eval(), inputs(3, 40)
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = tuple({0: batch} for _ in given)
    with torch.no_grad():
        program = torch.export.export(model, given, dynamic_shapes=shapes)
        for size in (3, 5):
            x = inputs(size, 40)
            torch.testing.assert_close(program.module()(*x), model(*x))
