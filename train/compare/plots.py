"""Pictures of comparisons: variants with intervals, accuracy by corruption and level, and the corruptions themselves."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from dropfold.data_scripts.work import atomic
from dropfold.train.compare import table
from dropfold.train.compare.corruptions import ALL, LEVELS, corrupt
from dropfold.train.config.configs import CloudConfig
from dropfold.train.data.splits import Data, Split
from dropfold.train.scoring.metrics import in_words
from dropfold.train.storage import checkpoint
from dropfold.train.tasks import clouds

INK, PALE, BLUE, ORANGE = "#333333", "#9aa3ab", "#1668a8", "#e8743b"
COLORS = (INK, BLUE, ORANGE, "#2a9d6f", "#8e5bb5", "#c9a227", "#c2457b", "#5aa9c9")
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#e6e9ec",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
}
DEPTH = LinearSegmentedColormap.from_list("depth", ["#b9d3e8", BLUE, "#0b3a5e"])  # far to near
STRENGTH = {  # how a corruption's strength is written, and its scale
    "jitter": ("σ = {:.2f}", 1.0),
    "scale": ("up to × {:.1f}", 1.0),
    "rotate": ("up to ± {:.0f}°", 180 / math.pi),
    "drop_global": ("− {:.1f} %", 100.0),
    "drop_local": ("− {:.0f} of 1,024", 1.0),
    "missing_parts": ("− {:.0f} %", 100 / 1024),
    "add_global": ("+ {:.0f} to 1,024", 1.0),
    "add_local": ("+ {:.0f} to 1,024", 1.0),
}
VIEW = (math.radians(-62), math.radians(14))  # azimuth and elevation from which clouds are seen


@rc_context(STYLE)
def comparison(path: Path, lines: table.Rows, rows: table.Rows, figure: str, baseline: str) -> None:
    """Two panels a figure: the variants' means over seeds, and their differences to the baseline."""
    present = [name for name in table.FIGURES if f"{table.prefix(name)}mean" in lines[0]]
    variants = [line["variant"] for line in lines]
    height = len(present) * (0.30 * len(variants) + 1.05) + 0.35
    picture = Figure(figsize=(10.5, height), layout="constrained")
    grid = picture.subplots(len(present), 2, squeeze=False, sharey=True)
    for (values, differences), name in zip(grid, present, strict=True):
        kind, prefix = table.FIGURES[name], table.prefix(name)
        title = figure if name == "score" else kind.title
        title = title if title == "mCE" else title[0].upper() + title[1:]
        values.set_title(title + kind.unit, loc="left")
        differences.set_title(f"Difference to {baseline}{kind.difference_unit}", loc="left")
        for y, line in enumerate(lines):
            color = INK if line["variant"] == baseline else BLUE
            runs = [row for row in rows if row["variant"] == line["variant"] and name in row]
            seeds = [kind.scale * value for value in table.by_seed([(row, row[name]) for row in runs])]
            values.plot(seeds, [y] * len(seeds), "o", color=color, alpha=0.3, ms=5, mew=0)
            span(values, y, line[f"{prefix}mean"], line[f"{prefix}half_width"], kind.scale, color)
            if line["variant"] != baseline:
                difference(differences, y, line, name)
        values.axvline(
            kind.scale * lines[variants.index(baseline)][f"{prefix}mean"], color=PALE, lw=1, ls=":"
        )
        differences.axvline(0, color=PALE, lw=1, ls=":")
        for axes in (values, differences):
            axes.grid(axis="x")
            axes.tick_params(length=0)
            axes.spines["left"].set_visible(False)
            axes.set_ylim(len(lines) - 0.4, -0.6)
            axes.locator_params(axis="x", nbins=6)
        values.set_yticks(range(len(lines)), variants)
        differences.margins(x=0.18)
    picture.supxlabel(
        "Dots: mean, pale: each seed. Thin line: Student's 95 % over seeds. Thick line: 95 % bootstrap over samples.\n"
        "Differences are blue where both intervals are all better, orange where both are all worse.",
        fontsize=8,
        color=INK,
    )
    save(picture, path)


def span(axes: Any, y: float, middle: float, half: float, factor: float, color: str) -> None:
    """Draw a mean and Student's interval."""
    axes.plot([factor * middle], [y], "o", color=color, ms=6, zorder=3)
    if not math.isnan(half):
        axes.plot(
            [factor * (middle - half), factor * (middle + half)],
            [y, y],
            color=color,
            lw=1.2,
            solid_capstyle="butt",
        )


def difference(axes: Any, y: float, line: dict[str, Any], name: str) -> None:
    """Draw a difference with both intervals, and its number above."""
    kind, key = table.FIGURES[name], f"{table.prefix(name)}difference"
    middle, low, high = line[key], line.get(f"{key}_low", math.nan), line.get(f"{key}_high", math.nan)
    half = line[f"{key}_half_width"]
    if math.isnan(middle):
        return
    color = PALE
    if low * high > 0 and not half > abs(middle):
        color = BLUE if (middle > 0) != (name == "mce") else ORANGE
    if not math.isnan(low):
        ends = [kind.scale * low, kind.scale * high]
        axes.plot(ends, [y, y], color=color, lw=6, alpha=0.45, solid_capstyle="butt")
    span(axes, y, middle, half, kind.scale, INK if color == PALE else color)
    axes.annotate(
        f"{kind.scale * middle:+.{kind.digits}f}",
        (kind.scale * middle, y),
        (0, 6),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=INK,
    )


