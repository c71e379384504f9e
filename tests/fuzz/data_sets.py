"""Data sets in HDF5, of each schema and as they are distributed, and the archives of distributions."""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import zipfile
from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np

from dropfold.data_scripts.readers.decode import Reading
from dropfold.data_scripts.scenes import s3dis
from dropfold.data_scripts.schemas import (
    block_schema,
    part_schema,
    scene_schema,
    shape_schema,
    video_schema,
)
from dropfold.data_scripts.shapes import modelnet40, shapenet_part
from dropfold.data_scripts.videos import clips
from dropfold.data_scripts.work import archive, jobs
from dropfold.data_scripts.work.members import open_members
from tests.fuzz.case import STEP, Arrays, Format, Random, chance, draw_points, pick
from tests.fuzz.mutate import rezip

PIECE = jobs.Job("a piece", "its key", 1, lambda advance: {})
PROVENANCE = {"source": "by hand", "credits": "nobody", "rebuild": "python make.py"}
NAMES = ("chair", "table", "Stuhl", "café", "a b", "椅子", "x/y", "<b>")


def names(random: Random, n: int) -> list[str]:
    return [f"{pick(random, *NAMES)} {i}" for i in range(n)]


def cloud(random: Random, *shape: int) -> np.ndarray:
    return (random.integers(-STEP, STEP, (*shape, 3)) / STEP).astype(np.float32)


def text(values: list[str]) -> np.ndarray:
    return np.array(values, dtype=np.str_)


# --- schemas -----------------------------------------------------------------------------------------------------


def make_shapes(random: Random, path: Path) -> Arrays:
    n, classes = int(random.integers(2, 9)), int(random.integers(1, 4))
    points = cloud(random, n, int(random.integers(1, 20)))
    fold = random.integers(0, 5, n).astype(np.uint8)
    alone = {"group": [f"mould {i}" for i in range(n)], "group_fold": fold}
    groups = alone if chance(random, 0.3) else {}
    clouds = shape_schema.Clouds(
        points=points,
        label=random.integers(0, classes, n),
        split=random.integers(0, 3, n).astype(np.uint8),
        name=names(random, n),
        class_names=names(random, classes),
        normals=points[..., ::-1].copy() if chance(random, 0.3) else None,
        library=names(random, n) if chance(random, 0.3) else None,
        **groups,
        **PROVENANCE,
    )
    shape_schema.write(path, clouds)
    store_anew(random, path)
    return plain(clouds)


def make_parts(random: Random, path: Path) -> Arrays:
    n = int(random.integers(1, 6))
    size = random.integers(1, 9, n)
    category = random.integers(0, 2, n)
    points = cloud(random, int(size.sum()))
    parts = part_schema.Parts(
        points=points,
        part=(2 * np.repeat(category, size) + random.integers(0, 2, len(points))).astype(np.uint8),
        ptr=np.concatenate([[0], np.cumsum(size)]),
        category=category,
        split=random.integers(0, 3, n).astype(np.uint8),
        name=names(random, n),
        class_names=["a", "b"],
        part_names=["a/0", "a/1", "b/0", "b/1"],
        part_category=np.array([0, 0, 1, 1]),
        normals=points[..., ::-1].copy() if chance(random, 0.3) else None,
        codes=pick(random, [0, 1, 2, 3], [4, 12, 14, 200]),
        **PROVENANCE,
    )
    part_schema.write(path, parts)
    store_anew(random, path)
    return plain(parts)


def make_scenes(random: Random, path: Path) -> Arrays:
    rooms = int(random.integers(1, 4))
    found: Arrays = {
        "class_names": text(names(random, 3)),
        "codes": np.array(pick(random, [0, 1, 2], [2, 5, 6])),
    }
    with scene_schema.writer(
        path, found["class_names"].tolist(), **PROVENANCE, codes=found["codes"].tolist()
    ) as writer:
        for i in range(rooms):
            n = int(random.integers(1, 20))
            points = draw_points(random, max(n, 2))
            n = len(points)
            colour, label = (
                random.integers(0, 256, (n, 3)).astype(np.uint8),
                random.integers(0, 3, n).astype(np.uint8),
            )
            writer.add(f"room {i}", i + 1, points, colour, label)
            found |= {f"points {i}": points - points.min(0), f"colour {i}": colour, f"label {i}": label}
            found[f"origin {i}"] = points.min(0)
    return found


