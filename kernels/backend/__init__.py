"""What every operation stands on: operators, Triton, numba, matrix products, threads."""
