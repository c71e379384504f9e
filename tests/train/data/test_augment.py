"""Augmentation, one option at a time, against what the config's words say."""

import math

import pytest
import torch

from dropfold.train.config.configs import AugmentConfig
from dropfold.train.data.augment import augment

STILL = {"scale": (1.0, 1.0), "shift": 0.0}
B, N = 400, 30


def clouds(normals=False, seed=0):
    """Clouds [B, N, 3 or 6] whose points differ in every coordinate; normals of length 1."""
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(B, N, 3, generator=random) + 0.5
    if not normals:
        return x
    n = torch.randn(B, N, 3, generator=random)
    return torch.cat([x, n / n.norm(dim=2, keepdim=True)], 2)


def augmented(x, seed=7, **options):
    return augment(x, AugmentConfig(**STILL | options), torch.Generator().manual_seed(seed))


def fills(values, low, high):
    """Many draws from a uniform law: inside its range, up to a 50th of it at both ends, and with its mean."""
    width = high - low
    assert low - 1e-5 <= values.min() < low + width / 50
    assert high - width / 50 < values.max() <= high + 1e-5
    # Five standard errors of the mean of a uniform variable.
    assert abs(values.mean() - (low + high) / 2) < 5 * width / 12**0.5 / values.numel() ** 0.5


def test_nothing_asked_changes_nothing():
    x = clouds(normals=True)
    assert torch.equal(augmented(x), x)


@pytest.mark.parametrize(
    "options", [{"rotate": True}, {"jitter": 0.1}, {"point_dropout": 0.5}, {"shift": 0.2}], ids=str
)
def test_a_generator_gives_the_same_again_and_another_gives_another(options):
    x = clouds(normals=True)
    assert torch.equal(augmented(x, 1, **options), augmented(x, 1, **options))
    assert not torch.equal(augmented(x, 1, **options), augmented(x, 2, **options))
    torch.manual_seed(3)
    one = augmented(x, 1, **options)
    torch.manual_seed(4)  # torch's own generator has no part in it
    assert torch.equal(one, augmented(x, 1, **options))


@pytest.mark.parametrize("per_axis", [True, False])
def test_scales_lie_in_their_range_one_a_cloud_or_one_an_axis(per_axis):
    x = clouds(normals=True)
    found = augmented(x, scale=(0.5, 3.0), scale_per_axis=per_axis)
    scale = found[..., :3] / x[..., :3]
    assert (scale - scale[:, :1]).abs().max() < 1e-5  # all points of a cloud alike
    fills(scale[:, 0], 0.5, 3.0)
    apart = (scale[:, 0].amax(1) - scale[:, 0].amin(1)) > 1e-3
    assert apart.float().mean() > 0.95 if per_axis else not apart.any()
    assert torch.equal(found[..., 3:], x[..., 3:])  # normals have no size


def test_shifts_lie_in_their_range_and_each_axis_has_its_own():
    x = clouds(normals=True)
    found = augmented(x, shift=0.3)
    shift = found[..., :3] - x[..., :3]
    assert (shift - shift[:, :1]).abs().max() < 1e-5
    fills(shift[:, 0], -0.3, 0.3)
    assert ((shift[:, 0].amax(1) - shift[:, 0].amin(1)) > 1e-3).float().mean() > 0.95
    assert torch.equal(found[..., 3:], x[..., 3:])  # nor a place


def test_what_is_scaled_is_shifted_afterwards():
    """The range of the shift does not grow with the scale."""
    x = clouds() * 0 + 1
    found = augmented(x, scale=(10.0, 10.0), shift=0.3)
    fills(found[:, 0] - 10, -0.3, 0.3)


@pytest.mark.parametrize(("up", "axis", "plane"), [("y", 1, (2, 0)), ("z", 2, (0, 1))])
def test_clouds_and_normals_turn_together_about_the_upright_axis(up, axis, plane):
    x = clouds(normals=True)
    found = augmented(x, rotate=True, up=up)
    turned = []
    for columns in (slice(0, 3), slice(3, 6)):
        a, b = x[..., columns], found[..., columns]
        assert (a[..., axis] - b[..., axis]).abs().max() < 1e-6
        before, after = (torch.complex(v[..., plane[0]], v[..., plane[1]]) for v in (a, b))
        turn = after / before  # e^(i angle): of length 1, the same at all points of a cloud
        assert (turn.abs() - 1).abs().max() < 1e-3
        assert (turn - turn[:, :1]).abs().max() < 1e-3
        turned.append(turn[:, 0])
    assert (turned[0] - turned[1]).abs().max() < 1e-3
    fills(turned[0].angle() / math.pi, -1.0, 1.0)


def test_normals_turn_before_the_cloud_is_scaled():
    """In a plane before, in that plane after: normals are not those of the turned frame of another cloud."""
    x = clouds(normals=True)
    one, two = augmented(x, rotate=True), augmented(x, rotate=True, scale=(2.0, 2.0), shift=0.0)
    assert torch.equal(one[..., 3:], two[..., 3:])
    torch.testing.assert_close(2 * one[..., :3], two[..., :3])


def test_jitter_has_its_deviation_and_is_cut_at_five_of_them():
    """Of 4 million normal numbers two lie beyond five deviations, and a hundred beyond four and a half."""
    x, sigma = torch.zeros(1000, 1400, 6), 0.01
    found = augmented(x, seed=2, jitter=sigma)
    moved = found[..., :3] / sigma
    drawn = torch.randn(1000, 1400, 3, generator=uniforms_taken(2, 1000))
    assert drawn.abs().max() > 5  # this seed draws what is cut
    torch.testing.assert_close(moved, drawn.clamp(-5, 5))
    assert moved.abs().max() == pytest.approx(5.0)
    assert moved.std() == pytest.approx(1.0, abs=2e-3)
    assert (found[..., 3:] == 0).all()  # normals are not shaken


def uniforms_taken(seed, clouds):
    """A generator from which scale and shift have been drawn, as they are before jitter."""
    random = torch.Generator().manual_seed(seed)
    torch.rand(clouds, 1, 3, generator=random)
    torch.rand(clouds, 1, 3, generator=random)
    return random


@pytest.mark.parametrize("most", [0.3, 0.875])
def test_dropped_points_become_the_first_one_with_its_normal(most):
    x = torch.cat([clouds(normals=True)] * 4, 1)  # 120 points
    found = augmented(x, point_dropout=most)
    kept = (found == x).all(2)
    first = (found == x[:, :1]).all(2)
    assert (kept | first).all()
    share = (~kept).float().mean(1)
    # A share of 0 .. most a cloud, and then each point by itself: four deviations of that.
    assert (share < most + 4 * (most * (1 - most) / 120) ** 0.5).all()
    assert share.max() > 0.9 * most
    assert share.min() < 0.1 * most
    assert share.mean() == pytest.approx(most / 2, abs=5 * most / 12**0.5 / B**0.5 + 0.01)
    assert share.std() == pytest.approx(most / 12**0.5, rel=0.2)  # each cloud its own share
