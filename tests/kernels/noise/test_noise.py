"""The noises drop what they say, at the rate they say, and the same in backward."""

import platform
from pathlib import Path

import numpy as np
import pytest
import torch

from dropfold.data_scripts.schemas import shape_schema
from dropfold.kernels import Noise, drop_cluster, drop_feat, drop_point, knn
from dropfold.kernels.noise import drop_cluster as cluster
from dropfold.kernels.noise import drop_feat as feat
from dropfold.kernels.noise import drop_point as point
from dropfold.kernels.noise import philox
from dropfold.kernels.noise.draw import keep_scale, row_keep_scale
from dropfold.kernels.noise.philox import uniform
from tests.kernels.cases import noise


def words_of(seed, counter):
    """Philox 4x32-10 from the paper's definition, in Python's integers."""
    key, word = [seed & 0xFFFFFFFF, seed >> 32], [counter & 0xFFFFFFFF, counter >> 32, 0, 0]
    for _ in range(10):
        a, b = 0xD2511F53 * word[0], 0xCD9E8D57 * word[2]
        word = [(b >> 32) ^ word[1] ^ key[0], b & 0xFFFFFFFF, (a >> 32) ^ word[3] ^ key[1], a & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return word


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 12345, 2**62 - 1])
def test_uniform_is_philox(seed):
    assert torch.equal(uniform(torch.tensor(seed), 103), philox.reference(torch.tensor(seed), 103))
    found = philox.reference(torch.tensor(seed), 103).double().numpy()
    words = np.array([words_of(seed, i // 4)[i % 4] for i in range(103)])
    signed = np.where(words < 2**31, words, 2**32 - 1 - words)
    np.testing.assert_allclose(found, signed / 2**31, rtol=1e-6, atol=1e-9)
    assert (found >= 0).all()
    assert (found < 1).all()


def test_the_first_counter_has_its_published_words():
    # Salmon et al.'s known answers: counter 0, key 0.
    assert words_of(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("p", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("shape", [(64, 500, 7), (32, 256, 16)], ids=str)
def test_feat_and_point_drop_at_their_rate(p, shape):
    x = torch.ones(shape)
    for drop, draws in ((drop_feat, x.numel()), (drop_point, x.numel() // shape[2])):
        out = drop(x, p)
        dropped = (out == 0).float().mean().item()
        assert abs(dropped - p) < 5 * (p * (1 - p) / draws) ** 0.5
        torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / (1 - p)))
    points = (drop_point(x, p) == 0).float()
    assert (points.amax(2) == points.amin(2)).all()
    channels = drop_feat(x, p, per="channel")
    assert (channels.amax(1) == channels.amin(1)).all()


def clouds(kind):
    """32 clouds of 256 points: a flat, uneven random one (it has hubs), or real furniture."""
    if kind == "random":
        return torch.randn(32, 256, 3) * torch.tensor([1.0, 2.0, 0.1])
    found = shape_schema.read(Path(__file__).parents[3] / "data/furniture.h5")
    return torch.from_numpy(found.points[:32, :256]).clone()


@pytest.mark.parametrize("kind", ["random", "real"])
@pytest.mark.parametrize("reading", ["gather", "scatter"])
@pytest.mark.parametrize("k", [1, 8, 64])
@pytest.mark.parametrize("p", [0.05, 0.3, 0.7])
def test_cluster_drops_within_one_percent_of_its_rate(p, k, reading, kind):
    """Many seeds: the rate is one of expectation, the draws of a cluster hang together."""
    x = clouds(kind)
    neighbours, ones = knn(x, k), torch.ones(32, 256, 1)
    shares = torch.stack(
        [
            (drop_cluster(ones, p, neighbours, seed=torch.tensor(s), reading=reading) == 0).float().mean()
            for s in range(200)
        ]
    )
    # The bar is 1 % of p or what 200 draws can tell (4 standard errors).
    assert abs(shares.mean() - p) < max(0.01 * p, 4 * shares.std() / 200**0.5)


def test_small_neighbourhoods_do_not_count_their_padding():
    x = torch.ones(1, 4000, 1)
    ball = torch.arange(4000).view(1, -1, 1).repeat(1, 1, 8)
    ball[:, :, 1] = (ball[:, :, 1] + 1) % 4000  # two members, six repetitions
    shares = [(drop_cluster(x, 0.4, ball, seed=torch.tensor(s)) == 0).float().mean() for s in range(50)]
    assert abs(sum(shares) / 50 - 0.4) < 0.01


@pytest.mark.parametrize("level", ["feat", "point", "cluster"])
def test_the_mean_over_seeds_is_the_input(level):
    x, draws, p = torch.randn(2, 16, 5), 3000, 0.4
    neighbours = knn(x[..., :3], 4)
    total = torch.zeros_like(x)
    for s in range(draws):
        seed = torch.tensor(s)
        if level == "cluster":
            total += drop_cluster(x, p, neighbours, seed=seed)
        else:
            total += {"feat": drop_feat, "point": drop_point}[level](x, p, seed=seed)
    # Five standard errors of the mean of a Bernoulli variable scaled by 1 / (1 - p).
    assert ((total / draws - x).abs() < 5 * x.abs() * (p / (1 - p) / draws) ** 0.5 + 1e-5).all()


@pytest.mark.parametrize("level", ["feat", "point", "cluster"])
def test_backward_drops_what_forward_dropped(level):
    x = torch.randn(2, 40, 6, requires_grad=True)
    neighbours = knn(x[..., :3], 5)
    run = {
        "feat": lambda: drop_feat(x, 0.4),
        "point": lambda: drop_point(x, 0.4, scaling="count"),
        "cluster": lambda: drop_cluster(x, 0.4, neighbours, reading="scatter"),
    }[level]
    out = run()
    saved = sum(t.numel() for t in getattr(out.grad_fn, "saved_tensors", ()))
    assert saved < x.numel()  # no mask
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad * x, out)
    assert not torch.equal(run(), run())
    torch.manual_seed(5)
    first = run()
    torch.manual_seed(5)
    assert torch.equal(first, run())


def test_count_scaling_keeps_the_sum_of_a_constant_cloud():
    x = torch.ones(3, 50, 2)
    torch.testing.assert_close(drop_point(x, 0.5, scaling="count").sum(1), torch.full((3, 2), 50.0))


def test_no_noise_is_the_same_tensor():
    x = torch.randn(2, 8, 3)
    idx = knn(x, 3)
    for drop in (drop_feat, drop_point, lambda x, p, **o: drop_cluster(x, p, idx, **o)):
        assert drop(x, 0.0) is x
        assert drop(x, 0.5, training=False) is x
        for p in (1.0, -0.1, 1.5):
            with pytest.raises(ValueError, match="0 <= p < 1"):
                drop(x, p)
    with pytest.raises(ValueError, match="counts kept points"):
        drop_feat(x, 0.5, scaling="count")
    with pytest.raises(ValueError, match="scaling must be one of"):
        drop_point(x, 0.5, scaling="wrong")
    with pytest.raises(ValueError, match="reading must be one of"):
        drop_cluster(x, 0.5, idx, reading="wrong")
    with pytest.raises(ValueError, match="neighbours must be"):
        drop_cluster(x, 0.5, idx[0])


@pytest.mark.parametrize("reading", ["gather", "scatter"])
def test_clusters_are_dropped_as_their_reading_says(reading):
    x = torch.rand(1, 60, 3)
    found = noise("cluster", x, p=0.3, k=6)._replace(reading=reading)
    kept_points = keep_scale(found, torch.tensor([0, 60]), 60, 1)[:, 0] > 0
    u, lists = uniform(found.seed, 60), found.neighbours
    if reading == "gather":
        seeds = u < np.float32(1 - 0.7 ** (1 / 6))
        expected = torch.stack([~seeds[lists[i]].any() for i in range(60)])
    else:
        expected = torch.ones(60, dtype=torch.bool)
        degrees = torch.bincount(lists.flatten(), minlength=60).double()
        gammas = torch.linspace(0, 1, 200_001, dtype=torch.float64)
        kept = torch.stack([(1 - g) ** degrees for g in gammas[::200]]).mean(1)
        gamma = gammas[::200][(kept - 0.7).abs().argmin()]
        assert abs(kept[(kept - 0.7).abs().argmin()] - 0.7) < 0.01
        for j in range(60):
            if u[j] < gamma:
                expected[lists[j]] = False
    assert (kept_points == expected).float().mean() > (0.999 if reading == "gather" else 0.9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scaling", ["unbiased", "none", "count"])
@pytest.mark.parametrize("dense", [True, False])
def test_forward_and_backward_are_those_of_the_reference(dense, scaling, dtype):
    """Bit for bit: both multiply by the same float32 number."""
    x = torch.randn(3, 40, 6, dtype=dtype)
    lists = knn(x, 5)
    options = {"seed": torch.tensor(2**40 + 3), "scaling": scaling}
    if not dense:
        lists = (lists + 40 * torch.arange(3)[:, None, None]).flatten(0, 1)
        x, options["batch"] = x.flatten(0, 1), torch.arange(3).repeat_interleave(40)
    pairs = [(drop_point, point.reference, (), {})]
    pairs += [(drop_cluster, cluster.reference, (lists,), {"reading": r}) for r in ("gather", "scatter")]
    if scaling != "count":
        pairs += [(drop_feat, feat.reference, (), {"per": per}) for per in ("element", "channel")]
    for drop, reference, lists_, more in pairs:
        leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        out, right = (
            drop(leaf, 0.4, *lists_, **options, **more),
            reference(other, 0.4, *lists_, **options, **more),
        )
        dout = torch.randn_like(x)
        out.backward(dout)
        right.backward(dout)
        assert torch.equal(out, right), more
        assert torch.equal(leaf.grad, other.grad), more
        assert 0 < (out == 0).float().mean() < 1


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_infinities_pass_and_so_do_those_of_the_gradient(value):
    """A gradient that overflowed must be seen by who scales losses; 0 times infinity is NaN, as in `nn.Dropout`."""
    x, dout = torch.randn(2, 2, 30, 4)
    x[0, 7], dout[1, 9] = value, value
    for drop, folder in ((drop_point, point), (drop_feat, feat)):
        results = []
        for fn in (drop, folder.reference):
            leaf = x.clone().requires_grad_()
            out = fn(leaf, 0.4, seed=torch.tensor(3))
            out.backward(dout)
            results.append((out, leaf.grad))
        for ours, theirs in zip(*results):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
            assert not ours.isfinite().all()


def test_p_may_be_a_tensor_that_changes():
    x = torch.ones(4, 100, 1)
    p = torch.tensor(0.0)
    assert (drop_point(x, p) != 0).all()
    p.fill_(0.9)
    assert (drop_point(x, p) == 0).float().mean() > 0.7
    assert Noise("point", p, torch.tensor(1)).p is p


def test_bad_neighbours_are_named():
    x, seed = torch.randn(2, 8, 3), torch.tensor(1)
    lists = torch.arange(16)[:, None].expand(16, 4).contiguous()
    for wrong in (-1, 10**9):
        with pytest.raises(ValueError, match="neighbours must be from 0 to 15"):
            drop_cluster(x.flatten(0, 1), 0.3, lists.where(lists != 3, wrong), seed=seed)
    with pytest.raises(ValueError, match="with k of 1 or more"):
        drop_cluster(x, 0.3, lists[:, :0].view(2, 8, 0), seed=seed)
    for wrong in (7, torch.tensor(1.9), torch.tensor([1])):
        with pytest.raises(ValueError, match="seed must be a 0-dim int64 tensor"):
            drop_point(x, 0.3, seed=wrong)
    with pytest.raises(ValueError, match="got level 'cluster' and no neighbours"):
        row_keep_scale(Noise("cluster", torch.tensor(0.3), seed), torch.tensor([0, 16]), 16)
    with pytest.raises(ValueError, match="floating-point type"):
        drop_point(x.long(), 0.3)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="looks for an instruction of x86")
def test_features_are_drawn_in_vector_registers():
    """A call that is not inlined, or a first index that is no constant, keeps the loop to single numbers."""
    import numba

    from dropfold.kernels.noise.draw.cpu import noise_span

    span = numba.njit(noise_span.py_func)  # a function from numba's cache shows no machine code
    span(np.float32(0.5), np.float32(2), 7, 0, np.empty(64, np.float32))
    assert all("pmuludq" in code for code in span.inspect_asm().values())
