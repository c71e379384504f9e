"""Training on blocks that were cut beforehand: which points a step sees, with which labels, and what classes weigh."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dropfold.train.config.configs import AugmentConfig
from dropfold.train.tasks import blocks
from tests.train.small_segmentation import CLASSES, small_blocks, write_blocks


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocks")
    write_blocks(folder / "blocks.h5")
    return small_blocks(folder, augment=AugmentConfig(scale=(1.0, 1.0), shift=0.0))


def test_each_drawn_point_has_its_label_and_a_block_its_points(config):
    split = blocks.load(config).train
    x, label = split.read(np.arange(len(split)))
    place = {row.numpy().tobytes(): (b, i) for b, rows in enumerate(x) for i, row in enumerate(rows)}
    assert len(place) == x.shape[0] * x.shape[1]  # no two points are alike
    chosen = []
    for (drawn,), labels in blocks.batches(split, config, 0):
        assert drawn.shape[:2] == labels.shape == (config.batch_size, config.points)
        for rows, own in zip(drawn, labels):
            found = [place[row.numpy().tobytes()] for row in rows]
            assert len({b for b, _ in found}) == 1
            assert len(set(found)) == config.points  # a choice without repetition
            assert own.tolist() == [int(label[b, i]) for b, i in found]
            chosen.append([i for _, i in found])
    assert len({tuple(places) for places in chosen}) == len(chosen)  # each block's own choice


def test_classes_are_weighed_by_the_points_of_the_training_blocks(config):
    assert blocks.load(config).weight is None
    data = blocks.load(replace(config, class_weights=True, batch_size=3))
    label = data.train.read(np.arange(len(data.train)))[1]
    count = torch.stack([(label == c).sum() for c in range(len(CLASSES))])
    torch.testing.assert_close(data.weight, (count.max() / count) ** (1 / 3))


def test_the_loss_of_a_split_is_the_mean_over_its_points(config):
    """Six blocks in batches of four: the last batch counts for what it holds."""
    data = blocks.load(config)
    split = replace(data.test, index=data.test.index[:6])
    torch.manual_seed(0)
    network = torch.nn.Linear(9, len(CLASSES))
    found = blocks.predict_split(network, split, config)
    x, label = (value[:, : config.points] for value in split.read(np.arange(6)))
    with torch.no_grad():
        log_p = network(x).double().log_softmax(-1)
    each = [-float(log_p[b, i, label[b, i]]) for b in range(6) for i in range(config.points)]
    assert float(found["loss"]) == pytest.approx(np.mean(each), rel=1e-5)
    assert found["predicted"].tolist() == log_p.argmax(-1).tolist()
