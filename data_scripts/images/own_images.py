"""`dropfold data images --source FOLDER --out X.h5`: a data set from a folder of one's own pictures.

One folder a class, with PNG and JPEG. If the classes lie in folders train, val(idation) and test, or hold them, that is the
split (see `split_folders`); otherwise each class is split 70 / 15 / 15. All pictures must be of one size, or be scaled to
--size. They are stored in gray if all of them are, else in RGB. A picture that cannot be read is reported and left out, and
so are copies of a picture in its class: those with its pixels, as they are stored.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from dropfold.data_scripts.images.picture import SUFFIXES, is_gray, read_picture, with_channels
from dropfold.data_scripts.schemas import image_schema, splits
from dropfold.data_scripts.schemas.copies import digests_of
from dropfold.data_scripts.schemas.h5_file import TRAIN
from dropfold.data_scripts.schemas.image_schema import Images
from dropfold.data_scripts.schemas.split_folders import SplitFolders, list_files, note_lacking
from dropfold.data_scripts.schemas.video_schema import frame_size
from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.archive import name_members, open_as_folder
from dropfold.data_scripts.work.errors import PictureError, SchemaError
from dropfold.data_scripts.work.folders import (
    SAME,
    Unread,
    account,
    in_number,
    in_order,
    name_some,
    note_alike,
    print_line,
    printable,
    shorten,
)


@dataclass
class Options:
    """Make a data set from a folder (or archive) of pictures, one folder a class."""

    source: Path
    """The folder, or a zip, tar or rar of it."""
    out: Path
    """The HDF5 file to write."""
    size: str | None = None
    """Width x height, as 32x32: every picture is scaled to it. None: they are of one size already."""
    seed: int = 0
    """Of the split."""
    split_folders: SplitFolders = "auto"
    """Whether folders called train, val or test are splits (yes) or classes (no); auto: as they stand, see the docs."""


class Picture(NamedTuple):
    """A file that is to be read: its path within the folder, its class, and the split that its folders state."""

    name: str
    class_name: str
    split: int | None


def list_pictures(
    folder: Path, split_folders: SplitFolders = "auto"
) -> tuple[list[Picture], list[Unread], list[str]]:
    """Every file under `folder`: the pictures, the others with the reason why they are not read, and what was guessed."""
    files, unread, notes = list_files(folder, SUFFIXES, split_folders, "pictures")
    found = [Picture(name, printable(place.inner[0]), place.split) for name, place in files]
    notes += note_alike((picture.class_name for picture in found), "classes")
    return found, unread, notes


def convert(folder: Path, options: Options) -> tuple[Images, list[str]]:
    """The data set, and a sentence for each file that was left out; what else is to be said begins with "note: "."""
    size = None if options.size is None else frame_size(options.size)
    found, unread, notes = list_pictures(folder, options.split_folders)
    if not found:
        suffixes = f"{folder} holds no class folders with pictures; expected one folder a class with {', '.join(SUFFIXES)}."
        raise SchemaError("\n".join([suffixes, *account(0, unread), *notes]))
    read, kept, faults = [], [], []
    for picture in track(found, "reading", console=Console(stderr=True)):
        try:
            read.append(read_picture(folder / picture.name, size))
            kept.append(picture)
        except PictureError as error:
            faults.append(str(error))
    if not kept:
        lines = account(0, unread, failed=len(faults))
        raise SchemaError("\n".join(["no picture could be read:", *faults, *lines]))
    _refuse_sizes(read, kept)
    names = sorted({picture.class_name for picture in kept})
    lost = sorted({picture.class_name for picture in found} - set(names))
    faults += [f"no readable picture is of class {name}" for name in lost]
    pixels, said = _stack(read)
    reason = SAME if size is None else f"at {size[0]} x {size[1]} the same as a file that is read"
    chosen, copies, twice = find_copies(pixels, kept, reason)
    pixels, kept = pixels[chosen], [kept[i] for i in chosen]
    lines = account(len(kept), [*unread, *copies], failed=len(faults))
    label = np.array([names.index(picture.class_name) for picture in kept], dtype=np.int64)
    origin = printable(options.source.resolve().name)
    arguments = f"--source {shlex.quote(origin)} --out FILE --seed {options.seed}"
    arguments += f" --size {options.size}" if options.size else ""
    arguments += f" --split-folders {options.split_folders}" if options.split_folders != "auto" else ""
    split = splits.split_classes([picture.split for picture in kept], label, options.seed)
    notes += [*twice, *note_lacking(label, split, names, "pictures")]
    images = Images(
        pixels=pixels,
        label=label,
        split=split,
        name=[printable(picture.name) for picture in kept],
        class_names=names,
        source=f"the folder or archive {origin}",
        credits="one's own",
        rebuild=f"dropfold data images {arguments}",
    )
    if size is not None:
        said += [f"all pictures are scaled to {size[0]} x {size[1]}, whatever the ratio of their sides was"]
    return images, [f"note: {line}" for line in (*said, *notes, *lines)] + faults


def _refuse_sizes(read: list[np.ndarray], kept: list[Picture]) -> None:
    sizes = Counter(pixels.shape[:2] for pixels in read)
    if len(sizes) == 1:
        return
    shown = []
    for (height, width), count in sizes.most_common(4):
        first = next(p for p, pixels in zip(kept, read) if pixels.shape[:2] == (height, width))
        shown.append(f"{width} x {height} ({count}, as {shorten(first.name)})")
    raise SchemaError(
        f"the pictures are of {len(sizes)} sizes, {name_some(shown, 3)}, and a network sees one; give --size, as "
        f"--size {shown[0].split(' (')[0].replace(' ', '')}, and all are scaled to it."
    )


def _stack(read: list[np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """[n, H, W, C] of all pictures, in gray if each of them is."""
    gray = sum(map(is_gray, read))
    channels = 1 if gray == len(read) else 3
    stacked = np.stack([pixels for one in read if (pixels := with_channels(one, channels)) is not None])
    some = f"{gray} of {len(read)} pictures are gray, and have three equal channels beside those in colour"
    return stacked, [some] if channels == 3 and gray else []


def find_copies(
    pixels: np.ndarray, pictures: list[Picture], reason: str = SAME
) -> tuple[list[int], list[Unread], list[str]]:
    """Of equal pictures [n, H, W, C]: which are kept, one of each class; the others; a sentence for those of two classes.

    Of copies in several splits the one that tests stays, or else the one that validates: it must not be trained on. reason:
    why the others are not read.
    """
    alike: dict[bytes, dict[str, list[int]]] = {}
    for i, digest in enumerate(digests_of(pixels)):
        alike.setdefault(digest, {}).setdefault(pictures[i].class_name, []).append(i)
    kept: list[int] = []
    copies, notes = [], []
    for by_class in alike.values():
        first = {}
        for name, some in by_class.items():
            first[name] = max(some, key=lambda i: (pictures[i].split or TRAIN, -i))
            copies += [
                Unread(pictures[i].name, reason, pictures[first[name]].name) for i in some if i != first[name]
            ]
        kept += first.values()
        if len(first) > 1:
            shown = name_some([shorten(pictures[i].name) for i in first.values()])
            notes.append(
                f"{shown} are one picture in {len(first)} classes, and a network can learn one: remove the wrong ones; all "
                "are kept"
            )
    copies.sort(key=lambda one: in_order(one.name))
    return sorted(kept), copies, notes


def main(options: Options) -> None:
    atomic.check_target(options.out)
    with open_as_folder(options.source) as folder:
        images, notes = convert(folder, options)
        notes = [name_members(note, folder, options.source) for note in notes]
    image_schema.write(options.out, images)
    counts = [len(images.of(split)) for split in range(3)]
    classes = in_number(len(images.class_names), "class", "classes")
    print_line(f"{options.out}: {counts} images to train, validate and test, {classes}")
    for note in notes:
        print_line(note if note.startswith("note: ") else f"left out: {note}")
