"""Folders of shapes: ShapeNetCore, deeper folders, what belongs to a mesh, partial splits, more in a distribution."""

import json
import os
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from dropfold.data_scripts.schemas.shape_schema import TEST, TRAIN, VALIDATION
from dropfold.data_scripts.shapes import modelnet40, own_meshes, shapenet
from dropfold.data_scripts.work.errors import SchemaError

CLOUD = "".join(f"{x:.3f} {y:.3f} {z:.3f}\n" for x, y, z in np.random.default_rng(0).normal(size=(30, 3)))
OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
OFF = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"


def put(root, *names):
    for name in names:
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        more = (
            f"# {crc32(os.fsencode(name))}\n"
            if path.suffix in (".obj", ".off")
            else f"0 0 {crc32(os.fsencode(name)) / 2**32}\n"
        )
        path.write_text(
            {".obj": OBJ, ".off": OFF}.get(path.suffix, CLOUD) + more
        )  # no file is another's copy


def made(root, **options):
    return own_meshes.convert(root, 16, **options)


def classes(clouds):
    return {name: clouds.class_names[c] for name, c in zip(clouds.name, clouds.label)}


def test_synsets_of_shapenet():
    assert len(shapenet.SYNSETS) == 57  # 55 of the second version, bicycle and boat of the first
    assert len(set(shapenet.SYNSETS.values())) == 57
    assert all(shapenet.SYNSET.fullmatch(number) for number in shapenet.SYNSETS)
    assert shapenet.class_of("02958343") == "car"
    assert shapenet.class_of("99999999") == "99999999"


@pytest.mark.parametrize("around", ["", "ShapeNetCore.v2/"])
def test_shapenet_second_version(around, tmp_path):
    for i in range(3):
        for synset in ("02691156", "03001627"):
            models = f"{around}{synset}/{i}a/models"
            put(tmp_path, f"{models}/model_normalized.obj", f"{models}/model_normalized.mtl", f"{models}/model.ply",
                f"{models}/model_normalized.surface.binvox", f"{models}/model_normalized.json",
                f"{around}{synset}/{i}a/images/texture0.jpg", f"{around}{synset}/{i}a/screenshots/0.png")  # fmt: skip
            (tmp_path / models / "model_normalized.mtl").write_text(
                "newmtl a\nmap_Kd -s 1 1 1 ../images/Texture0.JPG\n"
            )
    put(tmp_path, f"{around}taxonomy.json")
    clouds, notes = made(tmp_path)
    assert clouds.class_names == ["airplane", "chair"]
    assert set(classes(clouds).values()) == {"airplane", "chair"}
    assert all(name.endswith("models/model_normalized.obj") for name in clouds.name)
    said = "\n".join(notes)
    assert "6 files were not read, other files of a ShapeNet model that is read" in said
    assert "19 files were not read, of kinds that are not read (7 .json, 6 .binvox, 6 .png)" in said
    assert "43 files in all: 6 read, 12 beside them (6 .jpg, 6 .mtl), 25 not read" in said


def test_shapenet_first_version_and_point_clouds_of_it(tmp_path):
    put(
        tmp_path / "v1", *(f"{synset}/{i}/model.obj" for synset in ("02691156", "04468005") for i in range(4))
    )
    clouds, notes = made(tmp_path / "v1")
    assert clouds.class_names == ["airplane", "train"]
    assert notes == []
    assert sorted(clouds.split.tolist()) == [TRAIN] * 4 + [VALIDATION] * 2 + [TEST] * 2
    put(tmp_path / "pc", *(f"{synset}/{split}/{i}.xyz" for synset in ("02691156", "02958343")
                           for split in ("train", "val", "test") for i in range(2)))  # fmt: skip
    clouds, notes = made(tmp_path / "pc")  # PointFlow's layout
    assert clouds.class_names == ["airplane", "car"]
    assert notes == []
    assert [len(clouds.of(split)) for split in range(3)] == [4, 4, 4]
    for name, split in zip(clouds.name, clouds.split):
        assert name.split("/")[1] == ("train", "val", "test")[split]