def make_blocks(random: Random, path: Path) -> Arrays:
    n, size = int(random.integers(2, 5)), int(random.integers(1, 9))
    points = random.random((n, size, 9)).astype(np.float32)
    label = random.integers(0, 3, (n, size)).astype(np.uint8)
    found = {"points": points, "label": label, "class_names": text(["a", "b", "c"])}
    with block_schema.writer(path, ["a", "b", "c"], **PROVENANCE) as writer:
        writer.add(
            block_schema.pack("here", points, label, 3),
            [f"room {i}" for i in range(n)],
            list(range(1, n + 1)),
        )
    return found


def make_videos(random: Random, path: Path) -> Arrays:
    n, length = int(random.integers(2, 6)), int(random.integers(1, 5))
    videos = video_schema.Videos(
        frames=random.integers(0, 256, (n, length, 4, 6, 3)).astype(np.uint8),
        length=np.full(n, length),
        label=random.integers(0, 2, n),
        split=random.integers(0, 3, n).astype(np.uint8),
        fold=random.integers(0, 5, n).astype(np.uint8),
        group_fold=random.integers(0, 5, n).astype(np.uint8),
        group=names(random, n),
        name=names(random, n),
        class_names=names(random, 2),
        **PROVENANCE,
    )
    video_schema.write(path, videos)
    store_anew(random, path)
    return plain(videos)


def plain(data) -> Arrays:
    """The fields of a data set as arrays, without what says where it comes from."""
    found = {one.name: getattr(data, one.name) for one in fields(data)}
    lists = {
        name: text(value) for name, value in found.items() if isinstance(value, list) and name != "codes"
    }
    arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    return arrays | lists | ({"codes": np.array(found["codes"])} if "codes" in found else {})


