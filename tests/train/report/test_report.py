"""The report of a run takes more sections, and needs nothing but the run."""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from dropfold.data_scripts.schemas import shape_schema
from dropfold.train.config.configs import CloudConfig
from dropfold.train.engine.method import Method
from dropfold.train.engine.run import Run
from dropfold.train.report.report import PAGE, as_script, counted, curves, fill_page, percent, write_report
from dropfold.train.scoring import intervals
from dropfold.train.scoring.metrics import scene_scores
from dropfold.train.tasks import clouds
from dropfold.train.tasks.section import Section
from dropfold.train.tasks.trained import Trained
from tests.train.conftest import small


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    Run(small(folder, out=out, epochs=1)).train()
    return out


def content_of(run):
    page = (run / "report.html").read_text()
    return json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.S)[1])


def test_sections_come_after_those_of_the_task(finished):
    before = content_of(finished)
    table = Section("Layers", "A table.", head=["layer", "points"], rows=[["conv1", "32"]])
    chart = Section(
        "Speed", charts=[{"title": "ms", "lines": [{"name": "cpu", "y": [3.0, 2.0]}], "x": [16, 32]}]
    )
    write_report(Trained.of(finished), [table, chart])
    after = content_of(finished)
    more = after["sections"][len(before["sections"]) :]
    assert [section["title"] for section in more] == ["Layers", "Speed"]
    assert more[0]["rows"] == [["conv1", "32"]]
    assert "charts" not in more[0]
    assert more[1]["charts"][0]["x"] == [16, 32]
    assert {**after, "sections": before["sections"]} == before


def test_a_finished_run_is_read_when_it_is_asked_for(finished, tmp_path):
    trained = Trained.of(finished)
    assert trained._network is trained._data is trained._predictions is None
    assert trained.network is trained.network
    assert set(trained.predictions) == {"logits", "label", "index"}
    assert len(trained.split("test")) == len(trained.predictions["label"])
    moved = Trained.of(finished, data=tmp_path / "none.h5")
    with pytest.raises(ValueError, match="is not there"):
        len(moved.data.test)


@pytest.mark.parametrize(
    "changes",
    [{"data": None}, {"protocol": "fold", "held_out": 1}, {"train_on_validation": True}],
    ids=lambda changes: ", ".join(changes),
)
def test_kept_predictions_are_those_of_the_run_alone(changes, finished, folder):
    """They would be scored against labels of other samples."""
    changes = {name: value or folder / "small.h5" for name, value in changes.items()}
    with pytest.raises(ValueError, match=f"this one has another {', '.join(changes)};"):
        len(Trained.of(finished, **changes).predictions)
    same = Trained.of(finished, protocol="split", held_out=None, train_on_validation=False)
    assert set(same.predictions) == {"logits", "label", "index"}


class Widened(Method):
    """Gives the network a tensor that no config builds."""

    def prepare(self, network):
        network.register_buffer("more", torch.zeros(3))
        return network


def test_an_ended_run_with_another_network_is_resumed(folder, tmp_path):
    """Its report is written again without the network, which the config alone cannot build."""
    config = small(folder, out=tmp_path / "run", epochs=1)
    summary = Run(config, [Widened()]).train()
    before = content_of(tmp_path / "run")
    (tmp_path / "run/report.html").unlink()
    assert Run(replace(config, resume=tmp_path / "run"), [Widened()]).train() == summary
    assert content_of(tmp_path / "run") == before


HOSTILE = [
    "</script><script>document.title = 1</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "a\u2028b",
]


def test_every_string_is_text():
    """No character that HTML looks at stands in the embedded JSON, and the page builds its elements from text alone."""
    content = {"names": HOSTILE, "one": {name: name for name in HOSTILE}}
    embedded = as_script(content)
    assert not set(embedded) & set("<>&\u2028\u2029")
    assert embedded.isascii()
    assert json.loads(embedded) == content
    page = fill_page(PAGE, {})
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\bon\w+=", page)
    assert "default-src 'none'" in page


def test_a_hostile_class_name_is_shown(tmp_path, folder):
    """The page of a run whose classes have such names holds them, and one script of data and one of code."""
    data = shape_schema.read(folder / "small.h5")
    names = [*HOSTILE, *data.class_names][: len(data.class_names)]
    shape_schema.write(tmp_path / "a.h5", replace(data, class_names=names))
    Run(small(folder, data=tmp_path / "a.h5", out=tmp_path / "run", epochs=1)).train()
    page = (tmp_path / "run/report.html").read_text()
    assert content_of(tmp_path / "run")["names"] == names
    assert page.count("<script") == page.count("</script>") == 2
    assert "<!--" not in page


