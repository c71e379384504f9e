"""group_mlp_max in Triton."""

from functools import partial

from dropfold.kernels.group_mlp_max.outputs import operators_on
from dropfold.kernels.group_mlp_max.tiles import Chain
from dropfold.kernels.group_mlp_max.triton_passes import OnGPU

group_mlp_max_moments, group_mlp_max_fwd, group_mlp_max_sums, group_mlp_max_bwd = operators_on(
    partial(Chain, OnGPU)
)
