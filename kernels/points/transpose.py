"""Lists of targets turned round, on the CPU."""

from dropfold.kernels.backend.numba import njit


@njit
def transpose(targets, ptr, entries):
    """A counting sort; of `entries`, the first ptr[-1] are filled."""
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
