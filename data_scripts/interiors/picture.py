"""Rooms as pictures: clouds drawn from above at an angle, ceiling taken off, in true colours and by class."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from dropfold.data_scripts.scenes.s3dis import CLASSES
from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.errors import SchemaError

# By class, in the order of CLASSES; those of S3DIS's own figures are near these.
CLASS_COLOURS = np.array(
    [
        (0.78, 0.78, 0.78),
        (0.62, 0.70, 0.60),
        (0.72, 0.80, 0.90),
        (0.95, 0.85, 0.20),
        (0.85, 0.20, 0.75),
        (0.15, 0.65, 0.95),
        (0.55, 0.35, 0.20),
        (0.95, 0.60, 0.15),
        (0.85, 0.15, 0.20),
        (0.45, 0.20, 0.65),
        (0.15, 0.55, 0.25),
        (0.10, 0.15, 0.45),
        (0.25, 0.27, 0.30),
    ]
)


def visible_points(points: np.ndarray, label: np.ndarray, azimuth: float) -> np.ndarray:
    """A mask of the points to draw so that one sees into the room: no ceiling, no wall on the viewer's side."""
    shown = label != CLASSES.index("ceiling")
    low, high = points.min(0), points.max(0)
    viewer = np.array([math.cos(azimuth), math.sin(azimuth)])
    shell = np.isin(label, [CLASSES.index(name) for name in ("wall", "window", "door", "board", "beam")])
    for axis in (0, 1):
        if abs(viewer[axis]) > 0.3:
            edge = high[axis] if viewer[axis] > 0 else low[axis]
            shown &= ~(shell & (np.abs(points[:, axis] - edge) < 0.25))
    return shown & (points[:, 2] < high[2] - 0.35) & (label != CLASSES.index("beam"))


def draw(
    points: np.ndarray,
    colours: np.ndarray,
    width: int,
    height: int,
    azimuth: float = -1.1,
    elevation: float = 0.75,
    dot: float = 0.04,
) -> np.ndarray:
    """`[height, width, 3]` uint8: squares of `dot` metres seen in parallel projection, the nearer before the farther."""
    c, s = math.cos(azimuth), math.sin(azimuth)
    right = np.array([-s, c, 0.0])
    towards = np.array([c * math.cos(elevation), s * math.cos(elevation), math.sin(elevation)])
    up = np.cross(towards, right)
    at = np.stack([points @ right, points @ up, points @ towards], 1)
    low, high = at[:, :2].min(0), at[:, :2].max(0)
    scale = min(width / (high[0] - low[0] + 0.2), height / (high[1] - low[1] + 0.2))
    middle = (low + high) / 2
    x = (at[:, 0] - middle[0]) * scale + width / 2
    y = height / 2 - (at[:, 1] - middle[1]) * scale
    order = np.argsort(at[:, 2])
    x, y, shades = x[order].astype(int), y[order].astype(int), colours[order]
    picture = np.full((height, width, 3), 255, np.uint8)
    depth = np.full((height, width), -1)
    half = max(1, round(dot * scale / 2))
    rank = np.arange(len(x))
    for dy in range(-half, half + 1):
        for dx in range(-half, half + 1):
            np.maximum.at(depth, (np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)), rank)
    filled = depth >= 0
    picture[filled] = shades[depth[filled]]
    return picture


def class_colours(label: np.ndarray) -> np.ndarray:
    """`[n, 3]` uint8 colours of classes."""
    return (CLASS_COLOURS[label] * 255).astype(np.uint8)


def read_room(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(points, colours, label)` of a room's folder as `dropfold.data_scripts.interiors.rooms` writes it."""
    tables, labels = [], []
    for path in sorted((folder / "Annotations").glob("*.txt")):
        tables.append(np.fromstring(path.read_text(), sep=" ").reshape(-1, 6))
        labels.append(np.full(len(tables[-1]), CLASSES.index(path.stem.rsplit("_", 1)[0])))
    table = np.concatenate(tables)
    return table[:, :3], table[:, 3:].astype(np.uint8), np.concatenate(labels)


def draw_sheet(folder: Path, out: Path, area: int = 5) -> None:
    """Draw an area from above, its ceilings off, and its rooms, in true colours and by class."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image, PngImagePlugin

    names = sorted(p.name for p in (folder / f"Area_{area}").glob("[!.]*"))
    if not names:
        raise SchemaError(f"{folder} holds no area {area} to draw; make it with --areas {area} or more.")
    rooms = [read_room(folder / f"Area_{area}" / name) for name in names]
    shown = sorted(range(len(names)), key=lambda i: names[i].startswith("hallway"))[:6]
    rows = -(-len(shown) // 2)
    figure = plt.figure(figsize=(16, 6.2 + 3.1 * rows), facecolor="white")
    grid = figure.add_gridspec(
        rows + 1,
        4,
        height_ratios=[2.0] + [1] * rows,
        left=0.005,
        right=0.995,
        bottom=0.05,
        top=0.98,
        wspace=0,
        hspace=0.06,
    )
    whole = [np.concatenate(arrays) for arrays in zip(*rooms)]
    low = [room[0][:, 2].min() for room in rooms]
    under = np.concatenate([room[0][:, 2] < z + 2.0 for room, z in zip(rooms, low)])
    under &= (whole[2] != CLASSES.index("ceiling")) & (whole[2] != CLASSES.index("beam"))
    points = whole[0][under]
    for half, colours in enumerate((whole[1], class_colours(whole[2]))):
        axis = figure.add_subplot(grid[0, 2 * half : 2 * half + 2])
        axis.imshow(draw(points, colours[under], 1000, 800, -math.pi / 2, 1.25))
        axis.set_axis_off()
        axis.set_title(f"area {area} from above, {'by class' if half else 'true colours'}", fontsize=12)
    for place, i in enumerate(shown):
        points, colours, label = rooms[i]
        azimuth = -1.0 if place % 2 else 2.1
        visible = visible_points(points, label, azimuth)
        for half, shades in enumerate((colours, class_colours(label))):
            axis = figure.add_subplot(grid[1 + place // 2, 2 * (place % 2) + half])
            axis.imshow(draw(points[visible], shades[visible], 640, 480, azimuth))
            axis.set_axis_off()
            if not half:
                axis.set_title(names[i], fontsize=12, loc="left", y=0.93)
    handles = [
        plt.Line2D([], [], marker="s", ls="", ms=11, color=colour, label=name)
        for name, colour in zip(CLASSES, CLASS_COLOURS)
        if name not in ("ceiling", "beam")  # taken off
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=13, frameon=False, fontsize=11, handletextpad=0.1
    )
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80)
    plt.close(figure)
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", atomic.WRITER)
    atomic.make_folder(out.parent, "--sheet")
    with Image.open(drawn) as picture, atomic.replacing(out, ".png") as temporary:  # a third of the size
        picture.convert("RGB").quantize(255).save(temporary, optimize=True, pnginfo=text)
