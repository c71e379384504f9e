"""`dropfold compress RUN --target macs 0.5`: a smaller network out of a trained one, fine-tuned, as a run of its own.

Of networks over points and images channels are taken out: which ones is chosen once. The small network is compared with
the one in which those channels are masked, its BatchNorms are measured anew, and then it is trained on; or a network of
these sizes is trained anew (dcff, scratch). Or their matrices become pairs of thin ones, and those of a recurrent network
over videos tensor networks: drawn near to them first (admm), or at once (decompose).

What was chosen and measured is kept in the new run's compression.json; the same command again goes on from there.
`evaluate`, `predict`, `explain` and `robustness` take the new run like any other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from dropfold.models.formats import FormatSpec

Method = Literal[
    "cc", "cc-released", "l1", "norm", "fpgm", "bn_scale", "taylor", "ablation", "random",
    "dcff", "dcff-released", "scratch", "admm", "decompose"
]  # fmt: skip
SCRATCH = "dcff", "dcff-released", "scratch"
FACTORS = "admm", "decompose"
CHANNELS = tuple(method for method in get_args(Method) if method not in SCRATCH + FACTORS)
Target = tuple[Literal["latency", "macs", "parameters"], float]
TARGET: Target = ("macs", 0.5)


@dataclass
class Options:
    """Compress a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    method: Method | None = None
    """Points, images: channels and ranks of matrices, as many in each layer as its loss of information allows (cc, the
    default; cc-released by its authors' formula on our curves); or the same share of channels everywhere, which ones by the
    absolute weights that make them (l1), by all weights that make and read them (norm), by the distance to the others
    (fpgm), by the BatchNorm's scale, by the change of the loss to first order (taylor) or measured with each masked in turn
    (ablation: slow), or at random. Or the smaller network is trained anew, with filters that are fused from all of the
    original's number (dcff, annealed; dcff-released, as its authors have it), or as it is (scratch). Or the same share of
    its rank for every matrix, after ADMM (admm), or at once (decompose). Videos: formats after ADMM (admm, the default), or
    at once (decompose)."""
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
    """All of them together; default: a fifth of the run's, for admm, which has two stages, and decompose half, for dcff and
    scratch, which start from new weights, as many as the run's."""
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
    from dropfold.compress.run.page import table
    from dropfold.compress.run.ranks import compress_into_ranks
    from dropfold.compress.run.record import Request, going_on
    from dropfold.compress.run.scratch import train_smaller
    from dropfold.train.tasks.trained import Trained

    trained = Trained.of(options.run)
    video = trained.config.task == "video"
    method = options.method or ("admm" if video else "cc")
    into_formats = video and method in FACTORS
    _check(options, method, into_formats)
    if trained.config.sizes:
        raise ValueError(
            f"{options.run} is compressed already; compress the run that it was made of, to another target."
        )
    if trained.config.operations:
        raise ValueError(f"{options.run} is transformed already; compress the run that it was made of.")
    what, part = options.target
    out = options.out or beside(options.run, method + ("" if into_formats else f"-{what}-{part:g}"))
    training = options.epochs, options.lr, options.seed
    request = Request(trained, out, method, options.target, *training, options.rho)
    with going_on(out):
        if method in CHANNELS:
            found = take_channels_out(request)
        elif method in SCRATCH:
            found = train_smaller(request)
        elif into_formats:
            found = compress_into_formats(request, options.ih, options.hh)
        else:
            found = compress_into_ranks(request)
    Console().print(table(found))
    print(f"run: {out}")


def beside(run: Path, ending: str) -> Path:
    """A folder beside a run's, with an ending to its name."""
    absolute = Path(os.path.abspath(run))  # "." and ".." have names then
    return (run.parent if run.name == absolute.name else absolute.parent) / f"{absolute.name}-{ending}"


def check_start(word: str, target: tuple[str, float]) -> None:
    """Refuse several processes, and a target that is no part."""
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ValueError(
            f"{word} runs in one process, and these are {processes}; start it without torchrun (one GPU is used)."
        )
    what, part = target
    if not 0 < part < 1:
        raise ValueError(
            f"--target {what} takes a part of the original's, above 0 and below 1; got {part:g}."
        )


def _check(options: Options, method: str, into_formats: bool) -> None:
    """Refuse values out of range, options that the method does not take, and several processes."""
    check_start("compress", options.target)
    for name, value in (("rho", options.rho), ("epochs", options.epochs), ("lr", options.lr)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name} must be above 0; got {value:g}.")
    if not into_formats and (options.ih, options.hh) != (FormatSpec(), FormatSpec()):
        takes = (
            "gives matrices ranks by --target" if method in FACTORS else "takes channels out and no formats"
        )
        raise ValueError(f"--ih and --hh are formats of recurrent networks; here --method {method} {takes}.")
    if method != "admm" and options.rho != Options.rho:
        raise ValueError(f"--rho is ADMM's penalty; --method {method} has none.")
    if method == "admm" and options.epochs == 1:
        raise ValueError(
            "--method admm needs two epochs or more, half of them before the matrices are cut; got --epochs 1."
        )
    if into_formats and options.target != TARGET:
        raise ValueError(
            f"--target is for channels and ranks; of videos --method {method} is given formats with ranks, --ih and --hh."
        )
