"""A folder of pictures as a data set, and pictures that are not read, each with a sentence."""

import numpy as np
import pytest
from PIL import Image

from dropfold.__main__ import main
from dropfold.data_scripts.images.picture import read_picture
from dropfold.data_scripts.schemas import image_schema
from dropfold.data_scripts.work.errors import PictureError

random = np.random.default_rng(0)
GRAY = random.integers(0, 256, (5, 7)).astype(np.uint8)
RGB = random.integers(0, 256, (5, 7, 3)).astype(np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_pictures_are_read_as_they_are(tmp_path):
    def read(name, picture, **options):
        picture.save(tmp_path / name, **options)
        return read_picture(tmp_path / name)

    gray, rgb = Image.fromarray(GRAY), Image.fromarray(RGB)
    assert np.array_equal(read("gray.png", gray), GRAY[..., None])
    assert np.array_equal(read("rgb.png", rgb), RGB)
    bits = read("bits.png", Image.fromarray(GRAY > 127))
    assert np.array_equal(bits[..., 0], 255 * (GRAY > 127))
    palette = rgb.quantize(8)
    assert np.array_equal(read("palette.png", palette), np.asarray(palette.convert("RGB")))
    opaque = rgb.copy()
    opaque.putalpha(255)
    assert np.array_equal(read("opaque.png", opaque), RGB)
    assert read("photo.JPG", rgb, quality=95).shape == (5, 7, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    assert np.array_equal(read("turned.png", gray, exif=exif)[..., 0], np.rot90(GRAY, -1))
    assert read_picture(tmp_path / "rgb.png", (3, 4)).shape == (4, 3, 3)


def sixteen(path):
    Image.fromarray(GRAY.astype(np.uint16) * 257).save(path)


def sixteen_colour(path):
    """A PNG of 16 bits a channel in colour, which Pillow reads as 8 without a word: written by hand."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"".join(b"\0" + bytes(12) for _ in range(2)))
    head = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def animated(path):
    Image.fromarray(GRAY).save(path, save_all=True, append_images=[Image.fromarray(255 - GRAY)])


def transparent(path):
    Image.fromarray(np.dstack([RGB, GRAY])).save(path)


def cut(path):
    save(path, np.tile(RGB, (40, 40, 1)))
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("write", "name", "said"),
    [
        (sixteen, "a.png", "16 bits a channel, expected 8"),
        (sixteen_colour, "a.png", "16 bits a channel, expected 8"),
        (animated, "a.png", "holds 2 pictures"),
        (transparent, "a.png", "transparent pixels"),
        (lambda path: Image.fromarray(RGB).convert("CMYK").save(path), "a.jpg", "colour mode CMYK"),
        (lambda path: Image.fromarray(RGB).save(path, format="BMP"), "a.png", "no PNG or JPEG"),
        (lambda path: path.write_bytes(b""), "a.png", "no PNG or JPEG"),
        (cut, "a.png", "broken or cut off"),
        (cut, "a.jpg", "broken or cut off"),
        (lambda path: None, "a.png", "cannot be read"),
    ],
    ids=[
        "16-bit",
        "16-bit-rgb",
        "animated",
        "transparent",
        "cmyk",
        "bmp",
        "empty",
        "cut-png",
        "cut-jpeg",
        "missing",
    ],
)
def test_a_picture_that_is_not_read_is_a_sentence(tmp_path, write, name, said):
    write(tmp_path / name)
    with pytest.raises(PictureError, match=said) as error:
        read_picture(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_folder_of_pictures(tmp_path, capsys):
    source = tmp_path / "pictures"
    for c, name in enumerate(("cat", "dog")):
        for i in range(7):
            save(source / name / f"{i}.png", (GRAY // 2 + 20 * c + i).astype(np.uint8))
    save(source / "cat" / "photo.png", np.repeat(GRAY[..., None], 3, 2))  # gray in three channels
    animated(source / "dog" / "moving.png")
    (source / "cat" / "notes.txt").write_text("no picture")
    main(["data", "images", "--source", str(source), "--out", str(tmp_path / "a.h5")])
    said = capsys.readouterr()
    assert "15 read, 2 not read" in said.err
    assert "left out:" in said.out
    assert "moving.png holds 2 pictures" in said.out
    found = image_schema.read(tmp_path / "a.h5")
    assert found.pixels.shape == (15, 5, 7, 1)
    assert [len(found.of(split)) for split in range(3)] == [11, 2, 2]
    assert found.name[:2] == ["cat/0.png", "cat/1.png"]
    assert np.array_equal(found.pixels[1, ..., 0], (GRAY // 2 + 1).astype(np.uint8))
    save(source / "train" / "cat" / "1.png", RGB)
    save(source / "test" / "cat" / "2.png", GRAY)
    for name in ("cat", "dog"):
        (source / name).rename(source / "train" / f"{name}s")
    main(["data", "images", "--source", str(source), "--out", str(tmp_path / "b.h5")])
    found = image_schema.read(tmp_path / "b.h5")
    assert found.pixels.shape == (17, 5, 7, 3)
    assert "16 of 17 pictures are gray" in capsys.readouterr().err
    assert found.of(2).tolist() == [found.name.index("test/cat/2.png")]


def test_pictures_of_several_sizes_need_one(tmp_path, capsys):
    save(tmp_path / "s" / "cat" / "1.png", GRAY)
    save(tmp_path / "s" / "dog" / "2.png", GRAY)
    save(tmp_path / "s" / "dog" / "3.png", GRAY[:4])
    words = ["data", "images", "--source", str(tmp_path / "s"), "--out", str(tmp_path / "a.h5")]
    with pytest.raises(SystemExit, match=r"2 sizes, 7 x 5 \(2, as .*\), 7 x 4 .*--size 7x5"):
        main(words)
    assert not (tmp_path / "a.h5").exists()
    main([*words, "--size", "6x3"])
    assert image_schema.read(tmp_path / "a.h5").pixels.shape == (3, 3, 6, 1)
    assert "all pictures are scaled to 6 x 3" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="--size is '6', expected width x height"):
        main([*words, "--size", "6"])


def test_folders_without_pictures_are_said(tmp_path):
    (tmp_path / "s" / "cat").mkdir(parents=True)
    words = ["data", "images", "--source", str(tmp_path / "s"), "--out", str(tmp_path / "a.h5")]
    with pytest.raises(SystemExit, match="holds no class folders with pictures"):
        main(words)
    (tmp_path / "s" / "cat" / "1.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"no picture could be read:\n.*1\.png is no PNG or JPEG"):
        main(words)


def make(source, out, capsys, *words):
    main(["data", "images", "--source", str(source), "--out", str(out), *words])
    said = capsys.readouterr()
    return image_schema.read(out), said.out + said.err


def test_copies_are_in_one_split_and_classes_that_share_one_are_said(tmp_path, capsys):
    """Copies by their pixels: another form of the file, or a gray picture in three channels, is the same picture."""
    source = tmp_path / "s"
    for c, name in enumerate(("cat", "dog")):
        for i in range(4):
            save(source / name / f"{i}.png", (GRAY // 2 + 20 * c + i).astype(np.uint8))
    save(source / "cat" / "copy.png", np.repeat((GRAY // 2 + 1).astype(np.uint8)[..., None], 3, 2))
    save(source / "dog" / "alien.png", (GRAY // 2 + 1).astype(np.uint8), compress_level=0)
    found, said = make(source, tmp_path / "a.h5", capsys)
    assert found.name == [
        *(f"cat/{i}.png" for i in range(4)),
        *(f"dog/{i}.png" for i in range(4)),
        "dog/alien.png",
    ]
    assert "1 file was not read, the same as a file that is read: cat/copy.png -> cat/1.png" in said
    assert "10 files in all: 9 read, 1 not read" in said
    assert "cat/1.png, dog/alien.png are one picture in 2 classes" in said


def test_a_copy_that_tests_is_not_trained_on(tmp_path, capsys):
    for i, name in enumerate(("train/a/1", "train/a/2", "train/b/3", "test/a/4", "test/b/5")):
        save(tmp_path / "s" / f"{name}.png", (GRAY // 2 + i).astype(np.uint8))
    save(tmp_path / "s" / "train" / "a" / "copy.png", (GRAY // 2 + 3).astype(np.uint8))
    found, said = make(tmp_path / "s", tmp_path / "a.h5", capsys)
    assert "test/a/4.png" in found.name
    assert "train/a/copy.png" not in found.name
    assert "train/a/copy.png -> test/a/4.png" in said


def test_classes_that_a_split_lacks_are_said(tmp_path, capsys):
    for i, name in enumerate(("train/a/1", "train/a/2", "train/b/3", "train/b/4", "test/a/5", "test/c/6")):
        save(tmp_path / "s" / f"{name}.png", (GRAY // 2 + i).astype(np.uint8))
    _, said = make(tmp_path / "s", tmp_path / "a.h5", capsys)
    assert "note: none of the pictures trains of class c" in said
    assert "note: none of the pictures tests of class b" in said
    _, said = make(tmp_path / "s", tmp_path / "b.h5", capsys, "--split-folders", "no")
    assert "trains of" not in said


def test_one_class_is_said(tmp_path, capsys):
    for i in range(4):
        save(tmp_path / "s" / "cat" / f"{i}.png", (GRAY // 2 + i).astype(np.uint8))
    _, said = make(tmp_path / "s", tmp_path / "a.h5", capsys)
    assert "to train, validate and test, 1 class\n" in said
    assert "note: all pictures are of the class cat: training needs two classes or more" in said


def test_pictures_that_scaling_makes_equal_are_copies(tmp_path, capsys):
    """Of other sizes, and one gray level: a network is given one picture."""
    small, large = (np.full(shape, 80, np.uint8) for shape in ((5, 7), (12, 9)))
    for name, pixels in (("cat/1", small), ("cat/2", large), ("dog/3", GRAY), ("dog/4", large)):
        save(tmp_path / "s" / f"{name}.png", pixels)
    found, said = make(tmp_path / "s", tmp_path / "a.h5", capsys, "--size", "7x5")
    assert found.name == ["cat/1.png", "dog/3.png", "dog/4.png"]
    assert "1 file was not read, at 7 x 5 the same as a file that is read: cat/2.png -> cat/1.png" in said
    assert "cat/1.png, dog/4.png are one picture in 2 classes" in said
