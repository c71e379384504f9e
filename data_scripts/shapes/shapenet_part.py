"""`dropfold data shapenet-part --form normal`: ShapeNetPart from either of its distributions, in data/local.

    normal  shapenet_part.h5 of shapenetcore_partanno_segmentation_benchmark_v0_normal: a text a shape, about 2,600 lines
            x y z nx ny nz part
    hdf5    shapenet_part_2048.h5 of shapenet_part_seg_hdf5_data: 2,048 points a shape, without normals

16 categories, 50 parts. The splits are the distribution's own: train, validation and test. Shapes of the first are centred
and scaled to the unit sphere, those of the second are as they are. An archive of texts is not unpacked; texts are read in
parallel, and what is read is kept: a conversion that was stopped goes on. That of the second begins anew.

Without --source the archive is downloaded to data/local by https, with resume; its SHA-256 is compared with the one that
--sha256 gives, a published one, or that of the first download (see `dropfold.data_scripts.work.archive`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import track

from dropfold.data_scripts.readers.npz import as_float32
from dropfold.data_scripts.schemas import part_schema
from dropfold.data_scripts.schemas.centre import normalised
from dropfold.data_scripts.schemas.copies import say_copies
from dropfold.data_scripts.schemas.hdf5 import open_h5
from dropfold.data_scripts.schemas.part_schema import TEST, TRAIN, VALIDATION, Parts
from dropfold.data_scripts.work import distribution, jobs, pieces
from dropfold.data_scripts.work.archive import download_or_reuse, open_as_folder
from dropfold.data_scripts.work.distribution import read_lines
from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.folders import File, Unread, account, print_line
from dropfold.data_scripts.work.jobs import Advance, Job
from dropfold.data_scripts.work.members import Members, open_members
from dropfold.data_scripts.work.stack import Stack

Form = Literal["normal", "hdf5"]
OUT = {"normal": Path("data/local/shapenet_part.h5"), "hdf5": Path("data/local/shapenet_part_2048.h5")}
URLS = {
    "normal": "https://shapenet.cs.stanford.edu/media/shapenetcore_partanno_segmentation_benchmark_v0_normal.zip",
    "hdf5": "https://shapenet.cs.stanford.edu/media/shapenet_part_seg_hdf5_data.zip",
}
FIRST = {
    "Airplane": 0, "Bag": 4, "Cap": 6, "Car": 8, "Chair": 12, "Earphone": 16, "Guitar": 19, "Knife": 22, "Lamp": 24,
    "Laptop": 28, "Motorbike": 30, "Mug": 36, "Pistol": 38, "Rocket": 41, "Skateboard": 44, "Table": 47,
}  # fmt: skip
"""The first part of each category, in the order of the categories."""
PARTS = 50
SPLITS = {"train": TRAIN, "val": VALIDATION, "test": TEST}
TOGETHER = 64  # texts that are kept as one finished piece
UNLISTED = "in no list of a split"


@dataclass
class Options:
    """Make the ShapeNetPart data set."""

    form: Form = "normal"
    """Which distribution."""
    source: Path | None = None
    """The archive or its unpacked folder; None: download it."""
    out: Path | None = None
    """The file to write; None: data/local/shapenet_part.h5, of hdf5 data/local/shapenet_part_2048.h5."""
    workers: int = 0
    """Texts that are read at a time; 0: one a core."""
    sha256: str | None = None
    """Of the archive, to be checked."""


@pieces.releasing()
def convert(source: Path, form: Form, out: Path, workers: int = 0) -> tuple[Parts, list[str]]:
    """Make `out`; returns the data set, and a sentence for all that was odd."""
    part = out.with_name(out.name + ".part")
    if form == "normal":
        with open_members(source) as found:
            arrays, category, split, name, notes = _normal(found, out, workers)
    else:
        try:
            with open_as_folder(source) as folder:
                arrays, category, split, name, notes = _hdf5(folder, pieces.begin(out))
        except BaseException:  # of these no finished piece is kept
            pieces.end(part)
            raise
    owner = np.searchsorted(list(FIRST.values()), np.arange(PARTS), "right") - 1
    names = list(FIRST)
    parts = Parts(
        points=arrays["points"],
        part=arrays["part"],
        ptr=arrays["ptr"],
        normals=arrays.get("normals"),
        category=np.array(category, dtype=np.int64),
        split=np.array(split, dtype=np.uint8),
        name=name,
        class_names=names,
        part_names=[f"{names[c]}/{p - FIRST[names[c]]}" for p, c in enumerate(owner)],
        part_category=owner.astype(np.int64),
        source=f"ShapeNetPart, {Path(URLS[form]).stem}",
        credits="Yi et al., SIGGRAPH Asia 2016, https://shapenet.org; not to be redistributed",
        rebuild=f"dropfold data shapenet-part --form {form}",
    )
    say_copies(np.split(parts.points, parts.ptr[1:-1]), parts.split, name)
    part_schema.write(out, parts)
    pieces.end(part)
    return parts, notes


Found = tuple[dict[str, np.ndarray], list[int], list[int], list[str], list[str]]
"""Arrays of the points; of each shape category, split and name; what was odd."""


def _normal(source: Members, out: Path, workers: int) -> Found:
    prefix = _prefix(source)
    synsets = _synsets(source, f"{prefix}synsetoffset2category.txt")
    listed: dict[str, tuple[str, int]] = {}  # token -> its file, split
    for word, split in SPLITS.items():
        name = f"{prefix}train_test_split/shuffled_{word}_file_list.json"
        for entry in _json(source, name):
            match = re.fullmatch(r"shape_data/(\d+)/([^/]+)", str(entry))
            if match is None or match[1] not in synsets:
                raise SchemaError(
                    f"{source.where(name)}: {entry!r} is not shape_data/SYNSET/TOKEN of a known category."
                )
            key, file = f"{match[1]}/{match[2]}", f"{prefix}{match[1]}/{match[2]}.txt"
            if key in listed:
                raise SchemaError(f"{source.where(name)}: {entry!r} is listed twice.")
            if file not in source.files:
                raise SchemaError(f"{source.where(file)}, listed in {name}, is not there.")
            listed[key] = file, split
    if not listed:
        raise SchemaError(f"{source.source} lists no shapes; the distribution is not whole.")
    texts = {file for file, _ in listed.values()}
    lists = [f"{prefix}synsetoffset2category.txt"]
    lists += [f"{prefix}train_test_split/shuffled_{word}_file_list.json" for word in SPLITS]
    unlisted = [name for name in source.files if name not in texts and name not in lists]
    unread = [*source.unread, *(Unread(name, UNLISTED) for name in unlisted)]
    notes = account(len(texts), unread, lists) if unread else []
    order = sorted(listed)
    names = list(FIRST)
    category = [names.index(synsets[key.partition("/")[0]]) for key in order]
    work = []
    for start in range(0, len(order), TOGETHER):
        files = [source.files[listed[key][0]] for key in order[start : start + TOGETHER]]
        held = category[start : start + TOGETHER]

        def read(
            advance: Advance, files: Sequence[File] = files, held: Sequence[int] = held
        ) -> dict[str, np.ndarray]:
            return read_shapes(source, files, held, advance)

        key = str([(file.size, file.stamp) for file in files])
        work.append(Job(f"shapes from {order[start]}", key, sum(file.size for file in files), read))
    part = jobs.run_jobs(out, work, workers, "groups of shapes")
    stack = Stack(part)
    for job in work:
        found = jobs.load_piece(part, job)
        size = found.pop("size")
        stack.append(found, size)
    titles = [f"{synsets[key.partition('/')[0]]}/{key.partition('/')[2]}" for key in order]
    return stack.arrays(), category, [listed[key][1] for key in order], titles, notes


def read_shapes(
    source: Members, files: Sequence[File], category: Sequence[int], advance: Advance
) -> dict[str, np.ndarray]:
    """Points, normals and parts of some texts, and how many of each; a `SchemaError` names every bad file and line."""
    from dropfold.data_scripts.readers import text_table

    tables, faults = [], []
    for file, c in zip(files, category):
        where = source.where(file.name)
        with source.open(file.name) as opened:
            pieces = list(text_table.read_pieces(opened, 7))
        bad = [line for piece in pieces for line in piece.bad]
        table = np.concatenate([piece.rows for piece in pieces]) if pieces else np.empty((0, 7))
        first = list(FIRST.values())[c]
        last = [*FIRST.values(), PARTS][c + 1] - 1
        if bad:
            quoted = bad[0].text.strip()[:60].decode("latin-1")
            faults.append(f"{where}, line {bad[0].line}: {quoted!r} is not `x y z nx ny nz part`.")
        elif len(table) == 0:
            faults.append(f"{where} holds no points.")
        elif not np.isin(table[:, 6], np.arange(first, last + 1)).all():
            row = int(np.argmin(np.isin(table[:, 6], np.arange(first, last + 1))))
            faults.append(
                f"{where}, point {row + 1}: part {table[row, 6]:g}, expected {first} .. {last} of {list(FIRST)[c]}."
            )
        tables.append(table)
        advance(file.size)
    if faults:
        raise SchemaError("\n    ".join(faults))
    return {
        "points": np.concatenate([normalised(table[:, :3]) for table in tables]),
        "normals": np.concatenate([table[:, 3:6] for table in tables]).astype(np.float32),
        "part": np.concatenate([table[:, 6] for table in tables]).astype(np.uint8),
        "size": np.array([len(table) for table in tables]),
    }


def _prefix(source: Members) -> str:
    """Where in the source the distribution lies: "" or "folder/"."""
    for name in source.files:
        if name.rpartition("/")[2] == "synsetoffset2category.txt":
            return name.removesuffix("synsetoffset2category.txt")
    raise SchemaError(
        f"{source.source} holds no synsetoffset2category.txt: is it another distribution? See --form."
    )


def _synsets(source: Members, name: str) -> dict[str, str]:
    """The category of each synset."""
    with source.open(name) as file:
        rows = [line.split() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or row[0] not in FIRST:
            raise SchemaError(
                f"{source.where(name)}, line {number}: {' '.join(row)!r} is not CATEGORY SYNSET."
            )
    if len({row[0] for row in rows}) != len(FIRST):
        missing = sorted(set(FIRST) - {row[0] for row in rows})
        raise SchemaError(f"{source.where(name)} has no {', '.join(missing)}; the distribution is not whole.")
    return {row[1]: row[0] for row in rows}


def _json(source: Members, name: str) -> list[Any]:
    if name not in source.files:
        raise SchemaError(f"{source.where(name)} is not there; the distribution is not whole.")
    try:
        with source.open(name) as file:
            found = json.load(file)
    except ValueError as error:
        raise SchemaError(f"{source.where(name)} is not JSON ({error}).") from None
    if not isinstance(found, list):
        raise SchemaError(f"{source.where(name)} is a {type(found).__name__}, expected a list of paths.")
    return found


def _hdf5(folder: Path, part: Path) -> Found:
    root = distribution.find_root(folder, "ply_data_train*.h5", "See --form.")
    stack = Stack(part)
    files = [(path, split) for word, split in SPLITS.items() for path in _files(root, word)]
    category: list[int] = []
    splits: list[int] = []
    names: list[str] = []
    for path, split in track(files, "files", console=Console(stderr=True)):
        points, label, pid = _arrays(path)
        n, size = pid.shape
        stack.append({"points": points.reshape(-1, 3), "part": pid.reshape(-1)}, [size] * n)
        category += label.tolist()
        splits += [split] * n
        names += [f"{list(FIRST)[c]}/{path.stem}_{i:04d}" for i, c in enumerate(label)]
    lists = [root / f"{word}_hdf5_file_list.txt" for word in SPLITS]
    notes = distribution.account_files(folder, [path for path, _ in files], lists, UNLISTED)
    return stack.arrays(), category, splits, names, notes


def _files(root: Path, word: str) -> list[Path]:
    """The files of a split in the order of their list, or by their numbers where there is none."""
    listing = root / f"{word}_hdf5_file_list.txt"
    if listing.is_file():
        found = [root / Path(entry).name for entry in read_lines(listing)]
        missing = [path for path in found if not path.is_file()]
        if missing:
            raise SchemaError(f"{missing[0]}, named in {listing.name}, is not there.")
        if not found:
            raise SchemaError(f"{listing} names no files; the distribution is not whole.")
    else:
        found = sorted(root.glob(f"ply_data_{word}*.h5"), key=lambda path: (len(path.name), path.name))
    if not found:
        raise SchemaError(f"{root} holds no ply_data_{word}*.h5; the distribution is not whole.")
    return found


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with open_h5(path, "data", "label", "pid") as file:
        shape = file.shape("data")
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or file.dtype("data").kind != "f":
            raise SchemaError(
                f"{path}: data is {file.dtype('data')} {shape}, expected floats [n, points, 3]."
            )
        if file.shape("pid") != shape[:2] or math.prod(file.shape("label")) != shape[0]:
            found = f"pid is {file.shape('pid')} and label {file.shape('label')}"
            raise SchemaError(f"{path}: {found}, expected {shape[:2]} and ({shape[0]}, 1).")
        for name in ("pid", "label"):
            if file.dtype(name).kind not in "iu":
                raise SchemaError(f"{path}: {name} is {file.dtype(name)}, expected integers.")
        points, pid = as_float32(file.read("data")), file.read("pid")
        label = file.read("label").reshape(-1).astype(np.int64)
    first = np.array([*FIRST.values(), PARTS])
    if label.min() < 0 or label.max() >= len(FIRST):
        raise SchemaError(
            f"{path}: label holds {label.min()} .. {label.max()}, expected 0 .. {len(FIRST) - 1}."
        )
    wrong = ((pid < first[label][:, None]) | (pid >= first[label + 1][:, None])).any(1)
    for item, bad in (
        ("points are not finite", ~np.isfinite(points).all((1, 2))),
        ("parts are of another category", wrong),
    ):
        if bad.any():
            raise SchemaError(f"{path}, shape {int(np.argmax(bad))}: its {item}.")
    return points, label, pid.astype(np.uint8)


def main(options: Options) -> None:
    out = options.out or OUT[options.form]
    restart = "goes on from here" if options.form == "normal" else "begins anew"
    with jobs.advise_restart(restart):
        source = download_or_reuse(options.source, URLS[options.form], out.parent, options.sha256)
        parts, notes = convert(source, options.form, out, options.workers)
    print_line(f"{out}: {[len(parts.of(s)) for s in range(3)]} shapes to train, validate and test")
    for note in notes:
        print_line(f"note: {note}")
