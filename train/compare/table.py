"""Tables of comparisons: means and differences to a baseline with 95 % intervals.

A seed gives one value, its mean over folds where there are some, and a difference is between runs of the same seed and
fold. ± is Student's interval over seeds: how much another training of the same variant would change. [ ] is the bootstrap
interval over test samples (`dropfold.train.compare.outcomes`): how much another test set of this size would change it.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from dropfold.train.compare import outcomes
from dropfold.train.compare.outcomes import Outcomes

Rows = list[dict[str, Any]]
COLUMNS = {  # keys of a run's summary, and their titles in the table
    "parameters": "parameters",
    "cores": "RNN matrices",
    "biases": "RNN biases",
    "classifier": "classifier",
    "macs": "multiply-adds a frame",
    "seconds": "seconds",
}


INTERVAL = "Student's 95 % over seeds."
LEGEND = f"±: {INTERVAL} [ ]: 95 % bootstrap over samples. Differences are paired by seed, fold and sample."


@dataclass
class Figure:
    """How a figure of the runs is shown."""

    title: str
    unit: str
    difference_unit: str
    scale: float
    """From the figure to its unit."""
    digits: int


FIGURES = {
    "score": Figure("score", ", %", ", points", 100, 1),
    "mean_class_accuracy": Figure("mean class accuracy", ", %", ", points", 100, 1),
    "corrupted_accuracy": Figure("mean accuracy under corruption", ", %", ", points", 100, 1),
    "missing_accuracy": Figure("accuracy with parts missing", ", %", ", points", 100, 1),
    "mce": Figure("mCE", "", "", 1, 3),
}


class Mean(NamedTuple):
    """A mean of `n` values and half the width of its 95 % interval (NaN for one value)."""

    mean: float
    half: float
    n: int


def mean(values: list[float]) -> Mean:
    """Student's: mean +- t(0.975, n - 1) s / sqrt(n)."""
    from scipy.stats import t

    n = len(values)
    if not n:
        return Mean(math.nan, math.nan, 0)
    middle = sum(values) / n
    if n == 1:
        return Mean(middle, math.nan, 1)
    spread = math.sqrt(sum((value - middle) ** 2 for value in values) / (n - 1))
    return Mean(middle, float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n), n)


def summarize(rows: Rows, baseline: str, by_run: Outcomes | None = None) -> Rows:
    """One row a variant, from one row a run: {variant, seed, fold if there are folds, the figures and columns that the runs
    have}; a run that failed has no score. The score's keys have no prefix, those of another figure its name."""
    present = [name for name in FIGURES if name == "score" or any(name in row for row in rows)]
    base = {seed_and_fold(row): row for row in rows if row["variant"] == baseline}
    lines = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        runs = [row for row in rows if row["variant"] == variant]
        ended = [row for row in runs if "score" in row]
        line = {
            "variant": variant,
            "seeds": len({row["seed"] for row in ended}),
            "runs": len(ended),
            "failed": len(runs) - len(ended),
        }
        for figure in present:
            values = [(row, row[figure]) for row in ended if figure in row]
            pairs = [
                (row, value - base[seed_and_fold(row)][figure])
                for row, value in values
                if variant != baseline and figure in base.get(seed_and_fold(row), {})
            ]
            value, difference = mean(by_seed(values)), mean(by_seed(pairs))
            start = prefix(figure)
            line |= {
                f"{start}mean": value.mean,
                f"{start}half_width": value.half,
                f"{start}difference": difference.mean,
                f"{start}difference_half_width": difference.half,
            }
            if by_run is not None:
                ends = math.nan, math.nan
                if variant != baseline:
                    ends = outcomes.interval(by_run, variant, baseline, figure)
                line[f"{start}difference_low"], line[f"{start}difference_high"] = ends
        for name in COLUMNS:
            column = [row[name] for row in ended if name in row]
            if column:
                line[name] = column[0] if len(set(column)) == 1 else sum(column) / len(column)
        lines.append(line)
    return lines


