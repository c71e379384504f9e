"""`dropfold data videos --source FOLDER --out X.h5`: a data set from a folder of one's own videos.

One folder a class. Videos in a folder inside a class folder are a group: clips of one recording or one person, which
must not be parted between training and test; a video that lies in the class folder itself is its own group. If
the classes lie in folders train, val(idation) and test, or hold them, that is the split; otherwise a fifth of the groups
tests and a fifth validates. A video that cannot be read is reported and left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dropfold.data_scripts.readers.decode import SUFFIXES
from dropfold.data_scripts.schemas.h5_file import SPLIT_OF_FOLDER
from dropfold.data_scripts.schemas.video_schema import Videos
from dropfold.data_scripts.videos import clips
from dropfold.data_scripts.videos.clips import Clip, Sourced
from dropfold.data_scripts.work.archive import open_as_folder
from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.folders import is_hidden, list_files


@dataclass(kw_only=True)
class Options(Sourced):
    """Make a data set from a folder (or archive) of videos, one folder a class."""


def list_clips(folder: Path) -> tuple[list[Clip], list[str]]:
    """The clips of a folder; a sentence for each video outside of a class folder, and for each class without videos."""
    found, faults, used = [], [], set()
    for path in list_files(folder, SUFFIXES):
        name = str(path.relative_to(folder))
        *parents, file = path.relative_to(folder).parts
        # train/wave or wave/train; farther down a recording may be called test
        split_folders = [part for part in parents[:2] if part.lower() in SPLIT_OF_FOLDER][:1]
        inner = [part for part in parents if part not in split_folders]
        if not inner:
            faults.append(f"{name} lies in no class folder")
        elif _not_utf8(name):
            faults.append(f"{name} has a name that is not UTF-8")
        else:
            group = "/".join(inner) if len(inner) > 1 else f"{inner[0]}/{file}"
            found.append(
                Clip(
                    path,
                    name,
                    (inner[0],),
                    group,
                    SPLIT_OF_FOLDER[split_folders[0].lower()] if split_folders else None,
                )
            )
        used.update(inner[:1])
    tops = [
        folder,
        *(f for f in sorted(folder.iterdir()) if f.is_dir() and f.name.lower() in SPLIT_OF_FOLDER),
    ]
    classes = {f for top in tops for f in sorted(top.iterdir()) if f.is_dir() and f not in tops}
    empty = sorted(str(f) for f in classes if f.name not in used and not is_hidden([f.name]))
    return found, faults + [f"{name} holds no videos ({', '.join(SUFFIXES)})" for name in empty]


def _not_utf8(name: str) -> bool:
    """Bytes of another encoding come from the file system as lone surrogates, which no file of ours can hold."""
    return any("\ud800" <= letter <= "\udfff" for letter in name)


def convert(options: Sourced) -> tuple[Videos, list[str]]:
    """Make `options.out`; returns the data set and a sentence for all that was left out."""
    with open_as_folder(options.source) as folder:
        found, faults = list_clips(folder)
        if not found:
            raise SchemaError(
                f"{options.source} holds no class folders with videos; expected one folder a class with files "
                f"{', '.join(SUFFIXES)}."
            )
        provenance = {
            "source": f"the folder or archive {options.source.resolve().name}",
            "credits": "one's own",
            "rebuild": f"dropfold data videos {clips.repeat_options(options)} --out FILE",
        }
        names = sorted({clip.classes[0] for clip in found})
        videos, more = clips.make(options.out, found, names, options, provenance)
    return videos, faults + more


def main(options: Options) -> None:
    clips.run(options, convert)
