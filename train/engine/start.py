"""Training that begins from the weights of a finished run (`--start`)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from dropfold.data_scripts.schemas.centre import in_sphere
from dropfold.train.config.configs import Config, Signature
from dropfold.train.storage import belonging, checkpoint
from dropfold.train.tasks.registry import task_of
from dropfold.train.tasks.trained import find_weights


def load_start(network: nn.Module, run: Path, config: Config, signature: Signature) -> list[str]:
    """Load the weights of a finished run into the network of `config`, whose noise keeps its own drop probability and
    warm-up. Returns a sentence for what differs and fits.

    Raises:
        FileNotFoundError: no run there, or one that has not ended.
        ValueError: a run on another task, with other classes, channels or another network.
    """
    other, theirs = checkpoint.load_config(run)
    path = find_weights(run)
    belonging.note_faults(run, other, theirs, (checkpoint.WEIGHTS,))
    weights = _without_noise(checkpoint.load_weights(path))
    ours, their_words = (task_of(c).describe(c) for c in (config, other))
    if config.task != other.task:
        raise ValueError(f"--start {run} learnt {other.task}, and this run learns {config.task}.")
    if (theirs.class_names, theirs.categories) != (signature.class_names, signature.categories):
        raise ValueError(
            f"--start {run} was trained on the classes {theirs.class_names}, and {config.data} has "
            f"{signature.class_names}."
        )
    if theirs.channels != signature.channels or theirs.fixed != signature.fixed:
        raise ValueError(
            f"--start {run} sees samples {_in_words(theirs)}, and this config gives {_in_words(signature)}."
        )
    state = _without_noise(network.state_dict())
    differing = [name for name in {**state, **weights} if _shape(name, state) != _shape(name, weights)]
    if other.operations != config.operations:  # fewer neighbours change no shape
        raise ValueError(
            f"--start {run} has other operations than its config builds, by `dropfold transform`; start from the run that "
            "it was made of, or make the cheaper run anew with `dropfold transform --epochs`."
        )
    if differing and other.sizes != config.sizes:
        raise ValueError(
            f"--start {run} has other sizes than its config builds, by `dropfold compress`; start from the run that it was "
            "made of, or train the compressed run on with `dropfold compress --epochs`."
        )
    if differing:
        raise ValueError(
            f"--start {run} is another network: {their_words}; this config builds: {ours}. {len(differing)} of their "
            f"tensors differ, {differing[0]} among them."
        )
    network.load_state_dict(weights, strict=False)  # strict but for the noise: the names have been compared
    said = []
    if theirs.codes != signature.codes:
        said.append(
            f"the classes of {config.data} have the codes {signature.codes}, those of --start {run} {theirs.codes}; they "
            "are matched by their names"
        )
    if theirs.centre != signature.centre:
        said.append(
            f"the shapes of {config.data} stand {in_sphere(signature.centre)}, those of --start {run} "
            f"{in_sphere(theirs.centre)}"
        )
    return said


def _without_noise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the buffers of the noise, which follow from the config and the steps taken."""
    return {name: value for name, value in state.items() if not name.startswith("noise.")}


def _in_words(signature: Signature) -> str:
    return f"{list(signature.shape)}" + (f" of {signature.channels}" if signature.channels else "")


def _shape(name: str, state: dict) -> object:
    return state[name].shape if name in state else None
