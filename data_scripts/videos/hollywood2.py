"""`dropfold data hollywood2 --source Hollywood2-actions.tar.gz`: makes data/local/hollywood2.h5.

Hollywood2's actions as distributed: AVIClips/actioncliptrain00001.avi and so on, and in ClipSets one list an action and
split (AnswerPhone_train.txt with lines `actioncliptrain00001  -1`, 1 where the clip shows the action). A clip may
show several actions: `labels` says which, `label` is the first. The lists state training and test; a fifth of the training
clips validates. The automatic training lists are not read.

Training and test are of different films, but no list says which clip is of which film: each clip is its own group, so
`group_fold` leaks as `fold` does, and only the split keeps films apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dropfold.data_scripts.schemas.video_schema import TEST, TRAIN, SchemaError, Videos
from dropfold.data_scripts.videos import clips
from dropfold.data_scripts.videos.clips import Clip, Published
from dropfold.data_scripts.work.archive import open_as_folder

ACTIONS = (
    "AnswerPhone", "DriveCar", "Eat", "FightPerson", "GetOutCar", "HandShake", "HugPerson", "Kiss", "Run", "SitDown",
    "SitUp", "StandUp",
)  # fmt: skip


@dataclass(kw_only=True)
class Options(Published):
    """Make the Hollywood2 data set."""

    out: Path = Path("data/local/hollywood2.h5")
    """The file to write."""
    size: str = "234x100"
    """Width x height in pixels; the aspect ratio of the video is not kept."""


def list_clips(folder: Path) -> tuple[list[Clip], list[str]]:
    """Every clip of the lists with its actions; a sentence for each clip without one."""
    lists = next(iter(sorted(folder.rglob("ClipSets"))), None)
    if lists is None:
        raise SchemaError(f"{folder} holds no folder ClipSets; is it Hollywood2's actions?")
    shown: dict[tuple[int, str], list[str]] = {}
    for split, word in ((TRAIN, "train"), (TEST, "test")):
        for action in ACTIONS:
            path = lists / f"{action}_{word}.txt"
            if not path.is_file():
                raise SchemaError(f"{path} is not there; the distribution is not whole.")
            for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
                words = line.split()
                if not words:
                    continue
                if len(words) != 2 or words[1] not in ("1", "-1"):
                    raise SchemaError(f"{path}, line {number}: {line!r}, expected a clip and 1 or -1.")
                shown.setdefault((split, words[0]), []).extend([action] * (words[1] == "1"))
    found, faults = [], []
    for (split, name), actions in sorted(shown.items()):
        if actions:
            found.append(Clip(lists.parent / "AVIClips" / f"{name}.avi", name, tuple(actions), name, split))
        else:
            faults.append(f"{name} shows none of the actions")
    return found, faults


def convert(options: Options) -> tuple[Videos, list[str]]:
    """Make `options.out` from the distribution; returns the data set and a sentence for all that was left out."""
    provenance = {
        "source": "Hollywood2, actions",
        "credits": "Marszalek et al., CVPR 2009, https://www.di.ens.fr/~laptev/actions/hollywood2; not to be redistributed",
        "rebuild": f"dropfold data hollywood2 {clips.repeat_options(options)}",
    }
    with open_as_folder(options.source) as folder:
        found, faults = list_clips(folder)
        made, more = clips.make(options.out, found, list(ACTIONS), options, provenance, multilabel=True)
    return made, faults + more


def main(options: Options) -> None:
    clips.run(options, convert)
