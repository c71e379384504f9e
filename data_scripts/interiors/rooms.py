"""`dropfold data rooms --out data/local/rooms_raw`: furnished rooms in S3DIS's own raw folder layout.

Six areas, each a hallway with rooms on both sides, composed of the furniture that ships with the project and seen as a
scanner sees: data_scripts/interiors. Files are those of Stanford3dDataset_v1.2_Aligned_Version:
`Area_1/office_1/office_1.txt` and `Area_1/office_1/Annotations/chair_1.txt`, lines `x y z r g b`, metres, 13 classes;
`dropfold.data_scripts.scenes.s3dis` reads them.

The rooms of area 5 hold test furniture alone, those of the other areas training and validation furniture.

An area is made in a hidden folder, room by room, each renamed when it is whole, and the area when all are there: a second
start goes on. What a room holds depends on the seed, its area and its number alone.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from dropfold.data_scripts.interiors import building, kinds
from dropfold.data_scripts.interiors.catalogue import Stock
from dropfold.data_scripts.interiors.plan import Plan
from dropfold.data_scripts.interiors.scan import choose_positions, scan_surface
from dropfold.data_scripts.interiors.surface import sample_room
from dropfold.data_scripts.schemas import shape_schema
from dropfold.data_scripts.schemas.shape_schema import TEST, TRAIN, VALIDATION
from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.jobs import advise_restart
from dropfold.data_scripts.work.processes import LOCK, cores, end_with_parent, hold_folder, start_deaf
from dropfold.data_scripts.work.shipped import find_data

TEST_AREA = 5
FEWEST = 20  # points below which an object is not seen
ABOUT = "about.json"  # read by data_scripts.s3dis


@dataclass
class Options:
    """Make furnished rooms in the layout of S3DIS's raw archive."""

    out: Path = Path("data/local/rooms_raw")
    """The folder to write."""
    source: Path = Path("data/furniture.h5")
    """The furniture."""
    areas: int = 6
    """How many, 1 to 6; area 5 holds the test furniture."""
    rooms: int = 6
    """Rooms of each area, its hallway counted."""
    density: float = 1000.0
    """Points a square metre near a scanner; a room of 25 square metres has about 100 times as many points."""
    seed: int = 0
    """Of everything that is drawn at random."""
    workers: int = 0
    """Rooms that are made at a time; 0: one a core."""
    sheet: Path | None = None
    """Also draw some of the rooms, opened, in true colours and by class."""


@dataclass
class Room:
    """A room as it is written: points with millimetres, and the object of each."""

    plan: Plan
    points: np.ndarray
    colours: np.ndarray
    object: np.ndarray
    labels: list[str]


def plan_room(area: int, rooms: int, number: int, seed: int, stock: Stock) -> Plan:
    """The plan of one of an area's rooms."""
    empty = building.plan_area(area, rooms, stock, np.random.default_rng([seed, area]))[number]
    return kinds.furnish(empty, stock, number, np.random.default_rng([seed, area, number]))


def stock_for(furniture: shape_schema.Clouds, area: int) -> Stock:
    """The furniture of an area: test models in the test area, all others elsewhere."""
    return Stock(furniture, (TEST,) if area == TEST_AREA else (TRAIN, VALIDATION))


def scan_room(plan: Plan, stock: Stock, density: float, seed: int, number: int) -> Room:
    """Scan a furnished room; coordinates are those of its area."""
    random = np.random.default_rng([seed, plan.area, number, 1])
    whole = sample_room(plan, stock, density, random)
    points, colours, owner = scan_surface(whole, choose_positions(plan, whole, random), density, random)
    counts = np.bincount(owner, minlength=len(whole.labels))
    kept = counts[owner] >= FEWEST
    points, colours, owner = points[kept], colours[kept], owner[kept]
    order = np.argsort(owner, kind="stable")
    shifted = np.round(points[order] + np.array([*plan.origin, 0.0]), 3)
    return Room(plan, shifted, colours[order], owner[order], whole.labels)


def write_room(folder: Path, room: Room) -> None:
    """Write a room's folder: the annotations, and the room's file that holds them one after another."""
    (folder / "Annotations").mkdir(parents=True)
    named: dict[str, int] = {}
    with open(folder / f"{room.plan.name}.txt", "w") as whole:
        for number in np.unique(room.object):
            label = room.labels[number]
            named[label] = named.get(label, 0) + 1
            rows = room.object == number
            table = np.column_stack([room.points[rows], room.colours[rows]])
            text = ("%.3f %.3f %.3f %d %d %d\n" * len(table)) % tuple(table.ravel().tolist())
            (folder / "Annotations" / f"{label}_{named[label]}.txt").write_text(text)
            whole.write(text)


