"""Which folders state the split (train, val, test) and which are classes: decided by where they stand, or asked for.

    train/car/1.off     the top folders are splits; the class is the folder in them
    car/train/1.off     the class is the top folder, the folders in it are splits
    car/1.off  train/1.off      train is a class like the others
    shapes/car/1.off  shapes/bus/1.off      the one folder around all is none of these

What is guessed is said in a sentence; where nothing decides, a `SchemaError` asks for --split-folders yes or no.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import numpy as np

from dropfold.data_scripts.schemas.h5_file import TEST, TRAIN, VALIDATION
from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.folders import (
    OTHER_KIND,
    Unread,
    name_some,
    printable,
    shorten,
    suffix_of,
    walk,
)

SplitFolders = Literal["auto", "yes", "no"]
SPLIT_OF_WORD = {
    "train": TRAIN, "training": TRAIN,
    "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "dev": VALIDATION,
    "test": TEST, "testing": TEST, "eval": TEST, "evaluation": TEST,
}  # fmt: skip
NAMES = ("train", "val", "test")
ARTICLE = {"class": "a class", "area": "an area"}


LOOSE = "in no class folder"


class Place(NamedTuple):
    """Where a file stands."""

    split: int | None
    inner: tuple[str, ...]
    """Its folders without the split and without what lies around all: the class or area first."""


def split_of(folder: str) -> int | None:
    """The split that a folder's name states: in any case, with -ing, as train_set or TestData; None if it states none."""
    letters = re.sub(r"[\W_]+", "", folder.lower())
    return SPLIT_OF_WORD.get(letters, SPLIT_OF_WORD.get(re.sub(r"(set|data|split)$", "", letters)))


def place_files(
    parents: Sequence[tuple[str, ...]],
    answer: SplitFolders,
    noun: str = "class",
    keeps_whole: re.Pattern[str] | None = None,
) -> tuple[list[Place], list[str]]:
    """The place of each file, whose folders are given, and a sentence for all that was guessed.

    noun: what a folder that is no split is: a class, whose folder every file needs, or an area, which a file may lack.
    keeps_whole: names of such folders for certain, which are never what lies around all.
    """
    around, notes = _folders_around(parents, answer, noun, keeps_whole)
    within = [folders[len(around) :] if folders else () for folders in parents]
    if answer == "no":
        return [Place(None, folders) for folders in within], notes
    if answer == "yes":
        return _say_partial([_first_split(folders) for folders in within], notes, noun)
    tops = _group(within)
    top_splits, second_splits, guesses = _decide(tops, noun)
    places = []
    for folders in within:
        if folders and folders[0] in top_splits:
            places.append(Place(split_of(folders[0]), folders[1:]))
        elif len(folders) > 1 and folders[0] in second_splits and split_of(folders[1]) is not None:
            places.append(Place(split_of(folders[1]), (folders[0], *folders[2:])))
        else:
            places.append(Place(None, folders))
    stated = {*top_splits, *(sub for top in second_splits for sub in tops[top].inner)}
    return _say_partial(places, notes + guesses + _check_words(stated), noun)


class _Top(NamedTuple):
    """A top folder: the folders in it that hold files, and how many files it holds itself."""

    inner: dict[str, None]
    direct: int


def _group(within: Sequence[tuple[str, ...]]) -> dict[str, _Top]:
    tops: dict[str, _Top] = {}
    for folders in within:
        if not folders:
            continue
        top = tops.setdefault(folders[0], _Top({}, 0))
        if len(folders) > 1:
            top.inner[folders[1]] = None
        tops[folders[0]] = top._replace(direct=top.direct + (len(folders) == 1))
    return tops


