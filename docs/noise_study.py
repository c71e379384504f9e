"""`python docs/noise_study.py`: the pictures and the tables of docs/noise_study.md, from the committed rows."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from dropfold.data_scripts.schemas import shape_schema
from dropfold.train.compare import plots, table
from dropfold.train.compare.corruptions import ALL, LEVELS, MISSING, corrupt
from dropfold.train.scoring.metrics import in_words

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks/results"
PAGE = HERE / "noise_study.md"


class Group(NamedTuple):
    """Studies of one task; the data that the paper states a gain of DropCluster on, and that gain in points by network."""

    title: str
    where: str
    published: dict[str, float]
    studies: dict[str, str]


GROUPS = (
    Group(
        "Classes of shapes: accuracy",
        "ModelNet40",
        {"PointNet": 1.5, "PointNet++": 1.3, "DGCNN": 0.8},
        {
            "noise_pointnet": "PointNet, furniture",
            "noise_pointnet_meshes": "PointNet, labeled meshes",
            "noise_dgcnn": "DGCNN, furniture",
            "noise_dgcnn_meshes": "DGCNN, labeled meshes",
            "noise_pointnet2": "PointNet++, furniture",
        },
    ),
    Group(
        "Parts: instance mean IoU",
        "ShapeNetPart",
        {"PointNet": 0.5, "PointNet++": 0.5, "DGCNN": 0.2},
        {
            "noise_pointnet_components": "PointNet, components",
            "noise_dgcnn_components": "DGCNN, components",
            "noise_pointnet2_components": "PointNet++, components",
        },
    ),
    Group(
        "Scenes: mean IoU",
        "S3DIS",
        {"PointNet": 3.2, "PointNet++": 2.9, "DGCNN": 3.7},
        {
            "noise_pointnet_rooms": "PointNet, rooms",
            "noise_dgcnn_rooms": "DGCNN, rooms",
            "noise_pointnet2_rooms": "PointNet++, rooms",
        },
    ),
)
STUDIES = {name: title for group in GROUPS for name, title in group.studies.items()}
COLORS = {"none": plots.INK, "DropFeat": "#8e5bb5", "DropPoint": "#2a9d6f", "DropCluster": plots.ORANGE}


def rows(name: str) -> list[dict[str, str]]:
    """The lines of a committed file; none where the study has not been run."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def missing(study: str) -> dict[str, np.ndarray]:
    """Of each variant its accuracy in per cent, [seeds, 1 + levels], whole clouds first; a seed's folds are averaged."""
    found: dict[str, dict[int, list[list[float]]]] = {}
    for row in rows(f"{study}_levels"):
        if row["corruption"] == MISSING:
            levels = found.setdefault(row["variant"], {}).setdefault(
                int(row["seed"]), [[] for _ in range(1 + LEVELS)]
            )
            levels[int(row["level"])].append(100 * float(row["accuracy"]))
    for row in rows(f"{study}_runs"):
        found[row["variant"]][int(row["seed"])][0].append(100 * float(row["score"]))
    return {
        variant: np.array([[np.mean(level) for level in levels] for levels in seeds.values()])
        for variant, seeds in found.items()
    }


def picture() -> None:
    """A chair of which ever more is missing, and what the networks still make of such shapes."""
    studies = {name: title for name, title in STUDIES.items() if rows(f"{name}_levels")}
    with plt.rc_context(plots.STYLE):
        figure = plt.figure(figsize=(3.3 * len(studies) + 0.4, 4.9), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(1.0, 2.35))
        data = shape_schema.read(HERE.parent / "data/furniture.h5")
        place = np.flatnonzero(data.label == data.class_names.index("chair"))[:1]
        cloud = data.points[place, :512]
        shares = [0, *(strength / 1024 for strength in ALL[MISSING][1])]
        for level, axes in enumerate(above.subplots(1, 1 + LEVELS)):
            plots.draw(axes, cloud[0], corrupt(cloud, place, MISSING, level)[0] if level else cloud[0])
            axes.set_title(
                f"{100 * shares[level]:.0f} % missing" if level else "whole", weight="normal", fontsize=9
            )
        lines: list[Any] = []
        for i, (axes, (study, title)) in enumerate(
            zip(below.subplots(1, len(studies), sharey=True, squeeze=False)[0], studies.items())
        ):
            for variant, values in missing(study).items():
                means = [table.mean(values[:, level].tolist()) for level in range(1 + LEVELS)]
                middle, half = np.array([m.mean for m in means]), np.array([m.half for m in means])
                x = [100 * share for share in shares]
                line = axes.plot(x, middle, color=COLORS[variant], marker="o", ms=3.5, lw=1.8, label=variant)
                axes.fill_between(x, middle - half, middle + half, color=COLORS[variant], alpha=0.15, lw=0)
                lines += line if i == 0 else []
            axes.set_title(title, loc="left")
            axes.set_xlabel("% of the points missing")
            axes.grid()
            axes.tick_params(length=0)
        below.axes[0].set_ylabel("accuracy, %")
        below.axes[0].legend(handles=lines, frameon=False, loc="lower left")
        figure.savefig(HERE / "noise_study.png", dpi=130, metadata={"Software": None})
    print(HERE / "noise_study.png")


