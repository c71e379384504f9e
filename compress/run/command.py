"""`dropfold compress RUN --target latency 0.5`: a smaller network out of a trained one, fine-tuned, as a run of its own.

Which channels go is chosen once and kept in the new run's compression.json, with the times that it was chosen by; the same
command again goes on from there. The small network is compared with the one in which those channels are masked, its
BatchNorms are measured anew, and then it is trained on. `evaluate`, `predict`, `explain`, `compare` and `robustness` take
the new run like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Method = Literal["l1", "norm", "fpgm", "bn_scale", "random"]


@dataclass
class Options:
    """Compress a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    method: Method = "norm"
    """Which channels matter: by the absolute weights that make them (l1), by all weights that make and read them (norm), by
    the distance to the others (fpgm), by the BatchNorm's scale, or at random."""
    target: tuple[Literal["latency", "macs", "parameters"], float] = ("latency", 0.5)
    """What shrinks, and to which part of the original's: milliseconds of one sample measured here, multiply-adds, or
    parameters."""
    epochs: int | None = None
    """Of fine-tuning; default: a fifth of the run's."""
    lr: float | None = None
    """Of fine-tuning, at its start; default: a fifth of the run's."""
    seed: int | None = None
    """Of random channels and of fine-tuning; default: the run's."""
    out: Path | None = None
    """The new run's folder; default: RUN-METHOD-TARGET beside RUN."""


def main(options: Options) -> None:
    from rich.console import Console

    from dropfold.compress.run.stages import compress

    what, part = options.target
    if not 0 < part < 1:
        raise ValueError(
            f"--target {what} takes a part of the original's, above 0 and below 1; got {part:g}."
        )
    out = options.out or options.run.with_name(f"{options.run.name}-{options.method}-{what}-{part:g}")
    found = compress(options.run, out, options.method, what, part, options.epochs, options.lr, options.seed)
    Console().print(table(found))
    print(f"run: {out}")


def table(found: dict[str, Any]) -> Any:
    """What became of the network, stage by stage and group by group."""
    from rich.table import Table

    shown = Table(title=f"{found['run']}, {found['method']}, {found['target'][0]} {found['target'][1]:g}")
    for name in ("", "before", "after", "after / before"):
        shown.add_column(name, justify="right" if name else "left")
    for name, digits in (
        ("ms at batch 1", 2),
        ("ms at batch 32", 1),
        ("M multiply-adds", 1),
        ("parameters", 0),
    ):
        before, after = found["cost"][name]
        shown.add_row(name, f"{before:,.{digits}f}", f"{after:,.{digits}f}", f"{after / before:.2f}")
    leading = next(iter(found["scores"]["original"]))
    for stage, scores in found["scores"].items():
        shown.add_row(f"{leading}, {stage}", "", f"{100 * scores[leading]:.1f} %", "")
    return shown
