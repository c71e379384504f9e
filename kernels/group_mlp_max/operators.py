"""The four operators of group_mlp_max."""

from __future__ import annotations

from dropfold.kernels.backend.operator import operator
from dropfold.kernels.group_mlp_max.outputs import empty_forward, empty_gradients, empty_moments, empty_sums
from dropfold.kernels.noise.elementwise.operation import NOISE

ENTRIES = (
    "Tensor q, Tensor p, Tensor ptr, Tensor idx, Tensor owner, Tensor count, "
    "Tensor[] weights, Tensor[] vectors, float[] slopes"
)
GRADIENT = f"{ENTRIES}, Tensor matrix, Tensor constant, Tensor offset, Tensor g, Tensor where"


moments_of = operator(
    f"group_mlp_max_moments({ENTRIES}) -> (Tensor, Tensor)",
    implementations=__package__,
    fake=empty_moments,
)
forward_of = operator(
    f"group_mlp_max_fwd({ENTRIES}, Tensor offset, bool statistics, {NOISE}) -> (Tensor, Tensor, Tensor, Tensor)",
    implementations=__package__,
    fake=empty_forward,
)
sums_of = operator(
    f"group_mlp_max_sums({GRADIENT}, int layer) -> Tensor",
    implementations=__package__,
    fake=empty_sums,
)
gradients_of = operator(
    f"group_mlp_max_bwd({GRADIENT}) -> (Tensor, Tensor, Tensor, Tensor, Tensor[])",
    implementations=__package__,
    fake=empty_gradients,
)
