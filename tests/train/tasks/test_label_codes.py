"""Codes in, codes out: the labels of files keep their numbers through the data set, the run and the files that it labels.

The network of these tests is right at every point: a point's colour says its class. So what is written is what was planted.
"""

import contextlib
import io
import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from dropfold.data_scripts.readers.scene_file import read_scene, write_scene
from dropfold.data_scripts.scenes import own_scenes
from dropfold.data_scripts.schemas import block_schema, part_schema, scene_schema
from dropfold.data_scripts.schemas.scene_schema import SchemaError
from dropfold.train.config.configs import Signature
from dropfold.train.engine.run import Run
from dropfold.train.predict import evaluate, predict
from dropfold.train.predict.labelling import compare_codes, in_words, label_file
from dropfold.train.scoring import metrics
from dropfold.train.storage import checkpoint
from dropfold.train.tasks import blocks, parts, scenes
from dropfold.train.tasks.trained import Trained
from tests.train.small_segmentation import small_blocks, small_parts, small_scenes, write_blocks, write_shapes

FORMATS = (".ply", ".txt", ".csv", ".npy", ".las", ".laz")
CODES = {
    "issue": (4, 12, 14),
    "las": (2, 5, 6),
    "usual": (0, 1, 2),
    "byte": (0, 128, 255),
    "beyond a byte": (7, 256, 300),
    "beyond 16 bits": (1, 65_535, 70_000),
    "negative": (-100, -1, 3),
    "beyond 31 bits": (5, 2**31, 2**32 - 1),
    "64 bits": (-1, 2**32 - 1, 2**40),
}
HOLD = {".ply": range(-(2**31), 2**32), ".las": range(256), ".laz": range(256)}


def holds(suffix, codes):
    """Whether labels of a format can be these: from the formats' specifications."""
    fits = all(code in HOLD.get(suffix, range(-(2**53), 2**53)) for code in codes)
    mixed = suffix == ".ply" and min(codes) < 0 and max(codes) >= 2**31  # no PLY type has both
    return fits and not mixed


def planted(codes, seed=0, points=240):
    """A room: points, colours and labels; a point of codes[i] has nothing but the colour i."""
    random = np.random.default_rng(seed)
    place = random.integers(len(codes), size=points)
    x = random.uniform(0, 1, (points, 3)) * (3, 2, 2.5) + (10, 20, 5)
    colour = np.eye(3, dtype=np.uint8)[place % 3] * np.uint8(200)
    return x, colour, np.array(codes)[place]


