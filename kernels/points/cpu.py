"""Loops over rows on the CPU that clouds.py and positions.py import at their first call."""

from dropfold.kernels.backend.numba import njit


@njit
def transpose(targets, ptr, entries):
    """A counting sort of the positions in `targets` by target; of `entries`, the first ptr[-1] are filled."""
    ptr[:] = 0
    for target in targets:
        if target >= 0:
            ptr[target + 1] += 1
    for j in range(1, ptr.shape[0]):
        ptr[j] += ptr[j - 1]
    place = ptr.copy()
    for e, target in enumerate(targets):
        if target >= 0:
            entries[place[target]] = e
            place[target] += 1


@njit
def all_finite(rows):
    """Whether all rows [M, 3] are finite; one pass on the caller's thread, where torch's would wait for other threads."""
    bad = 0
    for i in range(rows.shape[0]):
        for c in range(3):
            bad += rows[i, c] - rows[i, c] != 0
    return bad == 0
