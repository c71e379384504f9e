"""The files of a comparison: tables of its runs and variants, and their picture."""

from __future__ import annotations

from pathlib import Path

from dropfold.data_scripts.work import atomic
from dropfold.train.compare import outcomes, table
from dropfold.train.compare.outcomes import Outcomes
from dropfold.train.compare.table import Rows
from dropfold.train.scoring.metrics import in_words
from dropfold.train.storage import checkpoint

# A table is known by its columns, and in Markdown by the words below it, too.
TABLES = {
    name: atomic.Own("table of dropfold", begins, table.INTERVAL.encode() if name.endswith(".md") else b"")
    for name, begins in (
        ("runs.csv", rb"variant,seed,(fold,)?((failure,)?figure,score,|failure\n)"),
        ("table.csv", rb"variant,seeds,runs,failed,mean,half_width,"),
        ("table.md", rb"\| variant \| seeds \|"),
        ("levels.csv", rb"variant,seed,(fold,)?corruption,level,accuracy\n"),
        ("levels.md", rb"\| corruption \| level \|"),
        ("summed.md", rb"\| variant \| seeds \|"),
    )
}
PICTURES = dict.fromkeys(
    ("comparison.png", "levels.png", "corruptions.png"),
    atomic.Own(
        "picture of dropfold (older ones do not say that they are)",
        rb"\x89PNG\r\n\x1a\n.{0,2000}?tEXtSoftware\x00%s" % atomic.WRITER.encode(),
    ),
)


def check_folder(folder: Path) -> None:
    """Refuse a place for tables and pictures that is no folder, or holds other files of their names, before long work."""
    atomic.check_folder(folder)
    for name, own in (TABLES | PICTURES).items():
        atomic.check_target(folder / name, own)


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
