"""Variants over seeds: what the tables say, what is run again, and what is refused."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from safetensors.torch import load_file
from scipy import stats

from dropfold.data_scripts.schemas import shape_schema
from dropfold.data_scripts.work.processes import cores
from dropfold.models.formats import FormatSpec
from dropfold.train.compare import compare, corruptions, results, robustness, studies, table
from dropfold.train.compare.outcomes import Outcome
from dropfold.train.compare.results import write_results
from dropfold.train.config.configs import NoiseConfig
from dropfold.train.config.recipes import recipe
from dropfold.train.engine.check import check
from dropfold.train.tasks.registry import task_of
from tests.train.conftest import small, small_video


def test_intervals_are_students():
    values = [0.61, 0.64, 0.58, 0.66, 0.63]
    found = table.mean(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert found.n == 5
    assert math.isnan(table.mean([0.5]).half)
    assert math.isnan(table.mean([]).mean)


def test_differences_are_paired_by_seed():
    """b is better by 0.1, 0.2 and 0.3 on the same seeds: 0.2 +- 4.303 * 0.1 / sqrt(3); its fourth run failed."""
    scores = {"a": [0.1, 0.5, 0.2, 0.3], "b": [0.2, 0.7, 0.5]}
    rows = [
        {"variant": name, "seed": seed, "score": score, "parameters": 7, "seconds": 2.0 + seed}
        for name, all_ in scores.items()
        for seed, score in enumerate(all_)
    ]
    rows.append({"variant": "b", "seed": 3, "failure": "the mean loss is nan"})
    a, b = table.summarize(rows, "a")
    assert math.isnan(a["difference"])
    assert b["difference"] == pytest.approx(0.2)
    assert b["difference_half_width"] == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert (b["seeds"], b["failed"], b["parameters"], b["seconds"]) == (3, 1, 7, 3.0)
    text = table.as_markdown([a, b], "overall accuracy", "a").splitlines()
    assert text[2].startswith("| a | 4 | 27.5 ± ")
    assert text[3].startswith("| b | 3 (1 failed) | 46.7 ± 62.5 | +20.0 ± 24.8 | 7 | 3 |")
    read = list(csv.DictReader(table.as_csv([a, b]).splitlines()))
    assert float(read[1]["mean"]) == b["mean"]
    assert read[0]["difference"] == ""


def test_a_table_of_failures_alone_is_a_table(tmp_path):
    """As it is written when the first run to end has failed, and when all have."""
    rows = [{"variant": "a", "seed": 0, "failure": "the mean loss is nan"}]
    for found in (None, {}):
        assert "| a | 0 (1 failed) |  |  |" in write_results(tmp_path, rows, "a", found)


def test_other_files_of_the_names_of_tables_and_pictures_are_not_replaced(folder, tmp_path, monkeypatch):
    """Nor is a run begun, or measured, for tables that could not be written."""
    monkeypatch.setitem(compare.STUDIES, "small", lambda: {"none": small(folder)})
    for name in (*results.TABLES, *results.PICTURES):
        out = tmp_path / name
        out.mkdir()
        (out / name).write_text("mine,2026\n")
        for act in (
            lambda out=out: compare.compare(compare.Options("small", out=out)),
            lambda out=out: robustness.robustness(robustness.Options((tmp_path,), out=out)),
        ):
            with pytest.raises(ValueError, match=rf"{name} is there and is no (table|picture) of dropfold"):
                act()
        assert [path.name for path in out.iterdir()] == [name]
        assert (out / name).read_text() == "mine,2026\n"


@pytest.mark.parametrize(
    "row",
    [
        {"fold": 2, "figure": "overall_accuracy", "score": 0.5, "parameters": 1, "seconds": 1.0},
        {"figure": "overall_accuracy", "score": 0.5, "run": "a"},
        {"failure": "the mean loss is nan"},
    ],
)
def test_results_of_an_earlier_start_are_replaced(row, tmp_path):
    """Also where its first run failed and others did not."""
    rows = [{"variant": "a", "seed": 0, **row}, {"variant": "b", "seed": 0, **row}]
    outcome = Outcome(np.arange(40), np.zeros(40, np.int64), np.ones(40, bool))
    by_run = {(name, 0, row.get("fold", -1)): outcome for name in "ab" if "score" in row}
    text = write_results(tmp_path, rows, "a", by_run)
    assert (tmp_path / "comparison.png").exists() == bool(by_run)
    results.check_folder(tmp_path)
    assert write_results(tmp_path, rows, "a", by_run) == text
    start = {"variant": "a", "seed": 1, **({"fold": 2} if "fold" in row else {})}
    write_results(tmp_path, [{**start, "failure": "killed"}, *rows], "a", by_run)
    results.check_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("runs.csv", "variant,seed,accuracy\na,0,0.9\n"),
        ("table.csv", "variant,seeds,mean\na,3,0.9\n"),
        ("table.md", "| variant | seeds | mine |\n|---|---|---|\n"),
        ("levels.md", "| corruption | level |\n|---|---|\n"),
        ("comparison.png", None),
    ],
)
def test_what_the_user_made_alike_is_not_replaced(name, content, tmp_path):
    """A picture of Matplotlib may be anybody's."""
    path = tmp_path / name
    if content is None:
        Figure().savefig(path)
    else:
        path.write_text(content)
    with pytest.raises(ValueError, match=rf"{name} is there and is no (table|picture) of dropfold"):
        results.check_folder(tmp_path)


