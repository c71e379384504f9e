"""The report of a run: one self-contained HTML page, drawn in the browser from the data embedded in it."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dropfold.train.config.configs import Config
from dropfold.train.config.recipes import RECIPES, recipe
from dropfold.train.scoring.metrics import in_words
from dropfold.train.storage import checkpoint
from dropfold.train.tasks.section import Section
from dropfold.train.tasks.trained import Trained

PAGE = Path(__file__).with_name("report_page.html")


def write_report(trained: Trained, sections: Sequence[Section] = ()) -> None:
    """Write `report.html` into a finished run's folder; `sections` come after those of the run's task."""
    content = json.dumps(_finite(collect(trained, sections))).replace("</", "<\\/")
    page = PAGE.read_text().replace("{{DATA}}", content)
    checkpoint.write(trained.run / "report.html", page.encode())


def collect(trained: Trained, sections: Sequence[Section] = ()) -> dict[str, Any]:
    """Everything that the page shows, from the run's files."""
    run, config, task, data = trained.run, trained.config, trained.task, trained.data
    names, predictions = trained.signature.class_names, trained.predictions
    summary, rows = checkpoint.load_summary(run), checkpoint.load_metrics(run)
    scores = task.scores(predictions, trained.signature)
    name, leading = next(iter(scores.figures.items()))
    table = task.class_table(scores, predictions, trained.signature)
    own = [*task.galleries(config, data, predictions), *task.sections(config, data, lambda: trained.network)]
    return {
        "title": f"{config.recipe}: {in_words(name)} {100 * leading:.1f} % on {len(data.test)} test {task.NOUN}",
        "lead": f"{task.describe(config)}; {config.epochs} epochs on {len(data.train)} {task.NOUN}, {len(names)} "
        f"{task.CLASSES}. "
        f"{data.source}.",
        "tiles": tiles(config, summary, name),
        "epochs": [row["epoch"] + 1 for row in rows],
        "curves": curves(config, rows, name),
        "sections": [section.as_json() for section in (*own, *sections)],
        "names": names,
        "confusion": table.confusion,
        "unit": table.unit,
        "classes": {"head": table.head, "rows": table.rows},
        "command": command(config),
        "machine": f"Measured: commit {summary['commit']}, {summary['machine']}, torch {summary['torch']}. "
        f"Data: {data.credits}.",
        "config": [[key, str(value)] for key, value in _flat(asdict(config)).items()],
    }


def tiles(config: Config, summary: dict[str, Any], name: str) -> list[list[str]]:
    """The figures at the top."""
    shown = [
        [f"{100 * value:.1f} %", f"{in_words(key.removeprefix('test/'))}, last epoch"]
        for key, value in summary.items()
        if key.startswith("test/")
    ]
    key = f"test_at_best_{config.select}"
    if f"{key}/epoch" in summary:
        value, epoch = 100 * summary[f"{key}/{name}"], summary[f"{key}/epoch"]
        shown.append([f"{value:.1f} %", f"{in_words(name)}, epoch {epoch} (best on {config.select})"])
    minutes, seconds = divmod(round(summary["seconds"]), 60)
    shown.append([f"{minutes}:{seconds:02d}", "minutes of training"])
    shown.append([f"{summary['parameters']:,}", "parameters"])
    if "cores" in summary:
        shown.append([f"{summary['cores'] + summary['biases']:,}", "of them in the RNN"])
    shown.append([f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB", "peak memory"])
    return shown


def curves(config: Config, rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The charts: title and lines."""

    def lines(**keys: str) -> list[dict[str, Any]]:
        return [
            {"name": name.replace("_", " "), "y": [row.get(key) for row in rows]}
            for name, key in keys.items()
            if any(key in row for row in rows)  # without validation there is no such line
        ]

    select = config.select
    chosen = {select: f"{select}/{name}"}
    figures = []
    if name == "overall_accuracy" or name.endswith("iou"):
        accuracy = {select: f"{select}/overall_accuracy"}
        figures.append({"title": "Accuracy", "lines": lines(training="train/accuracy", **accuracy)})
    if name != "overall_accuracy":
        title = in_words(name)
        figures.insert(0, {"title": title[:1].upper() + title[1:], "lines": lines(**chosen)})
    return [
        {"title": "Loss", "lines": lines(training="train/loss", **{select: f"{select}/loss"})},
        *figures,
        {"title": "Gradient norm", "lines": lines(mean="gradient_norm")},
        {"title": "Learning rate", "lines": lines(rate="lr")},
    ]


def command(config: Config) -> str:
    """The command line that repeats the run: the recipe, and what differs from it."""
    words = ["dropfold", "train", config.recipe]
    base = _flat(asdict(recipe(config.recipe))) if config.recipe in RECIPES else {}
    for key, value in _flat(asdict(config)).items():
        if key in ("out", "resume", "recipe") or base.get(key) == value:
            continue
        name = "--" + key.replace("_", "-")
        if isinstance(value, bool):
            words.append(
                name
                if value
                else "--" + ".".join([*name[2:].split(".")[:-1], "no-" + name[2:].split(".")[-1]])
            )
        else:
            words += [name, *(str(v) for v in (value if isinstance(value, tuple | list) else [value]))]
    return shlex.join(words)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
