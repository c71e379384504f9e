"""`dropfold data s3dis-blocks`: makes data/local/s3dis_blocks.h5 of indoor3d_sem_seg_hdf5_data.

The blocks of 1 m with 4,096 points that DGCNN's and PointNet's published S3DIS figures were trained and tested on. They stay
blocks: their points are a sample, doubled where a column had few and where columns overlap, from which no room comes back.
all_files.txt gives the order of the files, room_filelist.txt the room of each block. Area 5 tests (--test-area), the
blocks of 12 % of the other rooms validate.

Files are read in parallel, and one that is finished is not read again: a conversion that was stopped goes on.

Without --source the archive is downloaded to data/local by https, with resume; its SHA-256 is compared with the one that
--sha256 gives, a published one, or that of the first download (see `dropfold.data_scripts.work.archive`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from dropfold.data_scripts.scenes.s3dis import CLASSES
from dropfold.data_scripts.schemas import block_schema
from dropfold.data_scripts.schemas.block_schema import CHANNELS, Blocks
from dropfold.data_scripts.schemas.hdf5 import open_h5
from dropfold.data_scripts.schemas.splits import split_by_area
from dropfold.data_scripts.work import distribution, pieces
from dropfold.data_scripts.work import jobs as work
from dropfold.data_scripts.work.archive import download_or_reuse, open_as_folder
from dropfold.data_scripts.work.distribution import read_lines
from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.folders import print_line
from dropfold.data_scripts.work.jobs import Advance, Job

URL = "https://shapenet.cs.stanford.edu/media/indoor3d_sem_seg_hdf5_data.zip"


@dataclass
class Options:
    """Make the S3DIS blocks."""

    source: Path | None = None
    """indoor3d_sem_seg_hdf5_data, the archive or its unpacked folder; None: download it."""
    out: Path = Path("data/local/s3dis_blocks.h5")
    """The file to write."""
    points: int = 4096
    """Points of each block, the first ones; the distribution has 4,096."""
    test_area: int | None = None
    """The area that tests; None: area 5, or the last one."""
    validation: float = 0.12
    """Share of the other areas' rooms for validation; 0: none."""
    sha256: str | None = None
    """Of the archive, to be checked."""
    workers: int = 0
    """Files that are read at a time; 0: one a core."""


@pieces.releasing()
def convert(folder: Path, options: Options) -> Blocks:
    """Make `options.out` of the unpacked distribution."""
    if options.points < 1:
        raise SchemaError(f"--points must be at least 1; got {options.points}.")
    root = distribution.find_root(folder, "room_filelist.txt")
    rooms = read_lines(root / "room_filelist.txt")
    # Paths of their authors' machine; the order is theirs, the folder ours.
    files = [root / Path(entry).name for entry in read_lines(root / "all_files.txt")]
    for path in files:
        if not path.is_file():
            raise SchemaError(f"{path}, named in all_files.txt, is not there.")
    ptr = np.cumsum([0, *(_count(path, options.points) for path in files)])
    if ptr[-1] != len(rooms):
        raise SchemaError(
            f"{root / 'room_filelist.txt'} has {len(rooms)} lines, the files hold {ptr[-1]} blocks."
        )
    found = [re.fullmatch(r"Area_(\d+)_(.+)", room) for room in rooms]
    for line, match in enumerate(found, 1):
        if match is None:
            raise SchemaError(
                f"{root / 'room_filelist.txt'}, line {line}: {rooms[line - 1]!r} is no room, expected Area_N_ROOM."
            )
    area = [int(match[1]) for match in found if match]
    name = [f"Area_{match[1]}/{match[2]}" for match in found if match]
    split_by_area(np.array(area), options.test_area, options.validation)  # says what is wrong before the work
    unpacked = options.source is None or not options.source.is_dir()
    jobs = [_job(path, options.points, unpacked) for path in files]
    part = work.run_jobs(options.out, jobs, options.workers, "files")
    arguments = f"--points {options.points} --validation {options.validation:g}"
    arguments += f" --test-area {options.test_area}" if options.test_area is not None else ""
    with block_schema.writer(
        options.out,
        list(CLASSES),
        source="S3DIS, indoor3d_sem_seg_hdf5_data",
        credits="Armeni et al., CVPR 2016, http://buildingparser.stanford.edu/dataset.html; not to be redistributed",
        rebuild=f"dropfold data s3dis-blocks {arguments}",
        test_area=options.test_area,
        validation=options.validation,
        folder=part,
    ) as writer:
        shown = track(jobs, "writing files", console=Console(stderr=True))
        for job, first, last in zip(shown, ptr, ptr[1:]):
            writer.add(work.load_piece(part, job), name[first:last], area[first:last])
    pieces.end(part)
    return block_schema.read(options.out)


def _job(path: Path, points: int, unpacked: bool) -> Job:
    """A file of the distribution, to be packed."""
    size = path.stat().st_size

    def read(advance: Advance) -> dict[str, np.ndarray]:
        with open_h5(path) as file:
            data, label = (file.read(name, np.s_[:, :points]) for name in ("data", "label"))
        advance(size // 2)
        packed = block_schema.pack(str(path), data, label, len(CLASSES))
        advance(size - size // 2)
        return packed

    return Job(path.name, f"{points} {work.fingerprint(path, unpacked)}", size, read)


def _count(path: Path, points: int) -> int:
    """The blocks of a file, whose datasets are checked before any is read."""
    with open_h5(path, "data", "label") as file:
        kind, shape = file.dtype("data"), file.shape("data")
        if len(shape) != 3 or shape[2] != CHANNELS or kind.kind != "f":
            raise SchemaError(f"{path}: data is {kind} {shape}, expected floats [n, {points} or more, 9].")
        if shape[1] < points:
            raise SchemaError(
                f"{path}: its blocks have {shape[1]} points, fewer than the {points} that were asked for; "
                f"give --points {shape[1]}."
            )
        if file.shape("label") != shape[:2] or file.dtype("label").kind not in "iu":
            raise SchemaError(
                f"{path}: label is {file.dtype('label')} {file.shape('label')}, expected integers {shape[:2]}, one for each "
                "point."
            )
        return shape[0]


def account_files(folder: Path) -> list[str]:
    """What is said of the files of the distribution that are not read."""
    root = distribution.find_root(folder, "room_filelist.txt")
    read = [root / Path(entry).name for entry in read_lines(root / "all_files.txt")]
    lists = [root / "all_files.txt", root / "room_filelist.txt"]
    return distribution.account_files(folder, read, lists, "not named in all_files.txt")


def main(options: Options) -> None:
    with work.advise_restart():
        source = download_or_reuse(options.source, URL, options.out.parent, options.sha256)
        with open_as_folder(source) as folder:
            blocks = convert(folder, options)
            notes = account_files(folder)
    print_line(f"{options.out}: {[len(blocks.of(s)) for s in range(3)]} blocks to train, validate and test")
    for note in notes:
        print_line(f"note: {note}")
