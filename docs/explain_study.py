"""`python docs/explain_study.py`: the pictures and the tables of docs/explain_study.md, from the committed rows."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from dropfold.data_scripts.work.folders import in_number
from dropfold.explain.run.found import in_words
from dropfold.train.compare import plots, table

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks/results"
PAGE, PICTURE, OF_NOISE = (HERE / f"explain_study{end}" for end in (".md", ".png", "_noise.png"))
NETWORKS = {"pointnet": "PointNet", "dgcnn": "DGCNN", "pointnet2": "PointNet++"}
NOISES = {"none": "no noise", "feat": "DropFeat", "point": "DropPoint", "cluster": "DropCluster"}
OWN = {
    ("pointnet", "cluster"),
    ("dgcnn", "feat"),
}  # what a network's recipe trains with; of others the noise table tells
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
NOISE_COLORS = dict(zip(NOISES, (plots.INK, plots.BLUE, "#2a9d6f", plots.ORANGE), strict=True))
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
        self.network, self.noise, self.lines = network, noise, lines
        self.title = f"{NETWORKS[network]}, {NOISES[noise]}"
        self.seeds = round(max(line["seeds"] for line in lines))

    def of(self, table_name: str, **where: str) -> list[Row]:
        """Its lines of a table."""
        found = [line for line in self.lines if line["table"] == table_name]
        return [line for line in found if all(text_of(line[k]) == v for k, v in where.items())]

    def one(self, table_name: str, **where: str) -> Row | None:
        """The line there is, if there is one."""
        return next(iter(self.of(table_name, **where)), None)

    def methods(self) -> list[str]:
        """In the order of the colours."""
        having = {text_of(line["of"]) for line in self.of("dropping", measure="mean")}
        return [name for name in COLORS if name in having]


def studies() -> list[Study]:
    """One for each network and noise that was studied."""
    lines = rows("table")
    keys = dict.fromkeys((line["network"], line["noise"]) for line in lines)
    order = sorted(keys, key=lambda key: (list(NETWORKS).index(key[0]), list(NOISES).index(key[1])))
    return [Study(*key, [line for line in lines if (line["network"], line["noise"]) == key]) for key in order]


def cell(
    line: Row | None, scale: float = 1.0, digits: int = 3, of: str = "", seeds: int | None = None
) -> str:
    """Mean and half width; of "difference", to XGrad-CAM, or "change", by noise, those of it with its bootstrap interval.
    Where the line is of other than so many seeds, that is said."""
    if line is None:
        return "–"
    middle, half = line[of or "mean"], line[f"{of}_half_width".lstrip("_")]
    if math.isnan(middle):
        return ""
    text = f"{scale * middle:{'+' if of else ''}.{digits}f}"
    text += "" if math.isnan(half) else f" ± {scale * half:.{digits}f}"
    if of and not math.isnan(low := line[f"{of}_low"]):
        text += f" [{scale * low:+.{digits}f}, {scale * line[f'{of}_high']:+.{digits}f}]"
    if seeds is not None and round(line["seeds"]) != seeds:
        text += f" (of {in_number(round(line['seeds']), 'seed', 'seeds')})"
    return text


def picture(found: list[Study]) -> None:
    """Accuracy without the most salient points, and how much more another score than XGrad-CAM leaves."""
    with plt.rc_context(plots.STYLE):
        figure = plt.figure(figsize=(4.6 * len(found) + 0.6, 6.6), layout="constrained")
        panels = figure.subplots(2, len(found), squeeze=False, height_ratios=(1.2, 1), sharey="row")
        for above, below, study in zip(*panels, found):
            whole = study.one("dropping", of="", measure="whole")
            names = study.methods()
            for name in names:
                lines = [
                    line for m in LOST if (line := study.one("dropping", of=name, measure=m)) is not None
                ]
                points = [(0, whole), *zip(LOST.values(), lines)]
                x = [share for share, _ in points]
                middle = [100 * line["mean"] for _, line in points if line is not None]
                half = [100 * line["half_width"] for _, line in points if line is not None]
                above.plot(x, middle, color=COLORS[name], marker="o", ms=3.5, lw=1.8, label=words(name))
                if name in BANDS and study.seeds > 2:
                    ends = [[m + sign * h for m, h in zip(middle, half)] for sign in (-1, 1)]
                    above.fill_between(x, *ends, color=COLORS[name], alpha=0.15, lw=0)
            above.set_title(f"{study.title}, {in_number(study.seeds, 'seed', 'seeds')}", loc="left")
            above.set_ylim(10, 90)
            above.set_xlabel("% of the points dropped, most salient first")
            others = [name for name in names if name != "xgrad_cam"]
            for y, name in enumerate(others):
                line = study.one("dropping", of=name, measure="mean")
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
            below.set_xlim(-20, 30)
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


def picture_of_noise(found: list[Study]) -> None:
    """What noise in training changes: accuracy without the points that XGrad-CAM calls most salient."""
    networks = [name for name in NETWORKS if sum(study.network == name for study in found) > 1]
    with plt.rc_context(plots.STYLE):
        figure = plt.figure(figsize=(4.6 * len(networks) + 0.6, 3.8), layout="constrained")
        for axes, network in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks):
            for study in found:
                if study.network != network:
                    continue
                keys = [{"of": "", "measure": "whole"}, *({"of": "xgrad_cam", "measure": m} for m in LOST)]
                lines = [line for key in keys if (line := study.one("dropping", **key)) is not None]
                x, color = [0, *LOST.values()], NOISE_COLORS[study.noise]
                middle, half = ([100 * line[name] for line in lines] for name in ("mean", "half_width"))
                axes.plot(x, middle, color=color, marker="o", ms=3.5, lw=1.8, label=NOISES[study.noise])
                ends = [[m + sign * h for m, h in zip(middle, half)] for sign in (-1, 1)]
                axes.fill_between(x, *ends, color=color, alpha=0.12, lw=0)
            axes.set_title(f"{NETWORKS[network]}, trained with", loc="left")
            axes.set_ylim(20, 90)
            axes.set_xlabel("% of the points dropped, most salient first (XGrad-CAM)")
            axes.set_ylabel("accuracy, %")
            axes.legend(frameon=False, fontsize=8, loc="lower left")
            axes.grid()
            axes.tick_params(length=0)
        figure.savefig(OF_NOISE, dpi=120, metadata={"Software": None})
    print(OF_NOISE)


def tables(found: list[Study]) -> str:
    """All of them, a section each: of the recipes' own networks, and what noise changes."""
    own = [study for study in found if (study.network, study.noise) in OWN]
    makers = {
        "The axioms": axioms_table(own),
        "Dropping": dropping_table(own),
        "Other figures of the maps": figures_table(own),
        "The two-shape game": game_table(own),
        "Units": units_table(own),
        "What tells a unit's damage": tells_table(own),
        "Removing many units": removed_table(own),
        "Noise in training": noise_table(found),
    }
    return "\n".join(f"### {title}\n\n{content}" for title, content in makers.items())


