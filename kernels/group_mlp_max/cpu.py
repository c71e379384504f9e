"""The operators of group_mlp_max on the CPU: a tile's chain in one compiled call, or its passes one by one."""

from dropfold.kernels.group_mlp_max.chain import operators_on
from dropfold.kernels.group_mlp_max.compiled_chain import choose_chain

group_mlp_max_moments, group_mlp_max_fwd, group_mlp_max_sums, group_mlp_max_bwd = operators_on(choose_chain)
