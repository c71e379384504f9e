"""Tucker: a core and a factor for each mode, W = G x_1 U_1 x_2 U_2 ...

    paired: U_k [m_k n_k, R_k] on pairs of modes, core R_1 .. R_d                 (one block of a BT)
    split:  U_k on each mode alone, core of order d + e; a mode may stay whole (rank None). Tucker-2 is the split form whose
            first input mode and only output mode have factors: W = U_1 G U_2.

Sources: Tucker 1966; HOSVD, De Lathauwer et al. 2000, truncated in sequence, Vannieuwenhoven et al. 2012.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Self

from torch import Tensor

from dropfold.models.formats.fitting import as_tensor, interleave, one_of, truncated_svd, warn_wasteful
from dropfold.models.formats.network import Format, Indices, checked_modes, checked_ranks
from dropfold.models.formats.tt import paired_modes

Ranks = int | Sequence[int | None]


class Tucker(Format):
    """A matrix in Tucker form.

    Args:
        in_modes, out_modes: as many of one as of the other if `paired`.
        ranks: one for each pair of modes, or, split, for each mode (inputs first; None: no factor); or one for all.
        paired: factors on pairs of modes.
    """

    frames = True

    def __init__(
        self, in_modes: Sequence[int], out_modes: Sequence[int], ranks: Ranks, *, paired: bool = True
    ) -> None:
        if paired:
            rows, columns = paired_modes("paired Tucker", in_modes, out_modes)
            modes: list[Indices] = [(f"i{k}", f"j{k}") for k in range(len(rows))]
            widths = [m * n for m, n in zip(rows, columns)]
        else:
            rows, columns = checked_modes("in_modes", in_modes), checked_modes("out_modes", out_modes)
            modes = [*((f"i{k}",) for k in range(len(rows))), *((f"j{k}",) for k in range(len(columns)))]
            widths = [*rows, *columns]
        self.paired, self.ranks = paired, _ranks(ranks, len(modes), paired)
        for k, (r, width) in enumerate(zip(self.ranks, widths)):
            if r is not None:
                others = math.prod(q or w for j, (q, w) in enumerate(zip(self.ranks, widths)) if j != k)
                warn_wasteful("Tucker", f"mode {k + 1}", r, min(width, others))
        factors = [(*mode, f"s{k}") for k, (mode, r) in enumerate(zip(modes, self.ranks)) if r is not None]
        core = tuple(
            i
            for k, (mode, r) in enumerate(zip(modes, self.ranks))
            for i in (mode if r is None else (f"s{k}",))
        )
        sizes = {f"s{k}": r for k, r in enumerate(self.ranks) if r is not None}
        layout = [*factors, core]
        if paired:
            left = list(range(max(1, len(rows) // 2)))
        else:
            # The core stands on the side whose modes it touches itself, or with the inputs.
            left = [k for k, indices in enumerate(factors) if indices[0][0] == "i"]
            outputs_factored = all(r is not None for r in self.ranks[len(rows) :])
            left = [*left, len(factors)] if outputs_factored else left
            if not outputs_factored and None in self.ranks[: len(rows)]:
                left = list(range(len(layout)))
        super().__init__(rows, columns, layout, sizes, left)

    @classmethod
    def from_dense(
        cls,
        weight: Tensor,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        *,
        ranks: Ranks | None = None,
        eps: float | None = None,
        paired: bool = True,
    ) -> Self:
        """Sequentially truncated HOSVD at given ranks, or with an error of at most eps |W|_F; `error` is what it reached."""
        one_of(ranks, eps)
        core = (interleave if paired else as_tensor)(weight, in_modes, out_modes)
        number = core.dim()
        wanted = None if ranks is None else _ranks(ranks, number, paired)
        delta = None if eps is None else eps * weight.norm().item() / math.sqrt(number)
        factors: list[Tensor] = []
        found: list[int | None] = []
        for k in range(number):
            if wanted is not None and wanted[k] is None:
                found.append(None)
                continue
            moved = core.movedim(k, 0)
            u, rest = truncated_svd(
                moved.reshape(moved.shape[0], -1), None if wanted is None else wanted[k], delta
            )
            factors.append(u)
            found.append(u.shape[1])
            core = rest.reshape(-1, *moved.shape[1:]).movedim(0, k)
        return cls(in_modes, out_modes, found, paired=paired).load([*factors, core], weight)


def _ranks(ranks: Ranks, number: int, paired: bool) -> tuple[int | None, ...]:
    meaning = "one for each pair of modes" if paired else "one for each mode, inputs first"
    if not isinstance(ranks, Iterable) or None not in ranks:
        return checked_ranks("Tucker", ranks, number, meaning)  # type: ignore[arg-type]
    if paired:
        raise ValueError(
            f"a pair of modes has a factor; ranks of None are for paired=False. Got {list(ranks)}."
        )
    checked_ranks("Tucker", [r or 1 for r in ranks], number, meaning)
    return tuple(ranks)
