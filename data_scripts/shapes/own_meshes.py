"""`dropfold data meshes --source FOLDER --out X.h5`: a data set from a folder of one's own meshes or clouds.

One folder a class, with files of any kind that `shapes` reads (OFF, OBJ, STL, PLY, GLB, PCD, LAS, XYZ, TXT, CSV, NPY).
The class is the top folder, however deep a shape lies in it; ShapeNetCore's synsets are named in words, and of each of its
models one file is read. If the classes lie in folders train, val(idation) and test, or hold such folders, that is the split
(see `split_folders`); otherwise each class is split 70 / 15 / 15. A file that cannot be read is reported and left out, and
so is a class of which none can.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from dropfold.data_scripts.readers.columns import AS_FOUND, Layout, parse_layout
from dropfold.data_scripts.readers.mesh import read_triangles
from dropfold.data_scripts.readers.shapes import SUFFIXES, read_shape
from dropfold.data_scripts.schemas import shape_schema, splits
from dropfold.data_scripts.schemas.copies import digest_of, digests_of, note_copies
from dropfold.data_scripts.schemas.shape_schema import Clouds
from dropfold.data_scripts.schemas.split_folders import (
    LOOSE,
    SplitFolders,
    note_empty,
    note_lacking,
    place_files,
)
from dropfold.data_scripts.shapes import shapenet
from dropfold.data_scripts.shapes.companions import find_companions
from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.archive import name_members, open_as_folder
from dropfold.data_scripts.work.errors import SchemaError, ShapeError
from dropfold.data_scripts.work.folders import (
    OTHER_KIND,
    Unread,
    account,
    in_number,
    name_some,
    note_alike,
    print_line,
    printable,
    shorten,
    suffix_of,
    walk,
)

OTHER_FORM = "other files of a ShapeNet model that is read"
MOST_ALIKE = 3  # files that a line names of which the same is said


@dataclass
class Options:
    """Make a data set from a folder (or zip) of shapes, one folder a class."""

    source: Path
    """The folder, or a zip or tar of it."""
    out: Path
    """The HDF5 file to write."""
    points: int = 1024
    """Points of each shape."""
    seed: int = 0
    """Of the sampling and of the split."""
    split_folders: SplitFolders = "auto"
    """Whether folders called train, val or test are splits (yes) or classes (no); auto: as they stand, see the docs."""
    columns: str | None = None
    """Of text tables and .npy arrays, "x y z nx ny nz" say, - leaves one out; None: by their names, or a guess that is
    said."""
    drop_nan: bool = False
    """Leave out points with numbers that are not finite; otherwise they are a fault."""


@dataclass(frozen=True)
class Shape:
    """A file that is to be read."""

    name: str
    """Its path within the folder."""
    class_name: str
    split: int | None


@dataclass
class Listing:
    """What a folder holds."""

    shapes: list[Shape] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    beside: set[str] = field(default_factory=set)
    """Files that belong to shapes: materials, textures, buffers."""
    notes: list[str] = field(default_factory=list)


def list_shapes(folder: Path, split_folders: SplitFolders = "auto") -> Listing:
    """Every file under `folder`: a shape, beside one, or with the reason why it is not read."""
    tree = walk(folder)
    names = [file.name for file in tree.files if suffix_of(file.name) in SUFFIXES]
    rest = [file.name for file in tree.files if suffix_of(file.name) not in SUFFIXES]
    parents = [tuple(name.split("/")[:-1]) for name in names]
    places, notes = place_files(parents, split_folders, keeps_whole=shapenet.SYNSET)
    inner = [place.inner for place in places]
    if len(set(inner)) == 1 and not shapenet.SYNSET.fullmatch((*inner[0], "")[0]):
        inner = [folders[-1:] for folders in inner]  # one folder holds all
    others = shapenet.find_other_forms(names, inner, SUFFIXES)
    found = Listing(unread=list(tree.unread), notes=notes)
    deeper = None
    for name, folders, place in zip(names, inner, places):
        if not folders:
            found.unread.append(Unread(name, LOOSE))
        elif name in others:
            found.unread.append(Unread(name, OTHER_FORM))
        else:
            found.shapes.append(Shape(name, printable(shapenet.class_of(folders[0])), place.split))
            deeper = deeper or (name if len(folders) > 1 and folders[0] not in shapenet.SYNSETS else None)
    if deeper:
        top = inner[names.index(deeper)][0]
        found.notes.append(
            f"a class is its top folder, however deep its shapes lie: {shorten(deeper)} is of {printable(top)}"
        )
    found.beside = find_companions(folder, [shape.name for shape in found.shapes], rest)
    found.unread += [Unread(name, OTHER_KIND) for name in rest if name not in found.beside]
    found.notes += note_empty(tree.folders, parents, places, "shapes")
    found.notes += note_alike((shape.class_name for shape in found.shapes), "classes")
    return found


def convert(
    folder: Path,
    points: int,
    seed: int = 0,
    origin: str | None = None,
    split_folders: SplitFolders = "auto",
    layout: Layout = AS_FOUND,
) -> tuple[Clouds, list[str]]:
    """The data set, and a sentence for each file that was left out; what else is to be said begins with "note: ".

    `origin` is the name that the file states as its source: the archive's where `folder` is what it was unpacked to.
    """
    origin = printable(origin or folder.resolve().name)
    found = list_shapes(folder, split_folders)
    if not found.shapes:
        raise SchemaError(
            "\n".join(
                [
                    f"{folder} holds no class folders with shapes; expected one folder a class with files "
                    f"{', '.join(SUFFIXES)}.",
                    *account(0, found.unread, found.beside),
                    *found.notes,
                ]
            )
        )
    read, kept, faults = [], [], []
    said: dict[str, list[str]] = {}  # what was guessed or left out, and of which files
    for i, shape in enumerate(track(found.shapes, "reading", console=Console(stderr=True))):
        path = folder / shape.name
        try:
            odd: list[str] = []
            read.append(read_shape(path, points, seed + i, layout=layout, notes=odd))
            kept.append(shape)
            for line in odd:
                said.setdefault(line.removeprefix(f"{path}: "), []).append(shorten(shape.name))
        except ShapeError as error:
            faults.append(str(error))
        except OSError as error:
            faults.append(f"{path} cannot be read ({error.strerror or error}).")
    names = sorted({shape.class_name for shape in kept})
    lost = sorted({shape.class_name for shape in found.shapes} - set(names))
    if not names:
        lines = account(0, found.unread, found.beside, failed=len(faults))
        raise SchemaError("\n".join([f"no readable shape is left of {', '.join(lost)}:", *faults, *lines]))
    lines = account(len(kept), found.unread, found.beside, failed=len(faults))
    faults += [f"no readable shape is of class {name}" for name in lost]
    of_files = [f"{name_some(some, MOST_ALIKE)}: {line}" for line, some in said.items()]
    label = np.array([names.index(shape.class_name) for shape in kept], dtype=np.int64)
    split = splits.split_classes([shape.split for shape in kept], label, seed)
    digest = [_digest(folder / shape.name) for shape in kept]
    titles = [shape.name for shape in kept]
    found.notes += note_copies(digest, split, titles, "shape", "shapes")
    said_first = note_lacking(label, split, names, "shapes")
    notes = [f"note: {line}" for line in (*said_first, *of_files, *found.notes, *lines)] + faults
    arguments = f"--source {shlex.quote(origin)} --out FILE --points {points} --seed {seed}"
    arguments += f" --split-folders {split_folders}" if split_folders != "auto" else ""
    arguments += f' --columns "{" ".join(layout.columns)}"' if layout.columns else ""
    arguments += " --drop-nan" if layout.drop_nan else ""
    normals = [n for _, n in read if n is not None]
    clouds = Clouds(
        points=np.stack([p for p, _ in read]),
        normals=np.stack(normals) if len(normals) == len(read) else None,
        label=label,
        split=split,
        name=[printable(shape.name) for shape in kept],
        class_names=names,
        source=f"the folder or archive {origin}",
        credits="one's own",
        rebuild=f"dropfold data meshes {arguments}",
    )
    return clouds, notes


def _digest(path: Path) -> bytes:
    """What tells a file from others: its bytes; of a glTF, which names files with its numbers, the mesh."""
    if suffix_of(path.name) != ".gltf":
        return digest_of(path)
    vertices, triangles, _ = read_triangles(path)
    return b"".join(digests_of([vertices, triangles]))


def main(options: Options) -> None:
    atomic.check_target(options.out)
    with open_as_folder(options.source) as folder:
        layout = parse_layout(options.columns, options.drop_nan)
        name = options.source.resolve().name
        clouds, notes = convert(folder, options.points, options.seed, name, options.split_folders, layout)
        notes = [name_members(note, folder, options.source) for note in notes]
    shape_schema.write(options.out, clouds)
    counts = [len(clouds.of(s)) for s in range(3)]
    classes = in_number(len(clouds.class_names), "class", "classes")
    print_line(f"{options.out}: {counts} shapes to train, validate and test, {classes}")
    for note in notes:
        print_line(note if note.startswith("note: ") else f"left out: {note}")
