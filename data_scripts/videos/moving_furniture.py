"""`dropfold data moving-furniture`: makes data/local/moving_furniture.h5, clips of real furniture in 11 motions.

The models of data/furniture.h5 (points and normals) are splatted as coloured clips of 160 x 120 pixels, the size of
UCF11's input in the papers (57,600 numbers a frame). Test clips show furniture that training never showed: the
splits are those of the models. Each model is painted in four colours around its upright axis, so that a turn is seen.

A frame taken alone tells nothing: place, size and direction of view have the same distribution in all straight
motions, that of a random frame, and nearly the same in the round ones. Left and right, up and down, towards and
away are each other's reversal in time: the same frames in the opposite order. Only who knows that a frame is a
clip's first or last can guess better than chance (what slides right begins on the left); --loop takes that away too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from dropfold.data_scripts.schemas import shape_schema, video_schema
from dropfold.data_scripts.schemas.shape_schema import SPLITS, Clouds
from dropfold.data_scripts.schemas.splits import group_folds, random_folds
from dropfold.data_scripts.schemas.video_schema import Videos
from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.errors import SchemaError
from dropfold.data_scripts.work.shipped import find_data

MOTIONS = (
    "turn left",
    "turn right",
    "approach",
    "recede",
    "slide left",
    "slide right",
    "slide up",
    "slide down",
    "bounce",
    "sway",
    "spiral",
)
STRAIGHT = ("slide right", "slide up", "approach", "turn right")  # each along its own axis, see below
REVERSED = {
    "slide left": "slide right",
    "slide down": "slide up",
    "recede": "approach",
    "turn left": "turn right",
}
# What a motion moves, and within which bounds: x and y of the centre (parts of the width and the height, from the middle),
# log of the radius of the unit sphere (in heights), yaw (radians; 0 shows the front, more turns it to the viewer's right).
LOW = np.array([-0.26, -0.22, np.log(0.20), -1.9])
HIGH = np.array([0.26, 0.22, np.log(0.50), 1.9])
PAINT = ((1.00, 0.32, 0.26), (1.00, 0.82, 0.20), (0.16, 0.78, 0.76), (0.56, 0.28, 0.95))  # front, and round


@dataclass
class Options:
    """Make clips of furniture in motion."""

    out: Path = Path("data/local/moving_furniture.h5")
    """The file to write."""
    source: Path = Path("data/furniture.h5")
    """The models, with normals."""
    frames: int = 8
    """Frames of each clip."""
    size: str = "160x120"
    """Width x height in pixels."""
    train: int = 72
    """Training clips of each motion; validation has a sixth of that, the test a third."""
    seed: int = 0
    """Of everything that is drawn at random."""
    loop: bool = False
    """Harder: the motions run in a loop that is cut at a random moment, so that not even the first frame tells."""
    sheet: Path | None = None
    """Also draw a contact sheet of test clips, one of each motion."""


def draw_path(motion: str, steps: int, random: np.random.Generator, loop: bool = False) -> np.ndarray:
    """`[steps, 4]` of one clip: x, y, log radius, yaw, within their bounds but for the last frames of a spiral.

    What a motion does not move rests where a random frame of the moving ones would have it.
    """
    if motion in REVERSED:
        return draw_path(REVERSED[motion], steps, random, loop)[::-1]
    time = (np.arange(steps) / steps + random.random()) % 1 if loop else np.linspace(0, 1, steps)
    travel = random.uniform(0.45, 0.75, 4) * (HIGH - LOW)
    start = LOW + random.random(4) * (HIGH - LOW - travel)
    middle, reach = start + travel / 2, travel / 2
    angle = 2 * np.pi * (random.random() + random.uniform(1.1, 1.6) * time)
    found = np.tile(start + travel * time[random.integers(steps, size=4)], (steps, 1))
    if motion in STRAIGHT:
        axis = STRAIGHT.index(motion)
        found[:, axis] = start[axis] + travel[axis] * time
    elif motion == "bounce":
        found[:, 1] = middle[1] + reach[1] * (2 * np.abs(np.sin(0.6 * angle)) - 1)
    elif motion == "sway":
        found[:, 0] = middle[0] + reach[0] * np.sin(angle)
    elif motion == "spiral":
        growth = 0.35 + 0.75 * time
        found[:, 0] = middle[0] + reach[0] * growth * np.sin(angle)
        found[:, 1] = middle[1] + reach[1] * growth * np.cos(angle)
    return found


def draw_paint(points: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """`[N, 3]` colours: four around the upright axis that blend into each other, each near its own of `PAINT`."""
    anchors = np.clip(np.array(PAINT) + random.normal(0, 0.05, (4, 3)), 0, 1) * random.uniform(0.85, 1.0)
    angle = np.arctan2(points[:, 0], points[:, 2])
    quarters = np.arange(4) * np.pi / 2
    weight = np.maximum(np.cos(angle[:, None] - quarters), 0) ** 1.5
    return (weight @ anchors / weight.sum(1, keepdims=True)).astype(np.float32)


def disc_radius(points: np.ndarray) -> float:
    """The radius of the discs that close a surface of points, from the median distance to the sixth neighbour."""
    from scipy.spatial import cKDTree

    apart, _ = cKDTree(points).query(points, k=min(7, len(points)))
    return float(np.clip(np.median(apart[:, -1]), 0.02, 0.12))


def draw_backdrop(width: int, height: int, random: np.random.Generator) -> np.ndarray:
    """`[H, W, 3]` in 0 .. 1: dusk in two colours, brighter where a lamp of random place shines, darker to the edges."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    top, bottom = random.uniform(0.06, 0.26, (2, 3))
    lean = random.uniform(-0.4, 0.4)
    blend = np.clip((y + lean * x + 1) / 2, 0, 1)[..., None]
    lamp = np.exp(-((x - random.uniform(-0.8, 0.8)) ** 2 + (y - random.uniform(-0.8, 0.8)) ** 2) / 0.6)
    shown = (1 - blend) * top + blend * bottom + 0.14 * lamp[..., None] * random.uniform(0.5, 1.0, 3)
    return (shown * (1 - 0.18 * (x**2 + y**2))[..., None]).astype(np.float32)


