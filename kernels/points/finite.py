"""Whether rows of coordinates are finite, on the CPU."""

from dropfold.kernels.backend.numba import njit


@njit
def all_finite(rows):
    """One pass of the caller's thread: torch's would wait for others."""
    bad = 0
    for i in range(rows.shape[0]):
        for c in range(3):
            bad += rows[i, c] - rows[i, c] != 0
    return bad == 0
