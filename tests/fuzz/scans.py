"""Clouds in binary files: NumPy's arrays, PCD, LAS and LAZ."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from dropfold.data_scripts.readers import npz
from dropfold.data_scripts.readers.scene_file import read_scene
from tests.fuzz.case import Arrays, Format, Random, chance, draw_columns, draw_points, pick, write_number
from tests.fuzz.mutate import damage_bytes, rezip
from tests.fuzz.tables import as_scene, as_shape

# --- NumPy -------------------------------------------------------------------------------------------------------


def make_npy(random: Random, path: Path) -> Arrays:
    n = int(random.integers(16, 40))
    found = draw_columns(random, n, chance(random), chance(random))
    values = [found["points"][:, i] for i in range(3)]
    names = list("xyz")
    if len(found["colour"]):
        values, names = values + [found["colour"][:, i] for i in range(3)], [*names, "red", "green", "blue"]
    if len(found["label"]):
        values, names = [*values, found["label"]], [*names, "label"]
    if chance(random):
        floats, whole = ("<f4", "<f8", ">f4", ">f8"), ("u1", "<i4", ">u2")
        kinds = [pick(random, *(floats if name in "xyz" else whole)) for name in names]
        order = random.permutation(len(names))
        table = np.empty(n, [(names[i], kinds[i]) for i in order])
        for name, column in zip(names, values):
            table[name] = column
    else:
        table = np.stack(values, 1).astype(pick(random, "<f4", "<f8", ">f4", ">f8"))
        table = np.asfortranarray(table) if chance(random, 0.3) else table
    with path.open("wb") as file:
        np.lib.format.write_array(file, table, version=pick(random, (1, 0), (2, 0), (3, 0)))
    return found


def make_npz(random: Random, path: Path) -> Arrays:
    found = {
        "points": random.random((int(random.integers(1, 30)), 3)).astype(pick(random, "<f4", "<f8")),
        "label": random.integers(0, 9, int(random.integers(1, 30))).astype(pick(random, "u1", "<i8", ">i4")),
    }
    more = {"other": np.arange(5)} if chance(random, 0.3) else {}
    save = pick(random, np.savez, np.savez_compressed)
    save(path, **(more | found if chance(random) else found | more))
    return found


def read_npz(path: Path) -> Arrays:
    return npz.load_arrays(path, ("points", "label"))


# --- PCD ---------------------------------------------------------------------------------------------------------


def make_pcd(random: Random, path: Path) -> Arrays:
    n = int(random.integers(8, 20)) * 2
    found = draw_columns(random, n, chance(random), chance(random))
    columns: list[tuple[str, str, np.ndarray]] = [
        (axis, pick(random, "<f4", "<f8"), found["points"][:, i]) for i, axis in enumerate("xyz")
    ]
    form = pick(random, "ascii", "binary", "binary_compressed")
    if len(found["colour"]):
        bits = (found["colour"] @ [65536, 256, 1]).astype("<u4")
        columns.append(
            ("rgb", "<f4", bits.view("<f4")) if form != "ascii" and chance(random) else ("rgb", "<u4", bits)
        )
    if len(found["label"]):
        columns.append(("label", pick(random, "<u4", "<i4", "<u1", "<u2"), found["label"]))
    if chance(random, 0.3):
        columns.append(("histogram", "<f4", random.random((n, 3))))
    columns = [columns[i] for i in random.permutation(len(columns))]
    height = pick(random, 1, 1, 2)
    head = [
        *(["# .PCD v0.7 - Point Cloud Data file format"] if chance(random) else []),
        f"VERSION {pick(random, '.7', '0.7')}",
        f"FIELDS {' '.join(name for name, _, _ in columns)}",
        f"SIZE {' '.join(kind[2] for _, kind, _ in columns)}",
        f"TYPE {' '.join(kind[1].upper() for _, kind, _ in columns)}",
        f"COUNT {' '.join('3' if values.ndim == 2 else '1' for _, _, values in columns)}",
        f"WIDTH {n // height}",
        f"HEIGHT {height}",
        f"VIEWPOINT {pick(random, '0 0 0 1 0 0 0', '1 2 3 1 0 0 0')}",
        *([f"POINTS {n}"] if chance(random, 0.8) else []),
        f"DATA {form}",
    ]
    text = "\n".join(head).encode() + b"\n"
    typed = [values.astype(kind) for _, kind, values in columns]
    if form == "ascii":
        rows = [
            " ".join(
                (write_number(random, one) if name in "xyz" else str(one))
                for (name, _, values) in columns
                for one in np.atleast_1d(values[i]).tolist()
            )
            for i in range(n)
        ]
        text += ("\n".join(rows) + ("\n" if chance(random, 0.8) else "")).encode()
    elif form == "binary":
        text += b"".join(values[i].tobytes() for i in range(n) for values in typed)
    else:
        plain = b"".join(values.tobytes() for values in typed)
        packed = pack_lzf(plain)
        text += struct.pack("<II", len(packed), len(plain)) + packed
    path.write_bytes(text)
    return found


def pack_lzf(plain: bytes) -> bytes:
    """LZF: runs of a byte are copies of the byte before, all else stands as it is."""
    out, at, begun = bytearray(), 0, 0

    def literals(end: int) -> None:
        for start in range(begun, end, 32):
            piece = plain[start : min(start + 32, end)]
            out.append(len(piece) - 1)
            out.extend(piece)

    while at < len(plain):
        run = 0
        while at and run < 264 and at + run < len(plain) and plain[at + run] == plain[at - 1]:
            run += 1
        if run < 4:
            at += 1
            continue
        literals(at)
        length = run - 2
        out.extend([length << 5, 0] if length < 7 else [7 << 5, length - 7, 0])
        at += run
        begun = at
    literals(at)
    return bytes(out)


# --- LAS ---------------------------------------------------------------------------------------------------------

WKT = 'PROJCS["UTM 32N",GEOGCS["WGS 84",UNIT["degree",0.0174532925199433]],UNIT["metre",1]]'


def make_las(random: Random, path: Path) -> Arrays:
    import laspy

    n = int(random.integers(16, 60))
    form = int(random.integers(11)) if path.suffix == ".las" else int(random.choice([0, 1, 2, 3, 6, 7, 8]))
    version = (
        "1.4" if form > 5 else pick(random, "1.2", "1.3", "1.4") if form < 4 else pick(random, "1.3", "1.4")
    )
    header = laspy.LasHeader(point_format=form, version=version)
    coloured = form in (2, 3, 5, 7, 8, 10) and chance(random)
    labelled = chance(random)
    found = draw_columns(random, n, coloured, labelled)
    header.scales = np.full(3, pick(random, 1 / 64, 1 / 1024))
    header.offsets = np.array(pick(random, [0, 0, 0], [-4, 2, 1], [0.5, 0.25, -1]))
    extra = pick(random, None, None, "label", "Amplitude")
    if extra:
        header.add_extra_dim(laspy.ExtraBytesParams(name=extra, type=pick(random, "u1", "u2", "f4")))
    if chance(random, 0.3):
        header.vlrs.append(laspy.vlrs.known.WktCoordinateSystemVlr(WKT))
    if chance(random, 0.3):
        header.vlrs.append(
            laspy.VLR(user_id="someone", record_id=7, description="a note", record_data=b"x" * 20)
        )
    las = laspy.LasData(header)
    for i, axis in enumerate("xyz"):
        setattr(las, axis, found["points"][:, i])
    for i, name in enumerate(("red", "green", "blue") if coloured else ()):
        las[name] = found["colour"][:, i].astype(np.uint16) * 257
    if labelled:
        las.classification = found["label"].astype(np.uint8)
    if extra == "label":
        las["label"] = found["label"] = random.choice([1, 40, 200], n)
    elif extra:
        las["Amplitude"] = random.integers(0, 200, n)
    las.write(path)
    return found


# Numbers of the public header by their first byte.
FIELDS = {
    25: "<B",
    94: "<H",
    96: "<I",
    100: "<I",
    104: "<B",
    105: "<H",
    107: "<I",
    131: "<d",
    155: "<d",
    179: "<d",
}
FIELDS |= {235: "<Q", 243: "<I", 247: "<Q"}


def damage_las(random: Random, path: Path) -> bool:
    """Fields of the public header and of the records after it."""
    content = bytearray(path.read_bytes())
    for _ in range(int(random.integers(1, 3))):
        start = pick(random, *FIELDS) if chance(random, 0.7) else 227 + int(random.integers(300))
        form = FIELDS.get(start, "<H")
        if start + struct.calcsize(form) > len(content):
            continue
        if form == "<d":
            struct.pack_into(
                form, content, start, pick(random, 0.0, float("nan"), float("inf"), 1e300, -1.0, 1e-320)
            )
        else:
            (old,) = struct.unpack_from(form, content, start)
            most = 256 ** struct.calcsize(form) - 1
            value = (
                pick(random, 0, 1, old + 1, max(old - 1, 0), old * 2, most, most // 2, len(content)) & most
            )
            struct.pack_into(form, content, start, value)
    path.write_bytes(content)
    return False


def damage_npz(random: Random, path: Path) -> bool:
    return rezip(random, path)


def damage_labels(random: Random, path: Path) -> bool:
    beside = path.with_suffix(".labels")
    beside.write_bytes(damage_bytes(random, beside.read_bytes(), b"1\n2\n")[0])
    return False


def make_labelled(random: Random, path: Path) -> Arrays:
    """Points, and labels in a file beside them."""
    n = int(random.integers(16, 40))
    found = {"points": draw_points(random, n), "label": random.integers(0, pick(random, 9, 300, 2**31), n)}
    np.save(path, found["points"])
    lines = [
        pick(random, "", "", " ") + str(one) + pick(random, "", "", ".0") for one in found["label"].tolist()
    ]
    end = pick(random, "\n", "\r\n")
    path.with_suffix(".labels").write_bytes((end.join(lines) + end * int(random.integers(3))).encode())
    return found


def read_labelled(path: Path) -> Arrays:
    points, _, label = read_scene(path, notes=[])
    return {"points": points, "label": np.empty(0) if label is None else label}


FORMATS = [
    Format("npy", ".npy", make_npy, (as_scene, as_shape), counted=True),
    Format("labels", ".npy", make_labelled, (read_labelled,), damage=damage_labels),
    Format("npz", ".npz", make_npz, (read_npz,), sealed=True, counted=True, damage=damage_npz),
    Format("pcd", ".pcd", make_pcd, (as_scene, as_shape), counted=True),
    Format("las", ".las", make_las, (as_scene, as_shape), counted=True, damage=damage_las, tolerance=1e-9),
    Format("laz", ".laz", make_las, (as_scene, as_shape), counted=True, damage=damage_las, tolerance=1e-9),
]
