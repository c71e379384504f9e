"""Adding the votes of a group to those of its points: the numba loop of `scene_prediction`."""

from __future__ import annotations

from dropfold.kernels.backend.numba import njit


@njit
def add_votes(votes, places, probabilities):  # type: ignore[no-untyped-def]
    """votes[places[i]] += probabilities[i], in the order of i; a place may come twice."""
    for i in range(places.shape[0]):
        for c in range(votes.shape[1]):
            votes[places[i], c] += probabilities[i, c]
