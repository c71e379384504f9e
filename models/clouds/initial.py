"""Initial weights that a peer's protocol asks for, where they are not torch's own."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

# Layers that yanx27 holds as Linear and Conv2d. Its rule leaves out Conv1d, which all other layers are there.
DRAWN = re.compile(r"(^|\.)(fc|sa)\d\.")


def draw_xavier(layers: Iterable[tuple[str, nn.Module]]) -> None:
    """Draw the weights of yanx27's segmentation anew, in these of its layers, which are told by their names:
    N(0, 2 / (inputs + outputs)) and no bias (Glorot and Bengio 2010, equation 12, as a normal distribution) in the fully
    connected layers, T-Nets' included, and in set abstraction; point-wise layers and feature propagation keep torch's."""
    for name, module in layers:
        if isinstance(module, nn.Linear) and DRAWN.search(f"{name}."):
            nn.init.xavier_normal_(module.weight)
            nn.init.zeros_(module.bias)
