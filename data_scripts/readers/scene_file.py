"""One scene from one file, and back: points with colours and labels where the file has them.

| suffix | what is read |
|---|---|
| .ply | vertices: x y z, red green blue (or r g b), label (or class, classification, scalar_label, ...) |
| .las .laz | coordinates, red green blue, classification; needs laspy: pip install -e '.[scenes]' |
| .xyz .txt .csv .pts .asc | a row a line; columns by a header (`x y z r g b label`, also after # or //) or by their number |
| .npy | [n, columns] as of text, or one record a point with names as above |
| .pcd | fields by name, text, binary and compressed; it is not written |
| .labels | beside a scene: a whole number a line, as Semantic3D has them; always read |

`columns` says what columns mean; the guess is told to the user. Written are all but .pcd; of text .pts has its number of
points first, and labels beside it in a .labels file; .csv has a header, the others CloudCompare's (//X Y Z R G B label).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dropfold.data_scripts.readers import columns as naming
from dropfold.data_scripts.readers import las
from dropfold.data_scripts.readers.columns import AS_FOUND, COLOURS, LABELS, Layout
from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.errors import ShapeError
from dropfold.data_scripts.work.memory import name_if_too_large
from dropfold.data_scripts.work.notes import tell

TABLES = (".xyz", ".txt", ".csv", ".pts", ".asc")
SUFFIXES = (".ply", ".las", ".laz", *TABLES, ".npy")
READ_SUFFIXES = (*SUFFIXES, ".pcd")
WRITTEN = atomic.OURS._replace(kind=f"{atomic.OURS.kind} (PLY, LAS and LAZ do)")
LABEL_TYPES = {
    ".las": ("uint8",),
    ".laz": ("uint8",),
    ".ply": ("uint8", "int32", "uint32"),
}  # others hold int64


class _Arrays(NamedTuple):
    points: np.ndarray
    colour: np.ndarray | None
    label: np.ndarray | None


class Scene(_Arrays):
    """points [n, 3], float32 or float64 as the file has them; colour [n, 3] uint8; label [n] int64. A tuple of the three;
    beside them stands the unit that the file states for its coordinates, if it states one."""

    unit: str | None = None


class Cloud(NamedTuple):
    """All columns of a file by name, each [n]."""

    columns: dict[str, np.ndarray]
    unit: str | None = None
    """Of the coordinates, if the file states one: a `Unit`, or another word, such as degree."""
    guessed: bool = False
    """The columns' names are a guess."""
    organised: bool = False
    """The rows of a picture, whose holes are points that are not finite."""
    notes: tuple[str, ...] = ()
    """What to tell the user."""


def read_scene(path: Path, layout: Layout = AS_FOUND, notes: list[str] | None = None) -> Scene:
    """The scene of a file (see above); a `ShapeError` names it, the line where there is one, and what is wrong.

    notes: takes what was guessed or left out, a sentence each; None: it is printed to stderr.
    """
    path = Path(path)
    _check_suffix(path, READ_SUFFIXES)
    with name_if_too_large(path), np.errstate(invalid="ignore", over="ignore"):
        cloud = read_cloud(path, layout)
        columns = cloud.columns
        points = stack_axes(path, columns)
        colour = naming.pick(columns, COLOURS)
        named = [name for name in LABELS if name in columns]
        label = columns[named[0]] if named else None
        lines = [*cloud.notes, *naming.note_part_of_a_colour(columns)]
        if other := [name for name in named[1:] if (columns[name] != label).any()]:
            lines.append(f"the labels are {named[0]}; {' and '.join(other)} differs from it")
        if colour is not None:
            lines += _note_dark_colours(colour)
        beside = path.with_suffix(".labels")
        if beside.is_file():
            label = _read_labels_beside(path, beside, len(points), label)
        parts = {"coordinates": points, "a colour": colour, "a label": label}
        kept = find_finite(path, parts, layout, cloud.organised, lines)
        if kept is not None:
            points = points[kept]
            colour, label = (None if part is None else part[kept] for part in (colour, label))
        scene = Scene(
            points,
            None if colour is None else _colour(path, colour),
            None if label is None else _label(path, label),
        )
    scene.unit = cloud.unit
    tell(path, lines, notes)
    return scene