def convert(
    clouds: Clouds, frames: int, size: tuple[int, int], train: int, seed: int = 0, loop: bool = False
) -> Videos:
    """The data set: `train` training clips of each motion, a sixth as many to validate, a third to test."""
    from dropfold.data_scripts.videos import splat

    if clouds.normals is None:
        raise SchemaError(f"{clouds.source} has no normals, which the shading needs; take data/furniture.h5.")
    width, height = size
    if frames < 2 or train < 1:
        raise SchemaError(f"{frames} frames and {train} clips of each motion; expected at least 2 and 1.")
    shares = {split: max(1, round(train * part)) for split, part in enumerate((1, 1 / 6, 1 / 3))}
    random = np.random.default_rng(seed)
    order = []  # (split, motion, model) of each clip; a split's models come round evenly
    for split, count in shares.items():
        models = clouds.of(split)
        if len(models) == 0:
            raise SchemaError(
                f"the source has no models in its {SPLITS[split]} split, expected at least one."
            )
        turns = np.concatenate(
            [random.permutation(models) for _ in range(count * len(MOTIONS) // len(models) + 1)]
        )
        order += [(split, i % len(MOTIONS), int(turns[i])) for i in range(count * len(MOTIONS))]
    n = len(order)
    shown = np.empty((n, frames, height, width, 3), dtype=np.uint8)
    label = np.array([motion for _, motion, _ in order], dtype=np.int64)
    normals = clouds.normals.astype(np.float32)
    discs = np.array([disc_radius(points) for points in clouds.points])
    for first in track(range(0, n, 64), "drawing", console=Console(stderr=True)):
        part = order[first : first + 64]
        # A generator for each clip: what a clip shows depends on the seed and its number alone.
        own = [np.random.default_rng([seed, first + i]) for i in range(len(part))]
        poses = np.stack(
            [draw_path(MOTIONS[motion], frames, r, loop) for (_, motion, _), r in zip(part, own)]
        )
        poses[..., 0] *= width
        poses[..., 1] *= height
        poses[..., 2] = np.exp(poses[..., 2]) * height
        splat.draw(
            shown[first : first + 64],
            clouds.points,
            normals,
            np.stack([draw_paint(clouds.points[model], r) for (_, _, model), r in zip(part, own)]),
            np.array([model for _, _, model in part]),
            poses,
            np.array([r.uniform(0.20, 0.45) for r in own]),
            np.stack([draw_backdrop(width, height, r) for r in own]),
            discs,
        )
    group = [f"{clouds.class_names[clouds.label[m]]} {m}: {clouds.name[m]}" for _, _, m in order]
    return Videos(
        frames=shown,
        length=np.full(n, frames, dtype=np.int64),
        label=label,
        split=np.array([split for split, _, _ in order], dtype=np.uint8),
        fold=random_folds(n, seed),
        group_fold=group_folds(group, label),
        group=group,
        name=[f"{MOTIONS[motion]} {i}" for i, (_, motion, _) in enumerate(order)],
        class_names=list(MOTIONS),
        source=f"furniture in motion, {n} clips; {clouds.source}",
        credits=clouds.credits,
        rebuild=f"dropfold data moving-furniture --frames {frames} --size {width}x{height} "
        f"--train {train} --seed {seed}{' --loop' * loop}",
    )


def draw_sheet(videos: Videos, out: Path, split: int = shape_schema.TEST) -> None:
    """Draw one clip of each motion, its frames from left to right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = np.unique(np.linspace(0, videos.frames.shape[1] - 1, 8).round().astype(int))
    height, width = videos.frames.shape[2:4]
    rows = len(videos.class_names)
    figure, axes = plt.subplots(
        rows, len(columns), figsize=(len(columns) * 1.5 + 1.3, rows * 1.5 * height / width), facecolor="white"
    )
    for c, name in enumerate(videos.class_names):
        clip = next(i for i in videos.of(split) if videos.label[i] == c)
        for axis, step in zip(axes[c], columns):
            axis.imshow(videos.frames[clip, step], interpolation="lanczos")
            axis.set_axis_off()
        axes[c, 0].text(
            -0.08, 0.5, name, transform=axes[c, 0].transAxes, ha="right", va="center", fontsize=12
        )
    left = 1.3 / (len(columns) * 1.5 + 1.3)
    figure.subplots_adjust(left=left, right=0.995, bottom=0.005, top=0.995, wspace=0.03, hspace=0.03)
    atomic.make_folder(out.parent, "--sheet")
    with atomic.replacing(out, ".png") as temporary:
        figure.savefig(temporary, dpi=80, metadata={"Software": atomic.WRITER})
    plt.close(figure)


def main(options: Options) -> None:
    if options.sheet:
        atomic.check_target(options.sheet, atomic.OURS, option="--sheet")
    size = video_schema.frame_size(options.size)
    furniture = shape_schema.read(find_data(options.source))
    videos = convert(furniture, options.frames, size, options.train, options.seed, options.loop)
    video_schema.write(options.out, videos)
    print(f"{options.out}: {[len(videos.of(s)) for s in range(3)]} clips to train, validate and test")
    if options.sheet:
        draw_sheet(videos, options.sheet)
        print(options.sheet)
