"""The numbers and the order of what a report shows, from predictions whose faults are planted."""

import numpy as np
import pytest

from dropfold.train.config.configs import CloudConfig, Signature
from dropfold.train.report.report import curves, tiles
from dropfold.train.scoring import metrics
from dropfold.train.tasks import blocks, classification, clouds, parts, scenes
from tests.train.conftest import small
from tests.train.small_segmentation import (
    small_blocks,
    small_parts,
    small_scenes,
    write_segmentation_sets,
)

NAN = float("nan")


def test_recall_is_of_the_truth_and_precision_of_what_was_said():
    label, said = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 0])
    predictions = {"logits": np.eye(3, dtype=np.float32)[said], "label": label}
    signature = Signature(["a", "b", "c"], (1,))
    scores = classification.scores(predictions, signature)
    table = classification.class_table(scores, predictions, signature, "shapes")
    assert table.head == ["class", "shapes", "recall", "precision"]
    expected = [["a", 3, 2 / 3, 2 / 4], ["b", 2, 1 / 2, 1 / 2], ["c", 1, 0.0, NAN]]
    for row, wanted in zip(table.rows, expected, strict=True):
        assert row[0] == wanted[0]
        assert row[1:] == pytest.approx(wanted[1:], nan_ok=True)
    assert table.confusion == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]


def test_a_gallery_shows_the_most_certain_first(folder):
    config = small(folder)
    data = clouds.load(config)
    label = data.test.label.numpy()
    certainty = np.random.default_rng(0).permutation(len(label)) + 1.0
    right = np.arange(len(label)) % 3 > 0
    said = np.where(right, label, (label + 1) % 3)
    predictions = {"logits": np.eye(3, dtype=np.float32)[said] * certainty[:, None], "label": label}
    predictions["logits"] = predictions["logits"].astype(np.float32)
    names, shown = data.signature.class_names, clouds.galleries(config, data, predictions)
    for section, mark, which in zip(shown, ("right", "wrong"), (right, ~right), strict=True):
        order = sorted(np.flatnonzero(which), key=lambda i: -certainty[i])[: classification.SHOWN]
        share = [100 / (1 + 2 * np.exp(-certainty[i])) for i in order]
        assert [item["title"] for item in section.items] == [data.name[data.test.index[i]] for i in order]
        assert [item["note"] for item in section.items] == [
            f"{names[label[i]]} → {names[said[i]]} {value:.0f} %" for i, value in zip(order, share)
        ]
        assert all(item["mark"] == mark for item in section.items)


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory):
    return write_segmentation_sets(tmp_path_factory.mktemp("segmentation"))


def with_faults(label, shares, classes):
    """Labels [n, points] of which the first points of each row are wrong, as many as its share."""
    wrong = np.arange(label.shape[1]) < np.round(np.array(shares) * label.shape[1])[:, None]
    return np.where(wrong, (label + 1) % classes, label).astype(np.uint8)


def truths(section):
    """The names of a wide section's samples."""
    return [item["title"].removesuffix(": truth") for item in section.items[::3]]


def figures_of(label, said, classes):
    """Mean IoU, accuracy and mean recall by plain loops, as a table shows them."""
    iou, recall = [], []
    for c in range(classes):
        both, either = ((label == c) & (said == c)).sum(), ((label == c) | (said == c)).sum()
        iou += [both / either] if either else []
        recall += [both / (label == c).sum()] if (label == c).any() else []
    return [f"{100 * value:.1f} %" for value in (np.mean(iou), (label == said).mean(), np.mean(recall))]


def test_blocks_are_shown_from_both_ends_and_counted_by_room(segmentation):
    config = small_blocks(segmentation)
    data = blocks.load(config)
    label = data.test.read(np.arange(len(data.test)))[1].numpy()[:, : config.points]
    share = [0.5, 0.1, 0.9, 0.0, 0.3, 0.8, 0.2, 0.6]
    said = with_faults(label, share, 4)
    worst, best, rooms = blocks.galleries(config, data, {"label": label, "predicted": said})
    assert [worst.title, best.title] == ["The worst test blocks", "The best test blocks"]
    for section, order in ((worst, [2, 5, 7, 0]), (best, [3, 1, 6, 4])):
        assert truths(section) == [data.name[data.test.index[i]] for i in order]
        right = [f"{100 * (label[i] == said[i]).mean():.1f} % of the points are right" for i in order]
        assert [item["note"] for item in section.items[::3]] == right
    names = np.array([data.name[i] for i in data.test.index])
    assert rooms.rows == [
        [room, "4", *figures_of(label[names == room], said[names == room], 4)]
        for room in dict.fromkeys(names.tolist())
    ]


