"""The methods that a config asks for."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from dropfold.models import needs_reestimation, reestimate_batch_norm
from dropfold.train.config.configs import Config, PointConfig
from dropfold.train.engine.method import Batches, Method
from dropfold.train.engine.step import Step

MOMENTUM = 0.1  # of nn.BatchNorm1d


def methods_of(config: Config) -> list[Method]:
    """The methods of a config, in the order of their calls."""
    methods: list[Method] = []
    if isinstance(config, PointConfig):
        if config.network == "pointnet" and config.regularization:
            methods.append(TransformPenalty(config.regularization))
        if config.norm_decay != 1.0:
            methods.append(MomentumDecay(config.norm_decay, config.lr_epochs))
    return [*methods, Reestimation()]


class TransformPenalty(Method):
    """PointNet's penalty, weight * mean |I - A A^T| over the feature transforms A (Qi et al. 2017, equation 2)."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def loss(self, step: Step, logits: Tensor) -> Tensor:
        """The penalty of the last forward."""
        network: Any = step.network
        return self.weight * network.regularization()


class MomentumDecay(Method):
    """BatchNorm's momentum, multiplied by `decay` every `epochs` epochs, down to a tenth of torch's default."""

    def __init__(self, decay: float, epochs: int) -> None:
        self.decay, self.epochs = decay, epochs

    def before_epoch(self, network: nn.Module, epoch: int) -> None:
        """Set the momentum of the epoch."""
        momentum = max(MOMENTUM / 10, MOMENTUM * self.decay ** (epoch // self.epochs))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = momentum


class Reestimation(Method):
    """BatchNorm's statistics measured without noise, if noise precedes a BatchNorm: a copy with them is scored and saved."""

    def evaluated(self, network: nn.Module, batches: Batches) -> nn.Module:
        """A copy with statistics of training batches without noise; the network itself, if it needs none."""
        if not needs_reestimation(network):
            return network
        network = copy.deepcopy(network)
        for module in network.modules():
            if hasattr(module, "sync"):
                module.sync = False  # type: ignore[assignment]  # one process evaluates alone
        reestimate_batch_norm(network, batches(), lambda inputs: network(*inputs))
        return network
