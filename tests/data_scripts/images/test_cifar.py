"""CIFAR from archives in the authors' binary layout, made here with fewer records: none of the real ones was at hand."""

import hashlib
import io
import pickle
import tarfile
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from dropfold.__main__ import main
from dropfold.data_scripts.images import cifar
from dropfold.data_scripts.schemas import image_schema
from dropfold.data_scripts.work.errors import ArchiveError, SchemaError

FOLDERS = {"CIFAR-10": "cifar-10-batches-bin", "CIFAR-100": "cifar-100-binary"}
SMALL = {"CIFAR-10": (40, 30), "CIFAR-100": (400, 200)}


def record(label, image):
    """The bytes of an image [32, 32, 3] by the authors' words: "The first 1024 bytes are the red channel values, the next
    1024 the green, and the final 1024 the blue. The values are stored in row-major order"."""
    planes = [
        image[row, column, channel] for channel in range(3) for row in range(32) for column in range(32)
    ]
    return bytes(label) + bytes(planes)


def make(one, random):
    """`(content of each file, images, fine labels)`; as many of each class in all training files together."""
    train, test = SMALL[one.title]
    content, images, fine = {}, [], []
    for names, size in ((one.train, train), ((one.test,), test)):
        labels = random.permutation(np.arange(size * len(names)) % one.classes).reshape(len(names), size)
        for name, some in zip(names, labels):
            # Constant planes with one pixel of another value: quick to write, and every axis is told apart.
            planes = random.integers(0, 256, (size, 3))
            whole = np.broadcast_to(planes[:, None, None], (size, 32, 32, 3)).astype(np.uint8)
            whole[np.arange(size), random.integers(0, 32, size), random.integers(0, 32, size), 1] = 7
            coarse = [[label // 5] for label in some] if one.classes == 100 else [[] for _ in some]
            flat = whole.transpose(0, 3, 1, 2).reshape(size, -1)
            content[name] = b"".join(
                bytes([*c, label]) + row.tobytes() for c, label, row in zip(coarse, some, flat)
            )
            assert content[name].startswith(record([*coarse[0], some[0]], whole[0]))
            images.append(whole)
            fine.append(some)
    content[one.names] = "".join(f"class {c}\n" for c in range(one.classes)).encode() + b"\n"
    for name in one.beside:
        content[name] = b"x\n"
    return content, np.concatenate(images), np.concatenate(fine)


def packed(path, folder, content):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in content.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture(params=cifar.SETS, ids=lambda one: one.title)
def distribution(request, tmp_path, monkeypatch):
    """`(the set, its archive, what is in it, images, labels)`, with SMALL records for the published numbers."""
    small = [replace(one, records=SMALL[one.title], out=tmp_path / one.out.name) for one in cifar.SETS]
    monkeypatch.setattr(cifar, "SETS", tuple(small))
    one = small[cifar.CIFAR100 is request.param]
    content, images, label = make(one, np.random.default_rng(0))
    return one, packed(tmp_path / one.archive, FOLDERS[one.title], content), content, images, label


def unpacked(folder, content, **changes):
    folder.mkdir(exist_ok=True)
    for name, data in {**content, **changes}.items():
        (folder / name).write_bytes(data)
    return folder


def convert(folder, validation):
    one, root = cifar.find_set(folder)
    return cifar.convert(root, one, validation)


def test_the_published_sizes():
    """60,000 images; 3,073 and 3,074 bytes a record, as the authors' page says."""
    assert [one.records[0] * len(one.train) + one.records[1] for one in cifar.SETS] == [60_000, 60_000]
    assert [one.label_bytes + cifar.CHANNELS * cifar.SIDE**2 for one in cifar.SETS] == [3073, 3074]


def test_images_labels_and_names_are_those_of_the_records(distribution, capsys):
    one, archive, _, images, label = distribution
    main(["data", "cifar", "--source", str(archive), "--validation", "0.25"])
    found = image_schema.read(one.out)
    np.testing.assert_array_equal(found.pixels, images)
    np.testing.assert_array_equal(found.label, label)
    assert found.class_names == [f"class {c}" for c in range(one.classes)]
    train, test = SMALL[one.title][0] * len(one.train), SMALL[one.title][1]
    each = train // one.classes
    counts = [np.bincount(found.label[found.of(split)], minlength=one.classes) for split in range(3)]
    validating = round(0.25 * each)
    assert [np.unique(count).tolist() for count in counts] == [
        [each - validating],
        [validating],
        [test // one.classes],
    ]
    assert found.of(2).tolist() == list(range(train, train + test))
    assert found.name[0] == f"{one.train[0]} 00000"
    assert found.name[-1] == f"{one.test} {test - 1:05d}"
    assert len(set(found.name)) == train + test
    assert "no licence is stated" in found.credits
    captured = capsys.readouterr()
    assert (
        f"{one.out}: {[each * one.classes - validating * one.classes, validating * one.classes, test]}"
        in (captured.out.replace("\n", " "))
    )


def test_an_archive_and_its_folder_give_the_same(distribution, tmp_path):
    _, archive, content, *_ = distribution
    main(["data", "cifar", "--source", str(archive), "--out", str(tmp_path / "a.h5")])
    main(
        ["data", "cifar", "--source", str(unpacked(tmp_path / "f", content)), "--out", str(tmp_path / "b.h5")]
    )
    assert image_schema.read(tmp_path / "a.h5").checksum == image_schema.read(tmp_path / "b.h5").checksum
    without = convert(tmp_path / "f", 0)
    assert not len(without.of(1))


def test_an_archive_is_compared_with_the_published_one(distribution, tmp_path, monkeypatch, capsys, caplog):
    one, archive, *_ = distribution
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    cifar.compare_archive(archive, one)
    assert f"has MD5 {digest}, and {one.archive} as published {one.md5}" in caplog.text
    cifar.compare_archive(archive, replace(one, md5=digest))
    assert f"MD5 {digest}, the published one" in capsys.readouterr().out.replace("\n", " ")


def test_what_is_not_as_published_is_named(distribution, tmp_path):
    one, _, content, *_ = distribution
    size, last = 3072 + one.label_bytes, one.train[-1]

    def refused(match, kind=ArchiveError, **changes):
        folder = unpacked(tmp_path / "f", content, **changes)
        with pytest.raises(kind, match=match) as caught:
            convert(folder, 0.1)
        assert str(folder) in str(caught.value)

    expected = f"expected {SMALL[one.title][0]:,} records of {size:,}"
    for data in (content[last][:-1], content[last] + bytes(size), b""):
        refused(rf"{last} has {len(data):,} bytes, {expected}", **{last: data})
    at = 2 * size + one.label_bytes - 1
    wrong = bytearray(content[last])
    wrong[at] = one.classes
    refused(
        rf"{last}: the label of record 2 is {one.classes}, expected 0 .. {one.classes - 1}",
        **{last: bytes(wrong)},
    )
    wrong[at] = (content[last][at] + 1) % one.classes
    refused(r"training images of a class, expected \d+ of each", **{last: bytes(wrong)})
    fewer = content[one.names].replace(b"class 1\n", b"")
    refused(rf"{one.names} has {one.classes - 1} different names in", **{one.names: fewer})
    refused("different names", **{one.names: content[one.names].replace(b"class 1\n", b"class 2\n")})
    refused("no list in UTF-8", SchemaError, **{one.names: b"\xff\n"})
    (tmp_path / "f" / last).unlink()
    with pytest.raises(ArchiveError, match=f"{last} is not there; the distribution of {one.title}"):
        convert(unpacked(tmp_path / "g", {k: v for k, v in content.items() if k != last}), 0.1)
    with pytest.raises(SchemaError, match="--validation is 1"):
        convert(tmp_path / "g", 1)


def test_a_copy_under_another_files_name_is_refused(distribution, tmp_path):
    one, _, content, *_ = distribution
    first = one.train[0]
    if len(content[first]) != len(content[one.test]):
        pytest.skip("the files are of two sizes")
    folder = unpacked(tmp_path / "copied", content, **{one.test: content[first]})
    with pytest.raises(ArchiveError, match=f"{one.test} holds the images of {first}, one after the other"):
        convert(folder, 0.1)


def test_coarse_labels_are_those_of_their_classes(distribution, tmp_path):
    one, _, content, *_ = distribution
    if one.label_bytes == 1:
        pytest.skip("CIFAR-10 has no coarse labels")
    data = bytearray(content["test.bin"])
    data[0] = 20
    with pytest.raises(ArchiveError, match=r"test\.bin: the label of record 0 is 20, expected 0 .. 19"):
        convert(unpacked(tmp_path / "f", content, **{"test.bin": bytes(data)}), 0.1)
    data[0] = (content["test.bin"][0] + 1) % 20
    with pytest.raises(ArchiveError, match="has 101 pairs of a coarse and a fine label, expected 100"):
        convert(unpacked(tmp_path / "f", content, **{"test.bin": bytes(data)}), 0.1)


def test_a_file_that_is_not_read_is_said(distribution, tmp_path, capsys):
    _, _, content, *_ = distribution
    source = unpacked(tmp_path / "f", content, **{"more.bin": b"x"})
    main(["data", "cifar", "--source", str(source)])
    out = capsys.readouterr().out
    assert "1 file was not read" in out
    assert "more.bin" in out


class Trap:
    """Unpickled, it raises."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was read')",))


@pytest.mark.parametrize("name", ["cifar-10-batches-py/data_batch_1", "cifar-100-python/meta"])
def test_pickles_are_refused_unread(name, tmp_path):
    folder, _, file = name.partition("/")
    archive = packed(tmp_path / "a.tar.gz", folder, {file: pickle.dumps(Trap())})
    with pytest.raises(SystemExit, match="are not read"):
        main(["data", "cifar", "--source", str(archive), "--out", str(tmp_path / "a.h5")])
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / file).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ArchiveError, match="whose pickles could run any code and are not read"):
        convert(tmp_path / "f", 0.1)


def test_other_folders_and_unsafe_archives(distribution, tmp_path):
    _, archive, content, *_ = distribution
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArchiveError, match=r"holds neither test_batch\.bin nor test\.bin"):
        convert(tmp_path / "empty", 0.1)
    other = {"test.bin": b"", "test_batch.bin": b""}
    with pytest.raises(ArchiveError, match=r"holds CIFAR-10 in .* and CIFAR-100 in .*, expected one set"):
        convert(unpacked(tmp_path / "f", content, **other), 0.1)
    outside = packed(tmp_path / "out.tar.gz", "../outside", content)
    archive.write_bytes(archive.read_bytes()[:-40])
    for source, said in (
        (outside, "outside its folder"),
        (archive, "fetch it again"),
        (tmp_path / "no", "is not there"),
    ):
        with pytest.raises(SystemExit, match=said):
            main(["data", "cifar", "--source", str(source), "--out", str(tmp_path / "a.h5")])
    assert not (tmp_path / "a.h5").exists()
    assert not (tmp_path.parent / "outside").exists()


def test_images_on_both_sides_of_the_published_split_are_said(distribution, tmp_path, caplog):
    one, _, content, *_ = distribution
    size, first = one.label_bytes + 3072, one.train[0]
    test = bytearray(content[one.test])
    test[2 * size + one.label_bytes : 3 * size] = content[first][5 * size + one.label_bytes : 6 * size]
    found = convert(unpacked(tmp_path / "f", content, **{one.test: bytes(test)}), 0.1)
    assert len(found.name) == len(set(found.name))
    assert (
        f"1 image that tests is known from training, which flatters the scores: {one.test} 00002 -> {first} 00005"
        in caplog.text
    )


@pytest.mark.parametrize("packing", ["tar", "zip"])
def test_members_beside_the_set_and_doubled_ones_are_named(distribution, packing, tmp_path, capsys, caplog):
    """Of two members of one name the last is unpacked, as tar and unzip do."""
    one, _, content, images, _ = distribution
    inside = {f"{FOLDERS[one.title]}/{name}": data for name, data in content.items()}
    test = f"{FOLDERS[one.title]}/{one.test}"
    members = [(test, inside[test][::-1]), *inside.items(), ("beside/more.bin", b"x")]
    archive = tmp_path / f"a.{packing}"
    if packing == "tar":
        with tarfile.open(archive, "w") as tar:
            for name, data in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    else:
        with warnings.catch_warnings(), zipfile.ZipFile(archive, "w") as file:
            warnings.simplefilter("ignore")  # of the doubled name
            for name, data in members:
                file.writestr(name, data)
    main(["data", "cifar", "--source", str(archive)])
    np.testing.assert_array_equal(image_schema.read(one.out).pixels, images)
    assert (
        f"{archive} holds 1 file more than once under one name, and the last is read: {test}" in caplog.text
    )
    assert (
        "1 file was not read, of kinds that are not read (1 .bin): beside/more.bin" in capsys.readouterr().out
    )