def _decide(tops: dict[str, _Top], noun: str) -> tuple[set[str], set[str], list[str]]:
    """(top folders that are splits, top folders whose inner folders are splits, sentences)."""
    words = [name for name in tops if _is_word(name)]
    others = [name for name in tops if not _is_word(name)]
    of_words = {name: bool(top.inner) and all(map(_is_word, top.inner)) for name, top in tops.items()}
    inside_others = {sub for name in others for sub in tops[name].inner}
    if words and not others:
        inner = [sub for top in tops.values() for sub in top.inner]
        if all(map(_is_word, inner)) and (inner or noun == "class"):
            _ask(words, f"{ARTICLE[noun]} of that name")
        return set(words), set(), []
    splits: set[str] = set()
    notes = []
    for name in words:
        top = tops[name]
        # train/car and test/car: what splits have in common, and no other folder has
        common = {sub for word in words if split_of(word) != split_of(name) for sub in tops[word].inner}
        common = common & set(top.inner) - inside_others
        several = noun != "class" and len({split_of(word) for word in words}) > 1
        if set(top.inner) & set(others) or common or several:
            splits.add(name)
        elif (
            noun == "class"
            and not (top.direct and top.inner)
            and (
                top.direct
                or of_words[name]
                or (inside_others and not any(of_words[other] for other in others))
            )
        ):
            notes.append(  # as the others: with files, with splits of its own, or with folders
                f"{printable(name)} is taken as {ARTICLE[noun]}, beside {name_some([printable(o) for o in others])}; "
                "--split-folders yes makes it a split"
            )
        else:
            _ask([name], f"{ARTICLE[noun]} beside {name_some([printable(other) for other in others])}")
    second = set()
    for name, top in tops.items():
        found = [sub for sub in top.inner if _is_word(sub)]
        if found and name not in splits:
            if not of_words[name]:
                _ask([f"{name}/{sub}" for sub in found], "a folder like the others beside it")
            second.add(name)
    return splits, second, notes


def _is_word(name: str) -> bool:
    return split_of(name) is not None


def _ask(words: Sequence[str], other: str) -> NoReturn:
    raise SchemaError(
        f"is the folder {' and '.join(map(printable, words))} a split, or {other}? Give --split-folders yes (train, val "
        "and test are splits) or --split-folders no (none is)."
    )


def _check_words(words: set[str]) -> list[str]:
    """Of folders called eval, which mean test to some and validation to others: said, or asked where there is a test too."""
    unsure = sorted(word for word in words if "eval" in word.lower())
    if not unsure:
        return []
    if any(split_of(word) == TEST and "eval" not in word.lower() for word in words):
        raise SchemaError(
            f"is the folder {printable(unsure[0])} validation, beside a folder for testing? Call it val."
        )
    return [f"{printable(unsure[0])} is taken as the test split; call it val if it is to validate"]


def _first_split(folders: tuple[str, ...]) -> Place:
    """Under --split-folders yes: the first word of a split among the first two folders."""
    for i, name in enumerate(folders[:2]):
        if _is_word(name):
            return Place(split_of(name), folders[:i] + folders[i + 1 :])
    return Place(None, folders)


def _say_partial(places: list[Place], notes: list[str], noun: str) -> tuple[list[Place], list[str]]:
    """The places, with a sentence for what a split that is not whole means."""
    stated = {place.split for place in places} - {None}
    if not stated:
        return places, notes
    free = sum(place.split is None and (bool(place.inner) or noun != "class") for place in places)
    said = [f"{free} files lie in no split folder: they train"] if free else []
    there = ", ".join(NAMES[split] for split in sorted(s for s in stated if s is not None))
    if TEST not in stated:
        said.append(f"the folders state {there} and no test: nothing is left to test on")
    if TRAIN not in stated and not free:
        said.append(f"the folders state {there} and no train: nothing is left to train on")
    return places, notes + said


