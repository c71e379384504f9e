"""Images: their file, their batches, their convolutional networks, and their pictures (see `dropfold.train.tasks.task`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.data_scripts.readers.columns import AS_FOUND, Layout
from dropfold.data_scripts.schemas import image_schema, splits
from dropfold.models.images.networks import ImageClassifier, image_network, multiply_adds, title_of
from dropfold.train.config.configs import ImageConfig, Signature
from dropfold.train.data.crops import crop_and_flip
from dropfold.train.data.data_file import find_data_set
from dropfold.train.data.splits import Batch, Data, Split, by_protocol, generator, parts
from dropfold.train.data.splits import batches as data_batches
from dropfold.train.scoring.metrics import Predictions, Scores
from dropfold.train.tasks import classification
from dropfold.train.tasks.section import ClassTable, Section, to_png

NOUN = SAMPLES = "images"
CLASSES = "classes"
AUGMENTED = 6  # draws of one image in the report
samples, scores = classification.samples, classification.scores


def load(config: ImageConfig) -> Data[Split]:
    """Read `config.data`, cut it into splits, and take mean and std of each channel over the training images."""
    path = find_data_set(config)
    images = image_schema.read(path)

    def cut(index: np.ndarray) -> Split:
        return Split((torch.from_numpy(images.pixels[index]),), torch.from_numpy(images.label[index]), index)

    split = by_protocol(config, images.split, {"fold": splits.stratified_folds(images.label)})
    if config.protocol == "fold":
        split = splits.carve_validation(images.label, split, 0.15)
    train, validation, test = map(cut, parts(split, config))
    if not len(train):
        raise ValueError(f"{path} has no images in its train split.")
    mean, std = channel_scale(images.pixels[train.index])
    if min(std) == 0:
        raise ValueError(
            f"{path} has a channel that is the same everywhere in its training images: nothing to learn from."
        )
    signature = Signature(images.class_names, images.pixels.shape[1:], channel_mean=mean, channel_std=std)
    return Data(
        train, validation, test, signature, images.name, images.source, images.credits, images.checksum
    )


def channel_scale(pixels: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of images [n, H, W, C] of bytes, as numbers from 0 to 1."""
    counts = [np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(pixels.shape[3])]
    values = np.arange(256) / 255
    mean = [float(count @ values / count.sum()) for count in counts]
    std = [float(np.sqrt(count @ (values - m) ** 2 / count.sum())) for count, m in zip(counts, mean)]
    return mean, std


def draw(split: Split, chosen: Tensor, config: ImageConfig, generator: torch.Generator) -> Batch:
    """Training images, cut and mirrored, and their classes."""
    pixels = split.inputs[0][chosen]
    if config.padding or config.flip:
        pixels = crop_and_flip(pixels, config.padding, config.flip, generator)
    return (pixels,), split.label[chosen]


def inputs(split: Split, config: ImageConfig) -> tuple[Tensor, ...]:
    """The images of a split, as they are."""
    return split.inputs


def batches(
    split: Split, config: ImageConfig, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """This rank's part of each batch of an epoch: images in random order."""
    return data_batches(draw, split, config, epoch, rank, processes)


def predict_split(network: nn.Module, split: Split, config: ImageConfig, final: bool = False) -> Predictions:
    """Logits."""
    return classification.predict_split(network, inputs(split, config), split, config)


def class_table(scores: Scores, predictions: Predictions, signature: Signature) -> ClassTable:
    """Recall and precision."""
    return classification.class_table(scores, predictions, signature, NOUN)


def build(config: ImageConfig, signature: Signature, steps: int = 1) -> nn.Module:
    """The network of a config, in front of it the scaling of pixels; ValueError if the images are too small for it."""
    height, width, channels = signature.shape
    network = image_network(config.network, len(signature.class_names), channels, config.dropout)
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, channels, height, width))
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{config.network} does not take images of {width} x {height} pixels: {error}"
        ) from None
    return ImageClassifier(network.train(), signature.channel_mean, signature.channel_std)


