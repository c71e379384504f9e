"""Which input channels a config asks for."""

from __future__ import annotations

from dropfold.train.config.channels import Channels
from dropfold.train.config.configs import BlockConfig, CloudConfig, PartConfig, PointConfig, SceneConfig
from dropfold.train.data.local_shape import CHANNELS


def channels_of(config: PointConfig) -> Channels:
    """The channels of a point that the network of a config sees."""
    if isinstance(config, CloudConfig):
        return Channels(normal=3 * config.normals)
    if isinstance(config, PartConfig):
        return Channels(normal=3 * config.normals, shape=CHANNELS * config.local_shape)
    assert isinstance(config, BlockConfig)
    shape = isinstance(config, SceneConfig) and config.local_shape
    return Channels(colour=3 * config.colour, place=3, shape=CHANNELS * shape, graph=config.graph)
