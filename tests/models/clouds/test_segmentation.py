"""PointNet++ and the segmentation networks: parameters, clouds of different sizes, noise by layer, categories, starts."""

import itertools
import socket

import pytest
import torch
import torch.multiprocessing

from dropfold import kernels
from dropfold.models import (
    DGCNNSegmentation,
    DropCluster,
    DropFeat,
    DropPoint,
    PointNet2,
    PointNet2Segmentation,
    PointNetSegmentation,
    needs_reestimation,
)
from tests.models.clouds.test_networks import lived_in

CATEGORIES = 4
POINTS = 60


def classification(**options):
    return PointNet2(5, dropout=0.0, **options)


def dgcnn(*arguments, **options):
    return DGCNNSegmentation(5, *arguments, k=6, emb_dims=32, dropout=0.0, **options)


def pointnet(*arguments, **options):
    return PointNetSegmentation(5, *arguments, **options)


def pointnet2(*arguments, **options):
    return PointNet2Segmentation(5, *arguments, dropout=0.0, **options)


EVERY = {
    "pointnet2 cls": (classification, (), ("sa1", "sa2", "pool")),
    "pointnet scenes": (pointnet, (9,), ("conv1", "conv2", "pool")),
    "pointnet parts": (pointnet, (3, CATEGORIES), ("conv1", "conv2", "conv3", "conv4", "pool")),
    "pointnet2 scenes": (pointnet2, (9,), ("sa1", "sa2", "sa3", "pool")),
    "pointnet2 parts": (pointnet2, (3, CATEGORIES), ("sa1", "sa2", "pool")),
    "dgcnn scenes": (dgcnn, (9,), ("edge1", "edge2", "edge3", "pool")),
    "dgcnn parts": (dgcnn, (3, CATEGORIES), ("edge1", "edge2", "edge3", "pool")),
}


def make(name, **options):
    network, arguments, _ = EVERY[name]
    return network(*arguments, **options)


def clouds(name, *shape, dtype=torch.float32):
    """`(x [*shape, C],)`, and for parts a category a cloud."""
    return torch.rand(*shape, 9 if "scenes" in name else 3, dtype=dtype)


def categories(name, count):
    return (torch.arange(count) % CATEGORIES,) if "parts" in name else ()


def test_parameters_are_the_peers():
    counts = {
        3_529_558: PointNetSegmentation(13),
        8_342_395: PointNetSegmentation(50, 3, 16),
        1_475_688: PointNet2(40),
        1_747_368: PointNet2(40, grouping="msg"),
        1_411_250: PointNet2Segmentation(50, 3, 16),
        1_740_958: PointNet2Segmentation(50, 3, 16, grouping="msg"),
        968_269: PointNet2Segmentation(13),
        1_883_269: PointNet2Segmentation(13, grouping="msg"),
        983_552: DGCNNSegmentation(13),
        1_460_361: DGCNNSegmentation(50, 3, 16),
    }
    for count, model in counts.items():
        assert sum(p.numel() for p in model.parameters()) == count
    assert (counts[983_552].k, counts[1_460_361].k) == (20, 40)


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("name", EVERY)
def test_rows_with_batch_equal_each_cloud_alone(name):
    model, sizes = lived_in(make(name)).double().eval(), [40, 70, 32]
    x, category = clouds(name, sum(sizes), dtype=torch.float64), categories(name, 3)
    batch = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    together = model(x, *category, batch=batch)
    alone = [model(cloud[None], *(c[i : i + 1] for c in category)) for i, cloud in enumerate(x.split(sizes))]
    alone = torch.cat(alone if name == "pointnet2 cls" else [a[0] for a in alone])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    one = model(x[:40], *(c[:1] for c in category))
    torch.testing.assert_close(one, alone[: len(one)], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in EVERY if "pointnet2" not in name])
def test_outputs_move_with_their_points(name):
    """PointNet++ is no such function: its first centre is the first point, and a full ball takes the first k."""
    model, order = lived_in(make(name)).double().eval(), torch.randperm(30)
    x, category = clouds(name, 2, 30, dtype=torch.float64), categories(name, 2)
    torch.testing.assert_close(
        model(x[:, order], *category), model(x, *category)[:, order], rtol=1e-9, atol=1e-9
    )


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("name", EVERY)
def test_every_layer_carries_noise_and_evaluates_without_it(name):
    x, category, layers = clouds(name, 3, POINTS), categories(name, 3), EVERY[name][2]
    torch.manual_seed(1)
    clean = make(name).eval()
    expected = clean(x, *category)
    kinds = itertools.cycle([DropPoint(0.4), DropCluster(0.4, k=4), DropFeat(0.4)])
    for layer, noise in zip(layers, kinds):
        noisy = make(name, noise={layer: noise}).train()
        first = noisy(x, *category)
        first.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in noisy.parameters() if p.grad is not None)
        assert not torch.equal(first, noisy(x, *category))  # another draw
        noisy.load_state_dict(clean.state_dict(), strict=False)
        torch.testing.assert_close(noisy.eval()(x, *category), expected)
        # The pool of PointNet++ for scenes is over balls, and BatchNorms of points follow.
        assert needs_reestimation(noisy) == (layer != "pool" or name == "pointnet2 scenes")
    with pytest.raises(
        ValueError, match=f"has no layer 'conv9' for noise; its layers are {', '.join(layers)}"
    ):
        make(name, noise={"conv9": noise})
    assert list(make(name, noise=noise).noise) == ["pool"]