def read_cloud(path: Path, layout: Layout = AS_FOUND, loose: bool = False) -> Cloud:
    """All columns of a file of any kind of `READ_SUFFIXES`, x y z among them. loose: of a number of columns that says
    nothing the first three are x y z."""
    if not path.is_file():
        raise ShapeError(f"{path} is not there.")
    if path.stat().st_size == 0:
        raise ShapeError(f"{path} is empty.")
    suffix = path.suffix.lower()
    if suffix in TABLES:
        return _text(path, layout, loose)
    if suffix == ".npy":
        return _npy(path, layout, loose)
    if suffix == ".pcd":
        from dropfold.data_scripts.readers import pcd

        columns, organised, lines = pcd.read_points(path)
        return _by_name(path, columns)._replace(organised=organised, notes=tuple(lines))
    if suffix in (".las", ".laz"):
        said: list[str] = []
        columns = las.read_columns(path, said)
        return _by_name(path, columns)._replace(unit=las.read_unit(path), notes=tuple(said))
    return _by_name(path, _ply(path))


def find_finite(
    path: Path, parts: dict[str, np.ndarray | None], layout: Layout, organised: bool, lines: list[str]
) -> np.ndarray | None:
    """Which points to keep, [n]; None: all. parts: arrays [n] or [n, k] by what a point has in them.

    Points with numbers that are not finite are a fault, or left out where the user says so; the holes of an organised cloud
    always are. What is left out is added to `lines`.
    """
    kept: np.ndarray | None = None
    for what, values in parts.items():
        if values is None or values.dtype.kind != "f":
            continue
        whole = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).all(1)
        if not whole.all():
            if not layout.drop_nan and not (organised and what == "coordinates"):
                whole = whole if kept is None else whole | ~kept
                if whole.all():
                    continue
                verb = "are" if what.endswith("s") else "is"
                first, count = int(np.argmin(whole)), int((~whole).sum())
                raise ShapeError(
                    f"{path}: point {first} has {what} that {verb} not finite, the first of {count:,} such; "
                    "--drop-nan leaves them out."
                )
            kept = whole if kept is None else kept & whole
    if kept is not None:
        if not kept.any():
            raise ShapeError(f"{path} has no points whose numbers are finite.")
        lines.append(f"{int((~kept).sum()):,} of {len(kept):,} points are left out, for they are not finite")
    return kept


def stack_axes(path: Path, columns: dict[str, np.ndarray]) -> np.ndarray:
    """The coordinates [n, 3], float32 if all of them are, or else float64."""
    wanted = {*naming.AXES, *naming.NORMALS, *LABELS, *(name for names in COLOURS for name in names)}
    for name in wanted & set(columns):
        if columns[name].dtype.kind not in "fiu":
            raise ShapeError(f"{path}: column {name} is of type {columns[name].dtype}; expected numbers.")
    kind = np.float32 if all(columns[name].dtype == np.float32 for name in naming.AXES) else np.float64
    points = np.stack([columns[name].astype(kind, copy=False) for name in naming.AXES], axis=1)
    if len(points) == 0:
        raise ShapeError(f"{path} has no points.")
    return points


def _read_labels_beside(path: Path, beside: Path, points: int, label: np.ndarray | None) -> np.ndarray:
    """The labels of the file beside, which must be those in the file, if it has some too."""
    from dropfold.data_scripts.readers import text_file

    found = text_file.read_labels(beside)
    if len(found) != points:
        raise ShapeError(f"{beside} has {len(found)} labels, {path.name} has {points} points.")
    if label is not None and (differ := found != label).any():
        first = int(np.argmax(differ))
        raise ShapeError(
            f"{path} has labels in itself that {beside.name} beside it contradicts: point {first} is {label[first]:g} and "
            f"{found[first]:g}. Move the wrong one away."
        )
    return found


def check_target(path: Path, codes: Sequence[int] = (0,), overwrite: bool | None = None) -> None:
    """Refuse before long work what `write_scene` would refuse after it: a suffix, a library that is missing, a folder that
    cannot be written to, labels `codes` that the format cannot hold; and to replace a file that is not known as ours,
    but where `overwrite` allows it (None: the command has no such option)."""
    one = {name: np.zeros(len(codes)) for name in "xyz"} | {"label": _smallest(np.array(codes))}
    _check_suffix(path)
    _check_beside(path, bool(overwrite))
    atomic.check_target(path, WRITTEN, overwrite=overwrite)
    atomic.make_folder(path.parent)
    with atomic.naming(path):
        temporary = atomic.make_temporary(path, suffix=path.suffix.lower())
        try:
            _write(path, temporary, one)
        finally:
            temporary.unlink(missing_ok=True)


