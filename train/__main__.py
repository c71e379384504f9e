"""`python -m train RECIPE [options]`; several processes by `torchrun --nproc-per-node N -m train RECIPE`."""

from __future__ import annotations

import sys

from train.config import Config
from train.recipes import RECIPES, recipe


def main() -> None:
    import tyro

    recipes = {name: ((make.__doc__ or "").splitlines()[0], recipe(name)) for name, make in RECIPES.items()}
    config: Config = tyro.extras.overridable_config_cli(recipes, description=__doc__)
    from train.engine import Run, in_a_line

    run: Run | None = None
    try:
        run = Run(config)
        summary = run.train()
    except (ValueError, OSError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        if run is None or not (run.folder / "config.json").exists():
            raise SystemExit("\ninterrupted before anything was written.") from None
        raise SystemExit(
            f"\ninterrupted; go on with: python -m train {config.recipe} --resume {run.folder}"
        ) from None
    if summary:
        print(f"test: {in_a_line(summary)}, {summary['seconds']:.0f} s\nreport: {run.folder / 'report.html'}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
