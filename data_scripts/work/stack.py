"""Arrays larger than memory: rows are written to files one after the other, and seen as arrays that lie on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Stack:
    """Entries of any number of rows each, in a folder: one file an array."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.kinds: dict[str, tuple[Any, tuple[int, ...]]] = {}
        self.size: list[int] = []

    def append(self, arrays: dict[str, np.ndarray], size: Sequence[int]) -> None:
        """Entries of `size` rows each, one after the other in every array."""
        for name, rows in arrays.items():
            begun = name in self.kinds
            self.kinds[name] = rows.dtype, rows.shape[1:]
            # Written, not mapped: on a full disk a write is an error, and a store into a map kills the process.
            with (self.folder / f"{name}.rows").open("ab" if begun else "wb") as file:
                file.write(np.ascontiguousarray(rows).data)
        self.size += [int(m) for m in size]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays, and ptr [n + 1]: rows ptr[i] .. ptr[i + 1] are entry i."""
        ptr = np.concatenate([[0], np.cumsum(self.size)]).astype(np.int64)
        found: dict[str, np.ndarray] = {"ptr": ptr}
        for name, (kind, shape) in self.kinds.items():
            found[name] = np.memmap(self.folder / f"{name}.rows", kind, "r", shape=(int(ptr[-1]), *shape))
        return found
