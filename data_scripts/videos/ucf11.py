"""`dropfold data ucf11 --source UCF11_updated_mpg.rar`: makes data/local/ucf11.h5.

UCF11 (YouTube Action) as distributed: a folder a class, in it folders of clips of one recording (v_shooting_01 ..
v_shooting_25) and a folder Annotation, which is not read. The recordings are the groups: leave-groups-out is the
data set's own protocol, random folds are what the papers on compressed RNNs used (TT-RNN five of them).

The defaults are those of the later papers (BT, TedNet): six frames at random, kept in their order, 160 x 120.
The archive is a rar, which needs the program bsdtar or unrar; or unpack it and give the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dropfold.data_scripts.readers.decode import SUFFIXES
from dropfold.data_scripts.schemas.video_schema import SchemaError, Videos
from dropfold.data_scripts.videos import clips
from dropfold.data_scripts.videos.clips import Clip, Published
from dropfold.data_scripts.work.archive import open_as_folder
from dropfold.data_scripts.work.folders import list_files

CLASSES = (
    "basketball", "biking", "diving", "golf_swing", "horse_riding", "soccer_juggling", "swing", "tennis_swing",
    "trampoline_jumping", "volleyball_spiking", "walking",
)  # fmt: skip


@dataclass(kw_only=True)
class Options(Published):
    """Make the UCF11 data set."""

    out: Path = Path("data/local/ucf11.h5")
    """The file to write."""


def list_clips(folder: Path) -> list[Clip]:
    """Every clip, its class and its recording: .../CLASS/RECORDING/CLIP."""
    found = []
    for path in list_files(folder, SUFFIXES):
        parts = path.relative_to(folder).parts
        if len(parts) >= 3 and parts[-3] in CLASSES:
            found.append(Clip(path, "/".join(parts[-3:]), (parts[-3],), "/".join(parts[-3:-1])))
    if not found:
        raise SchemaError(
            f"{folder} holds no CLASS/RECORDING/CLIP with a class such as basketball or golf_swing; is it UCF11?"
        )
    return found


def convert(options: Options) -> tuple[Videos, list[str]]:
    """Make `options.out` from the distribution; returns the data set and a sentence for all that was left out."""
    provenance = {
        "source": "UCF11 (YouTube Action)",
        "credits": "https://www.crcv.ucf.edu/data/UCF_YouTube_Action.php; not to be redistributed",
        "rebuild": f"dropfold data ucf11 {clips.repeat_options(options)}",
    }
    with open_as_folder(options.source) as folder:
        return clips.make(options.out, list_clips(folder), list(CLASSES), options, provenance)


def main(options: Options) -> None:
    clips.run(options, convert)
