"""The tables of the study of explanations, from files written by hand: values, and intervals worked by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import explanation as study
from benchmarks.explanation import METHODS, Key, Measured
from dropfold.train.storage import checkpoint

SOURCE = {"commit": "abc", "machine": "a machine", "trained": "def"}
THIRTY = {name: Key("dropping", "", name, "30 %") for name in ("xgrad_cam", "radius")}


def run(seed, values, samples=None, noise="none"):
    return Measured("pointnet", noise, seed, values, samples or {}, SOURCE)


def line(lines, key):
    (found,) = [one for one in lines if Key(*(one[name] for name in Key._fields)) == key]
    return found


def test_intervals_over_seeds_are_students_and_differences_are_paired_by_seed():
    base, other = THIRTY["xgrad_cam"], THIRTY["radius"]
    runs = [run(s, {base: a, other: b}) for s, (a, b) in enumerate([(1.0, 1.5), (2.0, 3.5), (4.0, 5.0)])]
    lines = study.summarize(runs)
    found = line(lines, base)
    # s^2 = (16 + 1 + 25) / 9 / 2 = 7 / 3; t(0.975, 2) = 4.302653.
    assert found["mean"] == pytest.approx(7 / 3)
    assert found["half_width"] == pytest.approx(4.302653 * math.sqrt(7 / 3) / math.sqrt(3), rel=1e-6)
    assert found["seeds"] == 3
    assert math.isnan(found["difference"])
    found = line(lines, other)  # differences 0.5, 1.5, 1: mean 1, s = 0.5
    assert found["difference"] == pytest.approx(1)
    assert found["difference_half_width"] == pytest.approx(4.302653 * 0.5 / math.sqrt(3), rel=1e-6)
    assert math.isnan(found["difference_low"])  # no samples are known


def test_the_bootstrap_resamples_shapes_each_with_its_mean_over_seeds():
    base, other = THIRTY["xgrad_cam"], THIRTY["radius"]
    # Over two seeds the differences of the four shapes are 0, 0, 0 and 1. A resample's mean is k / 4, k binomial of
    # (4, 1/4): P(k = 0) = 0.316 and P(k <= 2) = 0.949 < 0.975 < P(k <= 3) = 0.996.
    rights = [([1, 0, 1, 0], [0, 0, 1, 1]), ([0, 0, 0, 0], [1, 0, 0, 1])]
    runs = []
    for seed, (a, b) in enumerate(rights):
        samples = {base: np.array(a, float), other: np.array(b, float)}
        runs.append(run(seed, {key: float(v.mean()) for key, v in samples.items()}, samples))
    found = line(study.summarize(runs), other)
    assert found["difference"] == pytest.approx(0.25)
    assert (found["difference_low"], found["difference_high"]) == (0.0, 0.75)


def test_pairs_of_the_game_are_those_of_all_seeds():
    base, other = (Key("game", "", name, "top") for name in ("xgrad_cam", "radius"))
    runs = []
    for seed, pairs in enumerate([2, 3]):
        samples = {base: np.full(pairs, 0.75), other: np.full(pairs, 0.5)}
        runs.append(run(seed, {base: 0.75, other: 0.5}, samples))
    found = line(study.summarize(runs), other)
    assert found["difference_low"] == found["difference_high"] == found["difference"] == -0.25


def test_noises_are_groups_of_their_own():
    key = THIRTY["radius"]
    lines = study.summarize([run(0, {key: 0.2}), run(0, {key: 0.6}, noise="cluster")])
    assert [(one["noise"], one["mean"]) for one in lines] == [("none", 0.2), ("cluster", 0.6)]


def test_the_values_of_a_run_are_read_from_its_files(tmp_path, monkeypatch):
    config = SimpleNamespace(network="pointnet", noise=SimpleNamespace(kind="none"), seed=3)
    monkeypatch.setattr(study, "config_of", lambda folder: config)
    write(tmp_path)
    found = study.measured(tmp_path)
    v = found.values
    assert (found.network, found.noise, found.seed) == ("pointnet", "none", 3)
    assert found.source == SOURCE
    assert v[Key("dropping", "", "", "whole")] == 0.5
    assert v[Key("dropping", "", "xgrad_cam", "10 %")] == 1.0
    assert v[Key("dropping", "", "xgrad_cam", "50 %")] == 0.0
    assert v[Key("dropping", "", "xgrad_cam", "mean")] == pytest.approx((1 + 0.5 + 0) / 3)
    assert v[Key("dropping", "", "xgrad_cam", "last layer anew")] == 0.4
    assert v[Key("dropping", "", "xgrad_cam", "all anew")] == 0.1
    assert Key("dropping", "", "radius", "infidelity") not in v  # None in the file
    assert v[Key("axioms", "conv2", "grad_cam", "sensitivity")] == 0.9  # the median of 0.8, 0.9, 7
    assert v[Key("game", "", "", "valid")] == 0.5
    assert v[Key("game", "", "xgrad_cam", "top")] == pytest.approx(0.65)  # of the valid pair
    assert v[Key("units", "mean", "", "effective units")] == pytest.approx(2)  # 0.5 and 0.5, and one below 0
    assert v[Key("units", "zero", "", "worst class / overall")] == pytest.approx(10)
    assert v[Key("tells", "zero", "class_selectivity", "worst_class_loss")] == 0.3
    assert v[Key("removed", "mean", "random", "90 %")] == 0.25


def write(folder):
    """The files of a run of two clouds, three units and two pairs."""
    lost = np.array([[1, 1], [1, 0], [0, 0]], bool)  # 10, 30 and 50 % dropped
    arrays = {
        "whole": np.array([True, False]),
        "units/mean": np.array([0.5, 0.5, -1.0]),
        "units/zero": np.array([1.0, 1.0, 1.0]),
        "game/valid": np.array([True, False]),
        "axioms/conv2/grad_cam/sensitivity": np.array([0.8, 7.0, 0.9]),
        **{f"lost/{name}": lost for name in METHODS},
        **{f"game/{name}": np.array([[0.7, 0.6], [0.1, 0.1]]) for name in METHODS},
    }
    found = {"inserted_mean": 0.3, "effective_points": 200.0, "infidelity": None, "infidelity_scaled": 0.4}
    found["drawn_anew"] = {"fc3": 0.4, "fc2": 0.3, "conv1": 0.1}
    figures = dict.fromkeys(METHODS, study.figures_of(found))
    units = dict.fromkeys(("loss_worst", "worst_class_loss_worst", "change_no_prediction"), 0.1)
    r = {"loss": {"r": 0.0}, "worst_class_loss": {"r": 0.3}}
    units |= {"loss_mean": 0.01, "worst_class_loss_mean": 0.1, "correlations": {"class_selectivity": r}}
    units["removed"] = {"fractions": [0.5, 0.9], "accuracy": {"random": [0.5, 0.25]}}
    source = {name: SOURCE[name] for name in ("commit", "machine")}
    both = {to: units | {"to": to} for to in ("zero", "mean")}
    parts = {"explain": {"figures": figures}, "units": both, "axioms": {"clouds": 3}}
    values = {"parts": {name: part | source for name, part in parts.items()}}
    checkpoint.save_json(folder / "study.json", values)
    checkpoint.save_arrays(folder / "study.npz", arrays)
    checkpoint.save_json(folder / "summary.json", {"commit": "def"})


def test_a_part_that_is_there_is_not_measured_again(tmp_path, monkeypatch):
    """And what was measured before another part failed is kept."""
    asked = []

    class Fake:
        def __init__(self, run, options):
            pass

    def part(name):
        def measure(fake):
            asked.append(name)
            if name == "broken":
                raise ValueError("no")
            return {name: np.arange(3)}, {"of": name}

        return measure

    monkeypatch.setattr(study, "Study", Fake)
    monkeypatch.setattr(study, "PARTS", {name: part(name) for name in ("a", "b", "broken")})
    with pytest.raises(ValueError, match="no"):
        study.measure_run(tmp_path, SimpleNamespace(parts=("a", "broken", "b")))
    study.measure_run(tmp_path, SimpleNamespace(parts=("a", "b")))
    study.measure_run(tmp_path, SimpleNamespace(parts=("b", "a")))
    assert asked == ["a", "broken", "b"]
    assert set(checkpoint.load_arrays(tmp_path / "study.npz")) == {"a", "b"}


def test_the_effective_number_counts_those_that_share():
    assert study.effective_number(np.array([2.0, 2.0, 2.0, 0.0, -3.0])) == pytest.approx(3)
    # Shares 3/4 and 1/4: exp(ln 4 - 3/4 ln 3).
    assert study.effective_number(np.array([3.0, 1.0])) == pytest.approx(4 / 3**0.75)
