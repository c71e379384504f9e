"""`dropfold explain RUN`: what it writes of small runs on clouds and on videos, and what it refuses."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dropfold.__main__ import main
from dropfold.explain.page.page import write_page
from dropfold.explain.run.command import FILES
from dropfold.explain.run.found import check_runner_up
from dropfold.train.engine.run import Run
from dropfold.train.storage import checkpoint
from tests.train.conftest import (  # noqa: F401
    _fresh_accelerator,
    clips,
    folder,
    furniture,
    small,
    small_video,
    video_folder,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, folder):  # noqa: F811
    out = tmp_path_factory.mktemp("runs") / "a"
    config = small(folder, out=out, epochs=1, network="pointnet", transforms=False)
    Run(config).train()
    return out


def content_of(page):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)[1])


def test_a_run_on_clouds(run, capsys):
    main(["explain", str(run)])
    values = json.loads((run / FILES[0]).read_text())
    arrays = checkpoint.load_arrays(run / FILES[1])
    page = (run / FILES[2]).read_text()
    said = capsys.readouterr().out
    assert "missing at most" in said
    assert "explanation.html" in said
    n = len(values["label"])
    assert arrays["scores/predicted"].shape == (n, 32)
    account = values["predicted"]["account"]
    np.testing.assert_allclose(
        np.sum([account[name] for name in account], 0), values["predicted"]["logit"], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(arrays["scores/predicted"].sum(1), account["evidence"], rtol=1e-3, atol=1e-4)
    assert list(values["dropping"]["methods"]) == ["xgrad_cam", "grad_cam", "radius", "random"]
    assert all(len(v["most"]) == 5 for v in values["dropping"]["methods"].values())
    game = values["two_shape_game"]
    assert game["methods"]["random"]["top"] == (pytest.approx(0.5) if game["valid"] else None)
    assert arrays["units/loss"].shape == (1024,)
    assert arrays["units/class_loss"].shape == (1024, 3)
    content = content_of(page)
    assert len(content["shapes"]) == n
    assert all(len(shape["maps"]) == 3 for shape in content["shapes"])
    assert page.count("<script") == page.count("</script>") == 2


def test_the_same_command_writes_the_same(run):
    main(["explain", str(run)])
    first = checkpoint.load_arrays(run / FILES[1])
    main(["explain", str(run)])
    again = checkpoint.load_arrays(run / FILES[1])
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_classes_and_methods_are_chosen(run):
    names = json.loads((run / "config.json").read_text())["class_names"]
    main(
        [
            "explain",
            str(run),
            "--classes",
            names[1],
            "--methods",
            "xgrad_cam",
            "feature_norm",
            "--units",
            "zero",
        ]
    )
    values = json.loads((run / FILES[0]).read_text())
    assert set(values["label"]) == {1}
    assert list(values["dropping"]["methods"]) == ["xgrad_cam", "feature_norm"]
    assert values["units"]["to"] == "zero"
    given = f"--methods xgrad_cam feature_norm --classes {names[1]} --units zero"
    assert values["command"] == f"dropfold explain {run} {given}"


def test_a_run_on_videos(tmp_path, video_folder):  # noqa: F811
    Run(small_video(video_folder, out=tmp_path / "run", epochs=1)).train()
    main(["explain", str(tmp_path / "run")])
    values = json.loads((tmp_path / "run" / FILES[0]).read_text())
    arrays = checkpoint.load_arrays(tmp_path / "run" / FILES[1])
    account = values["predicted"]["account"]
    assert max(map(abs, account["missing"])) < 1e-4
    np.testing.assert_allclose(arrays["scores/frames"].sum(1), account["evidence"], rtol=1e-3, atol=1e-4)
    assert content_of((tmp_path / "run" / FILES[2]).read_text())["clips"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "lime"], "--methods has no 'lime'; it takes xgrad_cam"),
        (["--classes", "chiar"], "there is no class 'chiar'"),
    ],
)
def test_refused(run, words, said):
    with pytest.raises(SystemExit, match=re.escape(said)):
        main(["explain", str(run), *words])


def test_files_of_others_are_not_replaced(run, tmp_path):
    """They are refused before any work, and all three stay as they are; those of the command are replaced."""
    run = Path(shutil.copytree(run, tmp_path / "run"))
    for name in FILES:
        (run / name).unlink(missing_ok=True)
    for name, spoil, said in (
        (FILES[2], lambda path: path.write_text("<!doctype html> my notes"), "is no explanation of dropfold"),
        (FILES[0], lambda path: path.write_text('{"mine": 1}'), "is no explanation of dropfold"),
        (FILES[1], lambda path: np.savez(path, a=np.zeros(2)), "is no explanation of dropfold"),
        (FILES[0], lambda path: path.symlink_to(tmp_path / "elsewhere.json"), "is a link to"),
        (FILES[1], lambda path: path.mkdir(), "is a folder; move it away"),
    ):
        spoil(run / name)
        with pytest.raises(SystemExit, match=said):
            main(["explain", str(run)])
        assert [path.name for path in run.glob("explanation.*")] == [name]
        if (run / name).is_dir():
            (run / name).rmdir()
        else:
            (run / name).unlink()


def test_a_network_of_one_class_decides_nothing():
    with pytest.raises(ValueError, match="the class chair alone decides between none"):
        check_runner_up(["chair"])
    check_runner_up(["chair", "lamp"])


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="give the folder of a run"):
        main(["explain", str(tmp_path)])


def test_every_string_of_the_page_is_text():
    hostile = "</script><script>alert(1)</script><!--"
    page = write_page({"title": hostile, "lead": hostile, "names": [hostile], "notes": [hostile]})
    assert hostile not in page
    assert content_of(page)["title"] == hostile
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\bon\w+=", page)
    assert "default-src 'none'" in page
