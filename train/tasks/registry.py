"""The tasks by the name in a config. Each is a module; the type checker compares it with `Task`."""

from __future__ import annotations

from typing import Any

from torch import nn

from dropfold.models.layers.sizes import resize
from dropfold.models.operations.replace import replace_operations
from dropfold.train.config.configs import (
    BlockConfig,
    CloudConfig,
    Config,
    ImageConfig,
    PartConfig,
    SceneConfig,
    Signature,
    VideoConfig,
)
from dropfold.train.data.splits import Split
from dropfold.train.tasks import blocks, clouds, images, parts, scenes, video
from dropfold.train.tasks.task import ClassifyingTask, Task

_clouds: ClassifyingTask[CloudConfig, Split] = clouds
_parts: Task[PartConfig, parts.Shapes] = parts
_blocks: Task[BlockConfig, blocks.Blocks] = blocks
_scenes: Task[SceneConfig, scenes.Rooms] = scenes
_video: ClassifyingTask[VideoConfig, Split] = video
_images: ClassifyingTask[ImageConfig, Split] = images

AnyTask = Task[Any, Any]
CLASSIFYING: dict[str, ClassifyingTask[Any, Any]] = {"clouds": _clouds, "video": _video, "images": _images}
TASKS: dict[str, AnyTask] = {**CLASSIFYING, "parts": _parts, "blocks": _blocks, "scenes": _scenes}


def task_of(config: Config) -> AnyTask:
    """The task of a config."""
    return TASKS[config.task]


def build(config: Config, signature: Signature, steps: int = 1) -> nn.Module:
    """The network of a config, with its operations and sizes; `steps` are those of an epoch, for the noise's warm-up.

    Raises:
        ValueError: a layer of the operations or the sizes that the network does not have.
    """
    network = task_of(config).build(config, signature, steps)
    return resize(replace_operations(network, config.operations), config.sizes)
