"""The plan of a network: of ours, by what they say of themselves; of others, by probing."""

from __future__ import annotations

from typing import Any

from torch import nn

from dropfold.compress.plan.plan import Plan
from dropfold.compress.plan.probed import plan_probed
from dropfold.compress.plan.wired import plan_wired
from dropfold.models.layers.low_rank import LowRank


def plan_channels(model: nn.Module, *example: Any, **options: Any) -> Plan:
    """Which channels of which layers of `model` belong together, and why the others stay.

    Args:
        model: one of the networks here, or another one, which is then called as `model(*example, **options)`.

    Raises:
        ValueError: an example is needed, or the network has nothing to take channels from.
    """
    if pairs := [name for name, module in model.named_modules() if isinstance(module, LowRank)]:
        raise ValueError(
            f"{type(model).__name__} has two thin maps in place of {', '.join(pairs[:3])} already; plan the network that it "
            "was made of."
        )
    wiring: Any = getattr(model, "wiring", None)
    if wiring is not None:
        return plan_wired(model, wiring())
    if not example and not options:
        raise ValueError(
            f"{type(model).__name__} does not say whose channels its matrices read; give an example of its inputs, "
            "plan_channels(model, x), to find out."
        )
    return plan_probed(model, *example, **options)
