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


def why_no_pair(model: nn.Module) -> dict[str, str]:
    """A sentence for each matrix or convolution whose place two thin ones cannot take."""
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    shared = tied(model)
    found: dict[str, str] = {}
    for name, module in matrices_of(model).items():
        if not name:
            found[name] = "it is the whole network"
        elif len(names[id(module)]) > 1:
            found[name] = f"it is one module under the names {', '.join(names[id(module)])}"
        elif f"{name}.weight" in shared:
            found[name] = "it shares its weight with another layer"
        elif type(module) not in (nn.Linear, *CONVOLUTIONS) or "weight" not in module._parameters:
            found[name] = f"it is a {type(module).__name__}, or its weight is made anew at each call"
        elif not module.weight.detach().isfinite().all():
            found[name] = "its weight is not finite"
    return found


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
    edges, no_pair = edge_matrices(model), why_no_pair(model)
    ranks = {
        name: min(flat(module.weight, name in edges).shape)
        for name, module in matrices_of(model).items()
        if not name.startswith(grouped)
        and name not in no_pair
        and all(runs for owner, runs in owned.items() if name.startswith(owner))
    }
    return {name: rank for name, rank in ranks.items() if rank >= LEAST}
