"""`dropfold data videos --source FOLDER --out X.h5`: a data set from a folder of one's own videos.

One folder a class. Videos in a folder inside a class folder are a group: clips of one recording or one person, which
must not be parted between training and test; a video that lies in the class folder itself is its own group. If
the classes lie in folders train, val(idation) and test, or hold them, that is the split (see `split_folders`); otherwise a
fifth of the groups tests and a fifth validates. A video that cannot be read is reported and left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dropfold.data_scripts.readers.decode import SUFFIXES
from dropfold.data_scripts.schemas.split_folders import SplitFolders, list_files, note_lacking
from dropfold.data_scripts.schemas.video_schema import Videos
from dropfold.data_scripts.videos import clips
from dropfold.data_scripts.videos.clips import Clip, Sourced
from dropfold.data_scripts.work.archive import name_members, open_as_folder
from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.folders import (
    Unread,
    account,
    note_alike,
    printable,
)


@dataclass(kw_only=True)
class Options(Sourced):
    """Make a data set from a folder (or archive) of videos, one folder a class."""

    split_folders: SplitFolders = "auto"
    """Whether folders called train, val or test are splits (yes) or classes (no); auto: as they stand, see the docs."""


class Rest(NamedTuple):
    """What a folder holds beside its clips: all other files with their reasons, and a sentence for what was guessed."""

    unread: list[Unread]
    notes: list[str]


def list_clips(folder: Path, split_folders: SplitFolders = "auto") -> tuple[list[Clip], Rest]:
    """Every file under `folder`: the clips, and the others with the reason why they are not read."""
    files, unread, notes = list_files(folder, SUFFIXES, split_folders, "videos")
    found = []
    for name, place in files:
        group = place.inner if len(place.inner) > 1 else (place.inner[0], name.rpartition("/")[2])
        found.append(
            Clip(
                folder / name,
                printable(name),
                (printable(place.inner[0]),),
                "/".join(map(printable, group)),
                place.split,
            )
        )
    notes += note_alike((clip.classes[0] for clip in found), "classes")
    return found, Rest(unread, notes)


def convert(options: Options) -> tuple[Videos, list[str]]:
    """Make `options.out`; returns the data set and a sentence for all that was left out; what else is to be said begins with
    "note: "."""
    with open_as_folder(options.source) as folder:
        found, (unread, notes) = list_clips(folder, options.split_folders)
        if not found:
            raise SchemaError(
                "\n".join(
                    [
                        f"{options.source} holds no class folders with videos; expected one folder a class with files "
                        f"{', '.join(SUFFIXES)}.",
                        *account(0, unread),
                        *notes,
                    ]
                )
            )
        arguments = clips.repeat_options(options)
        arguments += f" --split-folders {options.split_folders}" if options.split_folders != "auto" else ""
        provenance = {
            "source": f"the folder or archive {printable(options.source.resolve().name)}",
            "credits": "one's own",
            "rebuild": f"dropfold data videos {arguments} --out FILE",
        }
        names = sorted({clip.classes[0] for clip in found})
        videos, faults = clips.make(options.out, found, names, options, provenance)
        faults = [name_members(fault, folder, options.source) for fault in faults]
    read = len(videos.name)
    notes += note_lacking(videos.label, videos.split, videos.class_names, "videos")
    notes += account(read, unread, failed=len(found) - read)
    return videos, [*(f"note: {note}" for note in notes), *faults]


def main(options: Options) -> None:
    clips.run(options, convert)
