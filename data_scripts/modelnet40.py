"""`python -m data_scripts.modelnet40 --form hdf5`: makes data/local/modelnet40.h5 from any of its three distributions.

    hdf5              modelnet40_ply_hdf5_2048: 2,048 points a shape, read in the order of train_files.txt and test_files.txt
    normal_resampled  modelnet40_normal_resampled: 10,000 lines x,y,z,nx,ny,nz a shape, the first `points` are taken
    off               ModelNet40's meshes, sampled uniformly on their surface

About 10 % of each class's training shapes become the validation split (--validation 0 for the peers' way, none).
Without --source the archive is downloaded to data/local, with resume; its SHA-256 is printed, and checked where
--sha256 gives it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import track

from data_scripts import schema
from data_scripts.archive import download, opened, verify
from data_scripts.schema import TEST, TRAIN, Clouds, SchemaError
from data_scripts.shapes import normalised, read_numbers, read_off, sample_surface

Form = Literal["hdf5", "normal_resampled", "off"]
URLS = {
    "hdf5": "https://shapenet.cs.stanford.edu/media/modelnet40_ply_hdf5_2048.zip",
    "normal_resampled": "https://shapenet.cs.stanford.edu/media/modelnet40_normal_resampled.zip",
    "off": "https://modelnet.cs.princeton.edu/ModelNet40.zip",
}
Shape = tuple[np.ndarray, np.ndarray | None, int, int, str]  # points, normals, label, split, name


@dataclass
class Options:
    """Make the ModelNet40 data set."""

    form: Form = "hdf5"
    """Which distribution."""
    source: Path | None = None
    """The archive or its unpacked folder; None: download it."""
    out: Path = Path("data/local/modelnet40.h5")
    """The file to write."""
    points: int = 2048
    """Points of each shape (hdf5 has 2,048, normal_resampled 10,000)."""
    validation: float = 0.1
    """Share of each class's training shapes for validation; 0: none."""
    sha256: str | None = None
    """Of the archive, to be checked."""


def convert(folder: Path, form: Form, points: int, validation: float = 0.1) -> Clouds:
    """The data set of an unpacked distribution."""
    root = _root(
        folder,
        {"hdf5": "shape_names.txt", "normal_resampled": "modelnet40_shape_names.txt", "off": "*/train"}[form],
    )
    names, shapes = {"hdf5": _hdf5, "normal_resampled": _normal_resampled, "off": _off}[form](root, points)
    found = list(shapes)
    normals = [shape[1] for shape in found if shape[1] is not None]
    label = np.array([shape[2] for shape in found], dtype=np.int64)
    split = np.array([shape[3] for shape in found], dtype=np.uint8)
    return Clouds(
        points=np.stack([shape[0] for shape in found]).astype(np.float32),
        normals=np.stack(normals).astype(np.float32) if len(normals) == len(found) else None,
        label=label,
        split=schema.carve_validation(label, split, validation) if validation > 0 else split,
        name=[shape[4] for shape in found],
        class_names=names,
        source=f"ModelNet40, {form}",
        credits="https://modelnet.cs.princeton.edu; not to be redistributed",
        rebuild=f"python -m data_scripts.modelnet40 --form {form} --points {points}",
    )