def test_the_class_is_the_top_folder_however_deep_a_shape_lies(tmp_path):
    put(tmp_path, "car/sedan/1.xyz", "car/2.xyz", "bus/a/b/c/3.xyz", "bus/4.xyz")
    clouds, notes = made(tmp_path)
    assert classes(clouds) == {
        "car/sedan/1.xyz": "car",
        "car/2.xyz": "car",
        "bus/a/b/c/3.xyz": "bus",
        "bus/4.xyz": "bus",
    }
    assert notes == [
        "note: a class is its top folder, however deep its shapes lie: bus/a/b/c/3.xyz is of bus"
    ]


@pytest.mark.parametrize(
    "layout", ["{c}/{s}/{i}.off", "{s}/{c}/{i}.off", "Model Net/{c}/{s}/{i}.off", "{S}ing/{c}/{i}.off"]
)
def test_a_split_above_or_within_the_classes(layout, tmp_path):
    for c in ("car", "bus"):
        for s, count in (("train", 4), ("test", 2)):
            put(tmp_path, *(layout.format(c=c, s=s, S=s.title(), i=i) for i in range(count)))
    clouds, notes = made(tmp_path)
    assert clouds.class_names == ["bus", "car"]
    for name, split in zip(clouds.name, clouds.split):
        assert ("test" in name.lower()) == (split == TEST)
    assert [len(clouds.of(split)) for split in range(3)] == [6, 2, 4]
    assert len(notes) == layout.startswith("Model")


def test_partial_splits_have_a_said_meaning(tmp_path):
    put(tmp_path / "a", *(f"train/{c}/{i}.xyz" for c in ("car", "bus") for i in range(4)))
    clouds, notes = made(tmp_path / "a")
    assert notes == ["note: the folders state train and no test: nothing is left to test on"]
    assert [len(clouds.of(split)) for split in range(3)] == [6, 2, 0]
    put(tmp_path / "a", *(f"val/{c}/{i}.xyz" for c in ("car", "bus") for i in range(3)))
    clouds, notes = made(tmp_path / "a")
    assert notes == ["note: the folders state train, val and no test: nothing is left to test on"]
    assert [len(clouds.of(split)) for split in range(3)] == [8, 6, 0]


def test_a_class_called_train_and_the_answer_to_a_question(tmp_path):
    put(tmp_path, *(f"{c}/{i}.xyz" for c in ("car", "bus", "train") for i in range(4)))
    clouds, notes = made(tmp_path)
    assert clouds.class_names == ["bus", "car", "train"]
    assert [len(clouds.of(split)) for split in range(3)] == [6, 3, 3]
    assert notes == ["note: train is taken as a class, beside bus, car; --split-folders yes makes it a split"]
    put(tmp_path, "train/bus/1.xyz", "train/tram/1.xyz")
    put(tmp_path / "asks", "train/1.xyz", "test/1.xyz")
    with pytest.raises(SchemaError, match="Give --split-folders yes"):
        made(tmp_path / "asks")
    clouds, _ = made(tmp_path / "asks", split_folders="no")
    assert clouds.class_names == ["test", "train"]
    assert clouds.rebuild.endswith(" --split-folders no")


def test_a_class_of_which_nothing_can_be_read_stops_no_other(tmp_path):
    put(tmp_path, "car/1.xyz", "bus/1.xyz")
    (tmp_path / "bus/1.xyz").write_text("no numbers")
    (tmp_path / "bus/2.obj").write_text("")
    clouds, notes = made(tmp_path)
    assert clouds.class_names == ["car"]
    assert notes[-1] == "no readable shape is of class bus"
    assert notes[:2] == [
        "note: all shapes are of the class car: training needs two classes or more",
        "note: 3 files in all: 1 read, 2 not read",
    ]
    assert ["bus/1.xyz" in notes[2], "bus/2.obj" in notes[3]] == [True, True]


