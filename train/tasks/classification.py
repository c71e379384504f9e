"""What clouds, videos and images share: one prediction a sample, its scores, and how a report and W&B show them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.train.config.configs import Config, Signature
from dropfold.train.data.splits import Data, Split, stratified
from dropfold.train.scoring import metrics
from dropfold.train.scoring.logits import predict
from dropfold.train.scoring.metrics import Predictions, Scores
from dropfold.train.tasks.section import ClassTable, Section

SHOWN = 6  # samples in each gallery

Pictures = Callable[[Any, Data[Split], list[int]], list[dict[str, Any]]]


def samples(split: Split, config: Config) -> int:
    """Training samples in an epoch."""
    return len(split)


def predict_split(
    network: nn.Module, inputs: tuple[Tensor, ...], split: Split, config: Config
) -> Predictions:
    """Logits, labels and places in the data file of every sample of a split."""
    logits = predict(network, inputs, config.batch_size)
    return {"logits": logits.numpy(), "label": split.label.numpy(), "index": split.index}


def scores(predictions: Predictions, signature: Signature) -> Scores:
    """The figures of predictions."""
    return metrics.scores(torch.from_numpy(predictions["logits"]), torch.from_numpy(predictions["label"]))


def class_table(scores: Scores, predictions: Predictions, signature: Signature, noun: str) -> ClassTable:
    """Recall and precision of each class, and the confusion matrix; average precision, if samples have many labels."""
    names, label = signature.class_names, predictions["label"]
    if scores.confusion is None:
        rows = [[name, int(label[:, c].sum()), float(scores.by_class[c])] for c, name in enumerate(names)]
        return ClassTable(["class", noun, "average precision"], rows)
    matrix = scores.confusion.numpy()
    target, predicted, hit = matrix.sum(1), matrix.sum(0), matrix.diagonal()
    recall, precision = metrics.ratio(hit, target), metrics.ratio(hit, predicted)  # NaN: of no sample
    rows = [[name, int(target[c]), float(recall[c]), float(precision[c])] for c, name in enumerate(names)]
    return ClassTable(["class", noun, "recall", "precision"], rows, matrix.tolist())


def galleries(
    config: Config, data: Data[Split], predictions: Predictions, pictures: Pictures, noun: str
) -> list[Section]:
    """The most certain test samples, right ones and wrong ones. With many labels, the least certain label counts."""
    names = data.signature.class_names
    logits, label = (torch.from_numpy(predictions[name]) for name in ("logits", "label"))
    if label.ndim == 2:
        positive, target = logits > 0, label > 0
        correct, certainty = (positive == target).all(1), logits.abs().sigmoid().amin(1)
        predicted_names, target_names = ([_listed(names, row) for row in rows] for rows in (positive, target))
    else:
        certainty, predicted = logits.softmax(1).max(1)
        correct = predicted == label
        predicted_names, target_names = (
            [names[c] for c in rows] for rows in (predicted.tolist(), label.tolist())
        )
    sections = []
    for mark, chosen in (("right", correct), ("wrong", ~correct)):
        order = sorted(chosen.nonzero()[:, 0].tolist(), key=lambda i: -float(certainty[i]))[:SHOWN]
        items = [
            {
                "title": data.name[data.test.index[i]],
                "note": f"{target_names[i]} → {predicted_names[i]} {100 * certainty[i]:.0f} %",
                "mark": mark,
                **picture,
            }
            for i, picture in zip(order, pictures(config, data, order))
        ]
        none = "" if items else f"None of the test {noun} is {mark}."
        sections.append(Section(f"Most certain, and {mark}", none, items))
    return sections


def _listed(names: list[str], chosen: Tensor) -> str:
    return ", ".join(name for name, yes in zip(names, chosen.tolist()) if yes) or "none"


def log_predictions(
    wandb: Any, data: Data[Split], predictions: Predictions, picture: Callable[[int], Any]
) -> dict[str, Any]:
    """For W&B: the confusion matrix and a few test samples; nothing if samples have several labels."""
    names, label = data.signature.class_names, predictions["label"]
    if label.ndim > 1:
        return {}
    predicted = np.argmax(predictions["logits"], 1).tolist()
    sent = {
        "test/confusion": wandb.plot.confusion_matrix(
            y_true=label.tolist(), preds=predicted, class_names=names
        )
    }
    for i in stratified(torch.from_numpy(label), 4).tolist():
        sent[f"samples/{i}: {names[label[i]]} seen as {names[predicted[i]]}"] = picture(i)
    return sent
