"""Fashion-MNIST from idx files like the distributed ones, the shipped part of it, and what is said of broken files."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from dropfold.__main__ import main
from dropfold.data_scripts.images import fashion_mnist
from dropfold.data_scripts.images.idx import read_idx
from dropfold.data_scripts.schemas import image_schema
from dropfold.data_scripts.work.errors import ArchiveError, SchemaError

SHIPPED = Path(__file__).parents[3] / "data/fashion.h5"


def idx(values):
    """The bytes of an idx file, written from its description."""
    return (
        struct.pack(">BBBB", 0, 0, 8, values.ndim)
        + struct.pack(f">{values.ndim}I", *values.shape)
        + values.tobytes()
    )


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Four files of 60 and 30 images of 5 x 4, whose checksums are taken for the published ones; images, labels by part."""
    random = np.random.default_rng(0)
    held, sums = {}, {}
    for part, n in (("train", 60), ("t10k", 30)):
        images = random.integers(0, 256, (n, 5, 4)).astype(np.uint8)
        label = random.permutation(np.arange(n, dtype=np.uint8) % 10)
        held[part] = images, label
        for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", label)):
            sums[name] = hashlib.sha256(idx(values)).hexdigest()
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(values), mtime=0))
    monkeypatch.setattr(fashion_mnist, "FILES", sums)
    return tmp_path, held


def test_the_first_images_of_each_class(distribution, tmp_path):
    folder, held = distribution
    out = tmp_path / "made" / "fashion.h5"
    words = ["--train", "40", "--test", "20", "--validation", "0.25", "--out", str(out)]
    main(["data", "fashion-mnist", "--source", str(folder), *words])
    found = image_schema.read(out)
    assert found.class_names[0] == "T-shirt/top"
    assert len(found.class_names) == 10
    counts = [np.bincount(found.label[found.of(split)], minlength=10).tolist() for split in range(3)]
    assert counts == [[3] * 10, [1] * 10, [2] * 10]
    for i, name in enumerate(found.name):
        words, number = name.split()
        images, label = held["train" if words == "train" else "t10k"]
        assert np.array_equal(found.pixels[i, :, :, 0], images[int(number)])
        assert found.label[i] == label[int(number)]
        earlier = (label[: int(number)] == label[int(number)]).sum()
        assert earlier < (4 if words == "train" else 2)
    credits = (out.parent / "CREDITS.md").read_text()
    assert "## fashion.h5" in credits
    assert "Permission is hereby granted" in credits


def test_unpacked_files_in_a_folder_further_down_are_the_same(distribution, tmp_path):
    folder, _ = distribution
    packed = fashion_mnist.convert(folder, 60, 30, 0.0)
    inner = tmp_path / "unpacked" / "fashion"
    inner.mkdir(parents=True)
    for path in list(folder.glob("*.gz")):
        (inner / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    unpacked = fashion_mnist.convert(folder, 60, 30, 0.0)
    assert np.array_equal(packed.pixels, unpacked.pixels)
    assert not (unpacked.split == 1).any()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: gzip.compress(idx(data))[:-20], "broken or cut off"),
        (lambda data: b"", "begins with nothing, expected 00 00 08"),
        (lambda data: gzip.compress(b"\x00\x00\x0b" + idx(data)[3:]), "begins with 00 00 0b"),
        (lambda data: gzip.compress(idx(data)[:6]), "cut off in its header"),
        (lambda data: gzip.compress(idx(data)[:-1]), "and holds only 1,199"),
        (lambda data: gzip.compress(idx(data) + b"x"), "holds more"),
        (lambda data: gzip.compress(idx(data[:0])), "states 0 x 5 x 4 values"),
        (lambda data: gzip.compress(idx(data[:-1])), "holds 59 images and .* 60 labels"),
        (lambda data: gzip.compress(idx(255 - data)), "Fashion-MNIST's is .*dropfold data images"),
        (lambda data: gzip.compress(idx(data))[:300] + bytes(9) + gzip.compress(idx(data))[309:], "broken or cut off"),
    ],
    ids=["cut", "empty", "shorts", "header", "short", "long", "none", "lengths", "other", "flipped"],
)  # fmt: skip
def test_a_broken_file_is_a_sentence(distribution, damage, said):
    folder, held = distribution
    name = "train-images-idx3-ubyte.gz"
    (folder / name).write_bytes(damage(held["train"][0]))
    with pytest.raises(ArchiveError, match=said) as error:
        fashion_mnist.convert(folder, 60, 30, 0.1)
    assert "train-images-idx3-ubyte" in str(error.value)


def test_what_is_asked_for_must_be_there(distribution, tmp_path):
    folder, _ = distribution
    for train, test, validation, said in (
        (55, 30, 0.1, "--train is 55, expected a multiple of 10"),
        (60, 20_000, 0.1, "--test is 20000, .* up to 10000"),
        (60, 30, 1.0, "--validation is 1.0"),
        (600, 30, 0.1, "holds 60 of the 600 images"),
    ):
        with pytest.raises(SchemaError, match=said):
            fashion_mnist.convert(folder, train, test, validation)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ArchiveError, match=r"holds neither t10k-labels-idx1-ubyte\.gz"):
        fashion_mnist.convert(folder, 60, 30, 0.1)
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_idx(tmp_path / "none.gz", 1)


def test_the_shipped_part():
    """Balanced, 28 x 28, under 2 MB; its first image is the published one: an ankle boot, whose bytes add up to 76,247."""
    assert SHIPPED.stat().st_size < 2e6
    found = image_schema.read(SHIPPED)
    assert found.pixels.shape == (3000, 28, 28, 1)
    counts = [np.bincount(found.label[found.of(split)]).tolist() for split in range(3)]
    assert counts == [[180] * 10, [20] * 10, [100] * 10]
    assert (found.name[0], found.class_names[found.label[0]]) == ("train 00000", "ankle boot")
    assert len(np.unique(found.pixels.reshape(3000, -1), axis=0)) == 3000  # no image trains and tests
    assert found.pixels[0].sum(dtype=int) == 76247
    assert "Zalando" in SHIPPED.with_name("CREDITS.md").read_text().split("## fashion.h5")[1]


def test_no_memory_is_taken_for_what_a_header_states_alone(tmp_path):
    path = tmp_path / "a.idx"
    path.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 1, 4, 772_014_080) + bytes(22))
    with pytest.raises(
        ArchiveError, match=r"states 1 x 4 x 772014080 = 3,088,056,320 bytes and holds only 22"
    ):
        read_idx(path, 3)
