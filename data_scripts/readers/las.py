"""LAS and LAZ files, by laspy: coordinates, colours and labels as columns; written anew with all else that the source had.

What a header counts is held against the size of the file before anything is read, and LAZ is unpacked in a process of its
own, for its decoder ends the process on some damaged files.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dropfold.data_scripts.work import atomic, isolate
from dropfold.data_scripts.work.errors import ShapeError

COLOUR = ("red", "green", "blue")
# Extra dimensions that are labels, with or without CloudCompare's `scalar_` before, in lower case.
LABELS = ("label", "labels", "class", "classification", "semantic", "semantic_label", "segment", "gt")
HEADER_SIZE = {0: 227, 1: 227, 2: 227, 3: 235, 4: 375, 5: 393}  # bytes, by the minor version
RECORD_SIZE = (20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67)  # bytes of a point, by its format
VLR, EXTENDED_VLR = 54, 60  # bytes before the content of a variable length record
POINTS_PER_PIECE = 1_000_000
MOST_LEGACY_CLASS = 31  # what 5 bits hold, in the point formats 0 .. 5
WITH_A_BYTE_OF_CLASS = {0: 6, 1: 6, 2: 7, 3: 7, 4: 9, 5: 10}  # the point formats of LAS 1.4
SECONDS, SECONDS_PER_MEGABYTE = 5.0, 4.0  # of unpacking
BYTES_TO_UNPACK = 2 << 30  # beside the points themselves


def read_columns(path: Path, notes: list[str] | None = None) -> dict[str, np.ndarray]:
    """x y z float64, red green blue where a point has any, label where a point has one. notes: takes what was guessed."""
    laspy(path)
    header = check_header(path)
    if header.points == 0:
        return {name: np.empty(0) for name in "xyz"}
    try:
        if header.compressed:
            return isolate.call(
                _read_points,
                path,
                notes=notes,
                seconds=SECONDS + SECONDS_PER_MEGABYTE * path.stat().st_size / 1e6,
                memory=min(isolate.available_memory(), BYTES_TO_UNPACK + 200 * header.points),
            )
        found = _read_points(path)
        said = found.pop("notes", np.array([], str)).tolist()
        if notes is not None:
            notes += said
        return found
    except (isolate.Crash, MemoryError) as error:
        reason = str(error) or "it needs more memory than there is"
        raise ShapeError(f"{path} is not a readable LAZ file ({reason}).") from None


def _read_points(source: str | Path) -> dict[str, np.ndarray]:
    """The columns of a file whose header is checked."""
    path = Path(source)
    try:
        with laspy(path).open(path, read_evlrs=False) as reader:
            count, form = reader.header.point_count, reader.header.point_format
            if not (np.isfinite(reader.header.scales).all() and np.isfinite(reader.header.offsets).all()):
                raise ShapeError(f"{path}: its header scales or shifts coordinates by what is not finite.")
            labels = [name for name in form.extra_dimension_names if _is_label(name)]
            wanted = {"x": np.float64, "y": np.float64, "z": np.float64, "classification": np.uint8}
            if "red" in form.dimension_names:
                wanted |= dict.fromkeys(COLOUR, np.uint16)
            columns = {name: np.empty(count, kind) for name, kind in wanted.items()}
            done = 0
            for piece in reader.chunk_iterator(POINTS_PER_PIECE):
                for name in labels:
                    values = np.asarray(piece[name])
                    if values.ndim == 1:
                        columns.setdefault(name, np.empty(count, values.dtype))[done : done + len(values)] = (
                            values
                        )
                for name in wanted:
                    columns[name][done : done + len(piece)] = (
                        getattr(piece, name) if name in "xyz" else piece[name]
                    )
                done += len(piece)
    except (ShapeError, MemoryError):
        raise
    except Exception as error:  # the library raises what it likes on broken files
        raise ShapeError(f"{path} is not a readable LAS file ({type(error).__name__}: {error}).") from None
    if done < count:
        raise ShapeError(f"{path} ends after {done} of {count} points (truncated?).")
    return _choose_columns(columns, labels)


def _is_label(name: str) -> bool:
    return name.lower().removeprefix("scalar_") in LABELS


def _choose_columns(columns: dict[str, np.ndarray], labels: list[str]) -> dict[str, np.ndarray]:
    """Without colours that are all 0; `label` is an extra dimension, or else the classification, where a point has one.
    `notes` says which of two that differ it is."""
    found = {name: columns[name] for name in "xyz"}
    if "red" in columns and any(columns[name].any() for name in COLOUR):
        found |= {name: columns[name] for name in COLOUR}
    order = sorted(labels, key=lambda name: LABELS.index(name.lower().removeprefix("scalar_")))
    if columns["classification"].any():  # all 0: never classified
        order.append("classification")
    order = [name for name in order if name in columns]
    if order:
        found["label"] = columns[order[0]]
    other = [name for name in order[1:] if (columns[name] != found["label"]).any()]
    if other:
        found["notes"] = np.array([f"the labels are {order[0]}; {' and '.join(other)} differs from it"])
    return found


def write_columns(
    path: Path, temporary: Path, columns: dict[str, np.ndarray], like: Path | None = None
) -> None:
    """Columns as a file of the suffix of `temporary`; faults name `path`. like: the LAS or LAZ file that the points come
    from, whose coordinate system, records and other fields are kept; only the label is written."""
    library = laspy(path)
    if "label" in columns and columns["label"].dtype != np.uint8:
        raise ShapeError(f"{path}: labels go beyond 0 .. 255, which LAS cannot hold; write a .ply.")
    try:
        las = _make_new(library, columns) if like is None else _relabel(library, like, columns["label"])
        las.header.generating_software = atomic.WRITER
        las.write(temporary)
    except (ShapeError, OSError):
        raise
    except Exception as error:
        raise ShapeError(f"{path} cannot be written ({type(error).__name__}: {error}).") from None


def _make_new(library: Any, columns: dict[str, np.ndarray]) -> Any:
    header = library.LasHeader(point_format=7 if "red" in columns else 6, version="1.4")
    extent = max(np.ptp(columns[name].astype(np.float64)) for name in "xyz")
    finest = 10 ** np.ceil(np.log10(max(extent, 1.0) / 2**31))  # LAS counts to 2^31
    header.scales = np.full(3, max(1e-4, finest))
    header.offsets = np.array([np.floor(columns[name].min()) for name in "xyz"])
    las = library.LasData(header)
    for name in "xyz":
        setattr(las, name, columns[name].astype(np.float64))
    for name in COLOUR:
        if name in columns:
            las[name] = columns[name].astype(np.uint16) * 257
    if "label" in columns:
        las.classification = columns["label"]
    return las


def _relabel(library: Any, like: Path, label: np.ndarray) -> Any:
    """The points of `like` with other labels: in the classification, and in an extra dimension that is the label there."""
    las = library.read(like)
    if len(las.points) != len(label):
        raise ShapeError(f"{like} has {len(las.points)} points now, and {len(label)} were labelled.")
    form = las.header.point_format.id
    if form in WITH_A_BYTE_OF_CLASS and label.max(initial=0) > MOST_LEGACY_CLASS:
        las = library.convert(las, point_format_id=WITH_A_BYTE_OF_CLASS[form], file_version="1.4")
    las.classification = label
    for name in las.point_format.extra_dimension_names:
        if _is_label(name) and las[name].ndim == 1:
            kind = las[name].dtype
            if kind.kind in "iu" and label.max(initial=0) > np.iinfo(kind).max:
                raise ShapeError(
                    f"{like} has a dimension {name} of {kind}, which cannot hold label {label.max()}; write a .ply."
                )
            las[name] = label
    return las


def laspy(path: Path) -> Any:
    """The library that reads and writes LAS."""
    try:
        import laspy
    except ImportError:
        raise ShapeError(f"{path} needs laspy, which is not installed: pip install -e '.[scenes]'.") from None
    return laspy


# --- the header, before the library sees it ----------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """What of a header is needed to check it."""

    points: int
    compressed: bool


def check_header(path: Path) -> Header:
    """Refuse a file whose header counts more records or points than the file holds."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(max(HEADER_SIZE.values()))
        if head[:4] != b"LASF":
            raise ShapeError(f"{path} is not a readable LAS file: it does not begin with LASF.")
        if len(head) < min(HEADER_SIZE.values()):
            raise ShapeError(f"{path} is not a readable LAS file: it ends in its header (truncated?).")
        minor = head[25]
        least = HEADER_SIZE.get(minor)
        if least is None or head[24] != 1:
            raise ShapeError(
                f"{path} is not a readable LAS file: its version is {head[24]}.{minor}, expected 1.0 .. 1.5."
            )
        if len(head) < least:
            raise ShapeError(f"{path} is not a readable LAS file: it ends in its header (truncated?).")
        header_size, offset, records, form, record, points = struct.unpack_from("<HIIBHI", head, 94)
        compressed, form = form >= 64, form & 63
        if not least <= header_size <= offset <= size:
            raise ShapeError(
                f"{path} is not a readable LAS file: its points begin at byte {offset} of {size}, after a header "
                f"of {header_size} bytes (truncated?)."
            )
        if form >= len(RECORD_SIZE) or record < RECORD_SIZE[form]:
            raise ShapeError(
                f"{path} is not a readable LAS file: its points have format {form} and {record} bytes, expected "
                f"format 0 .. 10 and {RECORD_SIZE[min(form, 10)]} bytes or more."
            )
        end = size
        if minor >= 4:
            first, extended, whole = struct.unpack_from("<QIQ", head, 235)
            if whole == 0 and points:
                raise ShapeError(
                    f"{path} counts {points} points in one place of its header, and 0 in another."
                )
            points = whole
            if extended:
                end = first
                _check_records(path, file, first, size, extended, EXTENDED_VLR)
        packing = _check_records(path, file, header_size, offset, records, VLR)
        if compressed:
            _check_packed(path, file, offset, size, record, points, packing)
        elif points * record > size - offset:
            raise ShapeError(
                f"{path} ends after {(size - offset) // record} of {points} points (truncated?)."
            )
        elif points == 0 and end - offset >= record:
            raise ShapeError(
                f"{path} counts 0 points in its header, and has room for {(end - offset) // record}: the program "
                "that wrote it did not finish."
            )
    return Header(points, compressed)