class Seer(nn.Module):
    """Logits by the colour of a point."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(9.0))

    def forward(self, x):
        return x[..., 3:6] * self.scale


def converted(folder, suffix, codes, **options):
    """A data set of three files, whose labels are `codes`; what `dropfold data scenes` made and noted."""
    for i in range(3):
        write_scene(folder / f"own/{i}{suffix}", *planted(codes, i))
    made = own_scenes.Options(source=folder / "own", out=folder / "set.h5", workers=1, **options)
    return own_scenes.convert(made)


def seer_of(folder, **options):
    """A run on the data set of a folder whose network is right."""
    config = small_scenes(folder, data=folder / "set.h5", protocol="split", held_out=None, **options)
    return Trained(folder, config, scenes.load(config).signature, network=Seer())


@pytest.mark.parametrize("name", CODES)
def test_planted_codes_come_back_through_every_format(name, tmp_path):
    """From a data set of a format, files of it labelled in each format: the codes exactly, scores 100 %."""
    codes = CODES[name]
    able = [suffix for suffix in FORMATS if holds(suffix, codes)]
    for source in able if name in ("issue", "las") else able[:1]:
        folder = tmp_path / source[1:]
        found, _ = converted(folder, source, codes)
        assert found.codes == list(codes)
        for i in range(3):
            np.testing.assert_array_equal(np.array(codes)[found.room(i).label], planted(codes, i)[2])
        trained = seer_of(folder)
        assert trained.signature.codes == list(codes)
        new, expected = folder / f"new{source}", planted(codes, 9)[2]
        write_scene(new, *planted(codes, 9))
        for target in able:
            row = label_file(trained, new, folder / f"labelled{target}")
            np.testing.assert_array_equal(read_scene(folder / f"labelled{target}").label, expected)
            assert row["against its labels"]["overall_accuracy"] == row["against its labels"]["mean_iou"] == 1
            assert "left out of the scores" not in row
            assert sorted(row["codes"].values()) == sorted(codes)
            by_code = {row["codes"][title]: count for title, count in row["classes"].items()}
            assert by_code == {code: int((expected == code).sum()) for code in codes}


def test_the_row_of_the_case_of_label_codes(tmp_path):
    """label_codes.sh: rooms as text without a header, with labels 4, 12, 14; labelled, they are that again."""
    for i in (1, 2, 3, 9):
        x, colour, label = planted((4, 12, 14), i)
        folder = tmp_path / (f"s/area_{i}" if i < 9 else "new")
        folder.mkdir(parents=True)
        np.savetxt(folder / "room.txt", np.column_stack([x, colour, label]), fmt="%.4f %.4f %.4f %d %d %d %d")
    found, _ = own_scenes.convert(
        own_scenes.Options(source=tmp_path / "s", out=tmp_path / "set.h5", workers=1)
    )
    assert found.codes == [4, 12, 14]
    row = label_file(seer_of(tmp_path), tmp_path / "new/room.txt", tmp_path / "new/labelled.txt")
    written = np.loadtxt(tmp_path / "new/labelled.txt", comments="//")[:, 6]
    np.testing.assert_array_equal(written, planted((4, 12, 14), 9)[2])
    assert row["against its labels"]["overall_accuracy"] == 1


@pytest.mark.parametrize("suffix", [".las", ".laz", ".ply"])
def test_codes_that_a_format_cannot_hold_are_refused_before_the_work(suffix, tmp_path, monkeypatch):
    codes = (-1, 7, 2**32 - 1)
    converted(tmp_path, ".npy", codes)
    write_scene(tmp_path / "new.npy", *planted(codes))

    def work(*rest):
        raise AssertionError("it was read, or labelled")

    trained = seer_of(tmp_path)
    monkeypatch.setattr("dropfold.train.predict.labelling.read_scene", work)
    with pytest.raises(ValueError, match=rf"out\{suffix}: labels -1 .. 4294967295 go beyond "):
        label_file(trained, tmp_path / "new.npy", tmp_path / f"out{suffix}")
    assert not list(tmp_path.glob("*out*"))


def test_points_of_no_class_do_not_count_and_are_counted(tmp_path):
    """Code 1 is left out by --ignore, 9 was never seen; two points of known classes have another's colour."""
    codes = (2, 5, 6)
    for i in range(3):
        x, colour, label = planted(codes, i)
        label[::4] = 1
        write_scene(tmp_path / f"own/{i}.las", x, colour, label)
    made = own_scenes.Options(source=tmp_path / "own", out=tmp_path / "set.h5", ignore=(1,), workers=1)
    found, notes = own_scenes.convert(made)
    assert (found.codes, found.class_names) == ([2, 5, 6], ["ground", "high vegetation", "building"])
    assert not any("unclassified" in note for note in notes)
    x, colour, label = planted(codes, 5)
    written = label.copy()
    label[:50], label[50:53] = 1, 9
    label[100], label[101] = next(code for code in codes if code != label[100]), 1
    write_scene(tmp_path / "new.txt", x, colour, label)
    row = label_file(seer_of(tmp_path), tmp_path / "new.txt", tmp_path / "out.laz")
    np.testing.assert_array_equal(read_scene(tmp_path / "out.laz").label, written)
    assert row["left out of the scores"] == {"1": 51, "9": 3}
    assert row["against its labels"]["overall_accuracy"] == (240 - 54 - 1) / (240 - 54)
    assert in_words(row).endswith(
        "; 51 points of code 1, 3 points of code 9 (no class of the run) left out of the scores"
    )
    write_scene(tmp_path / "strange.txt", x, colour, np.full(240, 7))
    row = label_file(seer_of(tmp_path), tmp_path / "strange.txt", tmp_path / "out.laz")
    assert "against its labels" not in row
    assert in_words(row).endswith("; 240 points of code 7 (no class of the run) so nothing to compare with")