def axioms_table(found: list[Study]) -> str:
    """A row a layer and method."""
    head = ["network", "layer", "map", "conservation error", "sensitivity error", "correlation"]
    body = []
    for study in found:
        for layer in dict.fromkeys(text_of(line["at"]) for line in study.of("axioms")):
            for method in ("xgrad_cam", "gradient_x_activation", "grad_cam"):
                where = {"at": layer, "of": method}
                measures = "conservation", "sensitivity", "correlation"
                cells = [cell(study.one("axioms", measure=m, **where), seeds=study.seeds) for m in measures]
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
        whole = study.one("dropping", of="", measure="whole")
        body.append([study.title, "whole clouds", *[""] * len(LOST), cell(whole, 100, 1), ""])
        for name in study.methods():
            lines = [study.one("dropping", of=name, measure=m) for m in (*LOST, "mean")]
            cells = [cell(line, 100, 1, seeds=study.seeds) for line in lines]
            body.append([study.title, words(name), *cells, cell(lines[-1], 100, 1, "difference")])
    return table.table(head, body, 2)


def figures_table(found: list[Study]) -> str:
    """A row a score."""
    figures = {
        "inserted_mean": ("accuracy with the most salient points alone, %", 100, 1),
        "effective_points": ("effective points", 1, 0),
        "infidelity_scaled": ("infidelity, with a factor", 1, 2),
        "last layer anew": ("correlation, last layer anew", 1, 2),
        "all anew": ("all layers anew", 1, 2),
        "two anew": ("two networks anew", 1, 2),
    }
    head = ["network", "score", *(title for title, *_ in figures.values())]
    body = []
    for study in found:
        for name in study.methods():
            lines = [study.one("dropping", of=name, measure=m) for m in figures]
            if any(line is not None for line in lines):
                cells = [
                    cell(line, *form, seeds=study.seeds) for line, (_, *form) in zip(lines, figures.values())
                ]
                body.append([study.title, words(name), *cells])
    return table.table(head, body, 2)


def game_table(found: list[Study]) -> str:
    """A row a score."""
    head = ["network", "score", "top eighth on the own shape", "difference to XGrad-CAM"]
    body = []
    for study in found:
        valid = study.one("game", measure="valid")
        if valid is not None:
            body.append([study.title, "valid pairs, %", cell(valid, 100, 1, seeds=study.seeds), ""])
        for name in study.methods():
            line = study.one("game", of=name, measure="top")
            if line is not None:
                body.append([study.title, words(name), cell(line), cell(line, of="difference")])
    return table.table(head, body, 2)


UNITS = {
    "loss_mean": ("a unit costs, over all", 1, 5),
    "loss_worst": ("worst unit, over all", 1, 4),
    "worst_class_loss_mean": ("a unit costs the class it harms most in training", 1, 4),
    "worst_class_loss_worst": ("worst unit, the class it harms most in training", 1, 3),
    "change_no_prediction": ("units that change no prediction, %", 100, 1),
    "effective units": ("effective units", 1, 0),
}


