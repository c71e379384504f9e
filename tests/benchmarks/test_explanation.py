"""The study of explanations: intervals worked by hand, what a small run's parts hold, and which folders are refused."""

import dataclasses
import math

import numpy as np
import pytest

from benchmarks import explanation as study
from benchmarks.explanation import LOST, Key, Measured
from dropfold.explain import dropping, saliency
from dropfold.explain.run.found import Clouds
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from dropfold.train.tasks.trained import Trained
from tests.train.conftest import folder, furniture, small  # noqa: F401

THIRTY = {name: Key("dropping", "", name, "30 %") for name in ("xgrad_cam", "radius")}


def run(seed, values, samples=None, noise="none", **more):
    return Measured("pointnet", noise, seed, values, samples or {}, **more)


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


def test_a_pair_of_the_game_is_drawn_as_often_as_both_of_its_shapes():
    """A seed counts once, however many of its pairs are valid; and the interval is of that mean."""
    base, other = (Key("game", "", name, "top") for name in ("xgrad_cam", "radius"))
    chosen = [np.array([[0, 1]]), np.array([[2, 3], [4, 5], [6, 7]])]
    fall = [np.array([0.4]), np.array([-0.2, -0.2, -0.2])]
    runs = []
    for seed, (pairs, d) in enumerate(zip(chosen, fall)):
        samples = {base: np.full(len(d), 0.5), other: 0.5 + d}
        runs.append(run(seed, {key: v.mean() for key, v in samples.items()}, samples, pairs=pairs))
    found = line(study.summarize(runs), other)
    assert found["difference"] == pytest.approx(0.1)
    assert found["difference_low"] == pytest.approx(
        0.1
    )  # where a seed's pairs are not drawn, the resample says nothing
    assert found["difference_high"] == pytest.approx(0.1)
    # Two pairs that share shape 0, worth 1 and 0: shape 0 is in both, so their weights are those of shapes 1 and 2.
    low, high = study.between_pairs([(np.array([[0, 1], [0, 2]]), np.array([1.0, 0.0]))])
    assert (low, high) == (0.0, 1.0)


def test_what_a_noise_changes_is_paired_by_seed_with_the_network_without():
    key = THIRTY["radius"]
    plain = [run(s, {key: v}, {key: np.array([v, v])}) for s, v in ((0, 0.2), (1, 0.4), (2, 0.9))]
    noisy = [run(s, {key: v}, {key: np.array([v, v])}, noise="point") for s, v in ((0, 0.5), (1, 0.9))]
    without, found = study.summarize([*plain, *noisy])
    assert math.isnan(without["change"])
    assert found["change"] == pytest.approx(0.4)  # 0.3 and 0.5
    assert found["change_low"] == found["change_high"] == pytest.approx(0.4)


def test_noises_are_groups_of_their_own():
    key = THIRTY["radius"]
    lines = study.summarize([run(0, {key: 0.2}), run(0, {key: 0.6}, noise="cluster")])
    assert [(one["noise"], one["mean"]) for one in lines] == [("none", 0.2), ("cluster", 0.6)]


def test_runs_that_differ_in_more_than_their_seed_are_no_group():
    key = THIRTY["radius"]
    runs = [run(s, {key: 0.2}, settings={"lr": lr}) for s, lr in ((0, 1e-3), (3, 2e-3))]
    with pytest.raises(
        ValueError, match=r"seeds 0 and 3 of pointnet with noise none differ in lr, 0.001 and 0.002"
    ):
        study.summarize(runs)
    runs = [
        run(0, {key: 0.2}, settings={"lr": 1e-3}),
        run(0, {key: 0.2}, noise="point", settings={"lr": 2e-3}),
    ]
    with pytest.raises(ValueError, match="differ in lr"):
        study.summarize(runs)
    with pytest.raises(ValueError, match="two runs of pointnet with noise none are of seed 0"):
        study.summarize([run(0, {key: 0.2}), run(0, {key: 0.4})])
    asked = [run(s, {key: 0.2}, asked={"axioms": {"clouds": n}}) for s, n in ((0, 12), (1, 24))]
    with pytest.raises(ValueError, match="axioms of seeds 0 and 1 of pointnet"):
        study.summarize(asked)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, folder):  # noqa: F811
    """Two small runs, that differ in their seed."""
    made = []
    for seed in (0, 1):
        out = tmp_path_factory.mktemp("runs") / f"{seed}"
        config = small(folder, out=out, epochs=1, network="pointnet", transforms=False, seed=seed)
        Run(config).train()
        made.append(out)
    return made


def options(tmp_path, *runs, **more):
    return study.Options(runs=runs, out=tmp_path / "study", clouds=3, **more)