@pytest.mark.usefixtures("small_groups")
def test_all_scales_of_a_level_lose_the_same_points():
    """One draw, whatever the widths of the scales."""
    model = classification(grouping="msg", noise={"sa1": DropPoint(0.5)}).double().train()
    seen = []
    for mlp in model.sa1.scales:
        mlp.register_forward_hook(
            lambda module, given, options, out: seen.append(options["noise"]), with_kwargs=True
        )
    model(torch.rand(2, POINTS, 3, dtype=torch.float64))
    assert len(seen) == 3
    assert seen[0] is seen[1] is seen[2]


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("name", ["pointnet2 cls", "pointnet2 scenes", "pointnet2 parts"])
def test_the_first_centre_is_drawn_in_training_if_asked(name):
    x, category = clouds(name, 2, POINTS), categories(name, 2)
    torch.manual_seed(3)
    plain = make(name)
    drawn = make(name, random_start=True)
    drawn.load_state_dict(plain.state_dict())
    assert torch.equal(plain(x, *category), plain(x, *category))
    assert not torch.equal(drawn(x, *category), drawn(x, *category))
    drawn.load_state_dict(plain.state_dict())
    torch.testing.assert_close(drawn.eval()(x, *category), plain.eval()(x, *category))
    rows, batch = x.flatten(0, 1), torch.arange(2).repeat_interleave(POINTS)
    assert drawn.train()(rows, *category, batch=batch).isfinite().all()


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("name", ["pointnet parts", "pointnet2 parts", "dgcnn parts"])
def test_categories_are_checked(name):
    model, x = make(name), clouds(name, 2, POINTS)
    with pytest.raises(ValueError, match="takes one of 4 categories a cloud; got none"):
        model(x)
    with pytest.raises(ValueError, match="category must be from 0 to 3; got 0 to 4"):
        model(x, torch.tensor([0, 4]))
    with pytest.raises(ValueError, match=r"category must be int64 \[B\], one number a cloud; got \[2, 4\]"):
        model(x, torch.ones(2, 4))
    with pytest.raises(ValueError, match="takes no category"):
        make(name.replace("parts", "scenes"))(clouds("scenes", 2, POINTS), torch.tensor([0, 1]))


def test_a_grouping_is_one_of_two():
    with pytest.raises(ValueError, match="grouping must be one of 'ssg', 'msg'; got 'mrg'"):
        PointNet2(5, grouping="mrg")


@pytest.mark.parametrize(
    ("network", "options"), [(PointNet2, {}), (PointNet2Segmentation, {"in_channels": 3})]
)
def test_balls_of_larger_radius_see_a_larger_cloud_alike(network, options):
    """The first level's groups are of a cloud twice as large, its balls twice as large, the same."""
    seen = []
    for factor in (1.0, 2.0):
        model = network(5, radius=factor, **options)
        level = model.sa1.level
        points = factor * torch.rand(1, 1200, 3, generator=torch.Generator().manual_seed(0))
        centres = points[:, : level.centres].contiguous()
        scale = level.scales[0]
        seen.append(kernels.ball_query(points, centres, scale.radius, scale.k).idx)
    assert torch.equal(*seen)
    with pytest.raises(ValueError, match=r"radius must be a positive factor; got 0"):
        network(5, radius=0.0, **options)


@pytest.mark.parametrize("grouping", ["ssg", "msg"])
@pytest.mark.parametrize("points", [300, 100])
def test_of_few_points_each_is_a_centre(grouping, points):
    """Below 512 and below the second level's 128. The same points several times, as a peer fills up its centres with, change
    nothing."""
    model, x = PointNet2(5, grouping=grouping).eval(), torch.rand(2, points, 3)
    torch.testing.assert_close(model(x), model(x.repeat(1, 6, 1)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x[0]), model(x[:1]))
    with pytest.raises(ValueError, match="m must be at most the points of the smallest cloud"):
        model(x.flatten(0, 1), batch=torch.arange(2).repeat_interleave(points))


@pytest.mark.parametrize("points", [2, 100])
def test_parts_of_few_points_are_labelled(points):
    model, x = PointNet2Segmentation(5, 3).eval(), torch.rand(2, points, 3)
    found = model(x)
    assert found.std() > 0
    # Each point is a centre, so their order says nothing.
    torch.testing.assert_close(model(x.flip(1)).flip(1), found, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0], model(x[0]))
    with pytest.raises(ValueError, match="m must be at most the points of the smallest cloud"):
        model(x.flatten(0, 1), batch=torch.arange(2).repeat_interleave(points))


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("name", EVERY)
def test_autocast_trains(name):
    model, x, category = make(name), clouds(name, 2, POINTS), categories(name, 2)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, *category)
    out.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def _half(rank, port, state, x, category, out):
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = pointnet(3, CATEGORIES, sync_batch_norm=True).double()
    model.load_state_dict(state)
    own = slice(2 * rank, 2 * rank + 2)
    model(x[own], category[own]).square().sum().backward()
    for value in model.parameters():
        torch.distributed.all_reduce(value.grad)
    if rank == 0:
        torch.save([p.grad for p in model.parameters()] + list(model.buffers()), out)
    torch.distributed.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path):
    """PointNet's parts: its head takes conv5 through the statistics of all processes, and their gradient is of all, too."""
    model = pointnet(3, CATEGORIES, sync_batch_norm=True).double()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x, category = torch.rand(4, 20, 3, dtype=torch.float64), torch.arange(4)
    model(x, category).square().sum().backward()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_half, (port, state, x, category, tmp_path / "grads"), nprocs=2)
    expected = [p.grad for p in model.parameters()] + list(model.buffers())
    for found, value in zip(torch.load(tmp_path / "grads"), expected, strict=True):
        size = max(1.0, float(value.double().abs().max()))
        assert float((found - value).abs().max()) < 1e-9 * size  # float64, sums in another order
