"""Two checkouts side by side: the interval of the ratio, and a side that answers with a step's time and loss."""

import numpy as np

from benchmarks.against import NETWORKS, TT_LSTM, Side, interval_of_median, size_of
from benchmarks.harness import ROOT


def test_the_interval_holds_the_ratio_and_sees_a_slower_step():
    """Fifteen pairs with 3 % of noise: a step 10 % slower lies above 1.05, one that is as fast below."""
    noise = 1 + 0.03 * np.random.default_rng(1).standard_normal(15)
    for ratio in (1.0, 1.1):
        low, high = interval_of_median(ratio * noise)
        assert low < ratio < high
        assert (low > 1.05) == (ratio > 1.05)
        assert (high < 1.05) == (ratio < 1.05)
    assert interval_of_median(np.full(15, 1.2)) == (1.2, 1.2)


def test_the_networks_are_the_ten_and_the_tt_lstm():
    assert len(set(NETWORKS)) == 10
    for network in (*NETWORKS, TT_LSTM):
        assert size_of(network, quick=True)[0] <= size_of(network, quick=False)[0]


def test_a_side_trains_in_its_checkout():
    """Its answers are those of a process in this checkout: the loss of a network that learns four labels by heart falls."""
    side = Side(ROOT, "pointnet", 4, 32, 1)
    try:
        assert side.read() == "ready\n"
        (milliseconds, first), *_, (_, last) = [side.ask() for _ in range(8)]
    finally:
        side.end()
    assert milliseconds > 0
    assert float(last) < float(first)
    assert side.process.returncode == 0
