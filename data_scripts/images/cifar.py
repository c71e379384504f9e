"""`dropfold data cifar --source cifar-10-binary.tar.gz`: makes data/local/cifar10.h5, or cifar100.h5 of CIFAR-100's archive.

60,000 colour images of 32 x 32 pixels in 10 or 100 classes, 50,000 to train and 10,000 to test (Krizhevsky 2009, "Learning
Multiple Layers of Features from Tiny Images"), from the authors' *binary* archives (www.cs.toronto.edu/~kriz/cifar.html) or
the folders in them. A record is one byte of label (CIFAR-10), or two, coarse and fine (CIFAR-100), and 3,072 of pixels:
1,024 red ones row by row, then the green, then the blue. The fine labels are the classes; the 20 coarse ones are checked and
left out. The archives "python version" hold pickles, which are never read.

A tenth of each class's training images validates. No licence is stated, so the file stays in data/local.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropfold.data_scripts.schemas import image_schema, splits
from dropfold.data_scripts.schemas.copies import say_copies
from dropfold.data_scripts.schemas.h5_file import TEST, TRAIN
from dropfold.data_scripts.schemas.image_schema import Images
from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.archive import open_as_folder
from dropfold.data_scripts.work.distribution import account_files, read_lines
from dropfold.data_scripts.work.errors import ArchiveError, SchemaError
from dropfold.data_scripts.work.folders import print_line
from dropfold.data_scripts.work.notes import say

SIDE, CHANNELS = 32, 3
COARSE = 20


@dataclass(frozen=True)
class Distribution:
    """What one of the two archives holds."""

    title: str
    classes: int
    train: tuple[str, ...]
    test: str
    records: tuple[int, int]
    """In each training file, and in the test file."""
    names: str
    """The file of the classes' names, one a line."""
    beside: tuple[str, ...]
    """Files that are not read."""
    label_bytes: int
    """The last of them is the class."""
    archive: str
    md5: str
    """Of the archive as published, in print at www.cs.toronto.edu/~kriz/cifar.html."""
    out: Path


CIFAR10 = Distribution(
    title="CIFAR-10",
    classes=10,
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test="test_batch.bin",
    records=(10_000, 10_000),
    names="batches.meta.txt",
    beside=("readme.html",),
    label_bytes=1,
    archive="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    out=Path("data/local/cifar10.h5"),
)
CIFAR100 = Distribution(
    title="CIFAR-100",
    classes=100,
    train=("train.bin",),
    test="test.bin",
    records=(50_000, 10_000),
    names="fine_label_names.txt",
    beside=("coarse_label_names.txt",),
    label_bytes=2,
    archive="cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    out=Path("data/local/cifar100.h5"),
)
SETS = (CIFAR10, CIFAR100)
PICKLES = ("data_batch_1", "batches.meta", "meta")  # files of the archives of pickles


@dataclass
class Options:
    """Make the CIFAR-10 or CIFAR-100 data set."""

    source: Path
    """cifar-10-binary.tar.gz or cifar-100-binary.tar.gz, or the folder in it."""
    out: Path | None = None
    """The file to write; None: data/local/cifar10.h5 or cifar100.h5."""
    validation: float = 0.1
    """Share of each class's training images for validation; 0: none."""


