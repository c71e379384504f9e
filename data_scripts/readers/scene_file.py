"""One scene from one file, and back: points with colours and labels where the file has them.

| suffix | what is read |
|---|---|
| .ply | vertices: x y z, red green blue (or r g b), label (or class, classification, scalar_label, ...) |
| .las .laz | coordinates, red green blue, classification; needs laspy: pip install -e '.[scenes]' |
| .xyz .txt .csv .pts .asc | a row a line; columns by a header (`x y z r g b label`, also after # or //) or by their number |
| .npy | [n, columns] as of text, or one record a point with names as above |
| .labels | beside a scene without labels: a whole number a line, as Semantic3D has them |

Without a header 3 columns are x y z, 6 are x y z r g b, and 7 x y z r g b label or x y z intensity r g b; the fourth of
4 is the label if it holds whole numbers 0 .. 255.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.errors import ShapeError

Unit = Literal["m", "cm", "mm", "ft"]
METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001, "ft": 0.3048}
TABLES = (".xyz", ".txt", ".csv", ".pts", ".asc")
SUFFIXES = (".ply", ".las", ".laz", *TABLES, ".npy")
COLOURS = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
LABELS = ("label", "labels", "class", "classification", "semantic", "semantic_label", "segment", "gt")
LABEL_TYPES = {
    ".las": ("uint8",),
    ".laz": ("uint8",),
    ".ply": ("uint8", "int32", "uint32"),
}  # others hold int64
TALLEST, NARROWEST = 100.0, 0.5  # metres: beyond these a scene is asked for its unit
WIDEST = 10_000.0  # metres: float32, which the networks see, still tells a millimetre


class Scene(NamedTuple):
    """points [n, 3], float32 or float64 as the file has them; colour [n, 3] uint8; label [n] int64."""

    points: np.ndarray
    colour: np.ndarray | None
    label: np.ndarray | None


def read_scene(path: Path) -> Scene:
    """The scene of a file (see above); a `ShapeError` names it, the line where there is one, and what is wrong."""
    path = Path(path)
    suffix = path.suffix.lower()
    _check_suffix(path)
    if not path.is_file():
        raise ShapeError(f"{path} is not there.")
    if path.stat().st_size == 0:
        raise ShapeError(f"{path} is empty.")
    read: Callable[[Path], dict[str, np.ndarray]] = (
        _las
        if suffix in (".las", ".laz")
        else _npy
        if suffix == ".npy"
        else _text
        if suffix in TABLES
        else _ply
    )
    columns = {name.lower().removeprefix("scalar_"): values for name, values in read(path).items()}
    missing = [name for name in "xyz" if name not in columns]
    if missing:
        raise ShapeError(f"{path} has no column {missing[0]}; it has {', '.join(columns)}.")
    wanted = {"x", "y", "z", *LABELS, *(name for names in COLOURS for name in names)} & set(columns)
    for name in wanted:
        if columns[name].dtype.kind not in "fiu":
            raise ShapeError(f"{path}: column {name} is of type {columns[name].dtype}; expected numbers.")
    kind = np.float32 if all(columns[name].dtype == np.float32 for name in "xyz") else np.float64
    points = np.stack([columns[name].astype(kind, copy=False) for name in "xyz"], axis=1)
    if len(points) == 0:
        raise ShapeError(f"{path} has no points.")
    whole = np.isfinite(points).all(1)
    if not whole.all():
        raise ShapeError(f"{path}: point {int(np.argmin(whole))} has coordinates that are not finite.")
    names = next((names for names in COLOURS if all(name in columns for name in names)), None)
    colour = _colour(path, np.stack([columns[name] for name in names], axis=1)) if names else None
    label = next((columns[name] for name in LABELS if name in columns), None)
    beside = path.with_suffix(".labels")
    if label is None and beside.is_file():
        label = _rows(beside, beside.open("rb"), 1)[:, 0]
        if len(label) != len(points):
            raise ShapeError(f"{beside} has {len(label)} labels, {path.name} has {len(points)} points.")
    return Scene(points, colour, None if label is None else _label(path, label))


def check_target(path: Path, codes: np.ndarray) -> None:
    """Refuse before long work what `write_scene` would refuse after it: a suffix, a library that is missing, a folder that
    cannot be written to, labels `codes` that the format cannot hold."""
    one = {name: np.zeros(len(codes)) for name in "xyz"} | {"label": _smallest(codes)}
    _check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = atomic.make_temporary(path, suffix=path.suffix.lower())
    try:
        _write(path, temporary, one)
    finally:
        temporary.unlink(missing_ok=True)


def write_scene(path: Path, points: np.ndarray, colour: np.ndarray | None, label: np.ndarray | None) -> None:
    """Write a scene, whole or not at all, in the form of the suffix; `read_scene` gives it back.

    LAS and LAZ round coordinates to 0.1 mm (of more than 200 km, to what their 32 bits can tell) and take labels 0 .. 255,
    text rounds them to 0.001 mm. PLY takes labels of 32 bits.
    """
    path = Path(path)
    columns = {name: points[:, i] for i, name in enumerate("xyz")}
    if colour is not None:
        columns |= {name: colour[:, i] for i, name in enumerate(COLOURS[0])}
    if label is not None:
        columns["label"] = _smallest(label)
    _check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replacing(path, suffix=path.suffix.lower()) as temporary:
        _write(path, temporary, columns)


def _smallest(label: np.ndarray) -> np.ndarray:
    """Labels in the smallest type that holds them all."""
    low, high = int(label.min(initial=0)), int(label.max(initial=0))
    kinds = (np.iinfo(kind) for kind in (np.uint8, np.int32, np.uint32, np.int64))
    return label.astype(next(kind.dtype for kind in kinds if kind.min <= low and high <= kind.max))


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise ShapeError(f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}.")


def _write(path: Path, temporary: Path, columns: dict[str, np.ndarray]) -> None:
    """Columns as a file of the suffix of `path`, which faults name, at `temporary`."""
    suffix = path.suffix.lower()
    kinds = LABEL_TYPES.get(suffix)
    if "label" in columns and kinds and (label := columns["label"]).dtype not in kinds:
        raise ShapeError(
            f"{path}: labels {label.min()} .. {label.max()} do not fit into {suffix}, which holds {', '.join(kinds)}; "
            "write a .npy or .txt."
        )
    if suffix in (".las", ".laz"):
        _write_las(path, temporary, columns)
    elif suffix == ".ply":
        from dropfold.data_scripts.readers import ply

        ply.write_vertices(temporary, columns)
    elif suffix == ".npy":
        with open(temporary, "wb") as file:
            np.save(file, _records(columns))
    else:
        _write_text(temporary, columns, "," if suffix == ".csv" else " ")


def note_odd_extent(where: Path | str, extent: np.ndarray, unit: Unit | None) -> list[str]:
    """A note where `unit` was given and the extent [3] in metres is not a scene's: perhaps this one is in another unit."""
    if unit is None or _is_plausible(extent):
        return []
    size = " x ".join(f"{e:.3g}" for e in extent)
    return [f"{where} is {size} m with --unit {unit}: is it in another unit than the others?"]


