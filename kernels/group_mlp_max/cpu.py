"""group_mlp_max on the CPU: a tile's chain in one compiled call, or its passes one by one."""

from dropfold.kernels.group_mlp_max.compiled_chain import on_cpu
from dropfold.kernels.group_mlp_max.outputs import operators_on

group_mlp_max_moments, group_mlp_max_fwd, group_mlp_max_sums, group_mlp_max_bwd = operators_on(on_cpu)
