"""`python -m benchmarks.plots`: draws the committed rows into docs/benchmarks/, and the pictures into docs/benchmarks.md.

One comparison is one run: of each operation, shape and type the rows of the latest run are drawn. A picture whose rows have
not been measured is not drawn, and the page between its two markers holds what was drawn, with the commits and machines
that the rows name.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, ROOT

OURS, PEER, LIMIT, INK = "#1668a8", "#b9bec6", "#e8743b", "#333940"
START, END = "<!-- pictures: python -m benchmarks.plots -->", "<!-- end of pictures -->"
LINES = {"dropfold": (OURS, "o"), "cdist + topk": ("#8a919b", "s"), "kd-tree": ("#4aa58a", "^")}

Row = dict[str, str]


@dataclass
class Options:
    """Draw the pictures of the committed rows."""

    rows: tuple[Path, ...] = (RESULTS / "point_clouds.csv", RESULTS / "rnn.csv")
    """CSV files that the benchmarks wrote."""
    out: Path = ROOT / "docs/benchmarks"
    """Folder for the pictures."""
    page: Path = ROOT / "docs/benchmarks.md"
    """The page that shows them."""


def read(paths: Iterable[Path]) -> list[list[Row]]:
    """The rows of all files by comparison, each the latest run's, in the order of their first measurement."""
    comparisons: dict[tuple[str, ...], list[Row]] = {}
    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                key = tuple(row[name] for name in ("device", "operation", "shape", "dtype"))
                rows = comparisons.setdefault(key, [])
                if row["provider"] in [r["provider"] for r in rows] or (rows and run(rows[0]) != run(row)):
                    rows.clear()
                rows.append(row)
    return list(comparisons.values())


def run(row: Row) -> tuple[str, ...]:
    """What rows of one run share."""
    return tuple(row[name] for name in ("date", "commit", "machine", "repetitions"))


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


# --- bars --------------------------------------------------------------------------------------------------------