def find_set(folder: Path) -> tuple[Distribution, Path]:
    """Which of the two sets a folder holds, and the folder of its files: that one, or one inside it."""
    places = (folder, *sorted(path for path in folder.iterdir() if path.is_dir()))
    found = [(one, place) for one in SETS for place in places if (place / one.test).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        listed = " and ".join(f"{one.title} in {place}" for one, place in found)
        raise ArchiveError(f"{folder} holds {listed}, expected one set; give the folder of one.")
    if any((place / name).is_file() for place in places for name in PICKLES):
        raise ArchiveError(
            f"{folder} holds the version for Python, whose pickles could run any code and are not read; fetch the binary "
            f"version, {' or '.join(one.archive for one in SETS)}."
        )
    raise ArchiveError(
        f"{folder} holds neither {' nor '.join(one.test for one in SETS)}, expected the files of "
        f"{' or '.join(one.archive for one in SETS)}."
    )


def read_records(path: Path, one: Distribution, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [records, 32, 32, 3] and labels [records, label bytes] of a file; ArchiveError: it is not as published."""
    if not path.is_file():
        raise ArchiveError(f"{path} is not there; the distribution of {one.title} is not whole.")
    size = one.label_bytes + CHANNELS * SIDE * SIDE
    found = path.stat().st_size
    if found != records * size:
        raise ArchiveError(
            f"{path} has {found:,} bytes, expected {records:,} records of {size:,}, {records * size:,} bytes; fetch "
            f"{one.archive} again."
        )
    rows = np.fromfile(path, np.uint8).reshape(records, size)
    label = rows[:, : one.label_bytes]
    for column, most in zip(label.T[::-1], (one.classes, COARSE)):
        if column.max() >= most:
            raise ArchiveError(
                f"{path}: the label of record {int(np.argmax(column >= most))} is {column[column >= most][0]}, expected "
                f"0 .. {most - 1}."
            )
    pixels = rows[:, one.label_bytes :].reshape(records, CHANNELS, SIDE, SIDE)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), label


def convert(root: Path, one: Distribution, validation: float) -> Images:
    """The data set of the folder that holds its files."""
    if not 0 <= validation < 1:
        raise SchemaError(f"--validation is {validation}, expected a share from 0 to below 1.")
    class_names = read_lines(root / one.names)
    if not len(class_names) == len(set(class_names)) == one.classes:
        raise ArchiveError(
            f"{root / one.names} has {len(set(class_names))} different names in {len(class_names)} lines, expected "
            f"{one.classes}."
        )
    files = [
        *((name, one.records[0], TRAIN) for name in one.train),
        (one.test, one.records[1], TEST),
    ]
    parts = [read_records(root / name, one, records) for name, records, _ in files]
    check_pixels(root, [(name, pixels) for (name, _, _), (pixels, _) in zip(files, parts, strict=True)])
    whole = np.concatenate([pixels for pixels, _ in parts])
    name = [f"{name} {i:05d}" for name, records, _ in files for i in range(records)]
    label = np.concatenate([labels for _, labels in parts]).astype(np.int64)
    split = np.concatenate([np.full(records, which, np.uint8) for _, records, which in files])
    check_labels(root, one, label, split)
    if validation:
        split = splits.carve_validation(label[:, -1], split, validation)
    say_copies(whole, split, name, "image", "images")
    return Images(
        pixels=whole,
        label=label[:, -1],
        split=split,
        name=name,
        class_names=class_names,
        source=f"{one.title}, Krizhevsky 2009, www.cs.toronto.edu/~kriz/cifar.html, the binary version",
        credits="Alex Krizhevsky, Vinod Nair and Geoffrey Hinton; no licence is stated: not to be redistributed",
        rebuild=f"dropfold data cifar --source {one.archive} --validation {validation}",
    )


def check_pixels(root: Path, files: list[tuple[str, np.ndarray]]) -> None:
    """Refuse a file that holds the images of another one, as a copy under its name would."""
    first: dict[bytes, str] = {}
    for name, pixels in files:
        digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest()
        if digest in first:
            raise ArchiveError(
                f"{root / name} holds the images of {first[digest]}, one after the other; fetch it again."
            )
        first[digest] = name


def check_labels(root: Path, one: Distribution, label: np.ndarray, split: np.ndarray) -> None:
    """Refuse splits in which not all classes have as many images, and a class of two coarse ones."""
    for which, title in ((TRAIN, "training"), (TEST, "test")):
        count = np.bincount(label[split == which, -1], minlength=one.classes)
        if count.min() != count.max():
            raise ArchiveError(
                f"{root} has {count.min():,} to {count.max():,} {title} images of a class, expected "
                f"{count.sum() // one.classes:,} of each; fetch {one.archive} again."
            )
    pairs = np.unique(label, axis=0)
    if len(pairs) != one.classes:
        raise ArchiveError(
            f"{root} has {len(pairs)} pairs of a coarse and a fine label, expected {one.classes}, one of each class; fetch "
            f"{one.archive} again."
        )


def compare_archive(source: Path, one: Distribution) -> None:
    """Say whether an archive is the published one, by its MD5; of another one the records were checked all the same."""
    if source.is_dir():
        return
    with source.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found == one.md5:
        print_line(f"{source}: MD5 {found}, the published one")
    else:
        say(
            f"{source} has MD5 {found}, and {one.archive} as published {one.md5}: it was packed anew, or changed."
        )


def main(options: Options) -> None:
    if options.out is not None:
        atomic.check_target(options.out)
    with open_as_folder(options.source) as folder:
        one, root = find_set(folder)
        images = convert(root, one, options.validation)
        read, lists = (*one.train, one.test), (one.names, *one.beside)
        whole = (
            root if options.source.is_dir() else folder
        )  # of an archive all is said, of a folder what lies in it
        notes = account_files(whole, [root / name for name in read], [root / name for name in lists])
    compare_archive(options.source, one)
    out = options.out or one.out
    image_schema.write(out, images)
    for note in notes:
        print_line(note)
    print_line(f"{out}: {[len(images.of(s)) for s in range(3)]} images to train, validate and test")
