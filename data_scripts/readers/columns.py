"""What the columns of a cloud are: by the names that programs give them, by what the user says, or by a guess that is said.

| columns without names | taken for |
|---|---|
| 3 | x y z |
| 4 | x y z label, where the fourth holds few whole numbers 0 .. 255, but in .pts files and beside .labels; or x y z i |
| 6 | x y z nx ny nz, where the last three have length 1; or x y z r g b |
| 7 | x y z r g b label, x y z nx ny nz label, or x y z i r g b |
| 8 | x y z i r g b label, where the intensity i is no colour |
| 9 | x y z r g b nx ny nz, or x y z nx ny nz r g b |

Of 7 columns the fourth is the intensity (as Semantic3D and .pts have it) where labels lie beside, or where it is no colour.
Where all four could be colours and the last takes more values than labels do, either end may be the intensity, which is
asked for like any other number of columns. `--columns "x y z i r g b label"` names them; `-` leaves one out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dropfold.data_scripts.work.errors import ShapeError

AXES = ("x", "y", "z")
NORMALS = ("nx", "ny", "nz")
COLOURS = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
LABELS = (
    "label",
    "labels",
    "class",
    "classification",
    "semantic",
    "semantic_label",
    "segment",
    "gt",
    "class_id",
    "category",
)
LEFT_OUT = "-"
ALIASES = {
    **{f"{before}{axis}": axis for axis in AXES for before in ("coord_", "pos_", "position_", "point_", "p")},
    **{f"{axis}{after}": axis for axis in AXES for after in ("_coord", "_coordinate", "coord", "_m")},
    **{f"points_{i}": axis for i, axis in enumerate(AXES)},  # ParaView
    "easting": "x", "northing": "y", "elevation": "z", "east": "x", "north": "y", "height": "z", "altitude": "z",
    **{f"{before}{axis}": f"n{axis}" for axis in AXES for before in ("normal_", "n_", "normal")},
    **{f"normals_{i}": f"n{axis}" for i, axis in enumerate(AXES)},
    **{f"{before}{short}": short for short in "rgb" for before in ("color_", "colour_", "col_")},
    **{f"{before}{name}": name for name in COLOURS[0] for before in ("color_", "colour_", "col_")},
    "rf": "r", "gf": "g", "bf": "b",  # CloudCompare's colours 0 .. 1
}  # fmt: skip
UNIT_WORDS = {
    **dict.fromkeys(("m", "metre", "metres", "meter", "meters"), "m"), "cm": "cm", "mm": "mm", "km": "km",
    **dict.fromkeys(("ft", "foot", "feet"), "ft"), **dict.fromkeys(("us-ft", "ftus", "us_ft"), "us-ft"), "in": "in",
    **dict.fromkeys(("deg", "degree", "degrees", "°"), "degree"),
}  # fmt: skip
DEGREES = {"longitude", "latitude", "lon", "lat", "lng", "long"}
MOST_LABELS = 50  # different whole numbers: a column of more is a colour or an intensity
SAMPLE = 100_000  # rows that a guess looks at


class Layout(NamedTuple):
    """What the user says of the files: the columns of tables, and what to do with points that are not finite."""

    columns: tuple[str, ...] = ()
    """Names of the columns of text tables and .npy arrays, `-` for those to leave out; none: their own, or a guess."""
    drop_nan: bool = False
    """Leave out points with a number that is not finite, and say how many; otherwise they are a fault."""


AS_FOUND = Layout()


def parse_layout(columns: str | None, drop_nan: bool = False) -> Layout:
    """The layout of `--columns "x y z i r g b label"` and `--drop-nan`; a ValueError says which word is wrong."""
    words = re.split(r"[\s,;]+", columns.strip(" \t,;")) if columns and columns.strip(" \t,;") else []
    names = tuple(LEFT_OUT if word.lower() in ("-", "_", "skip") else name_column(word) for word in words)
    names = tuple("intensity" if name in ("i", "intensity") else name for name in names)
    given = f"--columns {columns!r}"
    if columns is not None and not names:
        raise ValueError(f'{given} names no columns; expected names such as "x y z i r g b label".')
    known = {*AXES, *NORMALS, *(name for names in COLOURS for name in names), *LABELS, "intensity", LEFT_OUT}
    for word, name in zip(words, names):
        if name not in known:
            raise ValueError(
                f"{given} holds {word!r}; expected x y z, r g b, nx ny nz, i (intensity), label, or - to leave a "
                "column out."
            )
        if name != LEFT_OUT and names.count(name) > 1:
            raise ValueError(f"{given} names {word!r} twice.")
    if len(labels := [name for name in names if name in LABELS]) > 1:
        raise ValueError(f"{given} names two labels, {labels[0]} and {labels[1]}; put - for one of them.")
    for group in (AXES, NORMALS, *COLOURS):
        missing = [name for name in group if name not in names]
        if names and missing and (group == AXES or len(missing) < 3):
            raise ValueError(f"{given} lacks {missing[0]}; {' '.join(group)} come together.")
    return Layout(names, drop_nan)


def name_column(word: str) -> str:
    """The name of a column as the readers know it."""
    name = _strip(word)[0]
    return ALIASES.get(name, name)


def name_all(path: Path, words: Sequence[str], place: str = "") -> tuple[list[str], str | None]:
    """The names of a file's columns, and the unit of its coordinates where the names state one. place: of a fault."""
    names, units = [list(part) for part in zip(*map(_strip, words))]
    for i, name in enumerate(names):  # "height" is z where nothing else is
        known = ALIASES.get(name, name)
        names[i] = name if known in names else known
    for name in {*AXES, *NORMALS, *COLOURS[0], *COLOURS[1], *LABELS}:
        if names.count(name) > 1:
            raise ShapeError(f"{path}{place} names the column {name!r} twice.")
    stated = [unit for name, unit in zip(names, units) if name in AXES]
    if len(set(stated)) > 1:
        of_axes = ", ".join(word for word, name in zip(words, names) if name in AXES)
        raise ShapeError(
            f"{path}{place}: x, y and z are in different units ({of_axes}); bring them into one."
        )
    return names, stated[0] if stated else None


