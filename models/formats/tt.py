"""Tensor train: W[(i_1 .. i_d), (j_1 .. j_d)] = G_1[i_1, j_1] .. G_d[i_d, j_d], G_k: r_{k-1} x m_k x n_k x r_k.

Sources: TT matrices, Oseledets 2011 and Novikov et al. 2015; the TT-LSTM, Yang, Krompass and Tresp 2017.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from torch import Tensor

from dropfold.models.formats.fitting import interleave, one_of, truncated_svd, warn_wasteful
from dropfold.models.formats.network import Format, checked_modes, checked_ranks


class TT(Format):
    """A matrix as a tensor train (TT-matrix, MPO).

    Args:
        in_modes, out_modes: as many of one as of the other.
        ranks: r_1 .. r_{d-1}, or one for all. Parameters: sum_k r_{k-1} m_k n_k r_k.
    """

    frames = True

    def __init__(self, in_modes: Sequence[int], out_modes: Sequence[int], ranks: int | Sequence[int]) -> None:
        in_modes, out_modes = paired_modes("TT", in_modes, out_modes)
        d = len(in_modes)
        self.ranks = checked_ranks("TT", ranks, d - 1, "one for each bond between two modes")
        pairs = [m * n for m, n in zip(in_modes, out_modes)]
        for k, r in enumerate(self.ranks):
            warn_wasteful("TT", f"bond {k + 1}", r, min(math.prod(pairs[: k + 1]), math.prod(pairs[k + 1 :])))
        layout = [
            tuple(
                f"{kind}{bond}"
                for kind, bond in (("r", k), ("i", k), ("j", k), ("r", k + 1))
                if not (kind == "r" and bond in (0, d))
            )
            for k in range(d)
        ]
        sizes = {f"r{k + 1}": r for k, r in enumerate(self.ranks)}
        super().__init__(in_modes, out_modes, layout, sizes, range(max(1, d // 2)))

    @classmethod
    def from_dense(
        cls,
        weight: Tensor,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        *,
        ranks: int | Sequence[int] | None = None,
        eps: float | None = None,
    ) -> Self:
        """TT-SVD (Oseledets 2011, algorithm 1) at given ranks, or with an error of at most eps |W|_F; `error` is
        what it reached."""
        in_modes, out_modes = paired_modes("TT", in_modes, out_modes)
        one_of(ranks, eps)
        d = len(in_modes)
        rest = interleave(weight, in_modes, out_modes)
        delta = None if eps is None else eps * weight.norm().item() / math.sqrt(max(1, d - 1))
        wanted = (
            None
            if ranks is None
            else checked_ranks("TT", ranks, d - 1, "one for each bond between two modes")
        )
        cores, found = [], [1]
        for k in range(d - 1):
            matrix = rest.reshape(found[-1] * in_modes[k] * out_modes[k], -1)
            u, remainder = truncated_svd(matrix, None if wanted is None else wanted[k], delta)
            cores.append(u)
            found.append(u.shape[1])
            rest = remainder
        cores.append(rest)
        made = cls(in_modes, out_modes, found[1:])
        return made.load(cores, weight)


def paired_modes(
    format_: str, in_modes: Sequence[int], out_modes: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Modes of a format whose cores hold one input and one output mode each."""
    rows, columns = checked_modes("in_modes", in_modes), checked_modes("out_modes", out_modes)
    if len(rows) != len(columns):
        raise ValueError(
            f"{format_} pairs each input mode with an output mode; got {len(rows)} in_modes {list(rows)} and "
            f"{len(columns)} out_modes {list(columns)}. Pad the shorter one with 1."
        )
    return rows, columns
