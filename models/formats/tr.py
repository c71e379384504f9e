"""Tensor ring: W = Trace(Z_1[i_1] .. Z_d[i_d] Z_{d+1}[j_1] .. Z_{d+e}[j_e]), Z_k: r_{k-1} x p_k x r_k, r_{d+e} = r_0.

Input and output modes have cores of their own, so d and e may differ, and the rank of W is at most r_0 r_d.

Sources: Zhao et al. 2016 (tensor ring); the TR-LSTM, Pan et al. 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dropfold.models.formats.fitting import grown
from dropfold.models.formats.network import Format, checked_modes, checked_ranks


class TR(Format):
    """A matrix as a tensor ring.

    Args:
        in_modes, out_modes: d and e of them.
        ranks: r_0 .. r_{d+e-1}, or one for all; r_0 is the bond that closes the ring. Parameters: sum_k r_{k-1} p_k r_k.
    """

    def __init__(self, in_modes: Sequence[int], out_modes: Sequence[int], ranks: int | Sequence[int]) -> None:
        rows, columns = checked_modes("in_modes", in_modes), checked_modes("out_modes", out_modes)
        modes = [f"i{k}" for k in range(len(rows))] + [f"j{k}" for k in range(len(columns))]
        self.ranks = checked_ranks("TR", ranks, len(modes), "one for each core, the closing bond first")
        layout = [(f"r{k}", mode, f"r{(k + 1) % len(modes)}") for k, mode in enumerate(modes)]
        sizes = {f"r{k}": r for k, r in enumerate(self.ranks)}
        super().__init__(rows, columns, layout, sizes, range(len(rows)))

    @classmethod
    def from_dense(
        cls,
        weight: Tensor,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        *,
        ranks: int | Sequence[int] | None = None,
        eps: float | None = None,
    ) -> TR:
        """Alternating least squares from random starts (a ring has no closed form); `error` is what it reached."""
        return grown(lambda r: cls(in_modes, out_modes, r), weight, ranks, eps)
