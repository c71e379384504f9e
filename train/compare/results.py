"""The files of a comparison: tables of its runs and variants, and their picture."""

from __future__ import annotations

from pathlib import Path

from dropfold.data_scripts.work import atomic
from dropfold.train.compare import outcomes, table
from dropfold.train.compare.outcomes import Outcomes
from dropfold.train.compare.table import Rows
from dropfold.train.scoring.metrics import in_words
from dropfold.train.storage import checkpoint

TABLE = atomic.Own("table of dropfold", rb"variant,seed|\| (variant|corruption) \|")
PICTURE = atomic.Own(
    "picture of dropfold",
    rb"\x89PNG\r\n\x1a\n.{0,2000}?tEXtSoftware\x00(Matplotlib|%s)" % atomic.WRITER.encode(),
)
TABLES = ("runs.csv", "table.csv", "table.md", "levels.csv", "levels.md", "summed.md")
PICTURES = ("comparison.png", "levels.png", "corruptions.png")


def check_folder(folder: Path) -> None:
    """Refuse a place for tables and pictures that is no folder, or holds other files of their names, before long work."""
    atomic.check_folder(folder)
    for name in (*TABLES, *PICTURES):
        atomic.check_target(folder / name, TABLE if name in TABLES else PICTURE)


def write_results(folder: Path, rows: Rows, baseline: str, by_run: Outcomes | None = None) -> str:
    """Write runs.csv, table.csv and table.md, and return the last. With the outcomes of the runs the tables have the figures
    under corruption and the intervals over samples too, and there is a picture, comparison.png."""
    if by_run is not None:
        corrupted = outcomes.of_corrupted(by_run, baseline)
        rows = [row | corrupted.get((row["variant"], *table.seed_and_fold(row)), {}) for row in rows]
    lines = table.summarize(rows, baseline, by_run)
    figure = in_words(next((row["figure"] for row in rows if "figure" in row), "score"))
    text = table.as_markdown(lines, figure, baseline)
    for name, content in (
        ("runs.csv", table.as_csv(rows)),
        ("table.csv", table.as_csv(lines)),
        ("table.md", text),
    ):
        checkpoint.write(folder / name, content.encode())
    if by_run is not None and any(line["runs"] for line in lines):
        from dropfold.train.compare import plots

        plots.comparison(folder / "comparison.png", lines, rows, figure, baseline)
    return text