def _check_records(path: Path, file: BinaryIO, start: int, end: int, count: int, head: int) -> bytes | None:
    """Refuse more variable length records than lie between two bytes of the file; returns LASzip's, if it is among them."""
    if count * head > max(end - start, 0):
        raise ShapeError(
            f"{path} is not a readable LAS file: its header counts {count} records before or after the points, and "
            f"{max(end - start, 0)} bytes hold {max(end - start, 0) // head} at the most."
        )
    found = None
    for i in range(count):
        file.seek(start)
        content = file.read(head)
        length = int.from_bytes(content[20 : 22 if head == VLR else 28], "little")
        if len(content) < head or length > end - start - head:
            raise ShapeError(
                f"{path} is not a readable LAS file: record {i} of {count} has {length} bytes, and "
                f"{max(end - start - head, 0)} are left (truncated?)."
            )
        if content[2:18].split(b"\0")[0] == b"laszip encoded":
            found = file.read(length)
        start += head + length
    return found


def _check_packed(
    path: Path, file: BinaryIO, offset: int, size: int, record: int, points: int, packing: bytes | None
) -> None:
    """Refuse a compression that is not known, and more points than the table of chunks has room for."""
    if packing is None or len(packing) < 34:
        raise ShapeError(f"{path} is not a readable LAZ file: it lacks the record of LASzip, or ends in it.")
    compressor, coder, major, minor, _, _, chunk = struct.unpack_from("<HHBBHII", packing)
    if compressor not in (2, 3) or coder != 0:
        raise ShapeError(
            f"{path} was compressed by LASzip {major}.{minor} in a form without chunks (compressor {compressor}), which is "
            "not read; write it anew with a LASzip of today: laszip -i IN.laz -o OUT.laz, or pdal translate."
        )
    if points == 0:
        return
    file.seek(offset)
    table = int.from_bytes(file.read(8), "little", signed=True)
    if table == -1:  # written to a stream: the place stands at the end of the file
        file.seek(size - 8)
        table = int.from_bytes(file.read(8), "little", signed=True)
    if not offset + 8 <= table <= size - 8:
        raise ShapeError(
            f"{path} is not a readable LAZ file: its table of chunks is at byte {table} of {size} (truncated?)."
        )
    file.seek(table + 4)
    chunks = int.from_bytes(file.read(4), "little")
    # The first point of each chunk is not compressed.
    most = (table - offset - 8) // record
    if not 1 <= chunks <= max(most, 1) or (chunk != 2**32 - 1 and points > chunks * chunk):
        raise ShapeError(
            f"{path} is not a readable LAZ file: its header counts {points} points, and its {chunks} chunks of {chunk} in "
            f"{table - offset - 8} bytes cannot hold them (truncated?)."
        )


