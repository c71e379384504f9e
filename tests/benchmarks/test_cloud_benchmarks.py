"""The point-cloud benchmarks: what is timed side by side computes the same, and the limits are those of the step."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import point_clouds
from benchmarks.cases import cloud_operations, cloud_steps, gpu_clouds, limits, peers
from benchmarks.cases.cloud_steps import Setting
from benchmarks.cases.limits import Product
from benchmarks.harness import Row
from dropfold.kernels import BatchNorm, group_mlp_max
from dropfold.kernels.group_mlp_max.cpu_passes import OnCPU
from dropfold.kernels.points.groups import neighbourhoods


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_providers_of_an_operation_compute_the_same():
    """To rounding of sums over 10 channels, and of BatchNorm's over 160 edges."""
    for provider in ("pyg", "eager"):
        pytest.importorskip("torch_geometric")
        arguments = (2, 20, 5, 4, "float32", "cpu")
        found = [cloud_operations.edge_conv(name, *arguments)() for name in ("dropfold", provider)]
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    found = [
        cloud_operations.linear_norm_max(name, 2, 20, 5, "float32", "cpu")() for name in ("dropfold", "eager")
    ]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    arguments = (2, 20, 5, 4, "float32", "cpu")
    found = [cloud_operations.group_mlp_max(name, *arguments)() for name in ("dropfold", "eager")]
    torch.testing.assert_close(
        *found, rtol=1e-3, atol=1e-3
    )  # two BatchNorms, products with numbers of size 10
    ours, *others = (
        cloud_operations.knn(name, 2, 20, 3, 4, "cpu")() for name in ("dropfold", "cdist + topk", "kd-tree")
    )
    for other in others:
        assert torch.equal(
            ours, torch.as_tensor(other if torch.is_tensor(other) else [i.tolist() for i in other])
        )


@pytest.mark.parametrize("operation", ["drop_feat", "drop_point", "drop_cluster"])
@pytest.mark.parametrize("provider", ["dropfold", "eager"])
def test_noises_drop_the_same_share(operation, provider):
    y = cloud_operations.noise(provider, operation, 4, 512, 16, "float32", "cpu")()
    # A cluster's points fall together, 16 at a time: 2,048 points are some 128 clusters, three of whose deviations are 0.12.
    assert float((y == 0).float().mean()) == pytest.approx(0.3, abs=0.12)


def test_products_are_recorded_in_the_order_and_type_of_the_step():
    linear, x = nn.Linear(3, 5), torch.randn(7, 3, requires_grad=True)

    def step():
        linear(x).sum().backward()
        torch.bmm(torch.randn(2, 4, 3).bfloat16(), torch.randn(2, 3, 6).bfloat16())

    step()
    found = limits.products(step)
    assert found[0] == Product(1, 7, 3, 5, torch.float32)
    assert set(found[1:-1]) == {Product(1, 5, 7, 3, torch.float32), Product(1, 7, 5, 3, torch.float32)}
    assert found[-1] == Product(2, 4, 3, 6, torch.bfloat16)
    assert sum(product.flops for product in found) == 2 * (3 * 105 + 2 * 72)
    for library in (limits.GEMMS, limits.ONEDNN):
        limits.gemms(found, library, "cpu")()


def test_products_on_tiles_are_recorded_on_any_number_of_threads(monkeypatch):
    """Those of other threads and of compiled loops are not seen by the profiler."""
    q, p, idx = torch.randn(300, 8), torch.randn(96, 8), torch.randint(300, (96, 8))
    weights = [torch.randn(16, 8), torch.randn(32, 16)]
    norms = [BatchNorm(*(torch.ones(c) for _ in range(4)), training=True) for c in (8, 16, 32)]
    monkeypatch.setattr(OnCPU, "tile", staticmethod(lambda channels: 256))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(limits.products(lambda: group_mlp_max(q, p, neighbourhoods(idx), weights, norms)))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]
    # The first product twice, the second and the Gram matrix of what it takes once, for each of 768 entries.
    on_tiles = [product for product in found[0] if 256 in (product.m, product.k)]
    assert sum(product.flops for product in on_tiles) == 2 * 768 * (2 * 8 * 16 + 16 * 32 + 16 * 16)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN is not built in")
def test_products_of_onednn_are_recorded():
    x, w = torch.randn(6, 3), torch.randn(5, 3)
    pixels, dy = torch.randn(2, 3, 1, 4), torch.randn(2, 5, 1, 4)

    def step():
        torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
        torch.ops.aten.convolution_backward(
            dy,
            pixels,
            w[..., None, None],
            [0],
            [1, 1],
            [0, 0],
            [1, 1],
            False,
            [0, 0],
            1,
            [False, True, False],
        )

    assert set(limits.products(step)) == {
        Product(1, 6, 3, 5, torch.float32),
        Product(1, 5, 8, 3, torch.float32),
    }


def test_least_of_training_is_what_is_kept_and_the_weights():
    linear, x = nn.Linear(4, 8, bias=False), torch.randn(16, 4)

    def step():
        linear(x).relu().sum().backward()

    # Kept: x [16, 4] for the weight's gradient, the result [16, 8] of ReLU for its own; shared memory once.
    kept = 4 * (16 * 4 + 16 * 8)
    assert limits.kept(step, list(linear.parameters())) == kept
    assert limits.least_of_training(step, list(linear.parameters())) == 2 * kept + 6 * 4 * 4 * 8


