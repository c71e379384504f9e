"""Text tables of points, as programs write them, and labels beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dropfold.data_scripts.readers.scene_file import read_scene
from dropfold.data_scripts.readers.shapes import read_points
from tests.fuzz.case import Arrays, Format, Random, chance, draw_columns, pick, write_number

HEADS = (("r", "g", "b"), ("R", "G", "B"), ("red", "green", "blue"), ("Red", "Green", "Blue"))
LABEL = ("label", "Label", "class", "classification", "scalar_label", "Classification")


def make_table(random: Random, path: Path) -> Arrays:
    n = int(random.integers(16, 40))
    colour, label, named = chance(random), chance(random), chance(random)
    found = draw_columns(random, n, colour, label)
    pts = path.suffix == ".pts"
    beside = label and not named and (pts or (colour and chance(random, 0.4)))
    values = [found["points"][:, i] for i in range(3)]
    names = list(pick(random, "xyz", "XYZ"))
    # Without names seven columns are x y z intensity r g b where labels lie beside, and in a .pts file.
    if (named and chance(random, 0.3)) or (colour and not named and (beside or pts)):
        values.append(random.integers(-2000, 2000, n))
        values[-1][:2] = -1500, 7
        names.append(pick(random, "intensity", "Intensity", "scalar_Intensity"))
    if colour:
        values += [found["colour"][:, i] for i in range(3)]
        names += pick(random, *HEADS)
    if beside:
        path.with_suffix(".labels").write_text("".join(f"{one}\n" for one in found["label"].tolist()))
    elif label and (named or not pts):
        values.append(found["label"])
        names.append(pick(random, *LABEL))
    else:
        found["label"] = np.empty(0)
    if named:
        order = random.permutation(len(names))
        names, values = [names[i] for i in order], [values[i] for i in order]
    path.write_bytes(_lay_out(random, names if named else None, values))
    return found


def _lay_out(random: Random, names: list[str] | None, values: list[np.ndarray]) -> bytes:
    apart = pick(random, " ", "  ", "\t", ",", ";", ", ", "; ")
    point = "," if apart in ("\t", ";") and chance(random, 0.3) else "."
    lead, trail = pick(random, "", "", " ", "\t"), pick(random, "", "", " ")
    rows = [lead + apart.join(_word(random, value, point) for value in row) + trail for row in zip(*values)]
    lines = [pick(random, "# made by hand", "// a scan", "#", "# 3 of 4")] if chance(random, 0.3) else []
    if names:
        mark, quote = pick(random, "", "//", "# ", "#"), pick(random, "", "", '"')
        lines.append(mark + (apart.strip(" ") or " ").join(f"{quote}{name}{quote}" for name in names))
    if chance(random, 0.2):
        lines.insert(int(random.integers(len(lines) + 1)), str(len(rows)))
    if chance(random, 0.2):
        rows.insert(
            int(random.integers(1, len(rows))), pick(random, "", "# in between", "// in between", "   ")
        )
    end = pick(random, "\n", "\n", "\r\n", "\r")
    text = end.join([*lines, *rows]) + (end if chance(random, 0.8) else "")
    return text.encode(pick(random, "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"))


def _word(random: Random, value: np.number, point: str) -> str:
    return str(value) if isinstance(value, np.integer) else write_number(random, value).replace(".", point)


def as_scene(path: Path) -> Arrays:
    points, colour, label = read_scene(path, notes=[])
    nothing = np.empty(0)
    return {
        "points": points,
        "colour": nothing if colour is None else colour,
        "label": nothing if label is None else label,
    }


def as_shape(path: Path) -> Arrays:
    return {"points": read_points(path, 8, whole=True, notes=[])[0]}


FORMATS = [
    Format(suffix[1:], suffix, make_table, (as_scene, as_shape))
    for suffix in (".txt", ".xyz", ".csv", ".pts", ".asc")
]
