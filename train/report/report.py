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
from dropfold.train.scoring.intervals import leading_interval
from dropfold.train.scoring.metrics import Predictions, in_words
from dropfold.train.storage import checkpoint
from dropfold.train.tasks.section import Section
from dropfold.train.tasks.trained import Trained

PAGE = Path(__file__).with_name("report_page.html")


def write_report(trained: Trained, sections: Sequence[Section] = (), made_by: str | None = None) -> None:
    """Write `report.html` into a finished run's folder; `sections` come after those of the run's task.

    `made_by` is the command that repeats the run, if it is no `dropfold train`.
    """
    content = collect(trained, sections)
    page = fill_page(PAGE, content if made_by is None else {**content, "command": made_by})
    checkpoint.write(trained.run / "report.html", page.encode())


def fill_page(page: Path, content: Any) -> str:
    """A page with the head, style and drawing functions that all pages share, and its content."""
    text = page.read_text()
    for name, file in (("HEAD", "head.html"), ("STYLE", "page.css"), ("DRAWING", "drawing.js")):
        text = text.replace(f"{{{{{name}}}}}", PAGE.with_name(file).read_text())
    return text.replace("{{DATA}}", as_script(content))


def as_script(content: Any) -> str:
    """JSON that stands in a script: whatever a text holds (`</script>`, `<!--`, U+2028), no parser of HTML sees it."""
    text = json.dumps(_finite(content), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


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
        "title": f"{config.recipe}: {in_words(name)} {percent(leading)} on "
        f"{counted(len(data.test), f'test {task.NOUN}')}",
        "lead": f"{task.describe(config)}; {counted(config.epochs, 'epochs')} on {counted(len(data.train), task.NOUN)}, "
        f"{counted(len(names), task.CLASSES)}. {data.source}.",
        "interval": describe_interval(name, predictions, counted(len(data.test), f"test {task.NOUN}")),
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


def describe_interval(name: str, predictions: Predictions, samples: str) -> str:
    """The interval of the leading figure in a sentence; empty if it has none."""
    found = leading_interval(name, predictions)
    if found is None:
        return ""
    low, high, method = found
    return (
        f"95 % interval of the {in_words(name)}: {100 * low:.1f} to {percent(high)} ({method}, over the {samples}; it does "
        "not say how far runs of other seeds differ)."
    )


def percent(value: float | None) -> str:
    """A figure from 0 to 1 for readers; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def counted(n: int, plural: str) -> str:
    """ "12 shapes", "1 shape"."""
    singular = plural.removesuffix("es" if plural.endswith("sses") else "s")
    return f"{n:,} {singular if n == 1 else plural}"


def tiles(config: Config, summary: dict[str, Any], name: str) -> list[list[str]]:
    """The figures at the top."""
    shown = [
        [percent(value), f"{in_words(key.removeprefix('test/'))}, last epoch"]
        for key, value in summary.items()
        if key.startswith("test/")
    ]
    key = f"test_at_best_{config.select}"
    if f"{key}/epoch" in summary:
        value, epoch = summary[f"{key}/{name}"], summary[f"{key}/epoch"]
        shown.append([percent(value), f"{in_words(name)}, epoch {epoch} (best on {config.select})"])
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

    def chart(title: str, shown: list[dict[str, Any]], share: bool = False) -> dict[str, Any]:
        values = [value for line in shown for value in line["y"] if value is not None]
        broken = sum(not math.isfinite(value) for value in values)
        return {"title": title, "lines": shown, "share": share, "broken": broken}

    select = config.select
    chosen = {select: f"{select}/{name}"}
    figures = []
    if name == "overall_accuracy" or name.endswith("iou"):
        accuracy = {select: f"{select}/overall_accuracy"}
        figures.append(chart("Accuracy", lines(training="train/accuracy", **accuracy), share=True))
    if name != "overall_accuracy":
        title = in_words(name)
        figures.insert(0, chart(title[:1].upper() + title[1:], lines(**chosen), share=True))
    return [
        chart("Loss", lines(training="train/loss", **{select: f"{select}/loss"})),
        *figures,
        chart("Gradient norm", lines(mean="gradient_norm")),
        chart("Learning rate", lines(rate="lr")),
    ]


def command(config: Config) -> str:
    """The command line that repeats the run: the recipe, and what differs from it."""
    if config.sizes or config.operations:
        word = "compress" if config.sizes else "transform"
        return f"dropfold {word} RUN (its options are in this run's compression.json)"
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
