"""Counter-based random numbers: the same on every device, a function of (seed, index) alone."""

from dropfold.kernels.noise.philox.operation import as_seed, draw_seed, reference, uniform

__all__ = ["as_seed", "draw_seed", "reference", "uniform"]