def _strip(word: str) -> tuple[str, str | None]:
    """A word of a header in plain small letters, and the unit that stands in brackets behind it."""
    plain = word.strip().strip("\"'").strip().lower()
    unit = None
    if match := re.fullmatch(r"(.+?)\s*[\[(]\s*([^\[\]()]+?)\s*[\])]", plain):
        plain, unit = match[1], UNIT_WORDS.get(match[2])
    return re.sub(r"[^\w]+", "_", plain).strip("_").removeprefix("scalar_"), unit


def has_axes(words: Sequence[str]) -> bool:
    """Whether words of a header name x, y and z."""
    return set(AXES) <= {name_column(word) for word in words}


def are_degrees(words: Sequence[str]) -> bool:
    """Whether words of a header name longitude and latitude."""
    return len(DEGREES & {name_column(word) for word in words}) >= 2


def name_table(
    path: Path, table: np.ndarray, layout: Layout, beside: bool = False, loose: bool = False
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The columns of a table [n, columns] without names, by `layout` or a guess, and what to tell the user of it.

    beside: a file of labels lies beside. loose: of a number of columns that says nothing, the first three are taken.
    """
    if layout.columns:
        wanted = len(layout.columns)
        notes = []
        if table.shape[1] != wanted and table.shape[0] == wanted:
            table = table.T
            notes.append(
                f"{wanted} rows of {len(table)} numbers, as many rows as --columns names, now transposed"
            )
        if table.shape[1] != wanted:
            raise ShapeError(f"{path} has {table.shape[1]} columns, and --columns names {wanted}.")
        return _by_name(layout.columns, table), notes
    while table.shape[1] > 3 and table.dtype.kind == "f" and np.isnan(table[:, -1]).all():
        table = table[:, :-1]  # of a spreadsheet's empty columns
    names, note = guess_columns(path, table, beside, loose)
    return _by_name(names, table), [note] if note else []


def guess_columns(path: Path, table: np.ndarray, beside: bool, loose: bool) -> tuple[list[str], str]:
    """Names for the columns of a table, and a sentence on the guess; none if there was nothing to guess."""
    rows, columns = table.shape
    hint = 'name them, --columns "x y z i r g b label" (- leaves one out)'
    if columns < 3:
        raise ShapeError(f"{path} is {table.dtype} {table.shape}; expected numbers [points, 3 or more].")
    if rows < columns and rows > 2 and (columns > 9 or (rows == 3 and columns in (5, 8, 9))):
        raise ShapeError(
            f"{path} has {rows} rows of {columns} numbers: is it transposed, [{rows}, points]? Save it as "
            f"[points, {rows}], or {hint}."
        )
    if columns == 3:
        return list(AXES), ""
    if rows >= 8 and (np.diff(table[:, 0]) == 1).all() and table[0, 0] in (0, 1):
        raise ShapeError(f"{path}: the first of {columns} columns counts the rows; {hint}.")
    table = table[:: max(rows // SAMPLE, 1)]
    pts = path.suffix.lower() == ".pts"
    names: list[str] | None = None
    if columns == 4:
        few = _is_byte(table[:, 3:]) and _is_label(table[:, 3])
        names = ["label" if few and not pts and not beside else "intensity"]
    elif columns == 6:
        names = (
            list(NORMALS)
            if _is_unit(table[:, 3:])
            else list(COLOURS[0])
            if _is_colour(table[:, 3:])
            else None
        )
    elif columns == 7:
        names = _guess_seven(table, beside, pts)
    elif columns == 8 and not _is_byte(table[:, 3:4]) and _is_byte(table[:, 4:7]) and _is_label(table[:, 7]):
        names = ["intensity", *COLOURS[0], "label"]
    elif columns == 9 and _is_unit(table[:, 6:]) and _is_colour(table[:, 3:6]):
        names = [*COLOURS[0], *NORMALS]
    elif columns == 9 and _is_unit(table[:, 3:6]) and _is_colour(table[:, 6:]):
        names = [*NORMALS, *COLOURS[0]]
    if names is None and loose:
        names = [*(NORMALS if columns > 5 and _is_unit(table[:, 3:6]) else ()), *[LEFT_OUT] * columns][
            : columns - 3
        ]
    if names is None:
        raise ShapeError(
            f"{path} has {columns} columns, and what they are is not known; {hint}, or in a first line that names them: "
            "x y z r g b label."
        )
    short = " ".join({"red": "r", "green": "g", "blue": "b"}.get(name, name) for name in names)
    return [
        *AXES,
        *names,
    ], f"{columns} columns without names, read as x y z {short} (--columns says otherwise)"


def _guess_seven(table: np.ndarray, beside: bool, pts: bool) -> list[str] | None:
    """What follows x y z in a table of 7 columns; None where it may be one thing as well as another."""
    first, last, has_label = table[:, 3:6], table[:, 4:7], _is_label(table[:, 6])
    if has_label and not _is_byte(first) and _is_unit(first):
        return [*NORMALS, "label"]
    is_colour = _is_byte(first) or _is_fraction(first)
    if _is_byte(last) and (beside or pts or not is_colour):
        return ["intensity", *COLOURS[0]]
    return [*COLOURS[0], "label"] if is_colour and has_label else None


def note_part_of_a_colour(columns: dict[str, np.ndarray]) -> list[str]:
    """A note where some of red, green and blue are there, and none of `COLOURS` as a whole."""
    found = [name for names in COLOURS for name in names if name in columns]
    if not found or any(all(name in columns for name in names) for names in COLOURS):
        return []
    return [f"{', '.join(found)} without the other colours are not read"]


def pick(columns: dict[str, np.ndarray], groups: Sequence[tuple[str, ...]]) -> np.ndarray | None:
    """The first of some groups of columns that is there as a whole, [n, k]."""
    names = next((names for names in groups if all(name in columns for name in names)), None)
    return np.stack([columns[name] for name in names], axis=1) if names else None


def _by_name(names: Sequence[str], table: np.ndarray) -> dict[str, np.ndarray]:
    return {name: table[:, i] for i, name in enumerate(names) if name != LEFT_OUT}


def _is_whole(values: np.ndarray) -> bool:
    known = values[np.isfinite(values)]
    return bool((known == np.floor(known)).all())


def _is_label(values: np.ndarray) -> bool:
    """Whether whole numbers are so few that they are labels rather than a colour or an intensity."""
    different = len(np.unique(values))
    few = different <= MOST_LABELS and (len(values) < 16 or different <= 0.75 * len(values))
    return few and _is_whole(values)


def _is_byte(values: np.ndarray) -> bool:
    """Whether all are whole numbers 0 .. 255; what is not finite does not count."""
    known = values[np.isfinite(values)]
    return bool(known.min(initial=0) >= 0 and known.max(initial=0) <= 255 and _is_whole(known))


def _is_fraction(values: np.ndarray) -> bool:
    known = values[np.isfinite(values)]
    return bool(known.min(initial=0) >= 0 and known.max(initial=0) <= 1)


def _is_colour(values: np.ndarray) -> bool:
    """Whether all are 0 .. 255, 0 .. 1 or 0 .. 65535."""
    known = values[np.isfinite(values)]
    return bool(known.min(initial=0) >= 0 and known.max(initial=0) <= 65535)


def _is_unit(values: np.ndarray) -> bool:
    """Whether rows are normals: of length 1 within 5 % in the median, and so nearly all, or some negative."""
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.linalg.norm(values.astype(np.float64), axis=1)
    length = length[np.isfinite(length)]
    if not len(length) or abs(np.median(length) - 1) > 0.05:
        return False
    return bool((values < 0).any() or (np.abs(length - 1) <= 0.05).mean() >= 0.9)