@rc_context(STYLE)
def levels(path: Path, accuracies: dict[str, np.ndarray]) -> None:
    """Accuracy against level for each corruption: a line a variant, with Student's band where it has several seeds."""
    picture = Figure(figsize=(12.5, 5.6), layout="constrained")
    grid = picture.subplots(2, 4, sharex=True, sharey=True).flat
    lines: list[Any] = []
    for c, (name, axes) in enumerate(zip(ALL, grid)):
        for (variant, values), color in zip(accuracies.items(), np.resize(COLORS, len(accuracies)).tolist()):
            means = [table.mean((100 * values[:, c, level]).tolist()) for level in range(LEVELS + 1)]
            middle = np.array([mean.mean for mean in means])
            half = np.array([mean.half for mean in means])
            line = axes.plot(middle, color=color, lw=1.8, marker="o", ms=3.5, label=variant)
            if not np.isnan(half).any():
                axes.fill_between(
                    range(LEVELS + 1), middle - half, middle + half, color=color, alpha=0.13, lw=0
                )
            lines += line if c == 0 else []
        axes.set_title(in_words(name).capitalize(), loc="left")
        axes.grid()
        axes.tick_params(length=0)
        axes.set_xticks(range(LEVELS + 1), ["clean", *map(str, range(1, LEVELS + 1))])
    several = any(len(values) > 1 for values in accuracies.values())
    picture.legend(
        handles=lines,
        loc="outside right upper",
        frameon=False,
        title="Mean, and 95 % over seeds" if several else None,
        alignment="left",
    )
    picture.supylabel("Overall accuracy, %", fontsize=9, color=INK)
    picture.supxlabel("Level", fontsize=9, color=INK)
    save(picture, path)


@rc_context(STYLE)
def corruptions(path: Path, data: Data[Split], config: CloudConfig, seed: int = 0) -> None:
    """Each corruption at each level on the first test shape; points that are dropped or added are orange."""
    points, place = clouds.inputs(data.test, config)[0][:1].numpy(), data.test.index[:1]
    picture = Figure(figsize=(9, 13), layout="constrained")
    grid = picture.subplots(len(ALL), 1 + LEVELS)
    for row, (name, (_, strengths)) in zip(grid, ALL.items(), strict=True):
        for level, axes in enumerate(row):
            cloud = (
                corrupt(points, place, name, level, seed, data.signature.centre or "mean")[0]
                if level
                else points[0]
            )
            draw(axes, points[0], cloud)
            text, unit = STRENGTH[name]
            title = text.format(unit * strengths[level - 1]) if level else "clean"
            axes.set_title(title, fontsize=8, weight="normal", color=INK)
        row[0].set_ylabel(in_words(name), fontsize=10, weight="bold", color=INK)
    picture.suptitle(f"{data.name[place[0]]}, {points.shape[1]} points; levels 1 to {LEVELS}", fontsize=10)
    save(picture, path)


def draw(axes: Any, clean: np.ndarray, cloud: np.ndarray) -> None:
    """Draw a corrupted cloud [N', 3] with y up, seen from the side; nearer points are darker."""
    N = len(clean)
    if len(cloud) < N:
        kept = {tuple(point) for point in cloud.tolist()}
        dropped = np.array([tuple(point) not in kept for point in clean.tolist()])
        axes.scatter(*project(clean[dropped])[:2], s=3, color=ORANGE, alpha=0.5, linewidths=0)
    x, y, depth = project(cloud[:N])
    axes.scatter(x, y, s=4, c=depth, cmap=DEPTH, vmin=-1, vmax=1, linewidths=0)
    if len(cloud) > N:
        axes.scatter(*project(cloud[N:])[:2], s=4, color=ORANGE, linewidths=0)
    axes.set(xlim=(-0.9, 0.9), ylim=(-1.05, 1.05), aspect="equal", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def project(points: np.ndarray) -> np.ndarray:
    """[3, n]: coordinates to the right, up, and towards the eye, of points [n, 3] with y up."""
    azimuth, elevation = VIEW
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    right = x * math.cos(azimuth) + z * math.sin(azimuth)
    near = -x * math.sin(azimuth) + z * math.cos(azimuth)
    return np.array(
        [
            right,
            y * math.cos(elevation) - near * math.sin(elevation),
            near * math.cos(elevation) + y * math.sin(elevation),
        ]
    )


def save(picture: Any, path: Path) -> None:
    """Write a picture whole or not at all."""
    file = io.BytesIO()
    picture.savefig(file, format="png", dpi=130, metadata={"Software": atomic.WRITER})
    checkpoint.write(path, file.getvalue())