def _folders_around(
    parents: Sequence[tuple[str, ...]], answer: SplitFolders, noun: str, keeps_whole: re.Pattern[str] | None
) -> tuple[tuple[str, ...], list[str]]:
    """The folders that lie around all classes, as an archive often has one; and the sentence that says so.

    Such a folder is the only one that holds files, and holds two folders or more, or splits with folders in them.
    """
    around: tuple[str, ...] = ()
    inside = [folders for folders in parents if folders]
    while True:
        tops = {folders[0] for folders in inside}
        if len(tops) != 1:
            break
        top = next(iter(tops))
        if (keeps_whole and keeps_whole.fullmatch(top)) or (answer != "no" and _is_word(top)):
            break
        direct = sum(len(folders) == 1 for folders in inside)
        inner = [folders[1:] for folders in inside if len(folders) > 1]
        subs = {folders[0] for folders in inner}
        if not subs or (direct and len(subs) == 1):
            return (), []
        around += (top,)
        if len(subs) > 1 and not all(map(_is_word, subs)):
            break
        if answer != "no" and all(map(_is_word, subs)):
            if not any(len(folders) > 1 for folders in inner):  # car/train/1.off: a class with its splits
                return (), []
            break
        inside = inner
    if not around or (noun != "class" and not _is_plain(parents, around, keeps_whole)):
        return (), []
    return around, [f"all lies in {printable('/'.join(around))}: the folders in it are the {noun} folders"]


def _is_plain(
    parents: Sequence[tuple[str, ...]], around: tuple[str, ...], keeps_whole: re.Pattern[str] | None
) -> bool:
    """Of areas, where a folder may hold a folder a scene: whether all that lies in `around` is an area or a split."""
    inner = {folders[len(around)] for folders in parents if len(folders) > len(around)}
    return all(_is_word(name) or bool(keeps_whole and keeps_whole.fullmatch(name)) for name in inner)


def list_files(
    folder: Path, suffixes: Collection[str], answer: SplitFolders, what: str
) -> tuple[list[tuple[str, Place]], list[Unread], list[str]]:
    """Every file under a folder that has one folder a class: those with such `suffixes` and their places, the others with
    the reason why they are not read, and what was guessed. what: the files in words, e.g. videos."""
    tree = walk(folder)
    names = [file.name for file in tree.files if suffix_of(file.name) in suffixes]
    unread = list(tree.unread)
    unread += [Unread(file.name, OTHER_KIND) for file in tree.files if suffix_of(file.name) not in suffixes]
    parents = [tuple(name.split("/")[:-1]) for name in names]
    places, notes = place_files(parents, answer)
    files = list(zip(names, places))
    unread += [Unread(name, LOOSE) for name, place in files if not place.inner]
    notes += note_empty(tree.folders, parents, places, what)
    return [(name, place) for name, place in files if place.inner], unread, notes


def note_lacking(label: np.ndarray, split: np.ndarray, class_names: Sequence[str], what: str) -> list[str]:
    """A sentence for the classes of which nothing trains, or nothing tests, and for a set of one class. what: e.g.
    pictures."""
    if len(class_names) == 1:
        return [f"all {what} are of the class {class_names[0]}: training needs two classes or more"]
    notes = []
    for which, verb in ((TRAIN, "trains"), (TEST, "tests")):
        held = set(label[split == which].tolist())
        lacking = [name for c, name in enumerate(class_names) if c not in held]
        if held and lacking:
            noun = (
                f"class {lacking[0]}"
                if len(lacking) == 1
                else f"{len(lacking)} classes: {name_some(lacking)}"
            )
            notes.append(f"none of the {what} {verb} of {noun}")
    return notes


def note_empty(
    folders: Sequence[str], parents: Sequence[tuple[str, ...]], places: Sequence[Place], what: str
) -> list[str]:
    """A sentence for the folders that stand where classes (or areas) do and hold none of `what`, e.g. shapes."""
    held = {folder[:depth] for folder in parents for depth in range(1, len(folder) + 1)}
    around: set[tuple[str, ...]] = {()}  # the folders in which classes lie
    for folder, place in zip(parents, places):
        if place.inner:
            first = len(folder) - len(place.inner)
            around.add(folder[: first if folder[first:] == place.inner else first - 1])
    empty = []
    for name in folders:
        parts = tuple(name.split("/"))
        if parts not in held and parts[:-1] in around:
            empty.append(shorten(name))
    noun = "folder holds" if len(empty) == 1 else "folders hold"
    return [f"{len(empty)} {noun} no {what}: {name_some(empty)}"] if empty else []
