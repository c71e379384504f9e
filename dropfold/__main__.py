"""The command `dropfold`, also `python -m dropfold`: one word for each thing to do, and its options."""

from __future__ import annotations

import difflib
import importlib
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from dropfold.data_scripts.work.ending import end_with_a_sentence, notes_of

# Word -> (module with `Options` and `main(options)`, what it does). A module is imported when its word is typed.
COMMANDS = {
    "train": ("dropfold.train.__main__", "train a network by a recipe"),
    "evaluate": ("dropfold.train.predict.evaluate", "the scores of a run on a split of its data"),
    "predict": (
        "dropfold.explain.run.predict",
        "what a run says of files: a class, or a label for each point",
    ),
    "explain": ("dropfold.explain.run.command", "why a run decides as it does, and which units matter"),
    "compress": ("dropfold.compress.run.command", "a smaller run out of a run"),
    "transform": ("dropfold.compress.transform.command", "a run with cheaper operations out of a run"),
    "compare": ("dropfold.train.compare.compare", "variants over seeds and folds, with intervals"),
    "robustness": ("dropfold.train.compare.robustness", "accuracy of runs under corruptions"),
    "data": ("", "make a data set: `dropfold data --help` lists them"),
    "convert": ("dropfold.train.predict.convert", "weights of other projects' networks, as safetensors"),
}
SHAPES, SCENES, VIDEOS, IMAGES = (
    f"dropfold.data_scripts.{room}" for room in ("shapes", "scenes", "videos", "images")
)
DATA = {
    "furniture": (f"{SHAPES}.furniture", "real furniture in 12 classes; ships with the project"),
    "components": (f"{SHAPES}.components", "electronic components and their parts; ships with the project"),
    "modelnet40": (f"{SHAPES}.modelnet40", "ModelNet40, downloaded or from its archive"),
    "labeled-meshes": (f"{SHAPES}.labeled_meshes", "labeled meshes, whole or with parts"),
    "ldraw": (f"{SHAPES}.ldraw", "CAD parts of LDraw in 37 categories, grouped by mould"),
    "meshes": (f"{SHAPES}.own_meshes", "a folder of your own meshes or clouds"),
    "shapenet-part": (f"{SHAPES}.shapenet_part", "ShapeNetPart, downloaded or from its archive"),
    "rooms": ("dropfold.data_scripts.interiors.rooms", "furnished rooms, in S3DIS's folder layout"),
    "s3dis": (f"{SCENES}.s3dis", "S3DIS, or any folder of its layout, as whole rooms"),
    "s3dis-blocks": (f"{SCENES}.s3dis_blocks", "S3DIS as blocks that lie ready"),
    "scenes": (f"{SCENES}.own_scenes", "your own labelled scenes"),
    "moving-furniture": (f"{VIDEOS}.moving_furniture", "clips of the furniture in 11 motions"),
    "action-video": (f"{VIDEOS}.action_video", "drawn actions"),
    "ucf11": (f"{VIDEOS}.ucf11", "UCF11 from its archive"),
    "hmdb51": (f"{VIDEOS}.hmdb51", "HMDB51 from its archives"),
    "hollywood2": (f"{VIDEOS}.hollywood2", "Hollywood2 from its archive"),
    "youtube-celebrities": (f"{VIDEOS}.youtube_celebrities", "YouTube Celebrities from its archive"),
    "videos": (f"{VIDEOS}.own_videos", "a folder of your own videos"),
    "fashion-mnist": (f"{IMAGES}.fashion_mnist", "Fashion-MNIST, downloaded or from its files"),
    "cifar": (f"{IMAGES}.cifar", "CIFAR-10 or CIFAR-100 from its binary archive"),
    "images": (f"{IMAGES}.own_images", "a folder of your own pictures"),
}


def main(words: Sequence[str] | None = None) -> None:
    """Run the command that `words` (default: the command line) ask for."""
    with end_with_a_sentence():
        _run(list(sys.argv[1:] if words is None else words))


def _run(words: list[str]) -> None:
    if "" in words:
        given = shlex.join(["dropfold", *words])
        refuse(f"word {words.index('') + 1} of `{given}` is empty; is a variable of the shell unset?\n")
    program, table = "dropfold", COMMANDS
    word = next_word(program, table, words)
    program = f"{program} {word}"
    if word == "data":
        table = DATA
        word = next_word(program, table, words)
        program = f"{program} {word}"
    options: Any = None
    try:
        module = importlib.import_module(table[word][0])
        if word == "train":
            check_recipe(words)
            module.main(words, program)
            return
        import tyro

        options = tyro.cli(module.Options, prog=program, description=module.__doc__, args=words)
        module.main(options)
    except KeyboardInterrupt as stop:
        out = getattr(options, "out", None) if table is DATA else None
        if out is not None and not notes_of(stop):
            stop.add_note(f"{out} is as it was before, and the same command begins anew")
        raise


def check_recipe(words: list[str]) -> None:
    """End the program if the first word names no recipe; tyro's own message does not say which one is nearest."""
    from dropfold.train.config.recipes import RECIPES

    first = words[0] if words else "--help"
    if first in RECIPES or first in ("-h", "--help"):
        return
    if first.startswith("-"):
        refuse(
            f"the recipe comes first: dropfold train RECIPE {shlex.join(words)}. `dropfold train --help` lists them.\n"
        )
    refuse(
        f"dropfold train has no recipe {first!r}.{nearest(first, RECIPES)} `dropfold train --help` lists them.\n"
    )


def next_word(program: str, table: Mapping[str, tuple[str, str]], words: list[str]) -> str:
    """Take the next word off `words`; help, or a word that is not in the table, ends the program."""
    word = words.pop(0) if words else "--help"
    if word in table:
        return word
    width = max(map(len, table)) + 2
    listed = "".join(f"  {name:{width}}{what}\n" for name, (_, what) in table.items())
    usage = f"usage: {program} WORD [options]; {program} WORD --help lists the options.\n\n{listed}"
    if word in ("-h", "--help"):
        print(usage, end="")
        raise SystemExit(0)
    refuse(f"{program} has no word {word!r}.{nearest(word, table)}\n\n{usage}")


def nearest(word: str, known: Iterable[str]) -> str:
    """A question after the known word that is nearest to a misspelt one; empty if none is near."""
    near = difflib.get_close_matches(word.replace("_", "-"), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def refuse(message: str) -> NoReturn:
    """End the program with a usage error: exit status 2, as tyro's."""
    print(f"error: {message}", end="", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
