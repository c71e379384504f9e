"""What clouds and videos share: one answer a sample, its scores, and how a report and W&B show them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.train.config.configs import Config, Signature
from dropfold.train.data.splits import Data, Split
from dropfold.train.scoring import metrics
from dropfold.train.scoring.metrics import Answers, Scores
from dropfold.train.scoring.predict import predict

SHOWN = 6  # samples in each gallery

Pictures = Callable[[Any, Data, list[int]], list[dict[str, Any]]]


def samples(split: Split, config: Config) -> int:
    """Training samples in an epoch."""
    return len(split)


def answers(network: nn.Module, inputs: tuple[Tensor, ...], split: Split, config: Config) -> Answers:
    """Logits, labels and places in the data file of every sample of a split."""
    logits = predict(network, inputs, config.batch_size)
    return {"logits": logits.numpy(), "label": split.label.numpy(), "index": split.index}


def scores(found: Answers, signature: Signature) -> Scores:
    """Of answers, the figures."""
    return metrics.scores(torch.from_numpy(found["logits"]), torch.from_numpy(found["label"]))


def classes(found: Scores, answered: Answers, signature: Signature, noun: str) -> dict[str, Any]:
    """The confusion matrix, and the table of the classes."""
    names, label = signature.class_names, answered["label"]
    if found.confusion is None:
        rows = [[name, int(label[:, c].sum()), float(found.each[c])] for c, name in enumerate(names)]
        return {"confusion": None, "classes": {"head": ["class", noun, "average precision"], "rows": rows}}
    matrix = found.confusion.numpy()
    rows = [
        [
            name,
            int(matrix[c].sum()),
            float(matrix[c, c] / max(1, matrix[c].sum())),
            float(matrix[c, c] / max(1, matrix[:, c].sum())),
        ]
        for c, name in enumerate(names)
    ]
    return {
        "confusion": matrix.tolist(),
        "classes": {"head": ["class", noun, "recall", "precision"], "rows": rows},
    }


def galleries(
    config: Config, data: Data, answered: Answers, pictures: Pictures, noun: str
) -> list[dict[str, Any]]:
    """The most certain test samples, right ones and wrong ones; certain of its worst answer where there are many labels."""
    names = data.signature.class_names
    logits, label = (torch.from_numpy(answered[name]) for name in ("logits", "label"))
    if label.ndim == 2:
        said_yes, truth = logits > 0, label > 0
        right, sure = (said_yes == truth).all(1), logits.abs().sigmoid().amin(1)
        said, true = ([_listed(names, row) for row in rows] for rows in (said_yes, truth))
    else:
        sure, predicted = logits.softmax(1).max(1)
        right = predicted == label
        said, true = ([names[c] for c in rows] for rows in (predicted.tolist(), label.tolist()))
    found = []
    for title, chosen, mark in (("right", right, "right"), ("wrong", ~right, "wrong")):
        order = sorted(chosen.nonzero()[:, 0].tolist(), key=lambda i: -float(sure[i]))[:SHOWN]
        items = [
            {
                "title": data.name[data.test.index[i]],
                "note": f"{true[i]} → {said[i]} {100 * sure[i]:.0f} %",
                "mark": mark,
                **picture,
            }
            for i, picture in zip(order, pictures(config, data, order))
        ]
        none = "" if items else f"None of the test {noun} is {title}."
        found.append({"title": f"Most certain, and {title}", "text": none, "items": items})
    return found


def _listed(names: list[str], chosen: Tensor) -> str:
    return ", ".join(name for name, yes in zip(names, chosen.tolist()) if yes) or "none"


def tracked(wandb: Any, data: Data, answered: Answers, picture: Callable[[int], Any]) -> dict[str, Any]:
    """For W&B: the confusion matrix and a few test samples; nothing where a sample has several labels."""
    names, label = data.signature.class_names, answered["label"]
    if label.ndim > 1:
        return {}
    predicted = np.argmax(answered["logits"], 1).tolist()
    sent = {
        "test/confusion": wandb.plot.confusion_matrix(
            y_true=label.tolist(), preds=predicted, class_names=names
        )
    }
    for i in range(min(4, len(label))):
        sent[f"samples/{i}: {names[label[i]]} seen as {names[predicted[i]]}"] = picture(i)
    return sent