def test_every_group_runs_in_tiny_sizes(monkeypatch):
    tiny = point_clouds.Sizes(
        steps={"pointnet": (2, 40), "dgcnn": (2, 40), "pointnet2_ssg": (2, 512)},
        segmentation={"pointnet_parts": (2, 40), "dgcnn_parts": (2, 40), "dgcnn_s3dis": (2, 40)},
        inference=(("pointnet", (1,), 40), ("dgcnn", (2,), 40)), operation=(2, 40), sweep=((1, 40),),
        base=(2, 40), clouds=(2,), points=(40,), epochs=((126,), (24,)),
    )  # fmt: skip
    monkeypatch.setattr(point_clouds, "QUICK", tiny)
    operations = set()
    options = point_clouds.Options(quick=True, dtypes=("float32",))
    for cases in point_clouds.comparisons(options):
        operations.add(cases[0].operation)
        assert cases[0].provider == "dropfold"
        if cases[0].operation.endswith("_inference"):
            assert limits.GEMMS in [case.provider for case in cases]
            assert cases[0].flops_least > 0
        elif cases[0].operation not in ("dgcnn_scaling", "pointnet_epoch", "dgcnn_epoch"):
            assert limits.BYTES in [case.provider for case in cases]
            assert cases[0].bytes_least > 0
        for case in cases[1:]:
            case.make()()
    assert {
        "pointnet2_ssg_step",
        "dgcnn_step",
        "dgcnn_s3dis_step",
        "knn",
        "dgcnn_scaling",
        "dgcnn_epoch",
    } < operations


def test_every_network_has_the_data_that_it_takes():
    for network, task in cloud_steps.TASKS.items():
        setting = Setting(network, 2, task.least)
        given, labels = cloud_steps.data(setting)
        foreign = cloud_steps.inputs(
            setting, cloud_steps.Side(nn.Identity(), lambda x: x, foreign=True), given
        )
        assert [x.shape[1:] for x in foreign] == [(task.channels, task.least), (1, 16)][: len(given)]
        assert labels.shape == ((2, task.least) if task.pointwise else (2,))
        assert str(setting) == f"B2-N{task.least}" + (f"-k{task.k}" if task.k else "")


def test_scaling_changes_one_size_at_a_time():
    settings = point_clouds.scaling(point_clouds.FULL, "cuda")
    clouds, points = point_clouds.FULL.base
    for s in settings:
        assert [s.clouds == clouds, s.points == points, s.k == point_clouds.K].count(False) <= 1
    assert len(set(settings)) == len(settings) == 4 + 5 + 3 - 2


def test_threads_are_given_back():
    setting = Setting("dgcnn", 2, 30, 4, threads=1)
    before = torch.get_num_threads()
    cloud_steps.make(setting, "dropfold")()
    assert torch.get_num_threads() == before
    assert str(setting) == "B2-N30-k4-threads1"


def test_a_missing_checkout_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"pointnet_utils.py is not there; give the path of a checkout"
    ):
        peers.yanx27(tmp_path)
    (tmp_path / "model.py").write_text("")
    with pytest.raises(ValueError, match="it is another version than the one measured here"):
        peers.antao97(tmp_path)


def test_what_computes_something_else_is_not_timed(monkeypatch, capsys):
    monkeypatch.setattr(cloud_steps, "distance", lambda setting: 0.1)
    options = point_clouds.Options(only=("scaling",), antao97=Path("somewhere"))
    with pytest.raises(SystemExit, match="what computes something else is not timed"):
        point_clouds.check(options)
    assert "agree to 1.0e-01" in capsys.readouterr().out
    point_clouds.check(point_clouds.Options(only=("scaling",)))
    assert "--antao97 PATH runs it beside ours" in capsys.readouterr().out


def rows(operation, **times):
    about = ("2026-01-01", "abc", "GPU", "2.9", "cuda", operation)
    return [
        Row(*about, provider, "B1", "float32", 3, ms, ms, ms, None, None, None)
        for provider, ms in times.items()
    ]


def test_goals_are_reached_or_missed():
    noise = rows("drop_feat_fwd_bwd", dropfold=1.0, **{limits.BYTES: 0.95})
    assert gpu_clouds.goals(noise) == [
        "reached: drop_feat_fwd_bwd B1 float32 at 95% of the measured copy bandwidth (goal 90%)"
    ]
    edges = gpu_clouds.goals(rows("edge_conv_fwd_bwd", dropfold=1, pyg=6, eager=4))
    assert [line.split(":")[0] for line in edges] == ["reached", "missed"]
    assert gpu_clouds.goals(rows("dgcnn_step", dropfold=1, antao97=7.9)) == [
        "missed: dgcnn_step B1 float32 7.9 times as fast as antao97 (goal 8)"
    ]
    assert gpu_clouds.goals([]) == gpu_clouds.goals(rows("dgcnn_step", antao97=1)) == []


def test_a_loss_curve_is_the_same_again_and_moves_with_its_points():
    first, again, *moved = (gpu_clouds.losses("cpu", True, seed) for seed in (None, None, 1, 2, 3))
    assert gpu_clouds.apart(first, again) == 0
    assert any(gpu_clouds.apart(first, curve) > 0 for curve in moved)  # one alone may round to the same loss


def test_modules_of_the_same_name_stay_apart(tmp_path):
    """torch.compile finds by a function's module what the function calls: of another checkout, or mended otherwise, it would
    be another function."""
    loaded = {}
    for folder, mend in (("a", {}), ("b", {}), ("a", {"1": "3"})):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "model.py").write_text(f"def f():\n    return {folder!r}, 1\n")
        module = peers.load_module(tmp_path / folder, "model.py", mend)
        loaded[module.f()] = module
    for result, module in loaded.items():
        assert sys.modules[module.f.__module__].f() == result
        del sys.modules[module.__name__]
    assert list(loaded) == [("a", 1), ("b", 1), ("a", 3)]