def _root(folder: Path, marker: str) -> Path:
    """The folder that holds `marker`: the one given, or one inside it."""
    for candidate in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if any(candidate.glob(marker)):
            return candidate
    raise SchemaError(f"{folder} holds no {marker}: is it another distribution? See --form.")


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise SchemaError(f"{path} is not there; the distribution is not whole.")
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _hdf5(root: Path, points: int) -> tuple[list[str], Iterator[Shape]]:
    import h5py

    names = _lines(root / "shape_names.txt")

    def shapes() -> Iterator[Shape]:
        for split, lists in ((TRAIN, "train_files.txt"), (TEST, "test_files.txt")):
            # The lists name paths of their authors' machine; the order is theirs, the folder ours.
            for entry in track(_lines(root / lists), lists, console=Console(stderr=True)):
                path = root / Path(entry).name
                if not path.is_file():
                    raise SchemaError(f"{path}, named in {lists}, is not there.")
                with h5py.File(path, "r") as file:
                    for name in ("data", "label"):
                        if name not in file:
                            raise SchemaError(f"{path} has no dataset {name!r}.")
                    data, label = file["data"], file["label"][:].reshape(-1).astype(np.int64)
                    if (
                        data.ndim != 3
                        or data.shape[2] != 3
                        or data.shape[1] < points
                        or data.dtype.kind != "f"
                    ):
                        raise SchemaError(
                            f"{path}: data is {data.dtype} {data.shape}, expected floats [n, {points} or more, 3]."
                        )
                    if len(label) != len(data) or label.min() < 0 or label.max() >= len(names):
                        raise SchemaError(
                            f"{path}: label holds {len(label)} values up to {label.max()}, expected "
                            f"{len(data)} below {len(names)}."
                        )
                    clouds = data[:, :points]
                    normals = file["normal"][:, :points] if "normal" in file else [None] * len(clouds)
                for i, (cloud, normal, c) in enumerate(zip(clouds, normals, label)):
                    yield cloud, normal, int(c), split, f"{names[c]}/{path.stem}_{i:04d}"

    return names, shapes()


def _normal_resampled(root: Path, points: int) -> tuple[list[str], Iterator[Shape]]:
    names = _lines(root / "modelnet40_shape_names.txt")

    def shapes() -> Iterator[Shape]:
        for split, lists in ((TRAIN, "modelnet40_train.txt"), (TEST, "modelnet40_test.txt")):
            for token in track(_lines(root / lists), lists, console=Console(stderr=True)):
                name = token.rsplit("_", 1)[0]
                if name not in names:
                    raise SchemaError(
                        f"{root / lists}: {token!r} is of no class in modelnet40_shape_names.txt."
                    )
                path = root / name / f"{token}.txt"
                if not path.is_file():
                    raise SchemaError(f"{path}, named in {lists}, is not there.")
                table = read_numbers(path)
                if table.shape[1] != 6 or len(table) < points:
                    raise SchemaError(
                        f"{path} has {table.shape} numbers, expected {points} or more lines of 6."
                    )
                yield (
                    normalised(table[:points, :3]),
                    table[:points, 3:],
                    names.index(name),
                    split,
                    f"{name}/{token}",
                )

    return names, shapes()


def _off(root: Path, points: int) -> tuple[list[str], Iterator[Shape]]:
    names = sorted(path.name for path in root.iterdir() if (path / "train").is_dir())

    def shapes() -> Iterator[Shape]:
        files = [
            (path, c, split)
            for c, name in enumerate(names)
            for split, part in ((TRAIN, "train"), (TEST, "test"))
            for path in sorted((root / name / part).glob("*.off"))
        ]
        for i, (path, c, split) in enumerate(track(files, "meshes", console=Console(stderr=True))):
            vertices, faces = read_off(path)
            cloud, normals = sample_surface(path, vertices, faces, points, np.random.default_rng(i))
            yield normalised(cloud), normals, c, split, f"{names[c]}/{path.stem}"

    return names, shapes()


def main() -> None:
    import tyro

    options = tyro.cli(Options, description=__doc__)
    source = options.source
    if source is None:
        url = URLS[options.form]
        source = download(url, options.out.parent / Path(url).name, options.sha256)
        print(f"{source}: SHA-256 {verify(source, options.sha256)}")
    elif options.sha256:
        verify(source, options.sha256)
    with opened(source) as folder:
        clouds = convert(folder, options.form, options.points, options.validation)
    schema.write(options.out, clouds)
    print(f"{options.out}: {[len(clouds.of(s)) for s in range(3)]} shapes to train, validate and test")


if __name__ == "__main__":
    main()
