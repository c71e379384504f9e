"""Which folders are splits and which are classes: by where they stand, or asked."""

import re

import pytest

from dropfold.data_scripts.schemas.h5_file import TEST, TRAIN, VALIDATION
from dropfold.data_scripts.schemas.split_folders import place_files, split_of
from dropfold.data_scripts.work.errors import SchemaError

SYNSET, AREA = re.compile(r"\d{8}"), re.compile(r"[Aa]rea_?([1-9]\d*)")


def placed(folders, answer="auto", noun="class", whole=None):
    places, notes = place_files(
        [tuple(filter(None, one.split("/"))) for one in folders.split()], answer, noun, whole
    )
    return [(place.split, "/".join(place.inner)) for place in places], notes


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("train", TRAIN), ("Training", TRAIN), ("TRAIN_SET", TRAIN), ("train-data", TRAIN), ("dev", VALIDATION),
        ("Valid", VALIDATION), ("val", VALIDATION), ("testing", TEST), ("TestSet", TEST), ("eval", TEST),
        ("trainer", None), ("test tube", None), ("device", None), ("valve", None), ("set", None), ("data", None), ("", None),
    ],
)  # fmt: skip
def test_words_of_a_split(word, split):
    assert split_of(word) == split


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ("car bus", [(None, "car"), (None, "bus")]),
        ("train/car test/car", [(TRAIN, "car"), (TEST, "car")]),
        ("car/train car/test bus/train", [(TRAIN, "car"), (TEST, "car"), (TRAIN, "bus")]),
        ("TRAINING/car Testing/bus dev/car", [(TRAIN, "car"), (TEST, "bus"), (VALIDATION, "car")]),
        ("train/car/0001 test/train/0002", [(TRAIN, "car/0001"), (TEST, "train/0002")]),  # a class of railway trains
        ("car/0001/models bus/2/models", [(None, "car/0001/models"), (None, "bus/2/models")]),
        ("ModelNet/car/train ModelNet/bus/test", [(TRAIN, "car"), (TEST, "bus")]),
        ("a/b/train/car a/b/test/car", [(TRAIN, "car"), (TEST, "car")]),
        ("my/car my/bus my", [(None, "car"), (None, "bus"), (None, "")]),  # a file beside the classes
        ("car/train car/test", [(TRAIN, "car"), (TEST, "car")]),
        ("wave/monday/test clap/val train/wave", [(None, "wave/monday/test"), (VALIDATION, "clap"), (TRAIN, "wave")]),
        ("train/car train/bus test/car docs/pics", [(TRAIN, "car"), (TRAIN, "bus"), (TEST, "car"), (None, "docs/pics")]),
    ],
)  # fmt: skip
def test_where_files_stand(folders, expected):
    assert placed(folders)[0] == expected


@pytest.mark.parametrize("folders", ["car bus train", "car/1 bus/2 train/3", "car/train car/test train/train train/test",
                                     "car bus test val train"])  # fmt: skip
def test_a_class_called_train_is_a_class_and_that_is_said(folders):
    found, notes = placed(folders)
    classes = [one.split("/")[0] for one in folders.split()]
    assert [inner.split("/")[0] for _, inner in found] == classes
    assert any("train is taken as a class, beside car" in note for note in notes)
    assert {split for split, _ in found} == ({TRAIN, TEST} if "car/train" in folders else {None})


@pytest.mark.parametrize(
    "folders",
    [
        "train test",
        "car train/bus",
        "car train train/bus",
        "wave/monday wave/test clap",
        "train/train test/test",
    ],
)
def test_where_nothing_decides_it_is_asked(folders):
    with pytest.raises(SchemaError, match=r"a split, or .* --split-folders yes .*--split-folders no"):
        placed(folders)
    for answer in ("yes", "no"):
        placed(folders, answer)


def test_the_answer_holds():
    assert placed("train test car", "no")[0] == [(None, "train"), (None, "test"), (None, "car")]
    assert placed("train/bus car", "yes")[0] == [(TRAIN, "bus"), (None, "car")]
    assert placed("car/train train", "yes")[0] == [(TRAIN, "car"), (TRAIN, "")]


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ("train/car train/bus", "the folders state train and no test: nothing is left to test on"),
        ("train/car val/car", "the folders state train, val and no test"),
        ("test/car test/bus", "the folders state test and no train"),
        ("car/train car/test bus", "1 files lie in no split folder: they train"),
        ("train/car eval/car", "eval is taken as the test split"),
        ("shapes/car shapes/bus", "all lies in shapes: the folders in it are the class folders"),
    ],
)
def test_what_is_not_whole_or_guessed_is_said(folders, said):
    assert any(said in note for note in placed(folders)[1])


def test_whole_splits_are_silent_and_two_tests_are_asked():
    assert placed("train/car val/car test/car")[1] == []
    with pytest.raises(SchemaError, match="is the folder eval validation, beside a folder for testing"):
        placed("train/car eval/car test/car")


def test_names_that_are_classes_for_certain():
    assert placed("02691156/a 02691156/b", whole=SYNSET)[0] == [(None, "02691156/a"), (None, "02691156/b")]
    found, _ = placed("Core/02691156/a Core/02691156/b", whole=SYNSET)
    assert found == [(None, "02691156/a"), (None, "02691156/b")]


def test_areas_may_lack_a_folder_and_hold_a_folder_a_scene():
    def areas(folders, answer="auto"):
        return placed(folders, answer, "area", AREA)[0]

    assert areas("train test val/x") == [(TRAIN, ""), (TEST, ""), (VALIDATION, "x")]
    assert areas("Area_1/office Area_1/hall") == [(None, "Area_1/office"), (None, "Area_1/hall")]
    assert areas("school/hall school/office") == [(None, "school/hall"), (None, "school/office")]
    assert areas("all/Area_1 all/Area_2") == [(None, "Area_1"), (None, "Area_2")]
    assert areas("Area_3/test train/Area_7 Area_7/train") == [
        (TEST, "Area_3"),
        (TRAIN, "Area_7"),
        (TRAIN, "Area_7"),
    ]
    with pytest.raises(SchemaError, match="is the folder train a split, or an area beside east"):
        areas("east train")