def gains() -> None:
    """What each noise adds to the figure of whole, clean data, beside what was published of DropCluster."""
    groups = [(group, [name for name in group.studies if rows(f"{name}_table")]) for group in GROUPS]
    groups = [(group, studies) for group, studies in groups if studies]
    heights = [len(studies) for _, studies in groups]
    with plt.rc_context(plots.STYLE):
        size = 8.6, 0.62 * sum(heights) + 0.55 * len(heights) + 0.8
        figure = plt.figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (group, studies) in zip(panels, groups):
            for y, study in enumerate(studies):
                for at, line in zip((y - 0.22, y, y + 0.22), rows(f"{study}_table")[1:]):
                    ends = ("", "_half_width", "_low", "_high")
                    middle, half, low, high = (100 * as_number(line[f"difference{end}"]) for end in ends)
                    color = COLORS[line["variant"]]
                    axes.plot([middle - half, middle + half], [at, at], color=color, lw=1.2)
                    axes.plot([low, high], [at, at], color=color, lw=4, alpha=0.35, solid_capstyle="butt")
                    axes.plot(middle, at, "o", color=color, ms=5, label=line["variant"])
                gain = group.published[STUDIES[study].split(", ")[0]]
                label = f"{line['variant']} on {group.where}, published"
                axes.plot(gain, at, "D", color=color, mfc="white", ms=5.5, label=label)
            axes.set_title(group.title, loc="left")
            axes.set_yticks(range(len(studies)), [STUDIES[study] for study in studies])
            axes.set_ylim(len(studies) - 0.5, -0.5)
            axes.axvline(0, color=plots.INK, lw=1)
            axes.grid(axis="x")
            axes.tick_params(length=0)
            legend = dict(zip(*axes.get_legend_handles_labels()[::-1]))
            shown = list(legend) if axes is panels[0] else list(legend)[-1:]
            place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
            axes.legend([legend[name] for name in shown], shown, frameon=False, fontsize=8, **place)
        panels[-1].set_xlabel("difference to no noise, points")
        figure.savefig(HERE / "noise_gains.png", dpi=130, metadata={"Software": None})
    print(HERE / "noise_gains.png")


def as_number(text: str) -> Any:
    """A cell of a CSV file as what it was before it was written."""
    try:
        return float(text) if text else float("nan")
    except ValueError:
        return text


def tables() -> str:
    """A table a study: each figure, and its difference to no noise."""
    parts = []
    for study, title in STUDIES.items():
        lines, runs = rows(f"{study}_table"), rows(f"{study}_runs")
        if not lines:
            continue
        names = [name for name in table.FIGURES if f"{table.prefix(name)}mean" in lines[0]]
        score = in_words(runs[0]["figure"]).removeprefix("overall ") + ", %"
        head = [
            "variant",
            *(score if n == "score" else table.FIGURES[n].title + table.FIGURES[n].unit for n in names),
        ]
        body = []
        for line in lines:
            values = {name: as_number(value) for name, value in line.items()}
            cells = ["<br>".join(filter(None, table.compared(values, name))) for name in names]
            body.append([line["variant"], *cells])
        commits = ", ".join(dict.fromkeys(run["commit"] for run in runs))
        machines = ", ".join(dict.fromkeys(run["machine"] for run in runs))
        parts.append(
            f"### {title}\n\n{table.table(head, body, 1)}\n{lines[0]['seeds']} seeds, {lines[0]['runs']} runs a variant; "
            f"commit {commits}, {machines}.\n"
        )
    return "\n".join(parts)


def choices() -> str:
    """Of each network, what its noises reached on validation shapes, by setting inside the pool and by position."""
    parts = []
    for network, title in (("pointnet", "PointNet"), ("dgcnn", "DGCNN")):
        found: dict[str, dict[str, list[str]]] = {}
        sets = {"furniture": f"{network}", "labeled meshes": f"{network}_meshes"}
        for data, name in sets.items():
            for line in rows(f"noise_grid_{name}_table") + rows(f"noise_where_{name}_table"):
                whole, parted, mce = (
                    float(line[name]) for name in ("mean", "missing_accuracy_mean", "mce_mean")
                )
                found.setdefault(line["variant"], {})[data] = [
                    f"{100 * whole:.1f}",
                    f"{100 * parted:.1f}",
                    f"{mce:.2f}",
                ]
        if not found:
            continue
        figures = ["accuracy, %", "parts missing, %", "mCE"]
        head = [title, *(f"{data}: {figure}" for data in sets for figure in figures)]
        lines = [
            [variant, *(cell for data in sets for cell in by_data.get(data, ["–"] * len(figures)))]
            for variant, by_data in found.items()
        ]
        parts.append(table.table(head, lines, 1))
    return "\n".join(parts)


def fill(text: str, name: str, content: str) -> str:
    """`text` with what lies between two marks replaced."""
    start, end = f"<!-- {name}: python docs/noise_study.py -->\n", f"<!-- end of {name} -->"
    before, rest = text.split(start)
    return before + start + "\n" + content + "\n" + end + rest.split(end)[1]


def main() -> None:
    picture()
    gains()
    PAGE.write_text(fill(fill(PAGE.read_text(), "tables", tables()), "choices", choices()))


if __name__ == "__main__":
    main()