def seed_and_fold(row: dict[str, Any]) -> tuple[int, int]:
    """The seed and the fold (-1: none) of a run."""
    return row["seed"], row.get("fold", -1)


def by_seed(values: list[tuple[dict[str, Any], float]]) -> list[float]:
    """Each seed's mean over its folds."""
    seeds: dict[int, list[float]] = {}
    for row, value in values:
        seeds.setdefault(row["seed"], []).append(value)
    return [sum(folds) / len(folds) for folds in seeds.values()]


def as_csv(rows: Rows) -> str:
    """Rows as CSV; a column for each key that any row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _plain(value) for name, value in row.items()})
    return text.getvalue()


def _plain(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value


def as_markdown(lines: Rows, figure: str, baseline: str) -> str:
    """The tables for readers, of the score and of the figures under corruption where there are some; shares in per cent,
    their differences in points, mCE as it is."""
    columns = {name: title for name, title in COLUMNS.items() if any(name in line for line in lines)}
    folds = any(line["runs"] > line["seeds"] for line in lines)
    head = ["variant", "seeds", *(["runs"] if folds else [])]
    start = []
    for line in lines:
        failed = f" ({line['failed']} failed)" if line["failed"] else ""
        counts = [f"{line['seeds']}", f"{line['runs']}{failed}"] if folds else [f"{line['seeds']}{failed}"]
        start.append([line["variant"], *counts])
    score = [
        [
            *cells,
            *compared(line, "score"),
            *(f"{line[name]:,.0f}" if name in line else "" for name in columns),
        ]
        for cells, line in zip(start, lines)
    ]
    text = table([*head, *titles("score", figure, baseline), *columns.values()], score, len(head))
    present = [name for name in FIGURES if name != "score" and f"{prefix(name)}mean" in lines[0]]
    if present:
        names = [title for name in present for title in titles(name, FIGURES[name].title, baseline)]
        rows = [
            [line["variant"], *(cell for name in present for cell in compared(line, name))] for line in lines
        ]
        text += "\n" + table(["variant", *names], rows, 1)
    return f"{text}\n{LEGEND}\n"


def table(head: list[str], rows: list[list[str]], left: int) -> str:
    """A Markdown table whose first `left` columns are text."""
    rule = "|---" * left + "|---:" * (len(head) - left) + "|"
    return "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def titles(name: str, title: str, baseline: str) -> list[str]:
    """The heads of a figure's two columns."""
    kind = FIGURES[name]
    return [f"{title}{kind.unit}", f"difference to {baseline}{kind.difference_unit}"]


def compared(line: dict[str, Any], name: str) -> list[str]:
    """A figure of a variant, and its difference to the baseline."""
    key = prefix(name)
    difference = shown(line[f"{key}difference"], line[f"{key}difference_half_width"], name, "+")
    low, high = (line.get(f"{key}difference_{end}", math.nan) for end in ("low", "high"))
    return [shown(line[f"{key}mean"], line[f"{key}half_width"], name), difference + between(low, high, name)]


def prefix(figure: str) -> str:
    """The prefix of a figure's keys in a row of the summary."""
    return "" if figure == "score" else f"{figure}_"


def shown(middle: float, half: float, figure: str = "score", sign: str = "") -> str:
    """A mean, with half its interval if there is one."""
    kind = FIGURES[figure]
    if math.isnan(middle):
        return ""
    text = f"{kind.scale * middle:{sign}.{kind.digits}f}"
    return text if math.isnan(half) else f"{text} ± {kind.scale * half:.{kind.digits}f}"


def between(low: float, high: float, figure: str = "score") -> str:
    """An interval in brackets, if there is one."""
    kind = FIGURES[figure]
    if math.isnan(low) or math.isnan(high):
        return ""
    return f" [{kind.scale * low:+.{kind.digits}f}, {kind.scale * high:+.{kind.digits}f}]"