def test_variants_of_a_recipe_are_a_grid():
    found = compare.variants(
        "furniture", (("noise.kind", "none", "point"), ("lr", "0.1", "0.2"), ("epochs", "3"))
    )
    assert list(found) == [
        f"noise.kind {kind}, lr {lr}" for kind in ("none", "point") for lr in ("0.1", "0.2")
    ]
    config = found["noise.kind point, lr 0.2"]
    assert (config.noise.kind, config.lr, config.epochs) == ("point", 0.2, 3)
    assert config.points == recipe("furniture").points
    (one,) = compare.variants("furniture", (("resample", "False"), ("augment.scale", "0.9 1.1"))).values()
    assert one.resample is False
    assert one.augment.scale == (0.9, 1.1)
    assert list(compare.variants("furniture")) == ["furniture"]


def test_folds_of_a_seed_are_one_value():
    """Five folds of one seed say nothing of other trainings, so no interval; of two seeds the pairs are means over folds."""
    rows = [
        {"variant": name, "seed": seed, "fold": fold, "score": score + 0.1 * fold}
        for name, scores in {"a": [0.2, 0.3], "b": [0.3, 0.5]}.items()
        for seed, score in enumerate(scores)
        for fold in range(5)
    ]
    _, one = table.summarize([row for row in rows if row["seed"] == 0], "a")
    assert one["difference"] == pytest.approx(0.1)
    assert math.isnan(one["difference_half_width"])
    _, two = table.summarize(rows, "a")
    assert (two["seeds"], two["runs"], two["mean"]) == (2, 10, pytest.approx(0.6))
    assert two["difference"] == pytest.approx(0.15)
    assert two["difference_half_width"] == pytest.approx(12.7062 * 0.05, rel=1e-4)  # t(0.975, 1) s / sqrt(2)
    assert "| b | 2 | 10 | 60.0 ± " in table.as_markdown([one, two], "overall accuracy", "a")


@pytest.mark.parametrize("name", ["action-video", "moving-furniture"])
def test_each_video_study_has_its_variants(name):
    found = studies.STUDIES[name]()
    assert next(iter(found)) == "dense"
    assert found["dense"].mega == found["dense"].ih == FormatSpec()
    assert found["TT, input"].hh == FormatSpec()
    assert found["TT, both"].hh.format == "tt"
    assert found["FDHT"].mega.format == "ht"


@pytest.mark.parametrize("name", studies.NOISE_STUDIES)
def test_noise_studies_differ_in_noise_alone(name):
    study = studies.STUDIES[f"noise-{name}"]()
    assert list(study) == ["none", "DropFeat", "DropPoint", "DropCluster"]
    assert all(replace(config, noise=study["none"].noise) == study["none"] for config in study.values())
    assert recipe(studies.NOISE_STUDIES[name]).data == study["none"].data


@pytest.mark.parametrize("name", studies.NOISE_STUDIES)
def test_each_variant_of_a_noise_study_is_a_network_that_can_be_trained(name):
    """Of the data that ship: their points are enough for it, and its layers are those that the noise names."""
    study = studies.STUDIES[f"noise-{name}"]()
    if not study["none"].data.exists():
        pytest.skip(f"{study['none'].data} is made locally.")
    data = task_of(study["none"]).load(study["none"])
    for config in study.values():
        check(config, data)
        task_of(config).build(config, data.signature, 1)


