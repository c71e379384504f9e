"""What the implementations of knn share: constants and empty outputs."""

from __future__ import annotations

DIRECT = 8  # channels up to which squared differences are summed
