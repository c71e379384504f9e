"""Images: idx files, pictures, and the data set that both become."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from dropfold.data_scripts.images.idx import read_idx
from dropfold.data_scripts.images.picture import read_picture
from dropfold.data_scripts.schemas import image_schema
from tests.fuzz.case import Arrays, Format, Random, chance, pick
from tests.fuzz.data_sets import PROVENANCE, damage_h5, names, plain, store_anew


def make_idx(random: Random, path: Path) -> Arrays:
    values = random.integers(0, 256, random.integers(1, 6, 3)).astype(np.uint8)
    content = struct.pack(">4B3I", 0, 0, 8, 3, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return {"values": values}


def read_values(path: Path) -> Arrays:
    return {"values": read_idx(path, 3)[0]}


def make_picture(random: Random, path: Path) -> Arrays:
    from PIL import Image

    shape = (*random.integers(1, 9, 2), *pick(random, (), (3,)))
    pixels = random.integers(0, 256, shape).astype(np.uint8)
    options = {"pnginfo": None, "compress_level": int(random.integers(10))} if path.suffix == ".png" else {}
    if path.suffix == ".jpg":
        pixels[:] = pixels.reshape(-1)[0]  # of one gray, which JPEG keeps
        options = {"quality": 95, "progressive": chance(random)}
    Image.fromarray(pixels).save(path, **options)
    return {"pixels": pixels if pixels.ndim == 3 else pixels[..., None]}


def read_pixels(path: Path) -> Arrays:
    return {"pixels": read_picture(path)}


def make_images(random: Random, path: Path) -> Arrays:
    n, channels = int(random.integers(2, 6)), pick(random, 1, 3)
    images = image_schema.Images(
        pixels=random.integers(0, 256, (n, 4, 6, channels)).astype(np.uint8),
        label=random.integers(0, 2, n),
        split=random.integers(0, 3, n).astype(np.uint8),
        name=names(random, n),
        class_names=names(random, 2),
        **PROVENANCE,
    )
    image_schema.write(path, images)
    store_anew(random, path)
    return plain(images)


def read_images(path: Path) -> Arrays:
    return plain(image_schema.read(path))


FORMATS = [
    Format("h5 images", ".h5", make_images, (read_images,), sealed=True, damage=damage_h5),
    Format("idx", ".idx", make_idx, (read_values,), counted=True),
    Format("idx.gz", ".gz", make_idx, (read_values,), sealed=True),
    Format("png", ".png", make_picture, (read_pixels,)),
    Format("jpg", ".jpg", make_picture, (read_pixels,), tolerance=3),
]