def test_scores_are_those_of_the_classes_by_their_codes():
    """Codes in any order, against a count point by point."""
    random = np.random.default_rng(0)
    codes = np.array([300, -5, 2, 70_000])
    target, predicted = random.choice([*codes, 1, 80_000], 500), random.integers(4, size=500)
    found = compare_codes(target, predicted, codes)
    matrix = np.zeros((4, 4), np.int64)
    for code, c in zip(target.tolist(), predicted.tolist()):
        if code in codes:
            matrix[codes.tolist().index(code), c] += 1
    assert found["against its labels"] == metrics.scene_scores(matrix).figures
    left_out = {code: int((target == code).sum()) for code in (1, 80_000)}
    assert found["left out of the scores"] == {str(code): count for code, count in left_out.items()}
    assert matrix.sum() == 500 - sum(left_out.values())


def test_a_label_0_is_a_label_but_in_las(tmp_path):
    """All 0: never classified, in LAS; in other files the class whose code is 0."""
    codes = (0, 1, 2)
    converted(tmp_path, ".txt", codes)
    x, colour, _ = planted((0,))
    for suffix in (".ply", ".las"):
        write_scene(tmp_path / f"new{suffix}", x, colour, np.zeros(240, np.int64))
    trained = seer_of(tmp_path)
    row = label_file(trained, tmp_path / "new.ply", tmp_path / "out.ply")
    assert row["against its labels"]["overall_accuracy"] == 1
    row = label_file(trained, tmp_path / "new.las", tmp_path / "out.las")
    assert "against its labels" not in row
    assert "classification is 0 (never classified) at every point" in in_words(row)
    assert "every label that was written is 0, which LAS takes for never classified" in in_words(row)
    write_scene(tmp_path / "bare/new.las", x, colour, np.zeros(240, np.int64))
    with pytest.raises(SchemaError, match="has no labels: its classification is 0"):
        own_scenes.convert(own_scenes.Options(source=tmp_path / "bare", out=tmp_path / "b.h5"))


def test_las_points_that_nobody_classified_are_noted(tmp_path):
    _, notes = converted(tmp_path, ".las", (0, 1, 6))
    assert [note for note in notes if "--ignore" in note] == [
        "never classified (0) is a class; --ignore 0 leaves its points out",
        "unclassified (1) is a class; --ignore 1 leaves its points out",
    ]


NAMED = {
    ("6=building", "2=ground", "5=tree"): ([2, 5, 6], ["ground", "tree", "building"]),
    ("2=a=b", "5=tree 5", "6=6", "40=none of these"): (
        [2, 5, 6, 40],
        ["a=b", "tree 5", "6", "none of these"],
    ),
}


@pytest.mark.parametrize("words", NAMED)
def test_classes_are_named_by_their_codes(words, tmp_path):
    found, _ = converted(tmp_path, ".ply", (2, 5, 6), classes=words)
    assert (found.codes, found.class_names) == NAMED[words]
    for i in range(3):
        np.testing.assert_array_equal(np.array(found.codes)[found.room(i).label], planted((2, 5, 6), i)[2])
    assert scenes.load(seer_of(tmp_path).config).signature.codes == found.codes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("2=ground", "tree"), "--classes has 'tree' beside CODE=NAME"),
        (("2=ground", "2=tree"), "--classes has 2 twice"),
        (("2=ground", "6=ground"), "--classes has 'ground' twice"),
        (("2=", "6=ground"), "--classes has '2=' beside CODE=NAME"),
        (("ground", "ground"), "--classes has 'ground' twice"),
        ((f"{2**70}=ground", "6=building"), "which is beyond 2"),
        (("2=ground", "6=building"), r"has labels 2, 5, 6, and --classes names 2, 6; name all of them"),
        (("ground", "tree", "building"), r"has labels 2, 5, 6, and --classes names 0 .. 2; .* as CODE=NAME"),
    ],
)
def test_names_without_sense_are_refused(words, message, tmp_path):
    with pytest.raises(SchemaError, match=message):
        converted(tmp_path, ".ply", (2, 5, 6), classes=words)
    assert not (tmp_path / "set.h5").exists()