# --- the unit of the coordinates ---------------------------------------------------------------------------------

EPSG_UNITS = {
    9001: "m",
    9002: "ft",
    9003: "us-ft",
    9036: "km",
    1025: "mm",
    1033: "cm",
    9102: "deg",
    9122: "deg",
}
FACTORS = {1.0: "m", 0.3048: "ft", 1200 / 3937: "us-ft", 1000.0: "km", 0.01: "cm", 0.001: "mm"}  # to metres
UTM = (
    (32601, 32660),
    (32701, 32760),
    (25828, 25838),
    (26901, 26923),
    (28348, 28358),
)  # EPSG codes, all in metres
MODEL, PROJECTED, LINEAR, VERTICAL = 1024, 3072, 3076, 4099  # keys of GeoTIFF


def read_unit(path: Path) -> str | None:
    """The unit that the file's coordinate system states, see `unit_of`."""
    check_header(path)
    try:
        with laspy(path).open(path) as reader:
            return unit_of(reader.header)
    except (ShapeError, OSError):
        raise
    except Exception:  # what is wrong with the file is said where its points are read
        return None


def unit_of(header: Any) -> str | None:
    """The unit of the coordinates that the coordinate system of a laspy header states: m, cm, mm, km, ft, us-ft (the foot of
    the US surveys), deg; "mixed" where heights have another unit than the plane; None: it states none that is known.

    The system is WKT (version 1 or 2) or the keys of GeoTIFF, in a record before or after the points.
    """
    records = [*header.vlrs, *(header.evlrs or [])]
    for one in records:
        if one.record_id == 2112 and one.user_id == "LASF_Projection":
            text = getattr(one, "string", None) or bytes(getattr(one, "record_data", b"")).decode("latin-1")
            if (unit := unit_of_wkt(text)) is not None:
                return unit
    for one in records:
        keys = {
            key.id: key.value_offset for key in getattr(one, "geo_keys", []) if key.tiff_tag_location == 0
        }
        if keys:
            return _unit_of_keys(keys)
    return None


