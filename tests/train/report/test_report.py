"""The report of a run takes more sections, and needs nothing but the run."""

import json
import re
from dataclasses import replace

import pytest
import torch

from dropfold.train.engine.method import Method
from dropfold.train.engine.run import Run
from dropfold.train.report.report import write_report
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
