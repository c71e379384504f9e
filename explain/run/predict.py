"""`dropfold predict`: the command of dropfold.train, and with --explain why a run says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dropfold.train.predict import predict

if TYPE_CHECKING:
    from dropfold.train.tasks.trained import Trained

__doc__ = f"""{predict.__doc__}
With --explain each file also gets NAME-explained.html, a page of why the run says so, the numbers in NAME-explained.json,
and, of shapes and scenes, NAME-explained.ply, whose scores MeshLab (quality) and CloudCompare (scalar_) show.
"""


@dataclass
class Options(predict.Options):
    """Predict the class of shapes, or of each of their points, in files."""

    explain: bool = False
    """Also write why: a page, numbers, and (of shapes and scenes) points with their scores, beside each file. Not of runs on
    blocks."""
    explain_out: Path | None = None
    """The folder that they go to; default: that of the file."""


def main(options: Options) -> None:
    if options.explain_out is not None and not options.explain:
        raise ValueError("--explain-out says where explanations go; give --explain, too, or leave it out.")
    if not options.explain:
        predict.main(options)
        return

    def prepare(trained: Trained, files: tuple[Path, ...]) -> predict.Also:
        from dropfold.data_scripts.readers.columns import parse_layout
        from dropfold.explain.run.files import explainer

        layout = parse_layout(options.columns, options.drop_nan)
        more = {"category": options.category, "unit": options.unit, "layout": layout}
        return explainer(trained, files, options.explain_out, **more)  # type: ignore[arg-type]

    predict.main(options, prepare)