def test_stubs_and_kinds_that_are_not_read_are_named(tmp_path):
    """Whether a kind is known and the file no whole one, or the kind is unknown."""
    put(
        tmp_path,
        *(f"{c}/{i}.xyz" for c in ("car", "bus") for i in range(3)),
        *(f"mug/{i}.glb" for i in range(4)),
    )
    for i in range(4):
        (tmp_path / f"mug/{i}.glb").write_bytes(b"glTF")
    (tmp_path / "car/scan.pcd").write_text("# .PCD v0.7\n")
    (tmp_path / "empty").mkdir()
    clouds, notes = made(tmp_path)
    assert clouds.class_names == ["bus", "car"]
    said = "\n".join(notes)
    assert all(
        name in said for name in ("mug/0.glb", "mug/1.glb", "mug/2.glb", "mug/3.glb", "car/scan.pcd", "empty")
    )


def test_what_belongs_to_a_mesh_is_no_unsupported_file(tmp_path):
    put(
        tmp_path,
        "a/1.obj",
        "a/1.mtl",
        "a/skin.png",
        "a/other.png",
        "b/lone.mtl",
        "b/1.obj.txt",
        "b/2.ply",
        "b/wood.jpg",
    )
    (tmp_path / "a/1.mtl").write_text(
        "map_Kd skin.png\nmap_bump -bm 1 ..\\a\\bumps.tga\nmap_Ks missing.png\n"
    )
    (tmp_path / "a/bumps.tga").write_text("")
    (tmp_path / "b/2.ply").write_text("ply\nformat ascii 1.0\ncomment TextureFile wood.jpg\nend_header\n")
    found = own_meshes.list_shapes(tmp_path)
    assert found.beside == {"a/1.mtl", "a/skin.png", "a/bumps.tga", "b/wood.jpg"}
    assert [one.name for one in found.unread] == ["a/other.png", "b/lone.mtl"]


def test_buffers_and_pictures_of_a_gltf(tmp_path):
    from dropfold.data_scripts.shapes.companions import find_companions

    scene = {
        "buffers": [{"uri": "my%20data.bin"}, {"uri": "data:;base64,AA"}, {}],
        "images": [{"uri": "../t/a.png"}],
    }
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.gltf").write_text(json.dumps(scene))
    (tmp_path / "a/2.gltf").write_text("[" * 100_000)
    (tmp_path / "a/3.gltf").write_text('{"buffers": 3}')
    read, others = ["a/1.gltf", "a/2.gltf", "a/3.gltf"], ["a/my data.bin", "t/a.png", "t/b.png", "a/x.bin"]
    assert find_companions(tmp_path, read, others) == {"a/my data.bin", "t/a.png"}


def test_more_files_in_a_distribution_are_named(tmp_path, capsys):
    root = tmp_path / "ModelNet40"
    put(
        root,
        "car/train/1.off",
        "car/test/2.off",
        "bus/train/3.off",
        "bus/test/4.obj",
        "car/5.off",
        ".DS_Store",
        "README.txt",
    )
    (root / "bus/test/gone.off").symlink_to("nowhere")
    (tmp_path / "elsewhere/tram/train").mkdir(parents=True)
    put(tmp_path / "elsewhere", "tram/train/6.off")
    (root / "tram").symlink_to(tmp_path / "elsewhere/tram")
    options = modelnet40.Options(form="off", source=root, out=tmp_path / "a.h5", points=16, validation=0)
    modelnet40.main(options)
    said = capsys.readouterr().err
    assert (
        "3 files were not read, no .off in CLASS/train or CLASS/test: README.txt, bus/test/4.obj, car/5.off"
        in said
    )
    assert "bus/test/gone.off -> nowhere" in said
    assert "9 files in all: 4 read, 5 not read" in said
    assert modelnet40.convert(root, "off", 16).class_names == ["bus", "car", "tram"]


