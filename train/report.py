"""The report of a run: one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path


def write_report(run: Path) -> None:
    """Write `report.html` into the run's folder."""
    (run / "report.html").write_text("<p>report</p>")
