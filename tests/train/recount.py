"""The figures of a finished run, counted again from its predictions and its data file, sample by sample."""

import json

import numpy as np
import torch

from dropfold.train.storage import checkpoint
from dropfold.train.tasks import registry
from dropfold.train.tasks.trained import Trained


def recount(folder):
    """`test/...` of a run's summary by plain loops; truths come from the data file and not from the predictions."""
    config, signature = checkpoint.load_config(folder)
    data = registry.task_of(config).load(config)
    with np.load(folder / "predictions.npz") as file:
        answers = dict(file)
    assert answers["index"].tolist() == data.test.index.tolist()
    count = {"clouds": classes, "video": classes, "parts": parts, "blocks": points, "scenes": points}[
        config.task
    ]
    return count(answers, data.test, len(signature.class_names))


def classes(answers, test, number):
    """Accuracy of all samples, and the mean over the classes that there are; of many labels, average precision."""
    label, logits = test.label.numpy(), answers["logits"]
    np.testing.assert_array_equal(answers["label"], label)
    if label.ndim == 2:
        each = [precision(logits[:, c], label[:, c]) for c in range(number) if label[:, c].any()]
        return {"test/mean_average_precision": np.mean(each)}
    right = [int(row.argmax()) == true for row, true in zip(logits, label)]
    each = [np.mean([r for r, true in zip(right, label) if true == c]) for c in range(number) if c in label]
    return {"test/overall_accuracy": np.mean(right), "test/mean_class_accuracy": np.mean(each)}


def precision(score, label):
    """Mean over the positive samples of the share of positives among those with a score as high."""
    return np.mean([label[score >= s].mean() for s in score[label == 1]])


def parts(answers, test, number):
    """A shape's IoU is the mean over the parts of its category, 1 for a part neither there nor predicted."""
    each, category = [], test.category.numpy()
    np.testing.assert_array_equal(answers["category"], category)
    for truth, predicted, c in zip(answers["label"], answers["predicted"], category):
        ious = []
        for part in np.flatnonzero(test.part_category.numpy() == c):
            union = (truth == part) | (predicted == part)
            ious.append(((truth == part) & (predicted == part)).sum() / union.sum() if union.any() else 1.0)
        each.append(np.mean(ious))
    each = np.array(each)
    return {
        "test/instance_mean_iou": each.mean(),
        "test/class_mean_iou": np.mean([each[category == c].mean() for c in np.unique(category)]),
        "test/overall_accuracy": (answers["label"] == answers["predicted"]).mean(),
    }


def points(answers, test, number):
    """Over all points of all rooms or blocks: IoU of the classes that are there or predicted, recall of those there."""
    if "ptr" in answers:
        truth = np.concatenate([test.scenes.room(int(i)).label for i in test.index])
    else:
        read = test.read(np.arange(len(test)))[1].numpy()
        truth = read[:, : answers["label"].shape[1]].ravel()
        np.testing.assert_array_equal(answers["label"].ravel(), truth)
    predicted = answers["predicted"].ravel()
    iou, recall = [], []
    for c in range(number):
        both, either = ((truth == c) & (predicted == c)).sum(), ((truth == c) | (predicted == c)).sum()
        iou += [both / either] if either else []
        recall += [both / (truth == c).sum()] if (truth == c).any() else []
    return {
        "test/mean_iou": np.mean(iou),
        "test/overall_accuracy": (truth == predicted).mean(),
        "test/mean_class_accuracy": np.mean(recall),
    }


def assert_recounted(folder):
    """The summary's figures are those of a recount, and, of whole samples, the predictions those of the saved network."""
    summary = json.loads((folder / "summary.json").read_text())
    figures = recount(folder)
    assert {name for name in summary if name.startswith("test/")} == figures.keys()
    for name, value in figures.items():
        assert abs(summary[name] - value) < 1e-6, name  # shares in float32
    trained = Trained.of(folder)
    config, network = trained.config, trained.network
    task = registry.task_of(config)
    if config.task in ("clouds", "video"):
        with torch.no_grad():
            logits = network(*task.inputs(task.load(config).test, config))
        with np.load(folder / "predictions.npz") as file:
            # Batches of another size; float32 sums of a few thousand products.
            np.testing.assert_allclose(logits.numpy(), file["logits"], rtol=1e-3, atol=1e-4)