def _is_plausible(extent: np.ndarray) -> bool:
    """Whether an extent [3] in metres is plausible for a scene."""
    return bool(extent[2] <= TALLEST and extent.max() >= NARROWEST)


def in_metres(path: Path | str, points: np.ndarray, unit: Unit | None = None) -> np.ndarray:
    """`points` in metres. Without `unit` they are taken for metres if that is a scene's size; if not, it is asked for.
    A scene wider than WIDEST is refused."""
    extent = points.max(0).astype(np.float64) - points.min(0)
    if unit is not None or _is_plausible(extent):
        scale = METRES[unit or "m"]
        if (scale * extent).max() > WIDEST:
            spans = " x ".join(f"{scale * e:.4g}" for e in extent)
            raise ShapeError(
                f"{path} spans {spans} m, and {WIDEST:,.0f} m is the most; cut off what lies far away (a point at 0, 0 in a "
                "scan of large coordinates?), or cut the scene into pieces."
            )
        return points if scale == 1 else points * points.dtype.type(scale)
    spans = " x ".join(f"{e:.4g}" for e in extent)
    likely = next(
        (u for u in ("cm", "mm") if 1.5 <= extent[2] * METRES[u] < 25), "mm" if extent[2] > TALLEST else "m"
    )
    size = " x ".join(f"{e * METRES[likely]:.3g}" for e in extent)
    raise ShapeError(
        f"{path} spans {spans}, which is no scene's size in metres; is it {likely} ({size} m)? "
        f"Give --unit m, cm, mm or ft."
    )


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


