"""Train a network by a recipe, or continue a run: `dropfold train RECIPE [options]`.

Several processes: `torchrun --nproc-per-node N -m dropfold.train RECIPE`.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dropfold.data_scripts.work.ending import end_with_a_sentence

if TYPE_CHECKING:
    from dropfold.train.config.configs import Config


def main(words: Sequence[str] | None = None, program: str = "dropfold train") -> None:
    """Train what `words` (default: the command line) ask for."""
    with end_with_a_sentence():
        _train(list(sys.argv[1:] if words is None else words), program)


def _train(words: list[str], program: str) -> None:
    import tyro

    from dropfold.train.config.recipes import RECIPES, recipe

    recipes = {name: ((make.__doc__ or "").splitlines()[0], recipe(name)) for name, make in RECIPES.items()}
    config: Config = tyro.extras.overridable_config_cli(
        recipes, prog=program, description=__doc__, args=words
    )
    from dropfold.train.engine.run import Run
    from dropfold.train.scoring.metrics import in_a_line

    run: Run | None = None
    try:
        run = Run(config)
        summary = run.train()
    except (Exception, KeyboardInterrupt) as error:
        folder = config.resume if run is None else run.folder
        begun = folder is not None and (folder / "config.json").exists()
        if begun:
            error.add_note(f"go on with: {_command(config)} --resume {shlex.quote(str(folder))}")
        elif isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            error.add_note("give the same command again; or --out names another folder")
        if (peer := _name_lost_peer(error)) is None:
            raise
        advice = "" if begun else f", with: {_command(config)} --resume FOLDER"
        lost = ChildProcessError(f"{peer}. All whole epochs are kept{advice}")
        lost.__notes__ = error.__notes__ if begun else []
        raise lost from None
    if summary:
        figures = {
            name.removeprefix("test/"): value for name, value in summary.items() if name.startswith("test/")
        }
        print(f"test: {in_a_line(figures)}, {summary['seconds']:.0f} s\nreport: {run.folder / 'report.html'}")


def _command(config: Config) -> str:
    """The command that trains by the recipe of a config, with as many processes as now."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    launched = f"torchrun --nproc-per-node {processes} -m dropfold.train"
    return f"{launched if processes > 1 else 'dropfold train'} {config.recipe}".strip()


def _name_lost_peer(error: BaseException) -> str | None:
    """Of an error that the other processes of a training make by ending: what happened; None of any other error."""
    import torch

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1 or not isinstance(error, RuntimeError):
        return None
    distributed = getattr(torch.distributed, "DistError", ())
    words = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
    if not isinstance(error, distributed) and not any(word in str(error).lower() for word in words):
        return None
    return (
        f"another of the {processes} processes of this training has ended, and rank {os.environ.get('RANK', '?')} cannot "
        "go on without it; its own message, or the launcher's, says why"
    )


if __name__ == "__main__":
    main()
