"""What tests of tables share: a table written, read as a scene and as a shape, and a cloud of everything."""

from pathlib import Path

import numpy as np

from dropfold.data_scripts.readers.columns import AS_FOUND
from dropfold.data_scripts.readers.scene_file import read_scene
from dropfold.data_scripts.readers.shapes import read_points

CASES = Path(__file__).parent / "cases"
POINTS = [[1.5, 2, 3], [4, 5, 6.25]]


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def both(path, layout=AS_FOUND, notes=None):
    """The scene of a file, whose points and number are the shape's too."""
    notes = [] if notes is None else notes
    found = read_scene(path, layout, notes)
    points, normals = read_points(path, 1, whole=True, layout=layout, notes=[])
    np.testing.assert_array_equal(points, found.points)
    return found, normals


def columns_of(found):
    """Colour of the first point and all labels, as lists."""
    colour, label = found.colour, found.label
    return None if colour is None else colour[0].tolist(), None if label is None else label.tolist()


def cloud(n=200, seed=0):
    random = np.random.default_rng(seed)
    points, normals = random.uniform(0, 5, (n, 3)), random.normal(size=(n, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    colour = random.integers(0, 256, (n, 3))
    return points, normals, colour, random.integers(0, 256, n), random.integers(0, 13, n)
