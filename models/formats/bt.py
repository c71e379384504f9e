"""Block terms: a sum of B Tucker forms over paired modes.

    W[(i), (j)] = sum_b sum_{s_1 .. s_d} G^b[s_1 .. s_d] prod_k A_k^b[i_k, j_k, s_k]

B (sum_k m_k n_k R_k + prod_k R_k) parameters. B = 1 is the paired Tucker form.

Sources: De Lathauwer 2008; the BT-LSTM, Ye et al. 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from dropfold.models.formats.fitting import grown, warn_wasteful
from dropfold.models.formats.network import Format, Indices, checked_ranks, kron_macs
from dropfold.models.formats.tt import paired_modes


class BT(Format):
    """A matrix as a sum of block terms.

    Args:
        in_modes, out_modes: as many of one as of the other.
        ranks: R_1 .. R_d, or one for all.
        blocks: B.
        left: how many pairs stand left of the cut of `lower`; default where it has few terms, which depends on the ranks.
    """

    def __init__(
        self,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        ranks: int | Sequence[int],
        *,
        blocks: int = 2,
        left: int | None = None,
    ) -> None:
        rows, columns = paired_modes("BT", in_modes, out_modes)
        if blocks < 1:
            raise ValueError(f"blocks must be at least 1; got {blocks}.")
        self.ranks, self.blocks = checked_ranks("BT", ranks, len(rows), "one for each pair of modes"), blocks
        for k, r in enumerate(self.ranks):
            warn_wasteful("BT", f"pair {k + 1}", r, rows[k] * columns[k])
        layout: list[Indices] = [("b", f"i{k}", f"j{k}", f"s{k}") for k in range(len(rows))]
        layout.append(("b", *(f"s{k}" for k in range(len(rows)))))
        sizes = {"b": blocks} | {f"s{k}": r for k, r in enumerate(self.ranks)}
        super().__init__(rows, columns, layout, sizes, range(left or self._pairs_left(rows, columns)))

    def _pairs_left(self, rows: Sequence[int], columns: Sequence[int]) -> int:
        """How many pairs stand left of the cut: the middle, or, where that halves the work at least nearly, one.

        The core stands on the right, so the terms are B times the ranks on the left: few for one pair, many for half.
        """

        def macs(k: int) -> int:
            s = self.blocks * math.prod(self.ranks[:k])
            (p, q), (u, v) = ((math.prod(m[:k]), math.prod(m[k:])) for m in (rows, columns))
            return kron_macs((s, p, u), (s, q, v))

        middle = max(1, len(rows) // 2)
        return 1 if 1.5 * macs(1) < macs(middle) else middle

    @classmethod
    def from_dense(
        cls,
        weight: Tensor,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        *,
        ranks: int | Sequence[int] | None = None,
        eps: float | None = None,
        blocks: int = 2,
        left: int | None = None,
    ) -> BT:
        """Alternating least squares from random starts (the best block terms need not exist); `error` is what it reached."""
        return grown(lambda r: cls(in_modes, out_modes, r, blocks=blocks, left=left), weight, ranks, eps)