@pytest.mark.parametrize("name", studies.CHOSEN)
def test_settings_are_chosen_with_the_same_chances_for_each_noise(name):
    """Of the rates inside the pool, and then of the positions."""
    study, grid, where = (studies.STUDIES[f"noise-{kind}{name}"]() for kind in ("", "grid-", "where-"))
    for tried in (grid, where):
        kinds = [config.noise.kind for config in tried.values()]
        assert kinds.count("none") == 1
        assert kinds.count("feat") == kinds.count("point") == kinds.count("cluster") > 1
        assert all(replace(config, noise=study["none"].noise) == study["none"] for config in tried.values())
    for config in study.values():
        assert replace(config.noise, layers=("pool",)) in [config.noise for config in grid.values()]
        assert config.noise in [config.noise for config in where.values()]


def run_here(monkeypatch):
    """Runs in this process, one after the other, with the threads that it has: numba's cannot be more or fewer later."""
    monkeypatch.setattr(compare, "cores", lambda: int(os.environ.get("NUMBA_NUM_THREADS", cores())))
    monkeypatch.setattr(
        compare, "run_in_process", lambda config, split, threads: compare.run_one(config, split)
    )


@pytest.fixture
def inline(monkeypatch):
    run_here(monkeypatch)


def test_a_comparison_over_folds_and_under_corruption(folder, tmp_path, monkeypatch, inline):
    """Every shape is tested once by each variant and seed; what was trained without --robustness is measured later."""
    plain = small(
        folder,
        network="pointnet",
        transforms=False,
        epochs=1,
        noise=NoiseConfig(),
        recipe="furniture-pointnet",
    )
    study = {"none": plain, "DropPoint": replace(plain, noise=NoiseConfig("point"))}
    monkeypatch.setitem(compare.STUDIES, "small", lambda: study)
    options = compare.Options("small", seeds=1, folds=True, out=tmp_path / "out")
    before = dict(os.environ)
    text = compare.compare(options)
    assert dict(os.environ) == before  # what its processes are told is told to no other
    assert "| none | 1 | 5 |" in text
    tested = [np.load(path)["index"] for path in sorted((tmp_path / "out/none").rglob("predictions.npz"))]
    assert sorted(np.concatenate(tested)) == list(range(48))
    assert not list((tmp_path / "out").rglob("robustness-test.npz"))
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("checkpoint.pt")}
    text = compare.compare(replace(options, robustness=True))
    assert "| mCE | difference to none |" in text
    assert trained == {path: path.stat().st_mtime_ns for path in trained}
    none, point = csv.DictReader((tmp_path / "out/table.csv").read_text().splitlines())
    assert float(none["mce_mean"]) == pytest.approx(1)
    low, high = float(point["mce_difference_low"]), float(point["mce_difference_high"])
    assert low <= float(point["mce_difference"]) <= high
    assert float(point["difference_half_width"] or "nan") != 0  # one seed: no Student's interval
    for name in ("comparison.png", "levels.png"):
        picture = matplotlib.image.imread(tmp_path / "out" / name)
        assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50  # more than an empty page
    levels = list(csv.DictReader((tmp_path / "out/levels.csv").read_text().splitlines()))
    assert len(levels) == 2 * 5 * len(corruptions.ALL) * corruptions.LEVELS  # variants, folds
    for variant in study:
        files = sorted((tmp_path / "out" / variant).rglob("robustness-test.npz"))
        measured = np.stack([np.load(path)["corrupted"].mean(2) for path in files])
        listed = [float(row["accuracy"]) for row in levels if row["variant"] == variant]
        np.testing.assert_allclose(np.sort(listed), np.sort(measured.ravel()))
    assert (tmp_path / "out/levels.md").read_text().count("\n| ") >= 1 + len(
        corruptions.ALL
    ) * corruptions.LEVELS