def test_the_parts_of_a_small_run_and_what_is_read_of_them(runs, tmp_path):
    study.main(options(tmp_path, *runs))
    places = [tmp_path / f"study/pointnet-cluster/seed-{seed}" for seed in (0, 1)]
    found = study.measured(places[0])
    v, arrays = found.values, checkpoint.load_arrays(places[0] / "study.npz")
    assert (found.network, found.noise, found.seed) == ("pointnet", "cluster", 0)
    trained = Trained.of(runs[0])
    test = trained.split("test")
    clouds = Clouds(
        trained.network, trained.task.inputs(test, trained.config)[0], test.label.long(), [], list("abc")
    )
    predicted = clouds.logits().argmax(1)
    assert v[Key("dropping", "", "", "whole")] == float((predicted == clouds.label).double().mean())
    scores = saliency(
        clouds.network, clouds.x, predicted, "grad_cam"
    )  # of the class that is seen, not of the truth
    curve = dropping(clouds.network, clouds.x, scores, (0.1, 0.3, 0.5)).right(clouds.label)
    assert np.array_equal(arrays["lost/grad_cam"], curve.numpy() > 0)
    for measure, right in zip(LOST, curve):
        assert v[Key("dropping", "", "grad_cam", measure)] == pytest.approx(float(right.mean()))
    assert v[Key("dropping", "", "grad_cam", "mean")] == pytest.approx(float(curve.mean()))
    assert Key("dropping", "", "radius", "infidelity") not in v  # it is not in logits
    assert v[Key("dropping", "", "radius", "last layer anew")] == pytest.approx(1)
    assert len(arrays["axioms/conv2/grad_cam/sensitivity"]) == 3
    assert v[Key("axioms", "conv2", "grad_cam", "sensitivity")] == np.median(
        arrays["axioms/conv2/grad_cam/sensitivity"]
    )
    assert len(arrays["axioms/conv3.activation/grad_cam/sensitivity"]) == len(clouds.x)
    assert {of for table, _, of, measure in v if table == "removed"} >= {"exact ablation", "random"}
    assert set(found.part) == set(v)
    assert found.part[Key("units", "zero", "", "loss_mean")] == "units"
    assert set(found.source) == {"maps", "game", "units", "axioms", "pool"}
    rows = (tmp_path / "study/table.csv").read_text().splitlines()
    assert rows[0].startswith("network,noise,table,at,of,measure,seeds,mean,half_width,difference,")
    # `dropping` alone is the same as in `maps`.
    study.main(options(tmp_path / "alone", runs[0], parts=("dropping",)))
    alone = checkpoint.load_arrays(
        tmp_path / "alone/study" / places[0].relative_to(tmp_path / "study") / "study.npz"
    )
    assert all(np.array_equal(arrays[name], value) for name, value in alone.items())
    study.summarize([found, dataclasses.replace(found, noise="none")])  # what the noise changes, of every key
    # Random numbers are the seed's.
    other = checkpoint.load_arrays(places[1] / "study.npz")
    assert not np.array_equal(arrays["lost/random"], other["lost/random"])


def test_what_is_there_is_kept_and_what_is_another_run_refused(runs, tmp_path, monkeypatch):
    asked = []
    parts = {name: record(name, asked) for name in ("axioms", "units", "broken")}
    monkeypatch.setattr(study, "PARTS", parts)
    place = tmp_path / "place"

    def measure(*names, run=runs[0], clouds=3):
        study.measure_run(run, place, study.Options(runs=(run,), parts=names, clouds=clouds))
        return checkpoint.load_arrays(place / "study.npz")

    with pytest.raises(ValueError, match="no"):
        measure("axioms", "broken", "units")
    assert set(measure("axioms", "units")) == {"axioms", "units"}
    measure("units", "axioms")
    assert asked == ["axioms", "broken", "units"]
    measure("axioms", "units", clouds=5)  # of other clouds
    assert asked[3:] == ["axioms"]
    (place / "study.npz").unlink()  # lost: measured anew
    assert set(measure("axioms", "units", clouds=5)) == {"axioms", "units"}
    assert asked[4:] == ["axioms", "units"]
    with pytest.raises(ValueError, match=r"holds what was measured of another run than .*give another --out"):
        measure("axioms", run=runs[1])


def record(name, asked):
    def measure(of):
        asked.append(name)
        if name == "broken":
            raise ValueError("no")
        return {name: np.arange(3)}, {"of": name}

    return measure


def test_every_run_is_looked_at_before_one_is_measured(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "PARTS", {})
    with pytest.raises(FileNotFoundError):
        study.main(options(tmp_path, runs[0], tmp_path / "none"))
    assert not (tmp_path / "study").exists()


def test_the_effective_number_counts_those_that_share():
    assert study.effective_number(np.array([2.0, 2.0, 2.0, 0.0, -3.0])) == pytest.approx(3)
    # Shares 3/4 and 1/4: exp(ln 4 - 3/4 ln 3).
    assert study.effective_number(np.array([3.0, 1.0])) == pytest.approx(4 / 3**0.75)