def write_scene(
    path: Path,
    points: np.ndarray,
    colour: np.ndarray | None,
    label: np.ndarray | None,
    like: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write a scene, whole or not at all, in the form of the suffix; `read_scene` gives it back.

    LAS and LAZ round coordinates to 0.1 mm (of more than 200 km, to what their 32 bits can tell) and take labels 0 .. 255,
    text rounds them to 0.001 mm. PLY takes labels of 32 bits. A .pts file has its labels in a .labels file beside it.
    like: the file that the scene was read from. Where both are LAS or LAZ, its coordinate system, records and all other
    fields are kept, and the labels alone are written. overwrite: replace the .labels file of a .pts file, too.
    """
    path = Path(path)
    columns = {name: points[:, i] for i, name in enumerate("xyz")}
    if colour is not None:
        columns |= {name: colour[:, i] for i, name in enumerate(COLOURS[0])}
    if label is not None:
        columns["label"] = _smallest(label)
    _check_suffix(path)
    _check_beside(path, overwrite)
    atomic.make_folder(path.parent)
    with contextlib.ExitStack() as stack:  # which moves the points into place first, and then their labels
        if path.suffix.lower() == ".pts" and "label" in columns:
            labels = stack.enter_context(atomic.replacing(path.with_suffix(".labels")))
            labels.write_text("".join(f"{value}\n" for value in columns.pop("label").tolist()))
        temporary = stack.enter_context(atomic.replacing(path, suffix=path.suffix.lower()))
        _write(path, temporary, columns, like)


def _smallest(label: np.ndarray) -> np.ndarray:
    """Labels in the smallest type that holds them all."""
    low, high = int(label.min(initial=0)), int(label.max(initial=0))
    kinds = (np.iinfo(kind) for kind in (np.uint8, np.int32, np.uint32, np.int64))
    return label.astype(next(kind.dtype for kind in kinds if kind.min <= low and high <= kind.max))


def _check_suffix(path: Path, expected: tuple[str, ...] = SUFFIXES) -> None:
    if path.suffix.lower() not in expected:
        raise ShapeError(f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(expected)}.")


def _check_beside(path: Path, overwrite: bool) -> None:
    """Refuse a target beside which labels lie: they would be read as its own, or be replaced, which `overwrite` allows."""
    beside = path.with_suffix(".labels")
    if beside.exists() and not (overwrite and path.suffix.lower() == ".pts"):
        raise ShapeError(
            f"{beside} would be read as the labels of {path.name}; write to another name, or move it away."
        )


def _write(path: Path, temporary: Path, columns: dict[str, np.ndarray], like: Path | None = None) -> None:
    """Columns as a file of the suffix of `path`, which faults name, at `temporary`."""
    suffix = path.suffix.lower()
    kinds = LABEL_TYPES.get(suffix)
    if "label" in columns and kinds and (label := columns["label"]).dtype not in kinds:
        held, other = ("0 .. 255", ".ply") if kinds == ("uint8",) else ("32 bits", ".npy or .txt")
        raise ShapeError(
            f"{path}: labels {label.min()} .. {label.max()} go beyond {held}, which {suffix} cannot hold; write a {other}."
        )
    if suffix in (".las", ".laz"):
        same = like is not None and like.suffix.lower() in (".las", ".laz") and "label" in columns
        las.write_columns(path, temporary, columns, like if same else None)
    elif suffix == ".ply":
        from dropfold.data_scripts.readers import ply

        ply.write_vertices(temporary, columns)
    elif suffix == ".npy":
        with open(temporary, "wb") as file:
            np.save(file, _records(columns))
    else:
        _write_text(temporary, columns, suffix)


def _colour(path: Path, values: np.ndarray) -> np.ndarray:
    """uint8, from 0 .. 255, from 0 .. 1 (numbers with a fraction) or from 16 bits."""
    if values.dtype == np.uint8:
        return values
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= 65535:  # false of what is not a number, too
        raise ShapeError(f"{path}: colours are {low} .. {high}; expected 0 .. 255, 0 .. 1 or 0 .. 65535.")
    if high <= 1 and values.dtype.kind == "f" and (values != np.floor(values)).any():
        return (values * 255).round().astype(np.uint8)
    return (values / 257 if high > 255 else values).round().astype(np.uint8)


def _note_dark_colours(values: np.ndarray) -> list[str]:
    """A line where values taken for 0 .. 255 may as well be dark ones of a larger range, and are nearly black."""
    high = values.max(initial=0)
    if values.dtype == np.uint16 and 0 < high <= 255:
        return [f"colours have 16 bits and go up to {high}: taken for 0 .. 255"]
    if high == 1 and (values == np.floor(values)).all():
        return ["colours are 0 or 1: taken for 0 .. 255, nearly black"]
    return []


def _label(path: Path, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        odd = ~(np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) <= 2**53))
        if odd.any():
            first = int(np.argmax(odd))
            raise ShapeError(
                f"{path}: the label of point {first} is {values[first]}, expected a whole number."
            )
    elif values.dtype == np.uint64 and values.max(initial=0) > 2**53:
        raise ShapeError(f"{path}: a label is {values.max()}, beyond 2^53; is it a label?")
    return values.astype(np.int64)


def _ply(path: Path) -> dict[str, np.ndarray]:
    from dropfold.data_scripts.readers import ply

    return ply.read_vertices(path)


def _by_name(path: Path, columns: dict[str, np.ndarray]) -> Cloud:
    """Columns under the names that the readers know."""
    names, unit = naming.name_all(path, list(columns)) if columns else ([], None)
    missing = [axis for axis in naming.AXES if axis not in names]
    if missing:
        raise ShapeError(f"{path} has no column {missing[0]}; it has {', '.join(columns) or 'none'}.")
    return Cloud(dict(zip(names, columns.values())), unit)


def _npy(path: Path, layout: Layout, loose: bool) -> Cloud:
    from dropfold.data_scripts.readers import npy

    table, lines = npy.read_array(path)
    if table.dtype.names:
        return _by_name(path, npy.split_records(path, table))._replace(notes=tuple(lines))
    if table.ndim != 2 or table.dtype.kind not in "fiu" or 0 in table.shape:
        raise ShapeError(
            f"{path} is {table.dtype} {table.shape}; expected numbers [points, 3 or more], one row a point."
        )
    if table.dtype == np.float16:
        lines.append("float16 tells three digits of a coordinate")
    beside = path.with_suffix(".labels").is_file()
    columns, guess = naming.name_table(path, table, layout, beside, loose)
    return Cloud(columns, None, not layout.columns, notes=(*lines, *guess))


def _text(path: Path, layout: Layout, loose: bool) -> Cloud:
    from dropfold.data_scripts.readers import text_file

    table = text_file.read_table(path, named=bool(layout.columns))
    if table.names and not layout.columns:
        return _named(path, table.names, table.rows)._replace(notes=tuple(table.notes))
    beside = path.with_suffix(".labels").is_file()
    columns, guess = naming.name_table(path, table.rows, layout, beside, loose)
    return Cloud(columns, None, not layout.columns, notes=(*table.notes, *guess))


def _named(path: Path, words: list[str], rows: np.ndarray) -> Cloud:
    """The columns of a table by the words of its header."""
    names, unit = naming.name_all(path, words, ", in its header,")
    return Cloud({name: rows[:, i] for i, name in enumerate(names)}, unit)


def _records(columns: dict[str, np.ndarray]) -> np.ndarray:
    table = np.empty(len(columns["x"]), [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    return table


def _write_text(path: Path, columns: dict[str, np.ndarray], suffix: str) -> None:
    apart = "," if suffix == ".csv" else " "
    form = apart.join("%.6f" if name in "xyz" else "%d" for name in columns) + "\n"
    short = {"red": "r", "green": "g", "blue": "b"}
    names = [short.get(name, name) for name in columns]
    if suffix == ".pts":  # the number of points, and no names
        header = str(len(columns["x"]))
    elif suffix == ".csv":
        header = ",".join(names)
    else:  # CloudCompare's
        header = "//" + " ".join(name.upper() if len(name) == 1 else name for name in names)
    with path.open("w") as file:
        file.write(header + "\n")
        for start in range(0, len(columns["x"]), 1 << 16):
            part = [values[start : start + (1 << 16)].tolist() for values in columns.values()]
            file.writelines(form % row for row in zip(*part))