def units_table(found: list[Study]) -> str:
    """A row a figure; a column a network and replacement."""
    columns = [(study, to) for study in found for to in ("zero", "mean") if study.of("units", at=to)]
    head = ["fall of log p", *(f"{study.title}, {to}" for study, to in columns)]
    body = [
        [
            title,
            *(
                cell(study.one("units", at=to, measure=measure), *form, seeds=study.seeds)
                for study, to in columns
            ),
        ]
        for measure, (title, *form) in UNITS.items()
    ]
    return table.table(head, body, 1)


def tells_table(found: list[Study]) -> str:
    """A row an attribute; two correlations a network."""
    names = list(dict.fromkeys(text_of(line["of"]) for study in found for line in study.of("tells")))
    head = ["network, units to", "damage", *map(in_words, names)]
    body = []
    for study in found:
        for to in dict.fromkeys(text_of(line["at"]) for line in study.of("tells")):
            for measure, whose in (("loss", "over all"), ("worst_class_loss", "worst class")):
                lines = [study.one("tells", at=to, of=name, measure=measure) for name in names]
                body.append([f"{study.title}, {to}", whose, *(cell(line, 1, 2) for line in lines)])
    return table.table(head, body, 2)


def removed_table(found: list[Study]) -> str:
    """A row an order of removal."""
    body, shares = [], ["50 %", "75 %", "90 %", "95 %", "98 %"]
    for study in found:
        for order in dict.fromkeys(text_of(line["of"]) for line in study.of("removed")):
            lines = [study.one("removed", of=order, measure=share) for share in shares]
            body.append([study.title, order, *(cell(line, 100, 1) for line in lines)])
    return table.table(["network", "order", *(f"{share} removed" for share in shares)], body, 2)


OF_NOISES = {
    "accuracy of whole clouds, %": ("dropping", {"of": "", "measure": "whole"}, 100, 1),
    "without the most salient half, %": ("dropping", {"of": "xgrad_cam", "measure": "50 %"}, 100, 1),
    "mean of 10, 30 and 50 %, %": ("dropping", {"of": "xgrad_cam", "measure": "mean"}, 100, 1),
    "without a random half, %": ("dropping", {"of": "random", "measure": "50 %"}, 100, 1),
    "points that share the evidence": ("dropping", {"of": "xgrad_cam", "measure": "effective_points"}, 1, 0),
    "a unit costs, over all": ("units", {"at": "mean", "measure": "loss_mean"}, 1, 5),
    "worst unit, over all": ("units", {"at": "mean", "measure": "loss_worst"}, 1, 4),
    "the class it harms most in training": ("units", {"at": "mean", "measure": "worst_class_loss_mean"}, 1, 4),
    "worst unit of these": ("units", {"at": "mean", "measure": "worst_class_loss_worst"}, 1, 3),
    "effective units": ("units", {"at": "mean", "measure": "effective units"}, 1, 0),
    "a unit to 0 costs, over all": ("units", {"at": "zero", "measure": "loss_mean"}, 1, 5),
    "to 0, the class it harms most in training": ("units", {"at": "zero", "measure": "worst_class_loss_mean"}, 1, 4),
    "effective units, to 0": ("units", {"at": "zero", "measure": "effective units"}, 1, 0),
}  # fmt: skip


def noise_table(found: list[Study]) -> str:
    """A row a figure and network; two columns a noise: the figure, and what it is above that without noise."""
    body = []
    for network in dict.fromkeys(study.network for study in found):
        of_noise = {study.noise: study for study in found if study.network == network}
        if len(of_noise) < 2:
            continue
        for title, (name, where, *form) in OF_NOISES.items():
            cells = []
            for noise in NOISES:
                line = of_noise[noise].one(name, **where) if noise in of_noise else None
                change = cell(line, *form, of="change") if line is not None else ""
                cells.append(" ".join(filter(None, [cell(line, *form), change and f"({change})"])))
            body.append([NETWORKS[network], title, *cells])
    return table.table(["network", "figure (change by noise)", *NOISES.values()], body, 2)


def sources() -> str:
    """How many seeds, and whose commits and machine."""
    parts: dict[tuple[str, ...], list[Any]] = {}
    for run in rows("runs"):
        about = tuple(str(run[name]) for name in ("network", "noise", "trained", "commit", "machine"))
        parts.setdefault(about, []).append(run["seed"])
    return "".join(
        f"- {NETWORKS[network]}, {NOISES[noise]}: {in_number(len(set(seeds)), 'seed', 'seeds')}, trained at commit "
        f"{trained}, measured at {commit}, {machine}.\n"
        for (network, noise, trained, commit, machine), seeds in parts.items()
    )


def fill(text: str, content: str) -> str:
    """`text` with what lies between two marks replaced."""
    start, end = "<!-- tables: python docs/explain_study.py -->\n", "<!-- end of tables -->"
    before, rest = text.split(start)
    return before + start + "\n" + content + "\n" + end + rest.split(end)[1]


def main() -> None:
    found = studies()
    picture([study for study in found if (study.network, study.noise) in OWN])
    picture_of_noise(found)
    PAGE.write_text(fill(PAGE.read_text(), f"{tables(found)}\n{sources()}"))


if __name__ == "__main__":
    main()