def write_rooms_of(path, names=("a", "b", "c"), codes=(4, 12, 14)):
    """A data set of nine rooms in three areas, by the schema."""
    with scene_schema.writer(path, list(names), "tests", "none", "run the tests", codes=codes) as writer:
        for i in range(9):
            x, colour, place = planted((0, 1, 2), i, 400)
            writer.add(f"room {i}", i % 3 + 1, x, colour, place.astype(np.uint8))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one epoch on rooms of the codes 4, 12, 14."""
    folder = tmp_path_factory.mktemp("codes")
    write_rooms_of(folder / "rooms.h5")
    Run(small_scenes(folder, out=folder / "run", epochs=1)).train()
    return folder


def test_a_run_keeps_the_codes_of_its_data(finished, tmp_path, capsys):
    """Whatever becomes of the data set; and JSON has them."""
    config, signature = checkpoint.load_config(finished / "run")
    assert signature.codes == [4, 12, 14]
    assert json.loads((finished / "run/config.json").read_text())["codes"] == [4, 12, 14]
    write_scene(tmp_path / "new.txt", *planted((4, 12, 14), 8))
    hidden = finished / "rooms.gone"
    config.data.rename(hidden)
    try:
        options = predict.Options(
            finished / "run", (tmp_path / "new.txt",), out=tmp_path / "out.ply", json=True
        )
        predict.main(options)
    finally:
        hidden.rename(config.data)
    (row,) = json.loads(capsys.readouterr().out)
    assert row["codes"] == {"a": 4, "b": 12, "c": 14}
    written = read_scene(tmp_path / "out.ply").label
    assert {row["codes"][name]: count for name, count in row["classes"].items()} == dict(
        zip(*(values.tolist() for values in np.unique(written, return_counts=True)))
    )
    accuracy = (written == planted((4, 12, 14), 8)[2]).mean()
    assert row["against its labels"]["overall_accuracy"] == pytest.approx(accuracy, abs=1e-12)


def test_a_run_made_before_codes_were_kept_means_the_indices(finished, tmp_path):
    values = json.loads((finished / "run/config.json").read_text())
    del values["codes"], values["sha256"]  # which came later
    (tmp_path / "config.json").write_text(json.dumps(values))
    config, signature = checkpoint.load_config(tmp_path)
    assert signature.codes == [0, 1, 2]
    write_scene(tmp_path / "new.npy", *planted((0, 1, 2)))
    named = replace(signature, class_names=["4", "12", "14"])
    row = label_file(
        Trained(tmp_path, config, named, network=Seer()), tmp_path / "new.npy", tmp_path / "out.npy"
    )
    assert "class 4 is written as 0" in in_words(row)
    np.testing.assert_array_equal(read_scene(tmp_path / "out.npy").label, planted((0, 1, 2))[2])


def test_evaluation_matches_classes_by_their_names(finished, tmp_path, capsys):
    """The same names in their order: scores as by their own codes, and the codes are said. In another order: refused."""

    def evaluated(**options):
        write_rooms_of(tmp_path / "other.h5", **options)
        evaluate.main(evaluate.Options(finished / "run", data=tmp_path / "other.h5"))
        said = capsys.readouterr()
        return said.err + said.out

    same = evaluated()
    assert "note" not in same
    assert "a (4)" in same
    other = evaluated(codes=(2, 5, 6))
    assert "have the codes [2, 5, 6], those of the run [4, 12, 14]; they are" in other
    assert other.splitlines()[-1] == same.splitlines()[-1]  # the figures
    with pytest.raises(
        ValueError, match=r"has the classes \['b', 'a', 'c'\], the run was trained on \['a', "
    ):
        evaluated(names=("b", "a", "c"), codes=(12, 4, 14))
    with pytest.raises(ValueError, match=r"has the classes \['4', '12', '14'\]"):
        evaluated(names=("4", "12", "14"))


def test_a_run_that_starts_from_another_has_the_codes_of_its_own_data(finished, tmp_path, capsys):
    write_rooms_of(tmp_path / "rooms.h5", codes=(2, 5, 6))
    config = small_scenes(tmp_path, out=tmp_path / "run", start=finished / "run", epochs=1)
    assert Run(config).data.signature.codes == [2, 5, 6]
    said = " ".join(capsys.readouterr().err.split())
    assert said.endswith("[4, 12, 14]; they are matched by their names")
    assert "have the codes [2, 5, 6], those of --start" in said
    write_rooms_of(tmp_path / "rooms.h5", names=("b", "a", "c"), codes=(12, 4, 14))
    with pytest.raises(ValueError, match="was trained on the classes"):
        Run(config)


def test_a_rebuilt_data_set_is_not_the_one_of_the_run(finished, tmp_path):
    """Codes are under the checksum."""
    write_rooms_of(tmp_path / "rooms.h5")
    config = checkpoint.load_config(finished / "run")[0]
    checkpoint.same_data(finished / "run", config, scene_schema.read(tmp_path / "rooms.h5").checksum)
    write_rooms_of(tmp_path / "rooms.h5", codes=(2, 5, 6))
    with pytest.raises(ValueError, match="is not the file that"):
        checkpoint.same_data(finished / "run", config, scene_schema.read(tmp_path / "rooms.h5").checksum)


READ = {"scenes": scene_schema.read, "blocks": block_schema.read, "parts": part_schema.read}


def write_small(task, path, codes):
    if task == "scenes":
        write_rooms_of(path, codes=codes)
    elif task == "blocks":
        write_blocks(path, codes=codes)
    else:
        write_shapes(path)
        part_schema.write(path, replace(part_schema.read(path), codes=list(codes)))


@pytest.mark.parametrize("task", READ)
def test_codes_are_under_the_checksum_and_a_file_without_them_means_the_indices(task, tmp_path):
    path, n = tmp_path / "a.h5", 3 if task == "scenes" else 4
    codes = [70_000, -3, 2, 9][:n]
    write_small(task, path, codes)
    assert READ[task](path).codes == codes
    load = {"scenes": scenes.load, "blocks": blocks.load, "parts": parts.load}[task]
    small = {"scenes": small_scenes, "blocks": small_blocks, "parts": small_parts}[task]
    assert load(small(tmp_path, data=path)).signature.codes == codes
    with h5py.File(path, "r+") as file:
        file["codes"][0] = 5
    with pytest.raises(SchemaError, match="checksum"):
        READ[task](path)
    for bad, message in (
        ([1] * n, "a number of its own for each"),
        (range(1, n), f"each of the {n} classes"),
    ):
        with pytest.raises(SchemaError, match=message):
            write_small(task, tmp_path / "bad.h5", bad)
    for usual in (range(n), ()):
        write_small(task, path, usual)
        with h5py.File(path) as file:
            assert "codes" not in file  # as files were before
        assert READ[task](path).codes == list(range(n))


def test_a_part_is_written_by_its_number_in_the_source(tmp_path):
    write_small("parts", tmp_path / "parts.h5", (10, 11, 20, 21))
    config = small_parts(tmp_path)
    signature = parts.load(config).signature
    network = parts.build(config, signature).eval()
    cloud = np.random.default_rng(0).uniform(0, 1, (75, 3))
    np.savetxt(tmp_path / "plate.xyz", cloud)
    options = {"category": "plate"}
    codes = label_file(Trained(tmp_path, config, signature, network=network), tmp_path / "plate.xyz",
                       tmp_path / "codes.ply", **options)  # fmt: skip
    assert set(read_scene(tmp_path / "codes.ply").label.tolist()) <= {20, 21}
    usual = replace(signature, codes=[])
    label_file(Trained(tmp_path, config, usual, network=network), tmp_path / "plate.xyz", tmp_path / "usual.ply",
               **options)  # fmt: skip
    index = read_scene(tmp_path / "usual.ply").label
    np.testing.assert_array_equal(read_scene(tmp_path / "codes.ply").label, np.array([10, 11, 20, 21])[index])
    assert codes["codes"] == dict(zip(signature.class_names, (10, 11, 20, 21)))


def test_what_the_command_says_of_codes(tmp_path):
    for i in range(3):
        write_scene(tmp_path / f"own/{i}.las", *planted((2, 5, 9), i))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        own_scenes.main(own_scenes.Options(source=tmp_path / "own", out=tmp_path / "a.h5", workers=1))
    assert "labels in the files: ground (2), high vegetation (5), water (9)" in said.getvalue()


def test_a_signature_has_a_code_for_each_class():
    assert Signature(["a", "b"]).codes == [0, 1]
    assert Signature(["a", "b"], codes=[2, 6]).titles == ["a (2)", "b (6)"]
    assert Signature(["2", "b"], codes=[2, 6]).titles == ["2", "b (6)"]
    assert Signature(["a", "b"]).titles == ["a", "b"]
    for bad in ([3], [3, 3], [1, 2, 3]):
        with pytest.raises(ValueError, match="a number of its own for each of the 2 classes"):
            Signature(["a", "b"], codes=bad)
