"""Finding the data set of a config; of one that is not there, or is something else, what it is and what to do."""

from __future__ import annotations

import difflib
from pathlib import Path

from dropfold.data_scripts.schemas.hdf5 import open_h5
from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.shipped import find_data
from dropfold.train.config.configs import Config
from dropfold.train.config.recipes import RECIPES

# Of each task: what it learns from, what the file states as its task, and the command that makes a file of one's own.
CONTENTS = {
    "clouds": ("shapes", "classification", "dropfold data meshes --source FOLDER --out FILE.h5"),
    "parts": ("shapes with parts", "parts", "dropfold data shapenet-part --source FOLDER"),
    "blocks": ("blocks of rooms", "blocks", "dropfold data s3dis-blocks --source FOLDER"),
    "scenes": ("scenes", "scenes", "dropfold data scenes --source FOLDER --out FILE.h5"),
    "video": ("videos", "video", "dropfold data videos --source FOLDER --out FILE.h5"),
    "images": ("images", "images", "dropfold data images --source FOLDER --out FILE.h5"),
}
# Files as recipes name them, and the words of `dropfold data` that make them.
MADE_BY = {
    "modelnet40": ("modelnet40",),
    "labeled_meshes": ("labeled-meshes",),
    "ldraw": ("ldraw",),
    "shapenet_part": ("shapenet-part",),
    "shapenet_part_2048": ("shapenet-part --form hdf5",),
    "s3dis": ("s3dis",),
    "s3dis_blocks": ("s3dis-blocks",),
    "rooms": ("rooms", "s3dis --source data/local/rooms_raw --out data/local/rooms.h5"),
    "moving_furniture": ("moving-furniture",),
    "fashion_mnist": ("fashion-mnist",),
    "cifar10": ("cifar --source cifar-10-binary.tar.gz",),
    "cifar100": ("cifar --source cifar-100-binary.tar.gz",),
    "action_video": ("action-video",),
    "ucf11": ("ucf11",),
    "hmdb51": ("hmdb51",),
    "hollywood2": ("hollywood2",),
    "youtube_celebrities": ("youtube-celebrities",),
}
RECIPES_SHOWN, FILES_SHOWN = 4, 5


def find_data_set(config: Config) -> Path:
    """The file `config.data`, from the current folder, or else the one that ships with the project.

    Raises:
        SchemaError: no file there, or one that is no data set, or that of another task.
    """
    path = find_data(config.data)
    if path.is_dir():
        raise SchemaError(
            f"--data {config.data} is a folder, and a data set is one file. {_within(path, config)}"
        )
    if not path.exists():
        raise SchemaError(f"{config.data} is not there. {_near(config.data)}{_made_by(config)}")
    _refuse_other(path, config)
    return path


def _refuse_other(path: Path, config: Config) -> None:
    """Refuse a file of another kind; a broken one is left to its reader."""
    import h5py

    noun, wanted, _ = CONTENTS[config.task]
    if not h5py.is_hdf5(path):
        if path.suffix.lower() not in (".h5", ".hdf5"):
            raise SchemaError(
                f"--data {config.data} is no data set, which is one HDF5 file of many {noun}. {_made_by(config)}"
            )
        return
    try:
        with open_h5(path) as file:
            schema, found = file.text("schema"), file.text("task")
    except SchemaError:
        return
    if schema is None:
        raise SchemaError(
            f"--data {config.data} is an HDF5 file of another program: it has no attribute 'schema'. {_made_by(config)}"
        )
    other = next((task for task, (_, stated, _) in CONTENTS.items() if stated == found), None)
    if found == wanted or other is None:
        return
    recipes = [name for name, make in RECIPES.items() if make().task == other]
    shown = ", ".join(recipes[:RECIPES_SHOWN]) + ", ..." * (len(recipes) > RECIPES_SHOWN)
    raise SchemaError(
        f"--data {config.data} holds {CONTENTS[other][0]}, and {config.recipe or 'this run'} learns from {noun}. Recipes "
        f"that read it: {shown}; e.g. dropfold train {recipes[0]} --data {config.data}. {_made_by(config)}"
    )


def _made_by(config: Config) -> str:
    """How to make a data set for the task of a config."""
    noun, _, command = CONTENTS[config.task]
    words = () if config.data.exists() else MADE_BY.get(config.data.stem, ())
    made = ", then ".join(f"`dropfold data {one}`" for one in words)
    this = f"It is made by {made}. " if made else ""
    return f"{this}A data set of {noun} of your own: `{command}`; `dropfold data --help` lists all."


def _within(folder: Path, config: Config) -> str:
    """What to give instead of a folder."""
    if (folder / "config.json").exists():
        return f"It is the folder of a run; `--start {folder}` begins from its weights. {_made_by(config)}"
    if files := sorted(path for path in folder.glob("*.h5") if path.is_file()):
        listed = ", ".join(map(str, files[:FILES_SHOWN])) + ", ..." * (len(files) > FILES_SHOWN)
        return f"Give a file in it: {listed}."
    return _made_by(config).replace("FOLDER", str(folder))


def _near(path: Path) -> str:
    """A question after the data set whose name is nearest to that of one that is not there."""
    folders = dict.fromkeys([path.parent, Path("data"), Path("data/local"), find_data(Path("data"))])
    files = {
        file.name: file for folder in reversed(folders) if folder.is_dir() for file in folder.glob("*.h5")
    }
    near = difflib.get_close_matches(path.name, files, n=1) or difflib.get_close_matches(
        path.with_suffix(".h5").name, files, n=1
    )
    return f"Did you mean {files[near[0]]}? " if near else ""
