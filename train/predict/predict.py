"""`dropfold predict RUN FILE...`: the predictions of a trained network for shapes, scenes, videos and images in files.

For a run on point clouds: meshes (OFF, OBJ, STL, PLY, GLB) are sampled on their surface; clouds (PLY, PCD, XYZ, TXT, NPY)
are taken as they are. Each file is read as the training data were: centred, scaled into the unit sphere. Its upright axis
should be theirs. For a run on videos: any file that PyAV decodes, or frames [T, H, W, C] in an NPY. For a
run on images: PNG and JPEG of the training images' size, or folders of them.

A run on parts or scenes labels every point: `dropfold predict RUN scene.ply --out labelled.ply`. Scenes are read from
PLY, LAS, LAZ, PCD, XYZ, TXT, NPY; shapes with parts from the formats above. Both are written as any of the scene formats
but PCD, each point with the number that its class has in the files that the data set was made of. Labels in a scene are
compared. Scenes have z upwards; colours are 0 .. 255.
"""

from __future__ import annotations

import json
import sys
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dropfold.data_scripts.readers.columns import Layout, parse_layout
from dropfold.data_scripts.readers.units import Unit
from dropfold.data_scripts.work.ending import find_sentence
from dropfold.data_scripts.work.folders import print_line

if TYPE_CHECKING:
    from dropfold.train.tasks.trained import Trained


Also = Callable[[int, dict[str, Any]], str]
"""What else is done with the i-th file, of its row; it may add to the row, and says in words what it did."""

LABELLING = ("parts", "scenes", "blocks")
OF_POINTS = ("clouds", *LABELLING)


@dataclass
class Options:
    """Predict the class of shapes, or of each of their points, in files."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Meshes, clouds, scenes, videos or images; of images also folders."""
    votes: int | None = None
    """Samplings of each mesh or cloud whose probabilities are averaged, default 8. For runs that label points: how often
    the points are cut into groups, default 1, or as the run's config says."""
    out: Path | None = None
    """Parts and scenes: where the labelled points of one file go; default: NAME-labelled.ply beside it."""
    overwrite: bool = False
    """Also replace a file at --out that does not say that dropfold wrote it, as text and .npy cannot."""
    category: str = ""
    """Parts: the kind of shape in the files."""
    unit: Unit | None = None
    """Scenes: the unit of the coordinates; default: metres, if that gives a room's size."""
    columns: str | None = None
    """Of text tables and .npy arrays, "x y z i r g b" say, - leaves one out; default: by their names, or a guess that is
    said."""
    drop_nan: bool = False
    """Leave out points with numbers that are not finite; otherwise they are a fault."""
    precision: Literal["float32", "int8", "bf16"] = "float32"
    """float32, as it was trained, or fewer bits; each prediction says so."""
    top: int | None = None
    """Classes shown for each file, default 3; of runs that name classes."""
    json: bool = False
    """Print JSON: a list of {file, class, probabilities}; of labelled points {file, out, points, classes, codes, scores}."""


def main(options: Options, prepare: Callable[[Trained, tuple[Path, ...]], Also] | None = None) -> None:
    """Predict; `prepare` gives what else is done with each of the files, before any is predicted."""
    if not options.files:
        print(f"error: no file to predict; usage: dropfold predict {options.run} FILE...", file=sys.stderr)
        raise SystemExit(2)
    if options.votes is not None and options.votes < 1:
        raise ValueError(f"votes must be at least 1; got {options.votes}.")
    if options.top is not None and options.top < 1:
        raise ValueError(f"top must be at least 1; got {options.top}.")
    layout = parse_layout(options.columns, options.drop_nan)
    from dropfold.train.tasks import images
    from dropfold.train.tasks.registry import CLASSIFYING
    from dropfold.train.tasks.trained import Trained

    trained = Trained.of(options.run)
    refuse_idle(options, trained.config.task)
    if trained.config.task == "images":
        files, notes = images.list_pictures(options.files)
        options = replace(options, files=files)
        for note in notes:
            print_line(f"note: {note}")
    if options.precision != "float32":
        if prepare is not None:
            raise ValueError(
                f"--explain is of the network in float32, and --precision {options.precision} predicts by another; leave "
                "one out."
            )
        print(f"note: {trained.lower_precision(options.precision).describe()}", file=sys.stderr)
    classifying = trained.config.task in CLASSIFYING
    each = (classify_each if classifying else label_each)(options, trained, layout)
    if prepare is not None:
        each = and_also(each, prepare(trained, options.files))
    if options.precision != "float32":
        each = and_also(each, partial(say_precision, options.precision))
    predict_all(options, each, "predicting" if classifying else "")


def and_also(
    each: Callable[[int], tuple[dict[str, Any], str]], also: Also
) -> Callable[[int], tuple[dict[str, Any], str]]:
    """Predict the i-th file, and do what else is asked."""

    def both(i: int) -> tuple[dict[str, Any], str]:
        row, words = each(i)
        said = also(i, row)
        return row, words + said

    return both


def say_precision(precision: str, i: int, row: dict[str, Any]) -> str:
    """Mark a row by its precision."""
    row["precision"] = precision
    return f" ({precision})"