def test_what_the_noise_drops_is_typical_and_said(finished):
    (noise,) = (one for one in content_of(finished)["sections"] if one["title"] == "What the noise drops")
    for item in noise["items"]:
        dropped = np.frombuffer(base64.b64decode(item["dropped"]), np.uint8) / 255
        p = float(item["title"].rpartition(" ")[2])
        assert p / 2 <= dropped.mean() <= 1.5 * p, item["title"]
        if not item["graded"]:
            assert f"dropped: {int(dropped.sum())} of {len(dropped)} points (seed " in item["note"]


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5])
def test_the_shown_seed_is_the_first_typical_one(p, folder):
    cloud = shape_schema.read(folder / "small.h5").points[0]
    share, seed, nothing = clouds.draw_typical(cloud, "cluster", p, 32, "gather")
    means = [
        clouds.dropped_share(cloud, "cluster", p, 32, s, "gather").mean() for s in range(clouds.SEEDS_TRIED)
    ]
    typical = [p / 2 <= mean <= 1.5 * p for mean in means]
    nearest = min((s for s, mean in enumerate(means) if mean), key=lambda s: abs(means[s] - p))
    assert seed == (typical.index(True) if any(typical) else nearest)
    assert share.any()
    assert nothing == sum(mean == 0 for mean in means)


def test_the_head_is_that_of_the_summary_and_epochs_count_from_one(finished):
    reached = json.loads((finished / "summary.json").read_text())["test/overall_accuracy"]
    page = content_of(finished)
    assert page["title"] == f"furniture: overall accuracy {100 * reached:.1f} % on 12 test shapes"
    assert "; 1 epoch on 30 shapes, 3 classes. " in page["lead"]
    assert page["epochs"] == [1]


def test_the_leading_accuracy_has_an_interval(finished):
    predictions = Trained.of(finished).predictions
    right = int((predictions["logits"].argmax(1) == predictions["label"]).sum())
    low, high = stats.binomtest(right, len(predictions["label"])).proportion_ci(method="wilson")
    said = content_of(finished)["interval"]
    assert f"{100 * low:.1f} to {100 * high:.1f} % (Wilson, over the " in said
    assert "other seeds" in said


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (3, 10), (50, 50), (0, 30)])
def test_wilson(hits, n):
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(intervals.wilson(hits, n), expected, atol=1e-6)


def test_figures_of_shapes_and_rooms_are_resampled():
    random = np.random.default_rng(0)
    iou = random.uniform(0.4, 1, 400)
    low, high, method = intervals.leading_interval("instance_mean_iou", {"iou": iou})
    error = 1.96 * iou.std() / 20
    # 2,000 resamples leave a standard error of 0.03 of these.
    np.testing.assert_allclose((low, high), (iou.mean() - error, iou.mean() + error), atol=0.1 * error)
    assert method == "bootstrap"
    rooms = random.integers(100, size=(8, 4, 4))
    rooms[:, 3] = rooms[:, :, 3] = 0  # a class that is nowhere does not count
    drawn = [scene_scores(rooms[random.integers(8, size=8)].sum(0)).leading for _ in range(4000)]
    expected = np.quantile(drawn, [0.025, 0.975])
    found = intervals.leading_interval("mean_iou", {"confusions": rooms})
    np.testing.assert_allclose(found[:2], expected, atol=0.05 * np.ptp(expected))
    rooms = np.stack([np.diag([9, 5])] * 6)
    assert intervals.leading_interval("mean_iou", {"confusions": rooms})[:2] == (1.0, 1.0)
    assert intervals.leading_interval("mean_iou", {"confusions": rooms[:4]}) is None


def test_numbers_have_their_nouns():
    assert [counted(1, one) for one in ("shapes", "classes", "rooms", "epochs", "test clips", "parts")] == [
        "1 shape", "1 class", "1 room", "1 epoch", "1 test clip", "1 part"
    ]  # fmt: skip
    assert counted(1234, "shapes") == "1,234 shapes"
    assert percent(float("nan")) == percent(None) == "–"


def test_values_that_are_no_numbers_are_counted(finished):
    """A validation that is not made in every epoch is no such value."""
    rows = [{"epoch": i, "train/loss": 1.0, "train/accuracy": 0.5, "lr": 0.1} for i in range(3)]
    rows[1] |= {"train/loss": float("nan"), "validation/loss": 2.0}
    loss, accuracy, norm, _ = curves(CloudConfig(data="a.h5"), rows, "overall_accuracy")
    assert (loss["broken"], accuracy["broken"], norm["lines"]) == (1, 0, [])
    assert accuracy["share"]
    assert not loss["share"]
