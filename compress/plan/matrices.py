"""The matrices of a network, and which of them two thin ones can replace."""

from __future__ import annotations

from typing import Any

from torch import nn

from dropfold.models.layers.grouped import EdgeConv2, GroupMLPMax
from dropfold.models.layers.linear_norm import (
    EdgeConv,
    LinearNorm,
    LinearNormAct,
    LinearNormMax,
    LinearNormPool,
)
from dropfold.models.layers.low_rank import CONVOLUTIONS, flat
from dropfold.models.layers.sizes import edge_matrices, sizes_of, tied

RUN_PAIRS = (LinearNormAct, LinearNormMax, LinearNormPool, EdgeConv)  # themselves, not what is made of them
LEAST = 16  # rows and columns of a matrix that is looked at for its rank


def matrices_of(model: nn.Module) -> dict[str, Any]:
    """The matrices and convolutions without groups, by their names."""
    return {
        name: module
        for name in sizes_of(model)
        if isinstance(module := model.get_submodule(name), nn.Linear)
        or (isinstance(module, CONVOLUTIONS) and module.groups == 1)
    }


def full_ranks(model: nn.Module) -> dict[str, int]:
    """The full rank of each matrix that two thin ones can replace to save time: those that are called, and those of layers
    that run pairs.

    Perceptrons on groups and layers of their own kinds multiply by the matrix, whatever it is made of. A weight that several
    layers share stays, and so does a matrix of fewer than 16 rows or columns.
    """
    owned = {
        f"{name}.": type(module) in RUN_PAIRS
        for name, module in model.named_modules()
        if isinstance(module, LinearNorm)
    }
    grouped = tuple(
        f"{name}." for name, module in model.named_modules() if isinstance(module, GroupMLPMax | EdgeConv2)
    )
    edges, shared = edge_matrices(model), tied(model)
    ranks = {
        name: min(flat(module.weight, name in edges).shape)
        for name, module in matrices_of(model).items()
        if not name.startswith(grouped)
        and f"{name}.weight" not in shared
        and all(runs for owner, runs in owned.items() if name.startswith(owner))
    }
    return {name: rank for name, rank in ranks.items() if rank >= LEAST}
