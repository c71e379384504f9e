"""`python docs/explain_study.py`: the picture and the tables of docs/explain_study.md, from the committed rows."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from dropfold.explain.run.found import in_words
from dropfold.train.compare import plots, table

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks/results"
PAGE, PICTURE = HERE / "explain_study.md", HERE / "explain_study.png"
NETWORKS = {"pointnet": "PointNet", "dgcnn": "DGCNN", "pointnet2": "PointNet++"}
NOISES = {"none": "no noise", "feat": "DropFeat", "point": "DropPoint", "cluster": "DropCluster"}
LOST = {"10 %": 10, "30 %": 30, "50 %": 50}
COLORS = {
    "xgrad_cam": plots.ORANGE,
    "grad_cam": plots.BLUE,
    "gradient_x_activation": "#2a9d6f",
    "zheng": "#8e5bb5",
    "zheng_iterative": "#c2457b",
    "feature_norm": "#c9a227",
    "critical_points": "#5aa9c9",
    "radius": plots.INK,
    "random": plots.PALE,
}
BANDS = ("xgrad_cam", "grad_cam")  # more of them would hide each other
Row = dict[str, Any]


def rows(name: str) -> list[Row]:
    """The lines of a committed file, numbers as such; none where the study has not been run."""
    path = RESULTS / f"explanation_{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{key: as_number(value) for key, value in line.items()} for line in csv.DictReader(file)]


def as_number(text: str) -> Any:
    """A cell of a CSV file as what it was before it was written."""
    try:
        return float(text) if text else math.nan
    except ValueError:
        return text


def words(name: str) -> str:
    """A score as it is written."""
    known = {"zheng": "Zheng, one shot", "zheng_iterative": "Zheng, iterative"}
    return known.get(name) or in_words(name)


def text_of(value: Any) -> str:
    """A cell that holds words; an empty one was read as NaN."""
    return value if isinstance(value, str) else ""


class Study:
    """The summaries of one network and noise."""

    def __init__(self, network: str, noise: str, lines: list[Row]) -> None:
        self.title = f"{NETWORKS[network]}, {NOISES[noise]}"
        self.lines = lines

    def of(self, table_name: str, **where: str) -> list[Row]:
        """Its lines of a table."""
        found = [line for line in self.lines if line["table"] == table_name]
        return [line for line in found if all(text_of(line[k]) == v for k, v in where.items())]

    def one(self, table_name: str, **where: str) -> Row | None:
        """The line there is, if there is one."""
        return next(iter(self.of(table_name, **where)), None)

    def methods(self) -> list[str]:
        """In the order of the colours."""
        having = {text_of(line["method"]) for line in self.of("dropping", measure="mean")}
        return [name for name in COLORS if name in having]


def studies() -> list[Study]:
    """One for each network and noise that was studied."""
    lines = rows("table")
    keys = dict.fromkeys((line["network"], line["noise"]) for line in lines)
    order = sorted(keys, key=lambda key: (list(NETWORKS).index(key[0]), list(NOISES).index(key[1])))
    return [Study(*key, [line for line in lines if (line["network"], line["noise"]) == key]) for key in order]


def cell(line: Row | None, scale: float = 1.0, digits: int = 3, change: bool = False) -> str:
    """Mean and half width; with `change` those of the difference to XGrad-CAM, and its bootstrap interval."""
    if line is None:
        return "–"
    start = "difference" if change else ""
    middle = line["difference" if change else "mean"]
    half = line[f"{start}_half_width".lstrip("_")]
    if math.isnan(middle):
        return ""
    text = f"{scale * middle:{'+' if change else ''}.{digits}f}"
    text += "" if math.isnan(half) else f" ± {scale * half:.{digits}f}"
    low, high = line["difference_low"], line["difference_high"]
    if change and not math.isnan(low):
        text += f" [{scale * low:+.{digits}f}, {scale * high:+.{digits}f}]"
    return text


def picture(found: list[Study]) -> None:
    """Accuracy without the most salient points, and how much more another score than XGrad-CAM leaves."""
    with plt.rc_context(plots.STYLE):
        figure = plt.figure(figsize=(4.6 * len(found) + 0.6, 6.6), layout="constrained")
        panels = figure.subplots(2, len(found), squeeze=False, height_ratios=(1.2, 1), sharey="row")
        for above, below, study in zip(*panels, found):
            whole = study.one("dropping", method="", measure="whole")
            seeds = round(whole["seeds"]) if whole else 0
            names = study.methods()
            for name in names:
                lines = [
                    line for m in LOST if (line := study.one("dropping", method=name, measure=m)) is not None
                ]
                points = [(0, whole), *zip(LOST.values(), lines)]
                x = [share for share, _ in points]
                middle = [100 * line["mean"] for _, line in points if line is not None]
                half = [100 * line["half_width"] for _, line in points if line is not None]
                above.plot(x, middle, color=COLORS[name], marker="o", ms=3.5, lw=1.8, label=words(name))
                if name in BANDS and seeds > 2:
                    ends = [[m + sign * h for m, h in zip(middle, half)] for sign in (-1, 1)]
                    above.fill_between(x, *ends, color=COLORS[name], alpha=0.15, lw=0)
            above.set_title(f"{study.title}, {seeds} seeds", loc="left")
            above.set_ylim(20, 90)
            above.set_xlabel("% of the points dropped, most salient first")
            others = [name for name in names if name != "xgrad_cam"]
            for y, name in enumerate(others):
                line = study.one("dropping", method=name, measure="mean")
                if line is None:
                    continue
                middle, half, low, high = (
                    100 * line[f"difference{end}"] for end in ("", "_half_width", "_low", "_high")
                )
                below.plot([middle - half, middle + half], [y, y], color=COLORS[name], lw=1.2)
                below.plot([low, high], [y, y], color=COLORS[name], lw=4, alpha=0.35, solid_capstyle="butt")
                below.plot(middle, y, "o", color=COLORS[name], ms=5)
            below.set_yticks(range(len(others)), [words(name) for name in others])
            below.set_ylim(len(others) - 0.5, -0.5)
            below.set_xlim(-12, 32)
            below.axvline(0, color=plots.INK, lw=1)
            below.set_xlabel(
                "more accuracy left than by XGrad-CAM, points\n(mean of 10, 30 and 50 % dropped)"
            )
            for axes in (above, below):
                axes.grid()
                axes.tick_params(length=0)
        panels[0, 0].set_ylabel("accuracy, %")
        panels[0, 0].legend(frameon=False, fontsize=7.5, loc="lower left")
        figure.savefig(PICTURE, dpi=120, metadata={"Software": None})
    print(PICTURE)


def tables(found: list[Study]) -> str:
    """All of them, a section each."""
    makers = {
        "The axioms": axioms_table,
        "Dropping": dropping_table,
        "Other figures of the maps": figures_table,
        "The two-shape game": game_table,
        "Units": units_table,
        "What tells a unit's damage": tells_table,
        "Removing many units": removed_table,
    }
    return "\n".join(f"### {title}\n\n{make(found)}" for title, make in makers.items())


def axioms_table(found: list[Study]) -> str:
    """A row a layer and method."""
    head = ["network", "layer", "map", "conservation error", "sensitivity error", "correlation"]
    body = []
    for study in found:
        for layer in dict.fromkeys(text_of(line["layer"]) for line in study.of("axioms")):
            for method in ("xgrad_cam", "gradient_x_activation", "grad_cam"):
                at = {"layer": layer, "method": method}
                measures = "conservation", "sensitivity", "correlation"
                cells = [cell(study.one("axioms", measure=m, **at)) for m in measures]
                body.append([study.title, layer, words(method), *cells])
    return table.table(head, body, 3)


def dropping_table(found: list[Study]) -> str:
    """A row a score."""
    head = [
        "network",
        "score",
        *(f"{m} dropped" for m in LOST),
        "mean, %",
        "mean, difference to XGrad-CAM, points",
    ]
    body = []
    for study in found:
        whole = study.one("dropping", method="", measure="whole")
        body.append([study.title, "whole clouds", *[""] * len(LOST), cell(whole, 100, 1), ""])
        for name in study.methods():
            lines = [study.one("dropping", method=name, measure=m) for m in (*LOST, "mean")]
            cells = [cell(line, 100, 1) for line in lines]
            body.append([study.title, words(name), *cells, cell(lines[-1], 100, 1, change=True)])
    return table.table(head, body, 2)


def figures_table(found: list[Study]) -> str:
    """A row a score."""
    figures = {
        "inserted_mean": ("accuracy with the most salient points alone, %", 100, 1),
        "effective_points": ("effective points", 1, 0),
        "infidelity_scaled": ("infidelity, with a factor", 1, 2),
        "last layer anew": ("correlation, last layer anew", 1, 2),
        "all anew": ("all layers anew", 1, 2),
    }
    head = ["network", "score", *(title for title, *_ in figures.values())]
    body = []
    for study in found:
        for name in study.methods():
            lines = [study.one("dropping", method=name, measure=m) for m in figures]
            if any(line is not None for line in lines):
                cells = [cell(line, *form) for line, (_, *form) in zip(lines, figures.values())]
                body.append([study.title, words(name), *cells])
    return table.table(head, body, 2)


def game_table(found: list[Study]) -> str:
    """A row a score."""
    head = ["network", "score", "top eighth on the own shape", "difference to XGrad-CAM"]
    body = []
    for study in found:
        valid = study.one("game", measure="valid")
        if valid is not None:
            body.append([study.title, "valid pairs, %", cell(valid, 100, 1), ""])
        for name in study.methods():
            line = study.one("game", method=name, measure="top")
            if line is not None:
                body.append([study.title, words(name), cell(line), cell(line, change=True)])
    return table.table(head, body, 2)


UNITS = {
    "loss_mean": ("a unit costs, over all", 1, 5),
    "loss_worst": ("worst unit, over all", 1, 4),
    "worst_class_loss_mean": ("a unit costs its worst class", 1, 4),
    "worst_class_loss_worst": ("worst unit, its worst class", 1, 3),
    "worst class / overall": ("worst class / overall, means", 1, 1),
    "change_no_prediction": ("units that change no prediction, %", 100, 1),
    "effective units": ("effective units", 1, 0),
}


def units_table(found: list[Study]) -> str:
    """A row a figure; a column a network and replacement."""
    columns = [(study, to) for study in found for to in ("zero", "mean") if study.of("units", layer=to)]
    head = ["fall of log p", *(f"{study.title}, {to}" for study, to in columns)]
    body = [
        [title, *(cell(study.one("units", layer=to, measure=measure), *form) for study, to in columns)]
        for measure, (title, *form) in UNITS.items()
    ]
    return table.table(head, body, 1)


def tells_table(found: list[Study]) -> str:
    """A row an attribute; two correlations a network."""
    names = list(dict.fromkeys(text_of(line["method"]) for study in found for line in study.of("tells")))
    head = ["network, units to", "damage", *map(in_words, names)]
    body = []
    for study in found:
        for to in dict.fromkeys(text_of(line["layer"]) for line in study.of("tells")):
            for of, whose in (("loss", "over all"), ("worst_class_loss", "worst class")):
                lines = [study.one("tells", layer=to, method=name, measure=of) for name in names]
                body.append([f"{study.title}, {to}", whose, *(cell(line, 1, 2) for line in lines)])
    return table.table(head, body, 2)


def removed_table(found: list[Study]) -> str:
    """A row an order of removal."""
    body, shares = [], ["50 %", "75 %", "90 %", "95 %", "98 %"]
    for study in found:
        for order in dict.fromkeys(text_of(line["method"]) for line in study.of("removed")):
            lines = [study.one("removed", method=order, measure=share) for share in shares]
            body.append([study.title, order, *(cell(line, 100, 1) for line in lines)])
    return table.table(["network", "order", *(f"{share} removed" for share in shares)], body, 2)


def sources() -> str:
    """How many seeds, and whose commits and machine."""
    parts = []
    runs = rows("runs")
    for network, noise in dict.fromkeys((run["network"], run["noise"]) for run in runs):
        mine = [run for run in runs if (run["network"], run["noise"]) == (network, noise)]
        seeds = len({run["seed"] for run in mine})
        said = [
            ", ".join(dict.fromkeys(str(run[name]) for run in mine))
            for name in ("trained", "commit", "machine")
        ]
        parts.append(
            f"{NETWORKS[network]}, {NOISES[noise]}: {seeds} seeds; trained at commit {said[0]}, explained at {said[1]}, "
            f"{said[2]}, busy."
        )
    return "\n".join(f"- {part}" for part in parts) + "\n"


def fill(text: str, content: str) -> str:
    """`text` with what lies between two marks replaced."""
    start, end = "<!-- tables: python docs/explain_study.py -->\n", "<!-- end of tables -->"
    before, rest = text.split(start)
    return before + start + "\n" + content + "\n" + end + rest.split(end)[1]


def main() -> None:
    found = studies()
    picture(found)
    PAGE.write_text(fill(PAGE.read_text(), f"{tables(found)}\n{sources()}"))


if __name__ == "__main__":
    main()
