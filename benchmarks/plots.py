"""`python -m benchmarks.plots`: draws the committed rows into docs/benchmarks/, and the pictures into docs/benchmarks.md.

One comparison is one run: of each operation, shape and type the rows of the latest run are drawn. A picture whose rows have
not been measured is not drawn, and the page between its two markers holds what was drawn, with the commits and machines
that the rows name.
"""

from __future__ import annotations

import csv
import itertools
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
Points = dict[str, list[tuple[float, float]]]  # of a line, by provider


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


def bars(axes: Any, rows: Sequence[Row]) -> None:
    """One comparison: a bar a provider, ours first, with its time, how many times ours it is, and its memory."""
    values = [float(row["p50_ms"]) for row in rows]
    memory = any(row["peak_mib"] for row in rows)
    for i, (row, value) in enumerate(zip(rows, values)):
        ours = row["provider"].startswith("dropfold")
        color = LIMIT if row["provider"].startswith("limit") else OURS if ours else PEER
        axes.barh(i, value, color=color, height=0.72)
        parts = [f"{short(value)} ms", *([] if i == 0 else [f"{value / values[0]:.2g}×"])]
        if value >= 9.95 * values[0]:
            parts[1] = f"{value / values[0]:,.1f}×"
        if row["peak_mib"]:
            parts.append(f"{short(float(row['peak_mib']))} MiB")
        axes.annotate(
            "   ".join(parts), (value, i), (5, 0), textcoords="offset points", va="center", fontsize=9,
            fontweight="bold" if i == 0 else "normal",
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [row["provider"] for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, (2.05 if memory else 1.45) * max(values))
    axes.set_xticks([])
    axes.tick_params(left=False)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


NAMES = {
    "pointnet_step": "PointNet", "pointnet2_ssg_step": "PointNet++, SSG", "pointnet2_msg_step": "PointNet++, MSG",
    "dgcnn_step": "DGCNN", "pointnet_parts_step": "PointNet for parts", "pointnet2_parts_step": "PointNet++ for parts, MSG",
    "dgcnn_parts_step": "DGCNN for parts", "pointnet_scenes_step": "PointNet for scenes",
    "pointnet2_scenes_step": "PointNet++ for scenes", "dgcnn_s3dis_step": "DGCNN for scenes",
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
        figsize=(5.8 * columns, sum(0.3 * height + 0.75 for height in heights)), height_ratios=heights,
    )  # fmt: skip
    for axes in panels.flat:
        axes.set_visible(False)
    for line, panel in zip(lines, panels):
        for rows, axes in zip(line, panel):
            axes.set_visible(True)
            bars(axes, rows)
            axes.set_title(title(rows[0]), loc="left", fontsize=10)
    return figure


# --- lines -------------------------------------------------------------------------------------------------------


def sizes(row: Row) -> dict[str, int]:
    """{"B": 8, "N": 1024, ..} from a shape."""
    return {name: int(value) for name, value in re.findall(r"([A-Za-z]+)(\d+)", row["shape"])}


def lines(axes: Any, points: Points, xlabel: str, ylabel: str) -> None:
    """A line a provider on logarithmic axes."""
    from matplotlib.ticker import LogLocator

    for name, xy in points.items():
        color, marker = LINES.get(name, ("#8a919b", "s"))
        axes.plot(*zip(*sorted(xy)), color=color, marker=marker, markersize=4.5, linewidth=1.8, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({x for xy in points.values() for x, _ in xy})
    axes.set_xticks(ticks, [f"{x:,.0f}" for x in ticks])
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
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
    """knn: time of one cloud against its points, beside a square of N, and peak memory of the batch."""
    plt = pyplot()
    channels = sorted({sizes(rows[0])["C"] for rows in comparisons})
    figure, panels = plt.subplots(
        2, len(channels), squeeze=False, layout="constrained", figsize=(5.2 * len(channels), 6.8)
    )
    for C, (time, memory) in zip(channels, panels.T):
        here = [rows for rows in comparisons if sizes(rows[0])["C"] == C]
        times, peaks = ({}, {})  # type: tuple[Points, Points]
        for row in (row for rows in here for row in rows if not row["provider"].startswith("limit")):
            at = sizes(row)
            times.setdefault(row["provider"], []).append((at["N"], float(row["p50_ms"]) / at["B"]))
            if row["peak_mib"]:
                peaks.setdefault(row["provider"], []).append((at["N"], float(row["peak_mib"])))
        lines(time, times, "points of a cloud, N", "ms a cloud")
        time.set_title(f"knn, {C} channels, k {sizes(here[0][0])['k']}", loc="left", fontsize=10)
        ours = sorted(times["dropfold"])
        (x0, y0), x1 = ours[0], ours[-1][0]
        time.plot([x0, x1], [y0, y0 * (x1 / x0) ** 2], ":", color="#aab1ba", linewidth=1.2)
        middle = (x0 * x1) ** 0.5
        time.annotate(
            "N²", (middle, y0 * (middle / x0) ** 2), (3, -11), textcoords="offset points", color="#8a919b"
        )
        if not peaks:
            memory.set_visible(False)
            continue
        lines(memory, peaks, "points of a cloud, N", "peak MiB")
        clouds = sorted({sizes(rows[0])["B"] for rows in here}, reverse=True)
        memory.set_title(f"batches of {clouds[0]} to {clouds[-1]} clouds", loc="left", fontsize=10)
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
        points: Points = {}
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


def epochs(comparisons: Sequence[list[Row]]) -> Any:
    """Whole epochs against points and batch, and the share of them that is spent in steps."""
    plt = pyplot()
    figure, panels = plt.subplots(1, 3, layout="constrained", figsize=(13, 3.6))
    looks = {"dgcnn_epoch": (OURS, "o", "DGCNN"), "pointnet_epoch": (LIMIT, "s", "PointNet")}
    for axes, name, label in zip(
        panels, ("N", "B"), ("points of a cloud, N (B 16)", "clouds of a batch, B (N 512)")
    ):
        fixed = {"N": ("B", 16), "B": ("N", 512)}[name]
        for operation, (color, marker, title) in looks.items():
            xy = sorted(
                (sizes(rows[0])[name], float(rows[0]["p50_ms"]) / 1e3)
                for rows in comparisons
                if rows[0]["operation"] == operation and sizes(rows[0])[fixed[0]] == fixed[1]
            )
            axes.plot(*zip(*xy), color=color, marker=marker, label=title)
        axes.set_xlim(0)
        axes.set_ylim(0)
        axes.set_xlabel(label)
        axes.set_ylabel("seconds an epoch" if name == "N" else "")
        axes.legend(frameon=False)
        axes.grid(color="#eceff2")
    marks = [(f"{looks[rows[0]['operation']][2]} {rows[0]['shape']}", rows) for rows in comparisons]
    shares = [100 * (1 - float(rows[1]["p50_ms"]) / float(rows[0]["p50_ms"])) for _, rows in marks]
    bar = panels[2]
    bar.barh(
        range(len(marks)), shares, color=[looks[rows[0]["operation"]][0] for _, rows in marks], height=0.7
    )
    bar.set_yticks(range(len(marks)), [name for name, _ in marks], fontsize=7.5)
    bar.axvline(90, color=INK, linewidth=1, linestyle=":")
    bar.set_xlim(0, 100)
    bar.invert_yaxis()
    bar.set_xlabel("% of the epoch in its steps")
    return figure


# --- the page ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A file, its caption, which comparisons are on it, and who draws it."""

    name: str
    caption: str
    holds: Callable[[Row], bool]
    draw: Callable[[Sequence[list[Row]]], Any]


SCENE_OPERATIONS = (
    "farthest_point_sample",
    "ball_query",
    "three_nn_interpolate_fwd_bwd",
    "set_abstraction_fwd_bwd",
)

PICTURES = (
    Picture(
        "steps",
        "Training steps beside their peers. × is times ours; MiB is peak memory; orange is what the step's own products "
        "take alone, and a copy of as many bytes as it must move. Float32, memory not kept; the others are in the rows.",
        lambda row: (
            row["operation"].endswith("_step") and row["dtype"] == "float32" and "kept" not in row["shape"]
        ),
        lambda chosen: grid(sorted(chosen, key=lambda rows: list(NAMES).index(rows[0]["operation"])), 2),
    ),
    Picture(
        "operations",
        "Operations beside eager PyTorch and PyG. × is times ours.",
        lambda row: row["operation"] not in SCENE_OPERATIONS
        and (row["operation"].endswith("_fwd_bwd") or (row["operation"] == "knn" and "-N1024-" in row["shape"])),
        lambda chosen: grid(chosen, 2),
    ),
    Picture(
        "scene_operations",
        "Operations of PointNet++ beside scipy's k-d tree, eager PyTorch and yanx27's functions. × is times ours.",
        lambda row: row["operation"] in SCENE_OPERATIONS,
        lambda chosen: grid(chosen, 3),
    ),
    Picture(
        "knn",
        "Neighbours: time of one cloud and peak memory of a batch against points, on logarithmic axes. Larger clouds come "
        "in smaller batches, of about as many points: what makes all distances grows with N there, what does not stays.",
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
        "epochs",
        "Whole epochs of training on furniture (252 shapes), and the share of them that is spent in steps, not in drawing "
        "batches.",
        lambda row: row["operation"] in ("dgcnn_epoch", "pointnet_epoch"),
        epochs,
    ),
    Picture(
        "rnn",
        "Compressed LSTMs beside nn.LSTM and their peers at the published video shape. × is times the first.",
        lambda row: (row["operation"], row["shape"], row["dtype"])
        == ("lstm_forward_backward", "M57600-H256-B16-T6", "float32"),
        lambda chosen: grid(chosen, 1),
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
        chosen = [rows for rows in comparisons if picture.holds(rows[0])]
        if not chosen:
            print(f"not drawn, no rows: {picture.name}")
            continue
        figure = picture.draw(chosen)
        figure.savefig(out / f"{picture.name}.png", dpi=120, facecolor="white", metadata={"Software": None})
        pyplot().close(figure)
        drawn.append((picture, chosen))
    return drawn


def show(drawn: Sequence[tuple[Picture, list[list[Row]]]], out: Path, page: Path) -> None:
    """Write what was drawn between the page's two markers."""
    text = page.read_text()
    if text.count(START) != 1 or text.count(END) != 1:
        raise ValueError(f"{page} must hold the lines {START!r} and {END!r} once each, around the pictures.")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    parts = []
    for picture, chosen in drawn:
        commits: dict[str, dict[str, None]] = {}
        for row in itertools.chain(*chosen):
            on = f"{row['machine']}, {row['date']}, medians of {row['repetitions']}"
            commits.setdefault(on, {})[row["commit"]] = None
        sources = [f"{', '.join(some)} on {on}" for on, some in commits.items()]
        where = os.path.relpath(out / f"{picture.name}.png", page.parent)
        parts.append(
            f"![{picture.name}]({where})\n\n{picture.caption} Measured at commits {'; '.join(sources)}."
        )
    page.write_text(before + "\n\n".join([START, *parts, END]) + after)


def main() -> None:
    import tyro

    options = tyro.cli(Options, description=__doc__)
    drawn = draw(read(options.rows), options.out)
    show(drawn, options.out, options.page)
    print(f"drawn: {', '.join(picture.name for picture, _ in drawn)}")


if __name__ == "__main__":
    main()
