"""Tables over seeds: means and differences, each with Student's 95 % interval; differences are paired by seed."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import Any

Rows = list[dict[str, Any]]
COLUMNS = {  # of a run's summary, and how the table heads them
    "parameters": "parameters",
    "cores": "RNN matrices",
    "biases": "RNN biases",
    "classifier": "classifier",
    "macs": "multiply-adds a frame",
    "seconds": "seconds",
}


@dataclass
class Mean:
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


def summarized(rows: Rows, baseline: str) -> Rows:
    """One row a variant, from one row a run: {variant, seed, score, the columns that the runs have}. A run that failed has
    no score; the difference is to the baseline's run of the same seed."""
    base = {row["seed"]: row["score"] for row in rows if row["variant"] == baseline and "score" in row}
    found = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        runs = [row for row in rows if row["variant"] == variant]
        ended = [row for row in runs if "score" in row]
        score = mean([row["score"] for row in ended])
        pairs = [row["score"] - base[row["seed"]] for row in ended if row["seed"] in base]
        difference = mean([] if variant == baseline else pairs)
        line = {
            "variant": variant,
            "seeds": score.n,
            "failed": len(runs) - len(ended),
            "mean": score.mean,
            "half_width": score.half,
            "difference": difference.mean,
            "difference_half_width": difference.half,
        }
        for name in COLUMNS:
            values = [row[name] for row in ended if name in row]
            if values:
                line[name] = values[0] if len(set(values)) == 1 else sum(values) / len(values)
        found.append(line)
    return found


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
    """The table for readers; shares in per cent, differences in points."""
    columns = {name: title for name, title in COLUMNS.items() if any(name in line for line in lines)}
    head = ["variant", "seeds", f"{figure}, %", f"difference to {baseline}, points", *columns.values()]
    text = ["| " + " | ".join(head) + " |", "|---" * 2 + "|---:" * (len(head) - 2) + "|"]
    for line in lines:
        seeds = f"{line['seeds']}" + (f" ({line['failed']} failed)" if line["failed"] else "")
        cells = [
            line["variant"],
            seeds,
            _interval(line["mean"], line["half_width"], ""),
            _interval(line["difference"], line["difference_half_width"], "+"),
            *(f"{line[name]:,.0f}" if name in line else "" for name in columns),
        ]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def _interval(middle: float, half: float, sign: str) -> str:
    if math.isnan(middle):
        return ""
    shown = f"{100 * middle:{sign}.1f}"
    return shown if math.isnan(half) else f"{shown} ± {100 * half:.1f}"
