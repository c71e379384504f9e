"""The base of every operation: operators, Triton, numba, matrix products, threads."""