def describe(config: ImageConfig) -> str:
    """The network."""
    name = title_of(config.network) + (" (compressed)" if config.sizes else "")
    return name + (" (transformed)" if config.operations else "")


def facts(network: nn.Module) -> dict[str, Any]:
    """Nothing beside the number of parameters."""
    return {}


def read(
    file: Path, config: ImageConfig, signature: Signature, votes: int, layout: Layout = AS_FOUND
) -> tuple[Tensor, ...]:
    """A PNG or JPEG as a batch of one image; ValueError says what is wrong with it."""
    from dropfold.data_scripts.images.picture import read_picture, with_channels

    height, width, channels = signature.shape
    pixels = read_picture(file)
    if pixels.shape[:2] != (height, width):
        found = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise ValueError(
            f"{file} has {found} pixels, and the run was trained on {width} x {height}; scale or cut it to that."
        )
    seen = with_channels(pixels, channels)
    if seen is None:
        raise ValueError(f"{file} is in colour, and the run was trained on gray images; save it in gray.")
    return (torch.from_numpy(np.array(seen))[None],)


def list_pictures(files: tuple[Path, ...]) -> tuple[tuple[Path, ...], list[str]]:
    """Files as they are, and for each folder that holds pictures these; and what became of the other files in it."""
    from dropfold.data_scripts.images.picture import SUFFIXES
    from dropfold.data_scripts.work.folders import OTHER_KIND, Unread, account, suffix_of, walk

    found: list[Path] = []
    notes: list[str] = []
    for file in files:
        if not file.is_dir():
            found.append(file)
            continue
        tree = walk(file)
        names = [one.name for one in tree.files if suffix_of(one.name) in SUFFIXES]
        other = [Unread(one.name, OTHER_KIND) for one in tree.files if suffix_of(one.name) not in SUFFIXES]
        found += [file / name for name in names] or [file]
        notes += [f"{file}: {line}" for line in account(len(names), [*tree.unread, *other])]
    return tuple(found), notes


def picture(pixels: Tensor) -> str:
    """An image [H, W, C] of bytes as a base64 PNG."""
    return to_png(np.ascontiguousarray(np.broadcast_to(pixels.numpy(), (*pixels.shape[:2], 3))))


def pictures(config: ImageConfig, data: Data[Split], shown: list[int]) -> list[dict[str, Any]]:
    """Test images."""
    return [{"image": picture(data.test.inputs[0][i])} for i in shown]


def galleries(config: ImageConfig, data: Data[Split], predictions: Predictions) -> list[Section]:
    """Right ones and wrong ones."""
    return classification.galleries(config, data, predictions, pictures, NOUN)


def sections(config: ImageConfig, data: Data[Split], network: Callable[[], nn.Module]) -> list[Section]:
    """What training sees of an image, and what the network costs."""
    height, width, channels = data.signature.shape
    device = next((model := network()).parameters()).device
    macs = multiply_adds(model, torch.zeros(1, height, width, channels, device=device))
    scales = zip(data.signature.channel_mean, data.signature.channel_std)
    scale = ", ".join(f"{mean:.4f} ± {std:.4f}" for mean, std in scales)
    first = torch.zeros(AUGMENTED, dtype=torch.int64)
    (drawn,), _ = draw(data.train, first, config, generator(config.seed, 0, 0))
    items = [{"title": f"draw {i + 1}", "note": "", "image": picture(one)} for i, one in enumerate(drawn)]
    text = (
        f"Draws of a training image, {data.name[data.train.index[0]]}. The network sees pixels less their mean, divided by "
        f"their standard deviation over the training images (of each channel, from 0 to 1: {scale}). It takes "
        f"{macs / 1e6:,.1f} million multiply-adds for an image of {width} x {height} in its convolutions and linear layers."
    )
    return [Section("What training sees", text, items)]


def log_predictions(
    wandb: Any, config: ImageConfig, data: Data[Split], predictions: Predictions
) -> dict[str, Any]:
    """The confusion matrix and test images."""

    def shown(i: int) -> Any:
        return wandb.Image(data.test.inputs[0][i].numpy().squeeze())

    return classification.log_predictions(wandb, data, predictions, shown)
