"""`dropfold compress RUN --target macs 0.5`: a smaller network out of a trained one, fine-tuned, as a run of its own.

Of networks over points and images channels are taken out: which ones is chosen once. The small network is compared with
the one in which those channels are masked, its BatchNorms are measured anew, and then it is trained on; or a network of
these sizes is trained anew (dcff, scratch). The matrices of a
recurrent network over videos become tensor networks: drawn near to their formats first (admm), or at once (decompose).

What was chosen and measured is kept in the new run's compression.json; the same command again goes on from there.
`evaluate`, `predict`, `explain` and `robustness` take the new run like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dropfold.models.formats import FormatSpec

CHANNELS = "l1", "norm", "fpgm", "bn_scale", "taylor", "random"
SCRATCH = "dcff", "dcff_released", "scratch"
FORMATS = "admm", "decompose"
Method = Literal[
    "l1", "norm", "fpgm", "bn_scale", "taylor", "random", "dcff", "dcff_released", "scratch", "admm", "decompose"
]  # fmt: skip
Target = tuple[Literal["latency", "macs", "parameters"], float]
TARGET: Target = ("macs", 0.5)


@dataclass
class Options:
    """Compress a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    method: Method | None = None
    """Points, images: which channels matter, by the absolute weights that make them (l1), by all weights that make and read
    them (norm, the default), by the distance to the others (fpgm), by the BatchNorm's scale, by the change of the loss to
    first order (taylor), or at random; or the smaller network is trained anew, with filters that are fused from all of the
    original's number (dcff, annealed; dcff_released, as its authors have it), or as it is (scratch). Videos: formats after
    ADMM (admm, the default), or at once (decompose)."""
    target: Target = TARGET
    """Points, images: what shrinks, and to which part of the original's: multiply-adds, parameters, or milliseconds of
    one sample measured here (latency)."""
    ih: FormatSpec = field(default_factory=FormatSpec)
    """Videos: the format of the input-to-hidden matrix."""
    hh: FormatSpec = field(default_factory=FormatSpec)
    """Videos: the format of the hidden-to-hidden matrix."""
    rho: float = 1.0
    """ADMM's penalty, relative to the squared norm of each matrix."""
    epochs: int | None = None
    """All of them together; default: a fifth of the run's, for videos half, for dcff and scratch, which start from new
    weights, as many as the run's."""
    lr: float | None = None
    """At the start; default: a fifth of the run's, for dcff and scratch the run's."""
    seed: int | None = None
    """Of random channels and of training; default: the run's."""
    out: Path | None = None
    """The new run's folder; default: the run's with the method and the target in its name, beside it."""


def main(options: Options) -> None:
    from rich.console import Console

    from dropfold.compress.run.channels import take_channels_out
    from dropfold.compress.run.formats import compress_into_formats
    from dropfold.compress.run.scratch import train_smaller
    from dropfold.train.tasks.trained import Trained

    (what, part), training = options.target, (options.epochs, options.lr, options.seed)
    trained = Trained.of(options.run)
    method = options.method or ("admm" if trained.config.task == "video" else "norm")
    _check(options, method)
    if trained.config.sizes:
        raise ValueError(
            f"{options.run} is compressed already; compress the run that it was made of, to another target."
        )
    name = f"{options.run.name}-{method}" + (f"-{what}-{part:g}" if method not in FORMATS else "")
    out = options.out or options.run.with_name(name)
    if method in CHANNELS:
        found = take_channels_out(trained, out, method, what, part, *training)
    elif method in SCRATCH:
        found = train_smaller(trained, out, method, what, part, *training)
    else:
        found = compress_into_formats(trained, out, method, options.ih, options.hh, options.rho, *training)
    Console().print(table(found))
    print(f"run: {out}")


def _check(options: Options, method: str) -> None:
    """Refuse values out of range, and options that the method does not take."""
    what, part = options.target
    if not 0 < part < 1:
        raise ValueError(
            f"--target {what} takes a part of the original's, above 0 and below 1; got {part:g}."
        )
    for name, value in (("rho", options.rho), ("epochs", options.epochs), ("lr", options.lr)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name} must be above 0; got {value:g}.")
    if method not in FORMATS and (options.ih, options.hh) != (FormatSpec(), FormatSpec()):
        raise ValueError(
            f"--ih and --hh are formats of recurrent networks; --method {method} takes channels out and no formats."
        )
    if method in FORMATS and options.target != TARGET:
        raise ValueError(
            f"--target is for channels; --method {method} is given formats with ranks, --ih and --hh."
        )


def table(found: dict[str, Any]) -> Any:
    """What became of the network, stage by stage and group by group."""
    from rich.table import Table

    target = " ".join(map(str, found.get("target", ())))
    shown = Table(title=f"{Path(found['run']).name}, {found['method']} {target}")
    for name in ("", "before", "after", "after / before"):
        shown.add_column(name, justify="right" if name else "left")
    for name, digits in (
        ("ms at batch 1", 2),
        ("ms at batch 32", 1),
        ("M multiply-adds", 1),
        ("parameters", 0),
    ):
        if name not in found["cost"]:
            continue
        before, after = found["cost"][name]
        shown.add_row(name, f"{before:,.{digits}f}", f"{after:,.{digits}f}", f"{after / before:.2f}")
    leading = next(iter(found["scores"]["original"]))
    for stage, scores in found["scores"].items():
        shown.add_row(f"{leading}, {stage}", "", f"{100 * scores[leading]:.1f} %", "")
    return shown