def refuse_idle(options: Options, task: str) -> None:
    """Refuse options that a run of this task would take without using them."""
    for name, given, used_by in (
        ("--votes", options.votes is not None, OF_POINTS),
        ("--columns", options.columns is not None, OF_POINTS),
        ("--drop-nan", options.drop_nan, OF_POINTS),
        ("--unit", options.unit is not None, ("scenes", "blocks")),
        ("--category", bool(options.category), ("parts",)),
        ("--overwrite", options.overwrite, LABELLING),
        ("--top", options.top is not None, ("clouds", "video", "images")),
    ):
        if given and task not in used_by:
            raise ValueError(
                f"{name} is for runs on {' or '.join(used_by)}, and {options.run} is one on {task}; leave it out."
            )


def predict_all(
    options: Options, predict_one: Callable[[int], tuple[dict[str, Any], str]], bar: str = ""
) -> None:
    """Print what is predicted of each file as soon as it is known: `predict_one(i)` gives it as JSON and in words. A file
    that cannot be read stops no other; the program then ends with status 1. bar: the text of a progress bar, shown where the
    rows are not seen; of work that has a bar for each file, none."""
    from rich.console import Console
    from rich.progress import Progress

    files, failed, done = options.files, 0, 0
    console = Console(stderr=True)
    shown = bar and len(files) > 1 and console.is_terminal and not (sys.stdout and sys.stdout.isatty())
    progress = Progress(console=console, redirect_stdout=False, transient=True, disable=not shown)
    try:
        with Printed(options.json) as printed, progress:
            for i, file in enumerate(progress.track(files, description=bar)):
                try:
                    printed.add(*predict_one(i))
                except BrokenPipeError:
                    raise
                except Exception as error:
                    failed += 1
                    say_fault(error, file)
                done += 1
    except KeyboardInterrupt as stop:
        left = f", and nothing of {files[done]} was written" if done < len(files) else ""
        stop.add_note(f"{done} of {len(files)} files are done{left}")
        raise
    if failed:
        raise SystemExit(
            1
            if len(files) == 1
            else f"error: {failed} of {len(files)} files could not be predicted, see above."
        )


def refuse_folder(file: Path, task: str) -> None:
    """Refuse a folder in the place of a file; those of images are listed before."""
    if file.is_dir():
        raise IsADirectoryError(
            f"{file} is a folder without PNG or JPEG; give pictures, or folders that hold some."
            if task == "images"
            else f"{file} is a folder; give the files in it: {file / '*'}"
        )


def say_fault(error: Exception, file: Path) -> None:
    """Print what is wrong with a file, after the traceback if it is a bug."""
    said = find_sentence(error)
    if said is None:
        traceback.print_exception(error)
        said = f"{file} cannot be predicted, by a fault of dropfold or of a library ({type(error).__name__}: {error})"
    print(f"error: {said}", file=sys.stderr, flush=True)


class Printed:
    """Rows on standard output, each at once: lines of words, or the entries of one list of JSON, which ends in any case."""

    def __init__(self, as_json: bool) -> None:
        self.as_json, self.count = as_json, 0

    def __enter__(self) -> Printed:
        return self

    def add(self, row: dict[str, Any], words: str) -> None:
        """Print a row."""
        if self.as_json:
            print(
                "," if self.count else "[",
                textwrap.indent(json.dumps(row, indent=2), "  "),
                sep="\n",
                end="",
                flush=True,
            )
        else:
            print(words, flush=True)
        self.count += 1

    def __exit__(self, *error: object) -> None:
        if self.as_json:
            print("\n]" if self.count else "[]", flush=True)


def classify_each(
    options: Options, trained: Trained, layout: Layout
) -> Callable[[int], tuple[dict[str, Any], str]]:
    """The function that predicts the class of the i-th file."""
    from dropfold.train.scoring.logits import predict
    from dropfold.train.tasks.registry import CLASSIFYING

    if options.out is not None:
        raise ValueError(f"--out is for runs that label points, and {options.run} names classes.")
    task, config, signature, network = (
        CLASSIFYING[trained.config.task],
        trained.config,
        trained.signature,
        trained.network,
    )
    names = signature.class_names

    def classify(i: int) -> tuple[dict[str, Any], str]:
        file = options.files[i]
        refuse_folder(file, trained.config.task)
        logits = predict(network, task.read(file, config, signature, options.votes or 8, layout))
        probabilities = (logits.sigmoid() if signature.multi_label else logits.softmax(1)).mean(0)
        order = probabilities.argsort(descending=True).tolist()
        likely = {names[c]: round(float(probabilities[c]), 4) for c in order}
        shown = ", ".join(f"{name} {100 * p:.1f} %" for name, p in list(likely.items())[: options.top or 3])
        return {"file": str(file), "class": names[order[0]], "probabilities": likely}, f"{file}: {shown}"

    return classify


def label_each(
    options: Options, trained: Trained, layout: Layout
) -> Callable[[int], tuple[dict[str, Any], str]]:
    """The function that labels the points of the i-th file."""
    from dropfold.train.predict.labelling import in_words, label_file, output_path

    if options.out is not None and len(options.files) > 1:
        raise ValueError(f"--out names one file, and {len(options.files)} are to be labelled.")
    targets = [output_path(file, options.out) for file in options.files]
    for file, out in zip(options.files, targets):
        if targets.count(out) > 1:
            raise ValueError(
                f"{file} and another file would both be labelled in {out}; label them one by one, with --out."
            )

    def label(i: int) -> tuple[dict[str, Any], str]:
        refuse_folder(options.files[i], trained.config.task)
        row = label_file(
            *(trained, options.files[i], targets[i]),
            votes=options.votes,
            category=options.category,
            unit=options.unit,
            layout=layout,
            overwrite=options.overwrite,
        )
        return row, in_words(row)

    return label