def _make_one(options: Options, area: int, number: int) -> str:
    """Scan one room and write it, if it does not exist yet. Returns its name."""
    stock = stock_for(shape_schema.read(find_data(options.source)), area)
    plan = plan_room(area, options.rooms, number, options.seed, stock)
    folder = _unfinished_area(options.out, area) / plan.name
    if not folder.is_dir():
        unfinished = folder.with_name(f".{plan.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        write_room(unfinished, scan_room(plan, stock, options.density, options.seed, number))
        atomic.move_into_place(unfinished, folder)
    return plan.name


def _unfinished_area(out: Path, area: int) -> Path:
    return out / f".Area_{area}"


def _check(options: Options) -> None:
    if not 1 <= options.areas <= len(building.PROGRAMME) or options.rooms < 1 or options.density <= 0:
        raise SchemaError(
            f"{options.areas} areas of {options.rooms} rooms with {options.density:g} points a square metre; expected 1 to "
            f"{len(building.PROGRAMME)} areas, at least one room and a density above 0."
        )


def _describe(options: Options, furniture: shape_schema.Clouds) -> str:
    """Source, credits and command of the rooms, as JSON. A folder is only continued if it states the same."""
    arguments = (
        f"--areas {options.areas} --rooms {options.rooms} --density {options.density:g} --seed {options.seed}"
    )
    description = {
        "source": f"furnished rooms composed by dropfold.data_scripts.interiors.rooms, not scanned; {furniture.source}",
        "credits": furniture.credits,
        "rebuild": f"dropfold data rooms {arguments}",
        "furniture": furniture.checksum,
    }
    return json.dumps(description, indent=1)


def convert(options: Options) -> None:
    """Make all rooms that are not there yet."""
    _check(options)
    furniture = shape_schema.read(find_data(options.source))
    Stock(furniture, (TEST,))  # says what is wrong with the furniture before anything is written
    about = options.out / ABOUT
    text = _describe(options, furniture)
    if about.is_file() and about.read_text() != text:
        raise SchemaError(
            f"{options.out} holds rooms made with other options ({about}); remove it, or give another --out."
        )
    if (
        not about.is_file()
        and options.out.is_dir()
        and any(not path.name.startswith((f".{ABOUT}", LOCK)) for path in options.out.iterdir())
    ):
        raise SchemaError(f"{options.out} is not empty and holds no {ABOUT}; give an empty or new folder.")
    atomic.make_folder(options.out)
    atomic.write_bytes(about, text.encode())
    areas = [a for a in range(1, options.areas + 1) if not (options.out / f"Area_{a}").is_dir()]
    workers = options.workers or cores()
    bar = Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True))
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold
    one = hold_folder(options.out, "written to")
    with one, bar, ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        task = bar.add_task("rooms", total=len(areas) * options.rooms)
        with start_deaf():
            work = {pool.submit(_make_one, options, a, n): a for a in areas for n in range(options.rooms)}
        left = dict.fromkeys(areas, options.rooms)
        try:
            for done in as_completed(work):
                done.result()
                bar.advance(task)
                left[work[done]] -= 1
                if not left[work[done]]:
                    atomic.move_into_place(
                        _unfinished_area(options.out, work[done]), options.out / f"Area_{work[done]}"
                    )
        except BrokenProcessPool:
            raise ChildProcessError(
                "a process was killed, perhaps for want of memory (--workers 1 takes less)"
            ) from None
        except BaseException:  # an interruption, a full disk: the other rooms are for the next start
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():  # what they have begun is made again
                process.terminate()
            raise


def main(options: Options) -> None:
    if options.sheet:
        atomic.check_target(options.sheet, atomic.OURS, option="--sheet")
    with advise_restart("goes on with what is missing"):
        convert(options)
        if options.sheet:
            from dropfold.data_scripts.interiors import picture

            picture.draw_sheet(options.out, options.sheet, min(options.areas, TEST_AREA))
    rooms = sorted(options.out.glob("Area_*/*/"))
    print(
        f"{options.out}: {len(rooms)} room{'s' * (len(rooms) != 1)} in {options.areas} area{'s' * (options.areas != 1)}"
    )
    if options.areas < TEST_AREA:
        print(
            f"All areas below {TEST_AREA} share their furniture: no room that tests has furniture never seen."
        )
