"""`dropfold data youtube-celebrities --source ytcelebrity.tar`: makes data/local/youtube_celebrities.h5.

YouTube Celebrities as distributed: one folder of files NUMBER_VIDEO_CLIP_NAME.avi, for example 0057_01_002_al_gore.avi,
the second clip of the first video of al_gore. A person is a class; a group is a person's video, of which
there are about three: one trains, one tests and one validates, and a person is in three of the five group folds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dropfold.data_scripts.readers.decode import SUFFIXES
from dropfold.data_scripts.schemas.video_schema import SchemaError, Videos
from dropfold.data_scripts.videos import clips
from dropfold.data_scripts.videos.clips import Clip, Published
from dropfold.data_scripts.work.archive import open_as_folder
from dropfold.data_scripts.work.folders import list_files

PATTERN = re.compile(r"\d+_(?P<video>\d+)_\d+_(?P<person>[a-z_]+)", re.IGNORECASE)


@dataclass(kw_only=True)
class Options(Published):
    """Make the YouTube Celebrities data set."""

    out: Path = Path("data/local/youtube_celebrities.h5")
    """The file to write."""


def list_clips(folder: Path) -> tuple[list[Clip], list[str]]:
    """Every clip, its person and its video; a sentence for each file of another name."""
    found, faults = [], []
    for path in list_files(folder, SUFFIXES):
        match = PATTERN.fullmatch(path.stem)
        if match is None:
            faults.append(f"{path.name} is not named NUMBER_VIDEO_CLIP_NAME")
            continue
        person = match["person"].lower()
        found.append(Clip(path, path.name, (person,), f"{person}, video {match['video']}"))
    if not found:
        raise SchemaError(
            f"{folder} holds no videos named like 0057_01_002_al_gore.avi; is it YouTube Celebrities?"
        )
    return found, faults


def convert(options: Options) -> tuple[Videos, list[str]]:
    """Make `options.out` from the distribution; returns the data set and a sentence for all that was left out."""
    provenance = {
        "source": "YouTube Celebrities",
        "credits": "Kim et al., CVPR 2008, http://seqamlab.com; not to be redistributed",
        "rebuild": f"dropfold data youtube-celebrities {clips.repeat_options(options)}",
    }
    with open_as_folder(options.source) as folder:
        found, faults = list_clips(folder)
        people = sorted({clip.classes[0] for clip in found})
        made, more = clips.make(options.out, found, people, options, provenance)
    return made, faults + more


def main(options: Options) -> None:
    clips.run(options, convert)
