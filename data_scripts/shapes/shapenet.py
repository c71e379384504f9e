"""ShapeNetCore's folders: SYNSET/MODEL/model.obj (version 1), SYNSET/MODEL/models/model_normalized.obj (version 2)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

SYNSET = re.compile(r"\d{8}")
SYNSETS = {
    "02691156": "airplane", "02747177": "trash bin", "02773838": "bag", "02801938": "basket", "02808440": "bathtub",
    "02818832": "bed", "02828884": "bench", "02834778": "bicycle", "02843684": "birdhouse", "02858304": "boat",
    "02871439": "bookshelf", "02876657": "bottle", "02880940": "bowl", "02924116": "bus", "02933112": "cabinet",
    "02942699": "camera", "02946921": "can", "02954340": "cap", "02958343": "car", "02992529": "cellphone",
    "03001627": "chair", "03046257": "clock", "03085013": "keyboard", "03207941": "dishwasher", "03211117": "display",
    "03261776": "earphone", "03325088": "faucet", "03337140": "file cabinet", "03467517": "guitar", "03513137": "helmet",
    "03593526": "jar", "03624134": "knife", "03636649": "lamp", "03642806": "laptop", "03691459": "loudspeaker",
    "03710193": "mailbox", "03759954": "microphone", "03761084": "microwave", "03790512": "motorbike", "03797390": "mug",
    "03928116": "piano", "03938244": "pillow", "03948459": "pistol", "03991062": "flowerpot", "04004475": "printer",
    "04074963": "remote control", "04090263": "rifle", "04099429": "rocket", "04225987": "skateboard", "04256520": "sofa",
    "04330267": "stove", "04379243": "table", "04401088": "telephone", "04460130": "tower", "04468005": "train",
    "04530566": "vessel", "04554684": "washer",
}  # fmt: skip
"""WordNet's synsets of the 55 categories, and of bicycle and boat, which the first version had; names as in papers."""
MODELS = ("model_normalized", "model")  # a model's own file, the best first


def class_of(folder: str) -> str:
    """The class that a folder states: of a synset its name in words."""
    return SYNSETS.get(folder, folder)


def find_other_forms(
    names: Sequence[str], inner: Sequence[tuple[str, ...]], suffixes: Sequence[str]
) -> set[str]:
    """The files beside the one of each model that is read: a model is a folder of a synset that holds a file `model`.

    inner: the folders of each file, its class first. suffixes: those that are read, the best first.
    """
    models: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, folders in zip(names, inner):
        if len(folders) > 1 and SYNSET.fullmatch(folders[0]):
            models[folders[:2]].append(name)
    others: set[str] = set()
    for files in models.values():
        chosen = [name for name in files if PurePosixPath(name).stem in MODELS]
        if chosen:
            others.update(set(files) - {min(chosen, key=lambda name: _rank(name, suffixes))})
    return others


def _rank(name: str, suffixes: Sequence[str]) -> tuple[int, int, str]:
    path = PurePosixPath(name)
    return MODELS.index(path.stem), suffixes.index(path.suffix.lower()), name
