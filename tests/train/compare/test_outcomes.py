"""Differences paired by sample: how they are put together, their bootstrap intervals, and mCE."""

import math

import matplotlib.image
import numpy as np
import pytest
from scipy import stats

from dropfold.train.compare import outcomes, plots
from dropfold.train.compare.corruptions import ALL
from dropfold.train.compare.outcomes import Outcome
from dropfold.train.compare.results import write_results


def outcome(right, index=None, corrupted=None):
    right = np.asarray(right, bool)
    index = np.arange(len(right)) if index is None else np.asarray(index)
    return Outcome(index, index % 3, right, corrupted)


def test_bca_is_efrons():
    """Textbook BCa of the mean of skewed numbers, on resamples of its own: ends agree to their Monte Carlo error, for which
    2 % of the width is ten times what 9,999 resamples leave."""
    values = np.random.default_rng(1).exponential(size=60)
    low, high = outcomes.bootstrap(lambda chosen, axis=-1: values[chosen].mean(-1), 60)
    means = values[np.random.default_rng(2).integers(60, size=(100_000, 60))].mean(1)
    z0 = stats.norm.ppf((means < values.mean()).mean())
    left_out = (values.sum() - values) / 59
    d = left_out.mean() - left_out
    a = (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    ends = [z0 + (z0 + z) / (1 - a * (z0 + z)) for z in stats.norm.ppf([0.025, 0.975])]
    expected = np.quantile(means, stats.norm.cdf(ends))
    assert (low, high) == pytest.approx(expected, abs=0.05 * (high - low))
    assert high - values.mean() > values.mean() - low  # skewed to the right, as the numbers are


def test_samples_are_paired_and_averaged_over_the_runs_that_both_have():
    found = {
        ("a", 0, -1): outcome([1, 1, 0]),
        ("b", 0, -1): outcome([0, 1, 0]),
        ("a", 1, -1): outcome([1, 0, 0]),
        ("b", 1, -1): outcome([1, 1, 0]),
        ("b", 2, -1): outcome([1, 1, 1]),  # a's run of this seed failed
    }
    b, a = outcomes.paired(found, "b", "a", "score")
    np.testing.assert_array_equal(b[:, 0], [0.5, 1, 0])
    np.testing.assert_array_equal(a[:, 0], [1, 0.5, 0])


def test_folds_make_one_test_set():
    found = {
        (name, 0, fold): outcome([name == "b", fold == 1], index=[fold, 2 + fold])
        for name in "ab"
        for fold in (0, 1)
    }
    b, a = outcomes.paired(found, "b", "a", "score")
    np.testing.assert_array_equal(b[:, 0], [1, 1, 0, 1])
    np.testing.assert_array_equal(a[:, 0], [0, 0, 0, 1])


def test_other_samples_are_not_paired():
    found = {("a", 0, -1): outcome([1, 0]), ("b", 0, -1): outcome([1, 0], index=[3, 4])}
    assert len(outcomes.paired(found, "b", "a", "score")[0]) == 0
    found = {("a", 0, -1): outcome([1, 0]), ("b", 0, -1): outcome([1, 0])}
    found["b", 0, -1].label = np.array([2, 2])  # another file
    assert all(math.isnan(end) for end in outcomes.interval(found, "b", "a", "score"))


def test_seeds_that_say_the_same_do_not_narrow_the_interval():
    """Five runs with equal answers are one observation of each sample, not five: the unit is the sample."""
    random = np.random.default_rng(0)
    a, b = random.random(100) < 0.6, random.random(100) < 0.7
    one = {("a", 0, -1): outcome(a), ("b", 0, -1): outcome(b)}
    five = {(name, seed, -1): outcome(right) for name, right in (("a", a), ("b", b)) for seed in range(5)}
    low, high = outcomes.interval(one, "b", "a", "score")
    assert outcomes.interval(five, "b", "a", "score") == (low, high)
    assert low < b.mean() - a.mean() < high
    # As wide as the normal interval of paired differences, to the error of both for 100 samples.
    assert high - low == pytest.approx(2 * 1.96 * (b * 1.0 - a).std() / 10, rel=0.1)


def test_pairing_narrows_the_interval():
    random = np.random.default_rng(0)
    a = random.random(200) < 0.7
    alike = np.where(random.random(200) < 0.05, ~a, a)
    other = random.permutation(alike)
    widths = [
        np.subtract(
            *outcomes.interval({("a", 0, -1): outcome(a), ("b", 0, -1): outcome(b)}, "b", "a", "score")
        )
        for b in (alike, other)
    ]
    assert abs(widths[0]) < 0.6 * abs(widths[1])


def test_nothing_to_resample_gives_no_interval():
    for right in ([1, 1, 1, 1], [1], []):
        found = {(name, 0, -1): outcome(right) for name in "ab"}
        assert all(math.isnan(end) for end in outcomes.interval(found, "b", "a", "score"))


def test_mce_is_the_mean_ratio_of_errors():
    """Of 100 shapes the baseline errs on 40 under jitter and on 80 under all else, b on 20 under jitter."""
    errors = np.zeros((len(ALL), 5, 100), bool)
    errors[:, :, :80] = True
    errors[0, :, 40:] = False
    fewer = errors.copy()
    fewer[0, :, 20:] = False
    found = {
        ("a", 0, -1): outcome(np.ones(100), corrupted=~errors),
        ("b", 0, -1): outcome(np.ones(100), corrupted=~fewer),
        ("b", 1, -1): outcome(np.ones(100)),  # not measured under corruption
    }
    figures = outcomes.of_corrupted(found, "a")
    assert figures["a", 0, -1] == pytest.approx(
        {"corrupted_accuracy": (0.6 + 6 * 0.2) / 7, "missing_accuracy": 0.2, "mce": 1}
    )
    assert figures["b", 0, -1]["mce"] == pytest.approx((0.5 + 6) / 7)
    assert ("b", 1, -1) not in figures
    # The ratio is that of a binomial of 40: half its normal interval is 1.96 sqrt(1/4 / 40), to 15 % for so few.
    low, high = outcomes.interval(found, "b", "a", "mce")
    assert low < -0.5 / 7 < high
    assert 7 * (high - low) == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 40), rel=0.15)


