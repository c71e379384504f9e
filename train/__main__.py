"""Train a network by a recipe, or continue a run: `dropfold train RECIPE [options]`.

Several processes: `torchrun --nproc-per-node N -m dropfold.train RECIPE`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(words: Sequence[str] | None = None, program: str = "dropfold train") -> None:
    """Train what `words` (default: the command line) ask for."""
    import tyro

    from dropfold.train.config.configs import Config
    from dropfold.train.config.recipes import RECIPES, recipe

    recipes = {name: ((make.__doc__ or "").splitlines()[0], recipe(name)) for name, make in RECIPES.items()}
    config: Config = tyro.extras.overridable_config_cli(
        recipes, prog=program, description=__doc__, args=sys.argv[1:] if words is None else words
    )
    from dropfold.data_scripts.work.errors import in_a_sentence
    from dropfold.train.engine.run import Run
    from dropfold.train.scoring.metrics import in_a_line

    run: Run | None = None
    try:
        run = Run(config)
        summary = run.train()
    except (ValueError, OSError, FloatingPointError) as error:
        begun = run is not None and (run.folder / "config.json").exists()
        advice = (
            f"; once that is mended: --resume {run.folder}"
            if run and begun and isinstance(error, OSError)
            else ""
        )
        raise SystemExit(f"error: {in_a_sentence(error)}{advice}") from None
    except KeyboardInterrupt:
        if run is None or not (run.folder / "config.json").exists():
            raise SystemExit("\ninterrupted before anything was written.") from None
        raise SystemExit(
            f"\ninterrupted; go on with: dropfold train {config.recipe} --resume {run.folder}"
        ) from None
    if summary:
        figures = {
            name.removeprefix("test/"): value for name, value in summary.items() if name.startswith("test/")
        }
        print(f"test: {in_a_line(figures)}, {summary['seconds']:.0f} s\nreport: {run.folder / 'report.html'}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