def _unit_of_keys(keys: dict[int, int]) -> str | None:
    if keys.get(MODEL) == 2:
        return "deg"
    unit = EPSG_UNITS.get(keys.get(LINEAR, 0))
    if unit is None and any(low <= keys.get(PROJECTED, 0) <= high for low, high in UTM):
        unit = "m"
    return _joined(unit, EPSG_UNITS.get(keys.get(VERTICAL, 0)))


def unit_of_wkt(text: str) -> str | None:
    """See `unit_of`."""
    root = _parse_wkt(text)
    for _ in range(3):  # a system bound to another one: its source is what the coordinates are in
        inner = next((one for one in root[1] if one[0] == "SOURCECRS"), None)
        if inner is None or not inner[1]:
            break
        root = inner[1][0]
    if root[0] in ("COMPD_CS", "COMPOUNDCRS"):
        units = [_unit_of_node(one) for one in root[1] if one[0] not in ("AUTHORITY", "ID")]
        return _joined(units[0], units[1] if len(units) > 1 else None) if units else None
    return _unit_of_node(root)


def _joined(plane: str | None, heights: str | None) -> str | None:
    return plane if heights is None or plane is None or plane == heights or plane == "deg" else "mixed"


Node = tuple[str, list[Any], list[str]]  # keyword, inner nodes, numbers


def _unit_of_node(node: Node) -> str | None:
    kinds = ("UNIT", "LENGTHUNIT", "ANGLEUNIT")
    units = [one for one in node[1] if one[0] in kinds]
    units += [one for axis in node[1] if axis[0] == "AXIS" for one in axis[1] if one[0] in kinds]
    if not units:
        return None
    keyword, _, numbers = units[0]
    factor = float(numbers[0]) if numbers else 0.0
    if keyword == "ANGLEUNIT" or node[0] in ("GEOGCS", "GEOGCRS", "GEOGRAPHICCRS"):
        return "deg"
    return next((name for one, name in FACTORS.items() if abs(factor - one) < 1e-7 * one), None)


def _parse_wkt(text: str) -> Node:
    """The tree of a text KEYWORD["name", 1.0, INNER[...]]; names are left out."""
    stack: list[Node] = [("", [], [])]
    for quoted, keyword, number, close in re.findall(
        r'("(?:[^"]|"")*")|([A-Za-z_]\w*)\s*[\[(]|([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|([\])])', text
    ):
        if keyword:
            node: Node = (keyword.upper(), [], [])
            stack[-1][1].append(node)
            stack.append(node)
        elif number and not quoted:
            stack[-1][2].append(number)
        elif close and len(stack) > 1:
            stack.pop()
    return stack[0][1][0] if stack[0][1] else stack[0]
