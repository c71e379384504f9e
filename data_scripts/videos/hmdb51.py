"""`dropfold data hmdb51 --source hmdb51_org.rar --splits test_train_splits.rar`: makes data/local/hmdb51.h5.

HMDB51 as distributed: an archive with one archive a class, or the unpacked folder a class; and the three splits, a list
a class (brush_hair_test_split1.txt with lines `NAME.avi 1`: 1 training, 2 test, 0 neither). Clips that the chosen
split uses for neither are left out, unless there are no lists (--splits None): then a fifth of the groups tests.
A group is the source video: what stands before the class in NAME, as April_09 in April_09_brush_hair_u_nm_np1_ba_goo_0.avi.
A fifth of the training groups validates. The archives are rars, which need the program bsdtar or unrar.
"""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dropfold.data_scripts.readers.decode import SUFFIXES
from dropfold.data_scripts.schemas.video_schema import TEST, TRAIN, SchemaError, Videos
from dropfold.data_scripts.videos import clips
from dropfold.data_scripts.videos.clips import Clip, Published
from dropfold.data_scripts.work.archive import extract, open_as_folder
from dropfold.data_scripts.work.folders import list_files


@dataclass(kw_only=True)
class Options(Published):
    """Make the HMDB51 data set."""

    splits: Path | None
    """The archive or folder of the split lists, or none."""
    split: Literal[1, 2, 3] = 1
    """Which of the three splits."""
    out: Path = Path("data/local/hmdb51.h5")
    """The file to write."""


@contextlib.contextmanager
def open_classes(source: Path) -> Iterator[Path]:
    """A folder of class folders: the source's, or where it holds no videos that of the archives, one a class, inside it."""
    with open_as_folder(source) as folder, tempfile.TemporaryDirectory() as inner:
        archives = [] if list_files(folder, SUFFIXES) else sorted(folder.rglob("*.rar"))
        for archive in archives:
            extract(archive, Path(inner))
        yield Path(inner) if archives else folder


def read_split(folder: Path, split: int) -> dict[tuple[str, str], int]:
    """(class, file name) -> 1 training, 2 test, 0 neither."""
    found = {}
    ending = f"_test_split{split}"
    for path in sorted(folder.rglob(f"*{ending}.txt")):
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
            words = line.split()
            if not words:
                continue
            if len(words) != 2 or words[1] not in ("0", "1", "2"):
                raise SchemaError(f"{path}, line {number}: {line!r}, expected a file name and 0, 1 or 2.")
            found[path.stem.removesuffix(ending), words[0]] = int(words[1])
    if not found:
        raise SchemaError(f"{folder} holds no lists *{ending}.txt; are they HMDB51's splits?")
    return found


def list_clips(folder: Path, use_of: dict[tuple[str, str], int] | None) -> tuple[list[Clip], list[str]]:
    """The clips that the split uses, and a sentence for each that its lists name and the folder lacks."""
    found, seen = [], set()
    for path in list_files(folder, SUFFIXES):
        name = path.parent.name
        use = 1 if use_of is None else use_of.get((name, path.name), 0)
        seen.add((name, path.name))
        if use:
            source = path.stem.partition(f"_{name}_")[0]
            split = None if use_of is None else (TRAIN if use == 1 else TEST)
            found.append(Clip(path, f"{name}/{path.name}", (name,), source, split))
    if not found:
        raise SchemaError(f"{folder} holds no CLASS/NAME.avi of the split; is it HMDB51?")
    missing = sorted({key for key, use in (use_of or {}).items() if use} - seen)
    return found, [f"{name}/{file} is named by the split and not there" for name, file in missing]


def convert(options: Options) -> tuple[Videos, list[str]]:
    """Make `options.out` from the distribution; returns the data set and a sentence for all that was left out."""
    split = None
    if options.splits is not None:
        with open_as_folder(options.splits) as folder:
            split = read_split(folder, options.split)
    lists = shlex.quote(options.splits.resolve().name) if options.splits else "None"
    arguments = f"{clips.repeat_options(options)} --splits {lists} --split {options.split}"
    provenance = {
        "source": f"HMDB51, split {options.split}" if split else "HMDB51, without its splits",
        "credits": "Kuehne et al., ICCV 2011, https://serre-lab.clps.brown.edu; not to be redistributed",
        "rebuild": f"dropfold data hmdb51 {arguments}",
    }
    with open_classes(options.source) as folder:
        found, faults = list_clips(folder, split)
        classes = sorted({clip.classes[0] for clip in found})
        made, more = clips.make(options.out, found, classes, options, provenance)
    return made, faults + more


def main(options: Options) -> None:
    clips.run(options, convert)
