"""Groups of points, the neighbourhoods that an operation pools over, in CSR form.

Group g is the rows `idx[ptr[g]:ptr[g + 1]]` of x, each different. The padded form that is usual elsewhere, [G, k], repeats
an entry `count` times if a ball holds fewer than k points. A max over a group ignores copies and sums weigh entries by
their count, so a copy costs nothing here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Groups(NamedTuple):
    """ptr [G + 1] and idx [E] int64, count [E] int64 (None: each entry counts once)."""

    ptr: Tensor
    idx: Tensor
    count: Tensor | None = None  # type: ignore[assignment]

    def padded(self, k: int) -> Tensor:
        """The usual form: int64 [G, k], a group's entries and then copies of its first one.

        Raises:
            ValueError: a group is empty, or has more than k entries.
        """
        size = self.ptr[1:] - self.ptr[:-1]
        if size.numel() and not 1 <= int(size.min()) <= int(size.max()) <= k:
            raise ValueError(
                f"groups of 1 to k = {k} entries can be padded; got {int(size.min())} to {int(size.max())}."
            )
        place = torch.arange(k, device=self.ptr.device)
        place = torch.where(place < size[:, None], place, 0)
        return self.idx[self.ptr[:-1, None] + place]


def neighbourhoods(idx: Tensor) -> Groups:
    """The groups of lists of equal length: int64 [G, k] row numbers, as `knn` gives them for rows."""
    groups, k = idx.shape
    return Groups(torch.arange(groups + 1, device=idx.device) * k, idx.reshape(-1))