def bars(axes: Any, rows: Sequence[Row], column: str, unit: str) -> None:
    """One comparison: a bar a provider, ours first, with its figure and how many times ours it is."""
    rows = [row for row in rows if row[column]]
    ours = float(rows[0][column])
    values = [float(row[column]) for row in rows]
    colors = [
        LIMIT if r["provider"].startswith("limit") else OURS if r["provider"].startswith("dropfold") else PEER
        for r in rows
    ]
    axes.barh(range(len(rows)), values, color=colors, height=0.72)
    axes.set_yticks(range(len(rows)), [row["provider"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.38 * max(values))
    for i, value in enumerate(values):
        times = value / ours
        shown = f"{times:.1f}" if 1 <= times < 100 else f"{times:.2g}" if times < 1 else f"{times:.0f}"
        ratio = "" if i == 0 else f"   {shown}×"
        axes.annotate(
            f"{short(value)} {unit}{ratio}", (value, i), (4, 0), textcoords="offset points", va="center",
            fontsize=9, color=INK, fontweight="bold" if i == 0 else "normal",
        )  # fmt: skip
    axes.set_xticks([])
    axes.tick_params(left=False)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color("#d5d9de")


NAMES = {
    "pointnet_step": "PointNet", "dgcnn_step": "DGCNN", "dgcnn_s3dis_step": "DGCNN for scenes",
    "lstm_forward": "LSTM, forward", "lstm_forward_backward": "LSTM, training step",
}  # fmt: skip


def title(row: Row) -> str:
    """An operation with its shape and type, in words."""
    name = NAMES.get(row["operation"], row["operation"].replace("_fwd_bwd", ", forward + backward"))
    shape = ", ".join(re.sub(r"^([A-Za-z]+)(\d+)$", r"\1 \2", part) for part in row["shape"].split("-"))
    return f"{name}\n{shape}, {row['dtype']}"


def grid(comparisons: Sequence[list[Row]], columns: int) -> Any:
    """Time of each comparison in a panel of its own; panels of a line are as high as its longest."""
    plt = pyplot()
    lines = [comparisons[i : i + columns] for i in range(0, len(comparisons), columns)]
    heights = [max(len(rows) for rows in line) for line in lines]
    figure, panels = plt.subplots(
        len(lines), columns, squeeze=False, layout="constrained",
        figsize=(5.2 * columns, sum(0.3 * height + 0.75 for height in heights)), height_ratios=heights,
    )  # fmt: skip
    for axes in panels.flat:
        axes.set_visible(False)
    for line, panel in zip(lines, panels):
        for rows, axes in zip(line, panel):
            axes.set_visible(True)
            bars(axes, rows, "p50_ms", "ms")
            axes.set_title(title(rows[0]), loc="left", fontsize=10)
    return figure


def steps(comparisons: Sequence[list[Row]]) -> Any:
    """Time and peak memory of each training step."""
    plt = pyplot()
    heights = [len(rows) for rows in comparisons]
    figure, panels = plt.subplots(
        len(comparisons), 2, squeeze=False, layout="constrained", height_ratios=heights,
        figsize=(10.4, sum(0.3 * height + 0.75 for height in heights)),
    )  # fmt: skip
    for rows, (time, memory) in zip(comparisons, panels):
        bars(time, rows, "p50_ms", "ms")
        time.set_title(f"{title(rows[0])}: time of a training step", loc="left", fontsize=10)
        if any(row["peak_mib"] for row in rows):
            bars(memory, rows, "peak_mib", "MiB")
            memory.set_title("\npeak memory", loc="left", fontsize=10)
            memory.set_ylim(len(rows) - 0.4, -0.6)  # bars as thick as those beside them
        else:
            memory.set_visible(False)
    return figure


# --- lines -------------------------------------------------------------------------------------------------------


def sizes(row: Row) -> dict[str, int]:
    """{"B": 8, "N": 1024, ..} from a shape."""
    return {name: int(value) for name, value in re.findall(r"([A-Za-z]+)(\d+)", row["shape"])}


def lines(axes: Any, points: dict[str, list[tuple[float, float]]], xlabel: str, ylabel: str) -> None:
    """A line a provider on logarithmic axes, named at its end."""
    for name, found in points.items():
        found = sorted(found)
        color, marker = LINES.get(name, ("#8a919b", "s"))
        axes.plot(*zip(*found), color=color, marker=marker, markersize=4.5, linewidth=1.8, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({x for found in points.values() for x, _ in found})
    axes.set_xticks(ticks, [f"{x:,.0f}" for x in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: short(value))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(color="#eceff2")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def neighbours(comparisons: Sequence[list[Row]]) -> Any:
    """knn: time and memory of one cloud against its points, with what a square of N would be."""
    plt = pyplot()
    channels = sorted({sizes(rows[0])["C"] for rows in comparisons})
    figure, panels = plt.subplots(
        2, len(channels), squeeze=False, layout="constrained", figsize=(5.2 * len(channels), 6.8)
    )
    for j, C in enumerate(channels):
        for axes, column, ylabel in zip(
            panels[:, j], ("p50_ms", "peak_mib"), ("ms a cloud", "peak MiB a cloud")
        ):
            points: dict[str, list[tuple[float, float]]] = {}
            for rows in comparisons:
                at = sizes(rows[0])
                for row in rows:
                    if at["C"] == C and row[column] and not row["provider"].startswith("limit"):
                        value = float(row[column]) / at["B"]
                        points.setdefault(row["provider"], []).append((at["N"], value))
            if not points:
                axes.set_visible(False)
                continue
            lines(axes, points, "points of a cloud, N", ylabel)
            axes.set_title(f"knn, {C} channels, k {at['k']}", loc="left", fontsize=10)
            found = sorted(points["dropfold"])
            (x0, y0), x1 = found[0], found[-1][0]
            axes.plot([x0, x1], [y0, y0 * (x1 / x0) ** 2], ":", color="#c3c8cf", linewidth=1.2)
            axes.annotate(
                "N²", (x1, y0 * (x1 / x0) ** 2), (-14, 2), textcoords="offset points", color="#9aa1ab"
            )
    return figure


def scaling(comparisons: Sequence[list[Row]]) -> Any:
    """The DGCNN step against each size, the others being those of the base: what most shapes share."""
    plt = pyplot()
    shapes = [sizes(rows[0]) for rows in comparisons]
    base = {
        name: max({s[name] for s in shapes}, key=lambda v: sum(s[name] == v for s in shapes))
        for name in ("B", "N", "k")
    }
    axes_of = {"B": "clouds, B", "N": "points of a cloud, N", "k": "neighbours, k", "threads": "threads"}
    figure, panels = plt.subplots(1, 4, layout="constrained", figsize=(15, 3.6))
    for axes, (name, label) in zip(panels, axes_of.items()):
        points: dict[str, list[tuple[float, float]]] = {}
        for rows, at in zip(comparisons, shapes):
            others = all(at[other] == base[other] for other in base if other != name)
            if name not in at or not others or ("threads" in at) != (name == "threads"):
                continue
            for row in rows:
                points.setdefault(row["provider"], []).append((at[name], float(row["p50_ms"])))
        if not points:
            axes.set_visible(False)
            continue
        lines(axes, points, label, "ms a training step" if name == "B" else "")
        fixed = ", ".join(f"{other} {base[other]}" for other in base if other != name)
        axes.set_title(f"DGCNN, {fixed}", loc="left", fontsize=10)
    return figure


# --- the page ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A file, its caption, which comparisons are on it, and who draws it."""

    name: str
    caption: str
    holds: Callable[[Row], bool]
    draw: Callable[[Sequence[list[Row]]], Any]


PICTURES = (
    Picture(
        "steps",
        "Training steps beside their peers. × is times ours; orange is what the step's own products take alone, and "
        "a copy of as many bytes as it must move.",
        lambda row: row["operation"] in ("pointnet_step", "dgcnn_step", "dgcnn_s3dis_step"),
        steps,
    ),
    Picture(
        "operations",
        "Operations beside eager PyTorch and PyG. × is times ours.",
        lambda row: row["operation"].endswith("_fwd_bwd") or (row["operation"] == "knn" and "-N1024-" in row["shape"]),
        lambda found: grid(found, 2),
    ),
    Picture(
        "knn",
        "Neighbours: time and peak memory of one cloud against its points, on logarithmic axes; dotted is growth with N².",
        lambda row: row["operation"] == "knn",
        neighbours,
    ),
    Picture(
        "scaling",
        "One DGCNN training step against the size of its batch, its clouds, its graph, and threads.",
        lambda row: row["operation"] == "dgcnn_scaling",
        scaling,
    ),
    Picture(
        "rnn",
        "Compressed LSTMs beside nn.LSTM and their peers at the published video shape. × is times the first.",
        lambda row: row["operation"] == "lstm_forward_backward" and row["shape"].startswith("M57600-H256-B16-T6"),
        lambda found: grid(found, 1),
    ),
)  # fmt: skip


def pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({
        "font.size": 9.5, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.edgecolor": "#c3c8cf",
    })  # fmt: skip
    return plt


def draw(comparisons: Sequence[list[Row]], out: Path) -> list[tuple[Picture, list[list[Row]]]]:
    """Draw each picture that has rows; returns those drawn, with their rows."""
    out.mkdir(parents=True, exist_ok=True)
    drawn = []
    for picture in PICTURES:
        found = [rows for rows in comparisons if picture.holds(rows[0])]
        if not found:
            print(f"not drawn, no rows: {picture.name}")
            continue
        figure = picture.draw(found)
        figure.savefig(out / f"{picture.name}.png", dpi=120, facecolor="white", metadata={"Software": None})
        pyplot().close(figure)
        drawn.append((picture, found))
    return drawn


def show(drawn: Sequence[tuple[Picture, list[list[Row]]]], out: Path, page: Path) -> None:
    """Write what was drawn between the page's two markers."""
    text = page.read_text()
    if text.count(START) != 1 or text.count(END) != 1:
        raise ValueError(f"{page} must hold the lines {START!r} and {END!r} once each, around the pictures.")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    parts = []
    for picture, found in drawn:
        sources = dict.fromkeys(
            f"commit {row['commit']}, {row['machine']}, {row['date']}, medians of {row['repetitions']}"
            for rows in found
            for row in rows
        )
        where = os.path.relpath(out / f"{picture.name}.png", page.parent)
        parts.append(f"![{picture.caption}]({where})\n\n{picture.caption} Measured: {'; '.join(sources)}.")
    page.write_text(before + "\n\n".join([START, *parts, END]) + after)


def main() -> None:
    import tyro

    options = tyro.cli(Options, description=__doc__)
    drawn = draw(read(options.rows), options.out)
    show(drawn, options.out, options.page)
    print(f"drawn: {', '.join(picture.name for picture, _ in drawn)}")


if __name__ == "__main__":
    main()