# The rows of the case folders.sh, by its letters: the folder, the classes that it has, and what else is said.
CASE = {
    "a": (["car/{}.xyz", "bus/{}.xyz", "train/{}.xyz"], ["bus", "car", "train"], "train is taken as a class"),
    "b": (["car/{}.xyz", "bus/{}.xyz", "mug/{}.glb"], ["bus", "car"], "mug/0.glb"),
    "c": (
        ["02691156/{}a/models/model_normalized.xyz", "03001627/{}b/models/model_normalized.xyz"],
        ["airplane", "chair"],
        "",
    ),
    "d": (["02691156/{}a/model.xyz", "03001627/{}b/model.xyz"], ["airplane", "chair"], ""),
    "e": (["ball/{}.xyz", "../elsewhere/box/{}.xyz"], ["ball", "box"], ""),
    "f": (
        [f"{s}/{c}/{{}}.xyz" for s in ("training", "testing") for c in ("ball", "box")],
        ["ball", "box"],
        "",
    ),
    "g": (["ball/{}.xyz", "box1.xyz"], ["ball"], "box1.xyz"),
    "h": (["ball/{}.xyz", "box/{}.xyz", "ball/caf\udce9.xyz"], ["ball", "box"], ""),
    "my shapes": (["ball/{}.xyz", "box/{}.xyz"], ["ball", "box"], ""),
}


@pytest.mark.parametrize("name", CASE)
def test_a_row_of_the_case_of_folders(name, tmp_path):
    forms, expected, words = CASE[name]
    files = sorted({form.format(i) for form in forms for i in range(6)})
    root = tmp_path / name
    put(root, *files)
    if name == "e":
        (root / "box").symlink_to(tmp_path / "elsewhere/box")
    clouds, notes = made(root)
    assert clouds.class_names == expected
    read = [file for file in files if not file.endswith(".glb") and file != "box1.xyz"]
    assert len(clouds.name) == len(read)
    assert words in "\n".join(notes)
    if name == "f":
        assert sorted(clouds.split.tolist()).count(TEST) == 12


def test_files_on_both_sides_of_a_split_are_said(tmp_path):
    """Equal files, whatever their names; not equal ones of glTF, whose numbers lie in other files."""
    put(
        tmp_path / "a",
        *(f"{s}/{c}/{i}.off" for s in ("train", "test") for c in ("car", "bus") for i in range(3)),
    )
    root = tmp_path / "a"
    copies = (("train/car/1", "test/car/0"), ("train/bus/2", "test/car/2"), ("test/bus/0", "test/bus/1"))
    for one, other in copies:
        (root / f"{other}.off").write_bytes((root / f"{one}.off").read_bytes())
    clouds, notes = made(root)
    assert len(clouds.name) == 12
    assert notes == [
        "note: 2 shapes that test are known from training or validation, which flatters the scores: test/car/0.off -> "
        "train/car/1.off, test/car/2.off -> train/bus/2.off"
    ]


def test_gltfs_of_other_buffers_are_no_copies(tmp_path):
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype="<f4")
    scene = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}], "buffers": [{"uri": "scene.bin", "byteLength": 36}],
    }  # fmt: skip
    for name, scale in (
        ("train/a/1", (1, 1, 1)),
        ("train/b/2", (2, 1, 1)),
        ("test/a/3", (1, 2, 1)),
        ("test/b/4", (1, 1, 1)),
        ("test/b/5", (2, 2, 2)),  # as another file would be, though shapes are scaled alike
    ):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "scene.gltf").write_text(json.dumps(scene))
        (folder / "scene.bin").write_bytes((points * np.float32(scale)).tobytes())
    _, notes = made(tmp_path)
    assert [note for note in notes if "known" in note] == [
        "note: 1 shape that tests is known from training, which flatters the scores: test/b/4/scene.gltf -> "
        "train/a/1/scene.gltf"
    ]