def test_rooms_are_shown_from_both_ends_and_each_has_its_figures(segmentation):
    config = small_scenes(segmentation)
    data = scenes.load(config)
    truth = [data.test.scenes.room(int(i)).label for i in data.test.index]
    said = [with_faults(t[None], [share], 4)[0] for t, share in zip(truth, (0.5, 0.1, 0.8), strict=True)]
    matrices = np.stack([metrics.confusion(t, s, 4) for t, s in zip(truth, said)])
    predictions = {
        "predicted": np.concatenate(said),
        "ptr": np.cumsum([0, *map(len, truth)]),
        "confusions": matrices,
        "confusion": matrices.sum(0),
        "loss": np.array(NAN),
    }
    names = [data.name[i] for i in data.test.index]
    wide, table = scenes.galleries(config, data, predictions)
    assert truths(wide) == [names[i] for i in (2, 0, 1)]  # the worst ones, then the best
    assert table.rows == [
        [name, f"{len(t):,}", *figures_of(t, s, 4)] for name, t, s in zip(names, truth, said)
    ]
    t, s = np.concatenate(truth), np.concatenate(said)
    found = scenes.class_table(scenes.scores(predictions, data.signature), predictions, data.signature)
    assert found.head == ["class", "points", "IoU", "recall", "precision"]
    for c, row in enumerate(found.rows):
        both = ((t == c) & (s == c)).sum()
        iou = both / ((t == c) | (s == c)).sum()
        assert row[1:] == pytest.approx([(t == c).sum(), iou, both / (t == c).sum(), both / (s == c).sum()])
        assert found.confusion[c] == [round(100 * (s[t == c] == k).mean()) for k in range(4)]


def test_shapes_with_parts_are_shown_from_both_ends_and_counted_by_category_and_part(segmentation):
    config = small_parts(segmentation)
    data = parts.load(config)
    _, part = parts.fixed(data.test, list(range(len(data.test))), config)
    label, category = part.numpy(), data.test.category.numpy()
    said = np.where(with_faults(label, [0.5, 0.1, 0.9, 0.0, 0.3, 0.8], 2) == label, label, label ^ 1)
    iou = np.array([0.4, 0.8, 0.1, 1.0, 0.6, 0.2])
    predictions = {"label": label, "predicted": said, "iou": iou, "category": category, "loss": np.array(0.0)}
    worst, best, table = parts.galleries(config, data, predictions)
    names = [data.name[i] for i in data.test.index]
    assert truths(worst) == [names[i] for i in (2, 5, 0, 4)]
    assert truths(best) == [names[i] for i in (3, 1, 4, 0)]
    assert [row[:3] for row in table.rows] == [
        [name, name.split("/")[0], f"{(label == p).sum():,}"]
        for p, name in enumerate(data.signature.class_names)
    ]
    for p, row in enumerate(table.rows):
        both, either = ((label == p) & (said == p)).sum(), ((label == p) | (said == p)).sum()
        assert row[3] == f"{100 * both / either:.1f} %"
    found = parts.class_table(parts.scores(predictions, data.signature), predictions, data.signature)
    for c, row in enumerate(found.rows):
        own = category == c
        assert row[0] == data.signature.categories[c]
        assert row[1:] == pytest.approx([own.sum(), iou[own].mean(), (label == said)[own].mean()])


def test_tiles_are_those_of_the_summary():
    summary = {
        "test/overall_accuracy": 0.5,
        "test/mean_class_accuracy": 0.25,
        "test_at_best_validation/overall_accuracy": 0.75,
        "test_at_best_validation/epoch": 3,
        "seconds": 125.4,
        "parameters": 12345,
        "peak_memory_bytes": 3 * 2**29,
    }
    assert tiles(CloudConfig(data="a.h5"), summary, "overall_accuracy") == [
        ["50.0 %", "overall accuracy, last epoch"],
        ["25.0 %", "mean class accuracy, last epoch"],
        ["75.0 %", "overall accuracy, epoch 3 (best on validation)"],
        ["2:05", "minutes of training"],
        ["12,345", "parameters"],
        ["1.50 GiB", "peak memory"],
    ]


@pytest.mark.parametrize(("leading", "titles"), [
    ("overall_accuracy", ["Loss", "Accuracy", "Gradient norm", "Learning rate"]),
    ("mean_iou", ["Loss", "Mean IoU", "Accuracy", "Gradient norm", "Learning rate"]),
])  # fmt: skip
def test_each_curve_is_the_column_of_its_name(leading, titles):
    names = ["train/loss", "train/accuracy", "gradient_norm", "lr"]
    names += [f"validation/{name}" for name in ("loss", "overall_accuracy", "mean_iou")]
    rows = [{name: 10.0 * epoch + i for i, name in enumerate(names)} for epoch in range(2)]
    charts = {chart["title"]: chart["lines"] for chart in curves(CloudConfig(data="a.h5"), rows, leading)}
    assert [*charts] == titles
    columns = {
        "Loss": ("train/loss", "validation/loss"),
        "Accuracy": ("train/accuracy", "validation/overall_accuracy"),
        "Mean IoU": ("validation/mean_iou",),
        "Gradient norm": ("gradient_norm",),
        "Learning rate": ("lr",),
    }
    for title in titles:
        assert [line["y"] for line in charts[title]] == [
            [row[name] for row in rows] for name in columns[title]
        ]
