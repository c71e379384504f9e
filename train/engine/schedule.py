"""What changes from epoch to epoch: the learning rate, and BatchNorm's momentum."""

from __future__ import annotations

import math

from torch import nn

from dropfold.train.config.configs import Config

MOMENTUM = 0.1  # of nn.BatchNorm1d


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
        return config.lr * config.lr_factor ** (epoch // config.lr_epochs)
    return config.lr_end + (config.lr - config.lr_end) * (1 + math.cos(math.pi * epoch / config.epochs)) / 2


def set_momentum(network: nn.Module, config: Config, epoch: int) -> None:
    """BatchNorm's momentum of an epoch, where the config lets it fall."""
    decay = getattr(config, "norm_decay", 1.0)
    if decay == 1.0:
        return
    momentum = max(MOMENTUM / 10, MOMENTUM * decay ** (epoch // config.lr_epochs))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = momentum
