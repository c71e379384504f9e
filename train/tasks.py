"""What a run learns from, by the name in its config: a module with these functions, and the noun for its samples.

load(config) -> Data                            the file, cut into splits; what does not fit is said in a sentence
draw(split, chosen, config, generator)          the inputs of a training batch, augmented
inputs(split, config)                           the inputs of a whole split, as evaluation sees them
build(config, signature, steps)                 the network
penalty(network, config) -> Tensor | None       what the loss has beside the classes
describe(config) -> str                         the network, in a few words
facts(network) -> dict                          what the summary says of it beside its parameters
read(file, config, signature, votes)            the inputs of one file, for predictions
pictures(config, data, shown) -> list[dict]     samples of the test split for the report
sections(config, data, network) -> list[dict]   what else the report shows
tracked(wandb, config, data, i)                 one test sample, for W&B
"""

from __future__ import annotations

from types import ModuleType

from train import clouds, video
from train.config import Config

TASKS: dict[str, ModuleType] = {"clouds": clouds, "video": video}


def task_of(config: Config) -> ModuleType:
    """The module of a config."""
    return TASKS[config.task]
