"""Files of other programs, and broken ones, that were once read wrongly: what each holds, or what is said of it.

The tables among the files are read in `test_tables`.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dropfold.data_scripts.readers import mesh
from dropfold.data_scripts.readers.decode import Reading, read_clip
from dropfold.data_scripts.readers.scene_file import read_scene
from dropfold.data_scripts.readers.shapes import read_points
from dropfold.data_scripts.schemas import shape_schema
from dropfold.data_scripts.shapes import modelnet40, shapenet_part
from dropfold.data_scripts.work.errors import SchemaError, ShapeError
from dropfold.train.storage import checkpoint
from dropfold.train.storage.sealed import DamagedError

CASES = Path(__file__).parent / "cases"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


# Unit cubes but the last two: a quad with a raised corner, and the five Platonic solids.
@pytest.mark.parametrize(
    ("name", "vertices", "triangles", "area"),
    [
        ("mixed_faces_binary.ply", 8, 12, 6.0),
        ("mixeduv_a.ply", 8, 12, 6.0),
        ("coff.off", 8, 12, 6.0),
        ("face_without_newline.ply", 4, 2, 2.0),
        ("platonic_shelf.ply", 4 + 8 + 6 + 12 + 20, 4 + 12 + 8 + 20 + 36, None),
    ],
)
def test_meshes_are_read_whole(name, vertices, triangles, area):
    found = mesh.read_triangles(CASES / name)
    assert found.vertices.shape == (vertices, 3)
    assert found.triangles.shape == (triangles, 3)
    a, b, c = (found.vertices[found.triangles[:, i]] for i in range(3))
    if area is not None:
        assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx(area)
    for points in (a, b, c):
        assert len(np.unique(points, axis=0)) > 1


def test_points_stop_where_the_header_says():
    points, _ = read_points(CASES / "points_emptyascii.ply", 100, whole=True, notes=[])
    assert points.shape == (12, 3)
    ends = [[-0.010441, -0.013788, 0.0382], [-0.009691, -0.013861, 0.0384]]
    np.testing.assert_array_equal(points[[0, 11]].round(6), ends)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ant-half.ply", r"ends after 259 of 912 faces \(truncated\?\)"),
        ("notail.stl", r"line 86: ends after 12 triangles without endsolid \(truncated\?\)"),
        ("obj_faces_not_triangles.obj", "line 13: a vertex ends before its third coordinate"),
        ("faces_first.ply", "ends after 1 of 4000000000 faces"),
        ("huge_skip.ply", "ends after 3 of 99999999999999999999 rows of 'e'"),
        ("vlr4g.las", "its header counts 4000000000 records"),
        ("vlr_count_garbage.las", "its header counts 1069128089 records"),
        ("laz_abort_35.laz", "its 1426063360 chunks of 50000 in 1007 bytes cannot hold them"),
        ("laz_old_compressor.laz", r"compressed by LASzip 1\.2 in a form without chunks .* laszip -i IN\.laz -o OUT\.laz"),
    ],
)  # fmt: skip
def test_broken_files_are_named_with_the_true_reason(name, message):
    with pytest.raises(ShapeError, match=message) as caught:
        read_points(CASES / name, 100, notes=[])
    assert str(CASES / name) in str(caught.value)


def test_labels_in_an_extra_dimension_of_las():
    """Every 60th of 12,000 points; label 0 is red, 1 green, 2 blue, and the classification is all 0."""
    scene = read_scene(CASES / "extra_dimension_label.las", notes=[])
    assert len(scene.points) == 200
    np.testing.assert_array_equal(scene.label, scene.colour.argmax(1))
    np.testing.assert_array_equal(np.unique(scene.label), [0, 1, 2])


# The corners of the picture, as ffmpeg shows it.
@pytest.mark.parametrize(
    ("name", "top_left", "top_right", "bottom_left"),
    [("mirrored.mp4", GREEN, RED, WHITE), ("cover_picture_first.mkv", RED, GREEN, BLUE)],
)
def test_videos_are_shown_as_ffmpeg_shows_them(name, top_left, top_right, bottom_left):
    frames = read_clip(CASES / name, name, Reading(frames=4, size="64x48"))
    assert frames.shape == (4, 48, 64, 3)
    for place, colour in (((6, 8), top_left), ((6, -8), top_right), ((-6, 8), bottom_left)):
        np.testing.assert_allclose(frames[0][place].astype(int), colour, atol=8)


def test_damaged_data_sets_are_named(tmp_path):
    def put(name):
        return shutil.copy(CASES / name, tmp_path / "ply_data_train0.h5")

    with pytest.raises(SchemaError, match=r"damaged_shapes\.h5: group / cannot be read"):
        shape_schema.read(CASES / "damaged_shapes.h5")
    put("damaged_modelnet.h5")
    (tmp_path / "shape_names.txt").write_text("chair\n" * 40)
    (tmp_path / "train_files.txt").write_text("ply_data_train0.h5\n")
    (tmp_path / "test_files.txt").write_text("")
    with pytest.raises(SchemaError, match=r"ply_data_train0\.h5: group / cannot be read"):
        modelnet40.convert(tmp_path, "hdf5", 16)
    put("damaged_shapenet_part.h5")
    for word in shapenet_part.SPLITS:
        (tmp_path / f"{word}_hdf5_file_list.txt").write_text("ply_data_train0.h5\n")
    with pytest.raises(SchemaError, match=r"ply_data_train0\.h5: group / cannot be read"):
        shapenet_part.convert(tmp_path, "hdf5", tmp_path / "out.h5")


def test_a_flipped_bit_in_a_checkpoint_is_found_by_its_checksum(tmp_path):
    path = shutil.copy(CASES / "checkpoint_bit_flipped.pt", tmp_path / checkpoint.CHECKPOINT)
    with pytest.raises(
        DamagedError, match=r"checkpoint\.pt is damaged: the checksum of its part archive/data/1 differs"
    ):
        checkpoint.load_state(path)
