"""What is said of a data set that is not there, is a folder, or is of another kind; each kind of file to each recipe."""

from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from dropfold.data_scripts.work.errors import SchemaError
from dropfold.train.config.recipes import RECIPES, recipe
from dropfold.train.data.data_file import CONTENTS, MADE_BY, find_data_set

ONE_OF = {
    "clouds": "furniture",
    "parts": "components",
    "blocks": "s3dis-dgcnn",
    "scenes": "rooms",
    "video": "action-video",
    "images": "fashion-resnet20",
}


def said_of(path, name="furniture"):
    with pytest.raises(SchemaError) as raised:
        find_data_set(replace(recipe(name), data=path))
    return str(raised.value)


def make(path, task, schema="dropfold/1"):
    with h5py.File(path, "w") as file:
        file.attrs["task"] = task
        if schema:
            file.attrs["schema"] = schema
    return path


@pytest.mark.parametrize("task", CONTENTS)
@pytest.mark.parametrize("other", CONTENTS)
def test_each_kind_of_file_to_each_recipe(task, other, tmp_path):
    """Its own is found; of another one the sentence names recipes that read it, and no others."""
    path = make(tmp_path / "a.h5", CONTENTS[other][1])
    if task == other:
        assert find_data_set(replace(recipe(ONE_OF[task]), data=path)) == path
        return
    said = said_of(path, ONE_OF[task])
    assert f"{path} holds {CONTENTS[other][0]}, and {ONE_OF[task]} learns from {CONTENTS[task][0]}." in said
    named = said.partition("Recipes that read it: ")[2].partition(";")[0].removesuffix(", ...").split(", ")
    assert named
    assert {RECIPES[name]().task for name in named} == {other}
    assert f"dropfold train {named[0]} --data {path}" in said


def test_what_is_no_data_set(tmp_path, monkeypatch):
    folder = tmp_path / "chairs"
    folder.mkdir()
    assert f"{folder} is a folder" in said_of(folder)
    assert f"dropfold data meshes --source {folder} --out FILE.h5" in said_of(folder)
    assert f"dropfold data videos --source {folder}" in said_of(folder, "action-video")
    (folder / "chair.off").write_text("OFF\n")
    assert "chair.off is no data set, which is one HDF5 file of many shapes" in said_of(folder / "chair.off")
    make(folder / "a.h5", "classification")
    assert f"Give a file in it: {folder}/a.h5." in said_of(folder)
    (folder / "config.json").write_text("{}")
    assert f"`--start {folder}` begins from its weights" in said_of(folder)
    assert "is an HDF5 file of another program" in said_of(make(tmp_path / "b.h5", "x", schema=""))
    make(tmp_path / "shapes.h5", "classification")
    assert f"Did you mean {tmp_path}/shapes.h5?" in said_of(tmp_path / "shape.h5")
    assert f"Did you mean {tmp_path}/shapes.h5?" in said_of(tmp_path / "shapes")
    assert "Did you mean" not in said_of(tmp_path / "xyzzy.h5")
    monkeypatch.chdir(tmp_path)
    assert "Did you mean shapes.h5?" in said_of(Path("shapse.h5"))


def test_a_broken_file_is_left_to_its_reader(tmp_path):
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(9))
    assert find_data_set(replace(recipe("furniture"), data=tmp_path / "cut.h5")) == tmp_path / "cut.h5"


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_that_are_named_are_there(name, tmp_path, monkeypatch):
    """Of each recipe's own file the sentence says which command makes it."""
    from dropfold.__main__ import DATA

    monkeypatch.chdir(tmp_path)
    config = RECIPES[name]()
    shipped = Path(__file__).parents[3] / config.data
    if not shipped.exists():
        assert "It is made by `dropfold data " in said_of(config.data, name)
        assert {word.split()[0] for word in MADE_BY[config.data.stem]} <= set(DATA)
    assert CONTENTS[config.task][2].split()[2] in DATA
