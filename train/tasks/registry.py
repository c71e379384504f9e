"""What a run learns from, by the name in its config: a module with these functions, and the noun for its samples.

load(config) -> Data                            the file, cut into splits; what does not fit is said in a sentence
samples(split, config) -> int                   training samples in an epoch, whole batches of which are steps
batches(split, config, epoch, rank, processes)  this process's share (inputs, label) of each batch of an epoch
build(config, signature, steps)                 the network
penalty(network, config) -> Tensor | None       what the loss has beside the classes
describe(config) -> str                         the network, in a few words
facts(network) -> dict                          what the summary says of it beside its parameters
answers(network, split, config, final)          what the network says of a split: arrays, which predictions.npz keeps;
                                                `final`: at the end of a run, where it may take its time
scores(answers, signature) -> Scores            figures
classes(scores, answers, signature)             the confusion matrix and the table of the classes
galleries(config, data, answers) -> list[dict]  samples of the test split for the report
sections(config, data, network) -> list[dict]   what else the report shows
tracked(wandb, config, data, answers) -> dict   what W&B shows of the test split

NOUN is what the file holds, SAMPLES what an epoch counts. Where a sample has one answer, also:

inputs(split, config)                           the inputs of a whole split, as evaluation sees them
read(file, config, signature, votes)            the inputs of one file, for predictions
"""

from __future__ import annotations

from types import ModuleType

from dropfold.train.config.configs import Config
from dropfold.train.tasks import blocks, clouds, parts, scenes, video

TASKS: dict[str, ModuleType] = {
    "clouds": clouds,
    "parts": parts,
    "blocks": blocks,
    "scenes": scenes,
    "video": video,
}


def task_of(config: Config) -> ModuleType:
    """The module of a config."""
    return TASKS[config.task]