def test_a_baseline_without_errors_has_no_mce():
    right = np.ones((8, 5, 4), bool)
    figures = outcomes.of_corrupted({("a", 0, -1): outcome(np.ones(4), corrupted=right)}, "a")
    assert math.isnan(figures["a", 0, -1]["mce"])


@pytest.mark.parametrize("better", [True, False])
def test_the_picture_is_blue_where_all_of_an_interval_is_better_and_orange_where_it_is_worse(
    better, tmp_path
):
    few, many = np.arange(100) < 40, np.arange(100) < 80
    found = {
        ("a", 0, -1): outcome(few if better else many),
        ("b", 0, -1): outcome(many if better else few),
        ("c", 0, -1): outcome(np.roll(few if better else many, 50)),
    }
    rows = [
        {"variant": name, "seed": 0, "figure": "overall_accuracy", "score": known.right.mean()}
        for (name, *_), known in found.items()
    ]
    text = write_results(tmp_path, rows, "a", found)
    assert f"| b | 1 | {80 if better else 40}.0 | {'+' if better else '-'}40.0 [" in text
    pixels = matplotlib.image.imread(tmp_path / "comparison.png")[..., :3]
    pixels = pixels[:, pixels.shape[1] * 6 // 10 :]  # the differences

    def has(color):
        return (np.abs(pixels - matplotlib.colors.to_rgb(color)).max(2) < 0.01).any()

    assert has(plots.BLUE) == better
    assert has(plots.ORANGE) != better
