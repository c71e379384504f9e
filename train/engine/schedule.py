"""The learning rate of each step."""

from __future__ import annotations

import math

from dropfold.train.config.configs import Config


def learning_rate(config: Config, epoch: int, step: int = 0, steps: int = 1) -> float:
    """The rate of a step of an epoch of `steps`, both counted from 0; only "one-cycle" moves within an epoch."""
    if config.schedule == "one-cycle":
        last = config.epochs * steps - 1
        at, top = epoch * steps + step, 0.3 * config.epochs * steps - 1
        low, end = config.lr / 25, config.lr / 250_000
        if at <= top:
            return low + (config.lr - low) * (1 - math.cos(math.pi * at / top)) / 2
        return end + (config.lr - end) * (1 + math.cos(math.pi * (at - top) / max(1e-9, last - top))) / 2
    if config.schedule == "step":
        passed = epoch + config.lr_ahead
        drops = (
            sum(passed >= drop for drop in config.lr_drops) if config.lr_drops else passed // config.lr_epochs
        )
        rate = config.lr * config.lr_factor**drops
        return max(rate, config.lr_floor)
    return config.lr_end + (config.lr - config.lr_end) * (1 + math.cos(math.pi * epoch / config.epochs)) / 2
