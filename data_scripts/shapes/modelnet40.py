"""`dropfold data modelnet40 --form hdf5`: makes data/local/modelnet40.h5 from any of its three distributions.

    hdf5              modelnet40_ply_hdf5_2048: 2,048 points a shape, read in the order of train_files.txt and test_files.txt
    normal_resampled  modelnet40_normal_resampled: 10,000 lines x,y,z,nx,ny,nz a shape, the first `points` are taken
    off               ModelNet40's meshes, sampled uniformly on their surface

About 10 % of each class's training shapes become the validation split (--validation 0 for the peers' way, none).
Without --source the archive is downloaded to data/local by https, with resume; its SHA-256 is compared with the one that
--sha256 gives, a published one, or that of the first download (see `dropfold.data_scripts.work.archive`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from dropfold.data_scripts.readers.mesh import read_off, sample_surface
from dropfold.data_scripts.readers.npz import as_float32
from dropfold.data_scripts.readers.shapes import read_numbers
from dropfold.data_scripts.schemas import shape_schema, splits
from dropfold.data_scripts.schemas.centre import normalised
from dropfold.data_scripts.schemas.copies import digest_of, digests_of, note_copies
from dropfold.data_scripts.schemas.hdf5 import open_h5
from dropfold.data_scripts.schemas.shape_schema import TEST, TRAIN, Clouds
from dropfold.data_scripts.work import distribution, jobs
from dropfold.data_scripts.work.archive import download_or_reuse, open_as_folder
from dropfold.data_scripts.work.distribution import read_lines
from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.folders import print_line
from dropfold.data_scripts.work.notes import say

Form = Literal["hdf5", "normal_resampled", "off"]
URLS = {
    "hdf5": "https://shapenet.cs.stanford.edu/media/modelnet40_ply_hdf5_2048.zip",
    "normal_resampled": "https://shapenet.cs.stanford.edu/media/modelnet40_normal_resampled.zip",
    "off": "https://modelnet.cs.princeton.edu/ModelNet40.zip",
}


LISTS = {
    "hdf5": ("shape_names.txt", "train_files.txt", "test_files.txt"),
    "normal_resampled": ("modelnet40_shape_names.txt", "modelnet40_train.txt", "modelnet40_test.txt"),
    "off": (),
}
"""Of each form the file that names the classes, and the lists of the splits."""


class Shape(NamedTuple):
    """One shape, and the place in the distribution that an error about it names."""

    points: np.ndarray
    normals: np.ndarray | None
    label: int
    split: int
    name: str
    where: str


Source = tuple[list[str], int, Iterator[Shape]]  # names of the classes, number of shapes, the shapes


@dataclass
class Options:
    """Make the ModelNet40 data set."""

    form: Form = "hdf5"
    """Which distribution."""
    source: Path | None = None
    """The archive or its unpacked folder; None: download it."""
    out: Path = Path("data/local/modelnet40.h5")
    """The file to write."""
    points: int = 2048
    """Points of each shape (hdf5 has 2,048, normal_resampled 10,000)."""
    validation: float = 0.1
    """Share of each class's training shapes for validation; 0: none."""
    sha256: str | None = None
    """Of the archive, to be checked."""


def convert(folder: Path, form: Form, points: int, validation: float = 0.1) -> Clouds:
    """The data set of an unpacked distribution. One shape or file is read at a time, into arrays of their final size."""
    root = _find_root(folder, form)
    read = {"hdf5": _hdf5, "normal_resampled": _normal_resampled, "off": _off}[form]
    names, n, shapes = read(root, points)
    if n == 0:
        where = " and ".join(LISTS[form][1:]) or "CLASS/train and CLASS/test"
        raise SchemaError(f"{root} names no shapes in {where}; the distribution is not whole.")
    clouds = np.empty((n, points, 3), dtype=np.float32)
    normals: np.ndarray | None = None
    label, split, titles = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.uint8), []
    meshes: list[bytes] = []  # points are drawn on each with random numbers of its own
    for i, shape in enumerate(shapes):
        if i == 0 and shape.normals is not None:
            normals = np.empty((n, points, 3), dtype=np.float32)
        if (shape.normals is None) != (normals is None):
            raise SchemaError(f"{shape.where}: only some shapes have normals; expected all or none.")
        label[i], split[i], clouds[i] = shape.label, shape.split, as_float32(shape.points)
        if normals is not None and shape.normals is not None:
            normals[i] = as_float32(shape.normals)
        if not np.isfinite(clouds[i]).all() or (normals is not None and not np.isfinite(normals[i]).all()):
            raise SchemaError(f"{shape.where} holds numbers that are not finite.")
        titles.append(shape.name)
        if form == "off":
            meshes.append(digest_of(Path(shape.where)))
    if validation > 0:
        split = splits.carve_validation(label, split, validation)
    for note in note_copies(meshes or digests_of(clouds), split, titles, "shape", "shapes"):
        say(note)
    return Clouds(
        points=clouds,
        normals=normals,
        label=label,
        split=split,
        name=titles,
        class_names=names,
        source=f"ModelNet40, {form}",
        credits="https://modelnet.cs.princeton.edu; not to be redistributed",
        rebuild=f"dropfold data modelnet40 --form {form} --points {points} --validation {validation}",
    )


def account_files(folder: Path, form: Form) -> list[str]:
    """What is said of the files of a distribution that are not read."""
    root = _find_root(folder, form)
    lists = [root / name for name in LISTS[form]]
    if form == "off":
        read = [path for _, _, path in _list_meshes(root)]
    elif form == "hdf5":
        read = [root / Path(entry).name for path in lists[1:] for entry in read_lines(path)]
    else:
        tokens = [token for path in lists[1:] for token in read_lines(path)]
        read = [root / token.rsplit("_", 1)[0] / f"{token}.txt" for token in tokens]
    reason = "no .off in CLASS/train or CLASS/test" if form == "off" else "in no list of a split"
    return distribution.account_files(folder, read, lists, reason)


