"""`dropfold data fashion-mnist`: makes data/local/fashion_mnist.h5 of Fashion-MNIST as distributed, and its credits.

70,000 gray images of 28 x 28 pixels in 10 classes of clothes (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747), in four
idx files. Without --source they are downloaded by https from the authors' repository, with resume, and compared with the
MD5 that its README prints. With --source they are taken from a folder or archive, packed or not; Debian's package
dataset-fashion-mnist has them in /usr/share/datasets/fashion-mnist. What is in them is compared with SHA-256 either way.

The images that ship with the project are the first of each class:

    dropfold data fashion-mnist --source FOLDER --train 2000 --test 1000 --out data/fashion.h5
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dropfold.data_scripts.images.idx import read_idx
from dropfold.data_scripts.schemas import image_schema, splits
from dropfold.data_scripts.schemas.copies import say_copies
from dropfold.data_scripts.schemas.h5_file import TEST, TRAIN
from dropfold.data_scripts.schemas.image_schema import Images
from dropfold.data_scripts.work import atomic, jobs, shipped
from dropfold.data_scripts.work.archive import download_or_reuse, open_as_folder
from dropfold.data_scripts.work.errors import ArchiveError, SchemaError
from dropfold.data_scripts.work.folders import print_line

CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
TRAINING, TESTING = 60_000, 10_000
URL = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"
# SHA-256 of the content, unpacked: Debian packs it anew. Of dataset-fashion-mnist 0.0~git20200523.55506a9-1.
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
LICENCE = """\
[Fashion-MNIST](https://github.com/zalandoresearch/fashion-mnist), copyright 2017 Zalando SE (https://tech.zalando.com).
Changed here: {changed}, as one HDF5 file, part of the training images to validate.
The file is made by `data_scripts/images/fashion_mnist.py`: `{rebuild}`.

Licence: MIT.

> Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
> files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use,
> copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom
> the Software is furnished to do so, subject to the following conditions:
>
> The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
> Software.
>
> THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
> WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
> COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
> OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


@dataclass
class Options:
    """Make the Fashion-MNIST data set, or a part of it."""

    source: Path | None = None
    """A folder or archive with the four idx files, packed by gzip or not; None: download them."""
    out: Path = Path("data/local/fashion_mnist.h5")
    """The file to write; its section of the CREDITS.md beside it is written, too."""
    train: int = TRAINING
    """Images of the training files, as many of each class: the first ones."""
    test: int = TESTING
    """Images of the test files, likewise."""
    validation: float = 0.1
    """Share of each class's training images for validation; 0: none."""


def convert(folder: Path, train: int, test: int, validation: float) -> Images:
    """The data set of a folder that holds the four files."""
    for name, asked, most in (("train", train, TRAINING), ("test", test, TESTING)):
        if asked % len(CLASSES) or not 0 < asked <= most:
            raise SchemaError(
                f"--{name} is {asked}, expected a multiple of {len(CLASSES)}, as many of each class, up to {most}."
            )
    if not 0 <= validation < 1:
        raise SchemaError(f"--validation is {validation}, expected a share from 0 to below 1.")
    parts = []
    for words, part, count, split in (("train", "train", train, TRAIN), ("test", "t10k", test, TEST)):
        pixels, label = read_part(folder, part)
        each = count // len(CLASSES)
        index = np.sort(np.concatenate([np.flatnonzero(label == c)[:each] for c in range(len(CLASSES))]))
        if len(index) != count:
            raise SchemaError(
                f"{folder} holds {len(index)} of the {count} images of {part} that were asked for."
            )
        names = [f"{words} {i:05d}" for i in index]
        parts.append((pixels[index], label[index], np.full(count, split, np.uint8), names))
    pixels, label, split_of = (np.concatenate([part[k] for part in parts]) for k in range(3))
    label = label.astype(np.int64)
    titles = [title for part in parts for title in part[3]]
    if validation:
        split_of = splits.carve_validation(label, split_of, validation)
    say_copies(pixels, split_of, titles, "image", "images")
    options = f"--train {train} --test {test} --validation {validation}"
    return Images(
        pixels=pixels[..., None],
        label=label,
        split=split_of,
        name=titles,
        class_names=list(CLASSES),
        source=f"Fashion-MNIST, the first {train // len(CLASSES):,} and {test // len(CLASSES):,} images of each class",
        credits="Fashion-MNIST, copyright 2017 Zalando SE, MIT licence",
        rebuild=f"dropfold data fashion-mnist {options} --out FILE",
    )


def read_part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 28, 28] and labels [n] of "train" or "t10k"; ArchiveError says which file is not as published."""
    found = []
    for name, axes in ((f"{part}-images-idx3-ubyte", 3), (f"{part}-labels-idx1-ubyte", 1)):
        path = find_file(folder, name)
        found.append((path, *read_idx(path, axes), FILES[name]))
    (images, pixels, *_), (labels, label, *_) = found
    if len(pixels) != len(label):
        raise ArchiveError(
            f"{images} holds {len(pixels):,} images and {labels} {len(label):,} labels, expected one for each; they are of "
            "two sets."
        )
    for path, _, digest, expected in found:
        if digest != expected:
            raise ArchiveError(
                f"the content of {path} has SHA-256 {digest}, Fashion-MNIST's is {expected}; fetch it again, or is it "
                "another set? Pictures in folders become one by `dropfold data images`."
            )
    return pixels, label


def find_file(folder: Path, name: str) -> Path:
    """The file in a folder, or deeper inside, packed or not."""
    for wanted in (f"{name}.gz", name):
        for place in (folder, *sorted(path for path in folder.rglob("*") if path.is_dir())):
            if (place / wanted).is_file():
                return place / wanted
    raise ArchiveError(
        f"{folder} holds neither {name}.gz nor {name}; expected the four files {', '.join(FILES)}."
    )


def format_credits(images: Images) -> str:
    """The section of the credits, as Markdown."""
    counts = f"{len(images.label):,} of the 70,000 images, the first of each class"
    changed = counts if len(images.label) < TRAINING + TESTING else "all images"
    return LICENCE.format(changed=changed, rebuild=images.rebuild)


def main(options: Options) -> None:
    atomic.check_target(options.out)
    source = options.source
    if source is None:
        source = options.out.parent / "fashion_mnist"
        with jobs.advise_restart("begins anew, with what is downloaded"):
            for name in FILES:
                download_or_reuse(None, f"{URL}/{name}.gz", source, None)
    with open_as_folder(source) as folder:
        images = convert(folder, options.train, options.test, options.validation)
    image_schema.write(options.out, images)
    shipped.write_section(options.out.with_name("CREDITS.md"), options.out.name, format_credits(images))
    print_line(f"{options.out}: {[len(images.of(s)) for s in range(3)]} images to train, validate and test")