def store_anew(random: Random, path: Path) -> None:
    """The same values, packed in another way."""
    if chance(random):
        return
    with h5py.File(path, "r+") as file:
        for name in list(file):
            values = file[name][()]
            if values.dtype == object:
                continue
            options = pick(
                random,
                {},
                {"compression": "gzip", "compression_opts": 9},
                {"fletcher32": True},
                {"shuffle": True, "compression": "lzf"},
            )
            chunks = tuple(max(1, k // 2) for k in values.shape) if options else None
            del file[name]
            file.create_dataset(name, data=values, chunks=chunks, **options)


def read_scenes(path: Path) -> Arrays:
    scenes = scene_schema.read(path)
    found = {"class_names": text(scenes.class_names), "codes": np.array(scenes.codes)}
    for i in range(len(scenes)):
        room = scenes.room(i)
        found |= {f"points {i}": room.points, f"colour {i}": room.colour, f"label {i}": room.label}
        found[f"origin {i}"] = scenes.origin[i]
    return found


def read_blocks(path: Path) -> Arrays:
    blocks = block_schema.read(path)
    points, label = blocks.load(np.arange(len(blocks)))
    return {"points": points, "label": label, "class_names": text(blocks.class_names)}


ATTRIBUTES = (
    *(1, -1.5, "", "x", np.array([1, 2]), np.array(["x", "y"], object), np.array([], "f4"), b"\xff\xfe"),
    h5py.Empty("f4"),
)
KINDS = (
    "f8",
    "i1",
    "u8",
    "c8",
    "S5",
    "?",
    "f2",
    "V4",
    h5py.vlen_dtype("i4"),
    h5py.enum_dtype({"a": 1}, "u1"),
)
RECORD = np.dtype([("a", "f4"), ("b", "i2")])


def damage_h5(random: Random, path: Path) -> bool:
    """An item, an attribute or a link of an HDF5 file becomes another, by the library itself."""
    with (
        contextlib.suppress(KeyError, ValueError, TypeError, OSError, RuntimeError),
        h5py.File(path, "r+") as file,
    ):
        if chance(random, 0.25):
            name = pick(random, *file.attrs, "schema", "class_names")
            if chance(random, 0.2):
                del file.attrs[name]
            else:
                file.attrs[name] = pick(random, *ATTRIBUTES)
            return True
        name = pick(random, *file)
        item = file[name]
        values = item[()]
        kind = int(random.integers(13))
        if kind == 0 and values.dtype.kind in "fiu" and values.size:
            values = values.copy()
            values.flat[int(random.integers(values.size))] = pick(random, 0, 1, 99)
            item[...] = values
            return True
        del file[name]
        target = pick(random, *file, "nothing", name) if len(file) else name
        if kind == 1:
            file.create_group(name)
        elif kind == 2:
            file[name] = h5py.SoftLink(f"/{target}")
        elif kind == 3:
            file[name] = h5py.ExternalLink(pick(random, "/etc/passwd", path.name, "other.h5"), target)
        elif kind == 4:
            file.create_dataset(name, (2**40, 3), "f4", chunks=(1024, 3))
        elif kind == 5:
            words = values.astype(str) if values.dtype != object else np.array(["1.0"] * len(values))
            file.create_dataset(name, data=words.astype(object), dtype=h5py.string_dtype())
        elif kind == 6:
            file.create_dataset(name, data=values[..., None] if values.dtype != object else values[:0])
        elif kind == 7:
            file.create_dataset(name, data=values[: len(values) // 2])
        elif kind == 8:
            file.create_dataset(name, values.shape, pick(random, *KINDS, RECORD))
        elif kind == 9:
            layout = h5py.VirtualLayout(values.shape, "f4")
            layout[...] = h5py.VirtualSource(str(path.with_name("other.h5")), "x", shape=values.shape)
            file.create_virtual_dataset(name, layout)
        elif kind == 10:
            file.create_dataset(name, values.shape, "f4", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])
        elif kind == 11:
            file.create_dataset(name, data=pick(random, 1.5, "x", h5py.Empty("f4")))
    return True


# --- distributions -----------------------------------------------------------------------------------------------


def make_modelnet(random: Random, path: Path) -> Arrays:
    """One file of ModelNet40 as Stanford distributed it; the lists beside it are of its folder."""
    n, points = int(random.integers(1, 6)), int(random.integers(8, 12))
    data = cloud(random, n, points)
    label = random.integers(0, 2, (n, 1)).astype(np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=data, compression=pick(random, None, "gzip"))
        file.create_dataset("label", data=label)
        if chance(random, 0.3):
            file.create_dataset("normal", data=data[..., ::-1])
    (path.parent / "shape_names.txt").write_text("a\nb\n")
    (path.parent / "train_files.txt").write_text(f"data/{path.name}\n")
    (path.parent / "test_files.txt").write_text("")
    return {"points": data[:, :8], "label": label[:, 0]}


def read_modelnet(path: Path) -> Arrays:
    found = modelnet40.convert(path.parent, "hdf5", 8, validation=0)
    return {"points": found.points, "label": found.label}


def make_shapenet(random: Random, path: Path) -> Arrays:
    """One file of ShapeNetPart as it is distributed with 2,048 points; the same one for each split."""
    n, points = int(random.integers(1, 4)), int(random.integers(3, 9))
    label = random.integers(0, 16, (n, 1)).astype(np.uint8)
    first = np.array(list(shapenet_part.FIRST.values()))
    data, pid = cloud(random, n, points), np.repeat(first[label], points, 1).astype(pick(random, "u1", "i8"))
    with h5py.File(path, "w") as file:
        for name, values in {"data": data, "label": label, "pid": pid}.items():
            file.create_dataset(name, data=values, compression=pick(random, None, "gzip"))
    for word in shapenet_part.SPLITS:
        (path.parent / f"{word}_hdf5_file_list.txt").write_text(f"{path.name}\n")
    (path.parent / "ply_data_train0.h5").write_bytes(b"")
    return {"points": np.concatenate([data.reshape(-1, 3)] * 3), "part": np.tile(pid.reshape(-1), 3)}


def read_shapenet(path: Path) -> Arrays:
    parts, _ = shapenet_part.convert(path.parent, "hdf5", path.parent / "made.hdf")
    return {"points": np.array(parts.points), "part": np.array(parts.part)}


def make_room(random: Random, path: Path) -> Arrays:
    """A room of S3DIS: a chair and a wall. `path` is the chair."""
    n = int(random.integers(4, 20))
    points, colour = draw_points(random, 2 * n), random.integers(0, 256, (2 * n, 3))
    label = np.repeat([s3dis.CLASSES.index("chair"), s3dis.CLASSES.index("wall")], n)
    folder = path.with_suffix("") / "Area_1" / "office_1" / "Annotations"
    folder.mkdir(parents=True)
    (folder / "chair_1.txt").symlink_to(path)
    for file, part in ((path, slice(n)), (folder / "wall_1.txt", slice(n, None))):
        apart, end = pick(random, " ", "\t", "  "), pick(random, "\n", "\n", "\r\n")
        numbers = zip(points[part].tolist(), colour[part].tolist())
        rows = [apart.join([*(f"{one:.6f}" for one in place), *map(str, rgb)]) for place, rgb in numbers]
        file.write_bytes((end.join(rows) + end).encode())
    return {"points": points - points.min(0), "colour": colour, "label": label}


def read_room(path: Path) -> Arrays:
    with open_members(path.with_suffix("")) as source:
        (job,) = s3dis.list_rooms(source, "m").jobs
        found = job.read(lambda amount: None)
    return {name: found[name] for name in ("points", "colour", "label")}


def make_piece(random: Random, path: Path) -> Arrays:
    """A finished piece of a conversion, as an interrupted one leaves it."""
    found = {"points": cloud(random, int(random.integers(1, 9))), "notes": text(names(random, 2))}
    np.savez(path, **found)
    jobs.piece_path(path.parent, PIECE).symlink_to(path.name)
    return found


def read_piece(path: Path) -> Arrays:
    return jobs.load_piece(path.parent, PIECE)


def make_clip(random: Random, path: Path) -> Arrays:
    """A decoded clip, as an interrupted conversion leaves it."""
    frames = random.integers(0, 256, (int(random.integers(1, 5)), 4, 6, 3)).astype(np.uint8)
    np.save(path, frames)
    return {"frames": frames}


def read_clip(path: Path) -> Arrays:
    clip = clips.Clip(path.with_name("a.avi"), "a", ("b",), "c")
    place = clips._clip_path(path.parent, clip)
    place.symlink_to(path.name)
    stack, length = clips._stack_clips(path.parent, [clip], Reading(size="6x4"))
    return {"frames": np.array(stack[0, : length[0]])}


# --- archives ----------------------------------------------------------------------------------------------------


ZIPPED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
TARRED = {".tar": "w", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}


def make_archive(random: Random, path: Path) -> Arrays:
    members = {
        f"{pick(random, '', 'set/', 'set/deep/')}{name}.txt": random.bytes(int(random.integers(1, 400)))
        for name in ("a", "b c", "ü")
    }
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", pick(random, *ZIPPED)) as file:
            for name, content in members.items():
                file.writestr(name, content)
    else:
        form = pick(random, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
        with tarfile.open(path, TARRED[path.suffix], format=form) as file:
            for name, content in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))
    return {name: np.frombuffer(content, np.uint8) for name, content in members.items()}


def read_unpacked(path: Path) -> Arrays:
    folder = path.with_name("unpacked")
    try:
        archive.extract(path, folder)
        files = [one for one in folder.rglob("*") if one.is_file()]
        return {str(one.relative_to(folder)): np.frombuffer(one.read_bytes(), np.uint8) for one in files}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_members(path: Path) -> Arrays:
    with open_members(path) as source:
        found = {}
        for name in source.files:
            with source.open(name) as file:
                found[name] = np.frombuffer(file.read(), np.uint8)
    return found


def _read_with(schema):
    return lambda path: plain(schema.read(path))


FORMATS = [
    Format("h5 shapes", ".h5", make_shapes, (_read_with(shape_schema),), sealed=True, damage=damage_h5),
    Format("h5 parts", ".h5", make_parts, (_read_with(part_schema),), sealed=True, damage=damage_h5),
    Format("h5 scenes", ".h5", make_scenes, (read_scenes,), sealed=True, damage=damage_h5),
    Format("h5 blocks", ".h5", make_blocks, (read_blocks,), sealed=True, damage=damage_h5),
    Format("h5 videos", ".h5", make_videos, (_read_with(video_schema),), sealed=True, damage=damage_h5),
    Format("h5 modelnet40", ".h5", make_modelnet, (read_modelnet,), damage=damage_h5),
    Format("h5 shapenet", ".h5", make_shapenet, (read_shapenet,), damage=damage_h5),
    Format("s3dis room", ".txt", make_room, (read_room,)),
    Format("piece", ".npz", make_piece, (read_piece,), sealed=True, damage=rezip),
    Format("clip", ".npy", make_clip, (read_clip,), counted=True),
    Format("zip", ".zip", make_archive, (read_unpacked, read_members), sealed=True, damage=rezip),
    Format("tar", ".tar", make_archive, (read_unpacked,)),
    *(Format(f"tar{one}", one, make_archive, (read_unpacked,), sealed=True) for one in (".tgz", ".bz2", ".xz")),
]  # fmt: skip