def _find_root(folder: Path, form: Form) -> Path:
    return distribution.find_root(folder, (*LISTS[form], "*/train")[0], "See --form.")


def _hdf5(root: Path, points: int) -> Source:
    names = read_lines(root / "shape_names.txt")
    files: list[tuple[Path, int, np.ndarray]] = []
    for split, lists in ((TRAIN, "train_files.txt"), (TEST, "test_files.txt")):
        # The lists name paths of their authors' machine; the order is theirs, the folder ours.
        for entry in read_lines(root / lists):
            path = root / Path(entry).name
            if not path.is_file():
                raise SchemaError(f"{path}, named in {lists}, is not there.")
            files.append((path, split, _labels(path, points, len(names))))

    def shapes() -> Iterator[Shape]:
        for path, split, label in track(files, "files", console=Console(stderr=True)):
            with open_h5(path) as file:
                kept = np.s_[:, :points]
                clouds = file.read("data", kept)
                normals = file.read("normal", kept) if "normal" in file else [None] * len(clouds)
            for i, (cloud, normal, c) in enumerate(zip(clouds, normals, label)):
                title = f"{names[c]}/{path.stem}_{i:04d}"
                yield Shape(cloud, normal, int(c), split, title, f"{path}, shape {i}")

    return names, sum(len(label) for _, _, label in files), shapes()


def _labels(path: Path, points: int, classes: int) -> np.ndarray:
    """The labels of one HDF5 file, all of whose datasets are checked before any is read whole."""
    with open_h5(path, "data", "label") as file:
        for name in ("data", "normal"):
            if name not in file:
                continue
            file.require(name)
            kind, shape = file.dtype(name), file.shape(name)
            if len(shape) != 3 or shape[2] != 3 or shape[1] < points or kind.kind != "f":
                raise SchemaError(
                    f"{path}: {name} is {kind} {shape}, expected floats [n, {points} or more, 3]."
                )
            if shape[0] != (n := file.shape("data")[0]):
                raise SchemaError(f"{path}: {name} has {shape[0]} shapes, data has {n}.")
        kind, shape = file.dtype("label"), file.shape("label")
        if kind.kind not in "iu" or math.prod(shape) != n:
            raise SchemaError(f"{path}: label is {kind} {shape}, expected integers [{n}, 1].")
        label = file.read("label").reshape(-1).astype(np.int64)
        if label.size and (label.min() < 0 or label.max() >= classes):
            raise SchemaError(
                f"{path}: label holds {label.min()} .. {label.max()}, expected 0 and more, below {classes}."
            )
        return label


def _normal_resampled(root: Path, points: int) -> Source:
    names = read_lines(root / "modelnet40_shape_names.txt")
    files: list[tuple[Path, int, int]] = []
    for split, lists in ((TRAIN, "modelnet40_train.txt"), (TEST, "modelnet40_test.txt")):
        for token in read_lines(root / lists):
            name = token.rsplit("_", 1)[0]
            if name not in names:
                raise SchemaError(f"{root / lists}: {token!r} is of no class in modelnet40_shape_names.txt.")
            path = root / name / f"{token}.txt"
            if not path.is_file():
                raise SchemaError(f"{path}, named in {lists}, is not there.")
            files.append((path, names.index(name), split))

    def shapes() -> Iterator[Shape]:
        for path, c, split in track(files, "clouds", console=Console(stderr=True)):
            table = read_numbers(path)
            if table.shape[1] != 6 or len(table) < points:
                raise SchemaError(f"{path} has {table.shape} numbers, expected {points} or more lines of 6.")
            title = f"{names[c]}/{path.stem}"
            yield Shape(normalised(table[:points, :3]), table[:points, 3:], c, split, title, str(path))

    return names, len(files), shapes()


def _list_meshes(root: Path) -> list[tuple[str, int, Path]]:
    """(class, split, file) of each mesh."""
    names = sorted(path.name for path in root.iterdir() if (path / "train").is_dir())
    return [
        (name, split, path)
        for name in names
        for split, part in ((TRAIN, "train"), (TEST, "test"))
        for path in sorted((root / name / part).glob("*.off"))
        if not path.name.startswith(".") and path.is_file()
    ]


def _off(root: Path, points: int) -> Source:
    meshes = _list_meshes(root)
    names = sorted(path.name for path in root.iterdir() if (path / "train").is_dir())
    files = [(path, names.index(name), split) for name, split, path in meshes]

    def shapes() -> Iterator[Shape]:
        for i, (path, c, split) in enumerate(track(files, "meshes", console=Console(stderr=True))):
            vertices, faces = read_off(path)
            cloud, normals = sample_surface(path, vertices, faces, points, np.random.default_rng(i))
            yield Shape(normalised(cloud), normals, c, split, f"{names[c]}/{path.stem}", str(path))

    return names, len(files), shapes()


def main(options: Options) -> None:
    with jobs.advise_restart("begins anew, with what is downloaded"):
        source = download_or_reuse(options.source, URLS[options.form], options.out.parent, options.sha256)
    with open_as_folder(source) as folder:
        clouds = convert(folder, options.form, options.points, options.validation)
        notes = account_files(folder, options.form)
    shape_schema.write(options.out, clouds)
    print_line(f"{options.out}: {[len(clouds.of(s)) for s in range(3)]} shapes to train, validate and test")
    for note in notes:
        print_line(f"note: {note}")
