"""The folder of furnished rooms: its layout, interrupted starts, wrong wishes, the picture."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dropfold.data_scripts.interiors import picture, rooms
from dropfold.data_scripts.interiors.catalogue import Stock
from dropfold.data_scripts.interiors.rooms import Options, convert
from dropfold.data_scripts.scenes.s3dis import CLASSES
from dropfold.data_scripts.work.errors import SchemaError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, furniture):
    out = tmp_path_factory.mktemp("rooms") / "raw"
    convert(Options(out=out, areas=1, rooms=2, density=40, workers=1))
    return out


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_folder_is_laid_out_as_s3dis_is(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["Area_1", rooms.ABOUT]
    assert sorted(p.name for p in (folder / "Area_1").iterdir()) == ["hallway_1", "office_1"]
    assert set(json.loads((folder / rooms.ABOUT).read_text())) >= {"source", "credits", "rebuild"}
    for room in (folder / "Area_1").iterdir():
        lines = sorted((room / f"{room.name}.txt").read_text().splitlines())
        parts = list((room / "Annotations").iterdir())
        assert sorted(line for p in parts for line in p.read_text().splitlines()) == lines
        assert {p.stem.rsplit("_", 1)[0] for p in parts} <= set(CLASSES)
        table = np.array([line.split() for line in lines], float)
        assert table.shape[1] == 6
        assert np.isin(table[:, 3:], np.arange(256)).all()


def test_an_interrupted_start_goes_on(folder):
    """A room that is missing and a half-written one: made again, to the same bytes; the finished one is not touched."""
    before = contents(folder)
    area = folder / "Area_1"
    kept = area / "hallway_1/hallway_1.txt"
    stamp = kept.stat().st_mtime_ns
    hidden = area.rename(folder / ".Area_1")
    half = (hidden / "office_1").rename(hidden / ".office_1")
    (half / "office_1.txt").write_text("1 2")
    convert(Options(out=folder, areas=1, rooms=2, density=40, workers=1))
    assert contents(folder) == before
    assert kept.stat().st_mtime_ns == stamp


def test_ctrl_c_ends_in_a_sentence(tmp_path, run_python):
    """In a terminal, where every process of the group hears it."""
    code = (
        "import os, signal, sys, threading, time\nfrom pathlib import Path\n"
        "from dropfold.__main__ import main\n"
        "os.setpgrp()\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def interrupt():\n"
        "    while not list(Path(sys.argv[2]).rglob('*.txt')):\n        time.sleep(0.02)\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=interrupt, daemon=True).start()\n    main(['data', 'rooms', *sys.argv[1:]])\n"
    )
    program = tmp_path / "program.py"
    program.write_text(code)
    done = run_python(str(program), "--out", str(tmp_path / "a"), "--workers", "1", PYTHONPATH=str(ROOT))
    assert done.returncode == 130
    assert "interrupted; the same command goes on with what is missing" in done.stderr
    assert "Traceback" not in done.stderr
    finished = [path for path in (tmp_path / "a").glob(".Area_*/*") if not path.name.startswith(".")]
    assert len(finished) < 6  # those that were begun, of 36


def test_wrong_wishes_are_said(folder, tmp_path, furniture):
    with pytest.raises(SchemaError, match="other options"):
        convert(Options(out=folder, areas=1, rooms=2, density=50))
    with pytest.raises(SchemaError, match="expected 1 to 6 areas"):
        convert(Options(out=tmp_path / "a", areas=7))
    assert not (tmp_path / "a").exists()
    (tmp_path / "mine").write_text("something else")
    with pytest.raises(SchemaError, match="not empty"):
        convert(Options(out=tmp_path))
    with pytest.raises(SchemaError, match="without normals"):
        Stock(replace(furniture, normals=None), (0,))


def test_the_sheet_is_a_picture(folder, tmp_path):
    from PIL import Image

    picture.draw_sheet(folder, tmp_path / "docs/rooms.png", area=1)
    with Image.open(tmp_path / "docs/rooms.png") as found:
        assert found.size[0] > 1000
        assert len(np.unique(np.asarray(found.convert("RGB")).reshape(-1, 3), axis=0)) > 100
    with pytest.raises(SchemaError, match="no area 3"):
        picture.draw_sheet(folder, tmp_path / "x.png", area=3)
