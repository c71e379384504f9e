"""Why a network decides as it does, and which of its units matter."""

from dropfold.explain.maps.explanation import Explanation, effective_points
from dropfold.explain.maps.maps import explain
from dropfold.explain.score.axioms import axioms
from dropfold.explain.score.curves import cascade, dropping, rank_correlation, sanity
from dropfold.explain.score.game import two_shape_game
from dropfold.explain.score.infidelity import infidelity, random_drops
from dropfold.explain.score.saliency import saliency
from dropfold.explain.units.ablation import ablate, each_unit, unit_values
from dropfold.explain.units.damage import attributes, correlations, damage
from dropfold.explain.units.removal import cumulative_accuracy, smaller_network

__all__ = [
    "Explanation",
    "ablate",
    "attributes",
    "axioms",
    "cascade",
    "correlations",
    "cumulative_accuracy",
    "damage",
    "dropping",
    "each_unit",
    "effective_points",
    "explain",
    "infidelity",
    "random_drops",
    "rank_correlation",
    "saliency",
    "sanity",
    "smaller_network",
    "two_shape_game",
    "unit_values",
]