def test_a_comparison_goes_on_where_it_was_stopped(video_folder, tmp_path, monkeypatch):
    """One run is whole, one was interrupted after its second epoch, one diverges; the same command ends all."""
    small = small_video(video_folder, epochs=2)
    study = {"slow": small, "wild": small_video(video_folder, epochs=2, lr=1e30)}
    monkeypatch.setitem(compare.STUDIES, "small", lambda: study)
    options = compare.Options("small", seeds=1, jobs=2, out=tmp_path / "out")
    first = compare.compare(options)
    folder = tmp_path / "out/slow/seed-0"
    weights, kept = load_file(folder / "model.safetensors"), (folder / "checkpoint.pt").stat().st_mtime_ns
    with (tmp_path / "out/runs.csv").open() as file:
        slow, wild = csv.DictReader(file)
    summary = json.loads((folder / "summary.json").read_text())
    assert float(slow["score"]) == summary["test/overall_accuracy"]
    assert int(slow["cores"]) == summary["cores"]
    assert "A lower --lr may help" in wild["failure"]
    assert "| wild | 0 (1 failed) |" in first
    (folder / "summary.json").unlink()
    shutil.rmtree(tmp_path / "out/wild")
    run_here(monkeypatch)
    assert compare.compare(options) == first
    for name, value in load_file(folder / "model.safetensors").items():
        assert value.equal(weights[name])
    assert (folder / "checkpoint.pt").stat().st_mtime_ns == kept  # its epochs were not run again
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "moved/slow/seed-0/summary.json").unlink()
    options = replace(options, out=tmp_path / "moved")
    assert compare.compare(options) == first  # a folder that was moved goes on, too
    study["slow"] = small_video(video_folder, epochs=2, lr=0.5)
    with pytest.raises(ValueError, match="seed-0 holds a run with another lr"):
        compare.compare(options)


def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_is_one_failure(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "_work", killed)
    monkeypatch.setitem(compare.STUDIES, "small", lambda: {"none": small(folder)})
    text = compare.compare(compare.Options("small", seeds=2, out=tmp_path / "out"))
    assert "| none | 0 (2 failed) |" in text
    assert (tmp_path / "out/runs.csv").read_text().count("killed by signal 9") == 2


def hear_ctrl_c():
    """Where the tests run in the background of a shell, they ignore it, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupted_comparison_begins_no_other_run(folder, tmp_path):
    """Ctrl-C after the first of four runs; the same command goes on."""
    vary = {"data": folder / "small.h5", "points": 32, "epochs": 1, "batch_size": 8, "k": 5, "emb_dims": 32}
    words = [word for option, value in vary.items() for word in ("--vary", option, str(value))]
    command = [
        sys.executable,
        "-m",
        "dropfold",
        "compare",
        "furniture",
        "--seeds",
        "4",
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(
        [*command, *words],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    assert process.stderr
    assert process.stderr.readline().startswith("1 of 4")
    os.killpg(process.pid, signal.SIGINT)
    assert "interrupted; the same command goes on." in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert not (tmp_path / "out/furniture/seed-2").exists()


def test_a_run_on_another_file_is_not_taken_for_one_on_this(folder, furniture, tmp_path, monkeypatch, inline):
    data = tmp_path / "small.h5"
    shutil.copy(folder / "small.h5", data)
    study = {"none": small(folder, data=data, epochs=1)}
    monkeypatch.setitem(compare.STUDIES, "small", lambda: study)
    options = compare.Options("small", seeds=1, out=tmp_path / "out")
    compare.compare(options)
    shape_schema.write(data, replace(shape_schema.read(data), source="another"))
    compare.compare(options)  # what it says of itself is not in its checksum
    whole = shape_schema.read(data)
    shape_schema.write(data, replace(whole, points=whole.points[:, ::-1].copy()))
    with pytest.raises(ValueError, match=r"small.h5 is not the file that .*seed-0 was trained on"):
        compare.compare(options)


def test_bad_input_is_named(tmp_path):
    def refused(match, *given, **options):
        with pytest.raises(ValueError, match=match):
            compare.compare(compare.Options(*given, out=tmp_path, **options))

    refused("there is no study or recipe 'actions'. Studies: action-video, moving-furniture", "actions")
    refused(
        "--robustness corrupts the coordinates of point clouds, and dense is", "action-video", robustness=True
    )
    refused("there is no variant 'TT' to compare to", "action-video", baseline="TT")
    refused(r"there is no variant \['nothing'\]", "action-video", only=("nothing",))
    refused("at least 1", "action-video", seeds=0)
    refused("--vary lr needs one or more values", "action-video", vary=(("lr",),))
    refused("dense trains on the validation samples too", "action-video", split="validation")
