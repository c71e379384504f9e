"""The operators of group_mlp_max in Triton."""

from functools import partial

from dropfold.kernels.group_mlp_max.chain import Chain, operators_on
from dropfold.kernels.group_mlp_max.triton_passes import OnGPU

group_mlp_max_moments, group_mlp_max_fwd, group_mlp_max_sums, group_mlp_max_bwd = operators_on(
    partial(Chain, OnGPU)
)
