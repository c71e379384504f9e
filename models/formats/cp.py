"""CP (canonical polyadic): a sum of R products of vectors, or, with paired modes, of small matrices.

    unpaired: W = sum_r prod_k a_k[i_k, r] prod_l b_l[j_l, r]          R (sum m + sum n) parameters, W of rank at most R
    paired:   W = sum_r A_1[:, :, r] (x) .. (x) A_d[:, :, r]           R sum m_k n_k parameters (Kronecker CP)

Sources: Hitchcock 1927; for LSTMs tednet (Pan et al. 2022) and, paired, KCP (Wang et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dropfold.models.formats.fitting import grown
from dropfold.models.formats.network import Format, Indices, checked_modes, checked_ranks
from dropfold.models.formats.tt import paired_modes


class CP(Format):
    """A matrix in CP form.

    Args:
        in_modes, out_modes: as many of one as of the other if `paired`.
        rank: R.
        paired: a core for each pair of modes, instead of one for each mode.
    """

    def __init__(
        self,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        rank: int | Sequence[int],
        *,
        paired: bool = False,
    ) -> None:
        if paired:
            rows, columns = paired_modes("paired CP", in_modes, out_modes)
            if len(rows) < 2:
                raise ValueError(
                    "paired CP needs at least two pairs of modes; with one it is the matrix itself."
                )
            layout: list[Indices] = [(f"i{k}", f"j{k}", "r") for k in range(len(rows))]
            left = max(1, len(rows) // 2)
        else:
            rows, columns = checked_modes("in_modes", in_modes), checked_modes("out_modes", out_modes)
            layout = [
                *((f"i{k}", "r") for k in range(len(rows))),
                *((f"j{k}", "r") for k in range(len(columns))),
            ]
            left = len(rows)
        self.paired = paired
        (self.rank,) = checked_ranks("CP", rank, 1, "one number of terms")
        super().__init__(rows, columns, layout, {"r": self.rank}, range(left))

    @classmethod
    def from_dense(
        cls,
        weight: Tensor,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        *,
        ranks: int | Sequence[int] | None = None,
        eps: float | None = None,
        paired: bool = False,
    ) -> CP:
        """Alternating least squares from random starts (the best CP need not exist); `error` is what it reached."""
        return grown(lambda r: cls(in_modes, out_modes, r, paired=paired), weight, ranks, eps)