def _npy(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open(
            "rb"
        ) as file:  # opened here: of a truncated file NumPy would leave its own handle open
            table = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ShapeError(f"{path} is not a whole .npy file of numbers ({error}).") from None
    if not isinstance(table, np.ndarray):
        raise ShapeError(f"{path} is an archive of arrays, expected one array.")
    if table.dtype.names and table.ndim == 1:
        return {name: table[name] for name in table.dtype.names}
    if table.ndim != 2 or table.dtype.kind not in "fiu":
        raise ShapeError(f"{path} is {table.dtype} {table.shape}; expected numbers [points, columns].")
    return _by_number(path, table)


def _text(path: Path) -> dict[str, np.ndarray]:
    from dropfold.data_scripts.readers import text_table

    with path.open("rb") as file:
        names, columns, line = None, 0, 0
        while not columns:
            start = file.tell()
            text = file.readline().removeprefix(b"\xef\xbb\xbf")
            line += 1
            if not text:
                raise ShapeError(f"{path} holds no rows of numbers.")
            words = text_table.split_words(text.lstrip(b"#/ \t"))
            if {b"x", b"y", b"z"} <= {word.lower() for word in words}:
                names = [word.decode("latin-1") for word in words]
                continue
            if text.lstrip().startswith((b"#", b"//")) or not words or words == [b""]:
                continue
            if line == 1 and len(words) == 1 and words[0].isdigit():  # .pts: the number of points
                continue
            columns = len(words)
            file.seek(start + (3 if start == 0 and line == 1 and _has_byte_order_mark(file) else 0))
        if names and len(names) != columns:
            raise ShapeError(
                f"{path}, line {line}: {columns} numbers, and the header names {len(names)} columns."
            )
        table = _rows(path, file, columns, line)
    return {name: table[:, i] for i, name in enumerate(names)} if names else _by_number(path, table)


def _rows(path: Path, file: BinaryIO, columns: int, line: int = 1) -> np.ndarray:
    """The rest of a text file [n, columns]; it is closed."""
    from dropfold.data_scripts.readers import text_table

    rows = [np.empty((0, columns))]
    with file:
        for piece in text_table.read_pieces(file, columns, comments=True, line=line):
            for bad in piece.bad[:1]:
                quoted = bad.text.strip()[:60].decode("latin-1")
                raise ShapeError(f"{path}, line {bad.line}: {quoted!r} is not a row of {columns} numbers.")
            rows.append(piece.rows)
    return np.concatenate(rows)


def _has_byte_order_mark(file: Any) -> bool:
    """Whether the file begins with the byte order mark that some editors put before UTF-8."""
    file.seek(0)
    return file.read(3) == b"\xef\xbb\xbf"


def _by_number(path: Path, table: np.ndarray) -> dict[str, np.ndarray]:
    """Columns without names."""
    n = table.shape[1]
    names: list[str] = ["x", "y", "z"]
    if n == 4:
        names += ["label" if _whole(table[:, 3]) else "intensity"]
    elif n == 6:
        names += list(COLOURS[0]) if table[:, 3:].min(initial=0) >= 0 else ["nx", "ny", "nz"]
    elif n == 7 and (_whole(table[:, 3:6]) or (table[:, 3:6].min() >= 0 and table[:, 3:6].max() <= 1)):
        names += [*COLOURS[0], "label"]
    elif n == 7 and _whole(table[:, 4:]):
        names += ["intensity", *COLOURS[0]]
    elif n != 3:
        raise ShapeError(
            f"{path} has {n} columns, and what they are is not known; expected 3, 4, 6 or 7, or a first line that names "
            "them: x y z r g b label."
        )
    return {name: table[:, i] for i, name in enumerate(names)}


def _whole(values: np.ndarray) -> bool:
    return bool(
        values.min(initial=0) >= 0 and values.max(initial=0) <= 255 and (values == np.floor(values)).all()
    )


def _laspy(path: Path) -> Any:
    try:
        import laspy
    except ImportError:
        raise ShapeError(f"{path} needs laspy, which is not installed: pip install -e '.[scenes]'.") from None
    return laspy


def _las(path: Path) -> dict[str, np.ndarray]:
    laspy = _laspy(path)
    try:
        found = laspy.read(path)
        names = set(found.point_format.dimension_names)
        columns = {name: np.asarray(getattr(found, name), dtype=np.float64) for name in "xyz"}
        expected = found.header.point_count
        if "red" in names:
            columns |= {name: np.asarray(found[name]) for name in COLOURS[0]}
        label = np.asarray(found.classification)
    except Exception as error:  # the library raises what it likes on broken files
        raise ShapeError(f"{path} is not a readable LAS file ({type(error).__name__}: {error}).") from None
    if len(label) < expected:
        raise ShapeError(f"{path} ends after {len(label)} of {expected} points (truncated?).")
    if label.any():  # all 0: never classified
        columns["label"] = label
    if "red" in columns and not any(columns[name].any() for name in COLOURS[0]):
        for name in COLOURS[0]:
            del columns[name]
    return columns


def _write_las(path: Path, temporary: Path, columns: dict[str, np.ndarray]) -> None:
    laspy = _laspy(path)
    header = laspy.LasHeader(point_format=7 if "red" in columns else 6, version="1.4")
    extent = max(np.ptp(columns[name].astype(np.float64)) for name in "xyz")
    finest = 10 ** np.ceil(np.log10(max(extent, 1.0) / 2**31))  # LAS counts to 2^31
    header.scales = np.full(3, max(1e-4, finest))
    header.offsets = np.array([np.floor(columns[name].min()) for name in "xyz"])
    las = laspy.LasData(header)
    for name in "xyz":
        setattr(las, name, columns[name].astype(np.float64))
    for name in COLOURS[0]:
        if name in columns:
            las[name] = columns[name].astype(np.uint16) * 257
    if "label" in columns:
        las.classification = columns["label"]
    try:
        las.write(temporary)
    except Exception as error:
        raise ShapeError(f"{path} cannot be written ({type(error).__name__}: {error}).") from None


def _records(columns: dict[str, np.ndarray]) -> np.ndarray:
    table = np.empty(len(columns["x"]), [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    return table


def _write_text(path: Path, columns: dict[str, np.ndarray], apart: str) -> None:
    form = apart.join("%.6f" if name in "xyz" else "%d" for name in columns) + "\n"
    names = {"red": "r", "green": "g", "blue": "b"}
    with path.open("w") as file:
        file.write(apart.join(names.get(name, name) for name in columns) + "\n")
        for start in range(0, len(columns["x"]), 1 << 16):
            part = [values[start : start + (1 << 16)].tolist() for values in columns.values()]
            file.writelines(form % row for row in zip(*part))
