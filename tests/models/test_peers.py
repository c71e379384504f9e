"""Checkpoints of the peers' networks, converted, compute what their textbook forms do: outputs, gradients, buffers.

The real checkpoint of antao97's DGCNN_semseg_s3dis is checked where DROPFOLD_DGCNN_S3DIS names its file
(dgcnn.pytorch's pretrained/semseg_s3dis/model_1.t7, of area 1).
"""

import os
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from models import pointnet2, pointnet2_segmentation
from models.convert import load_antao97, load_yanx27
from models.pointnet2 import Level
from tests.oracle import peers
from tests.oracle.peers import Weights

CLOSE = 1e-10  # float64 over some twenty layers, to the largest number of a tensor (at least 1)
CATEGORIES, K = 4, 6


def shrunk(levels):
    """The levels with fewer centres and smaller groups, so that the padded form is small."""
    return tuple(
        Level(max(6, level.centres // 32), tuple(s._replace(radius=2 * s.radius, k=min(s.k, 12)) for s in level.scales))
        for level in levels
    )


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch):
    for table in (pointnet2.CLASSIFICATION, pointnet2_segmentation.PARTS, pointnet2_segmentation.SCENES):
        for grouping, levels in dict(table).items():
            monkeypatch.setitem(table, grouping, shrunk(levels))


def form_of(name):
    """`(form(weights, x[, category]), load, channels)` of a peer's network."""
    network, _, grouping = name.partition(" ")
    if network.startswith("pointnet2"):
        table = {
            "pointnet2_cls": pointnet2.CLASSIFICATION,
            "pointnet2_part_seg": pointnet2_segmentation.PARTS,
            "pointnet2_sem_seg": pointnet2_segmentation.SCENES,
        }[network]
        levels = table[grouping]
        form = partial(getattr(peers, network), levels=levels, msg=grouping == "msg")
        return form, load_yanx27, 9 if "sem" in network else 6 if "cls" in network else 3
    if network.startswith("dgcnn"):
        form = partial(getattr(peers, network), k=K, emb_dims=32)
        return form, partial(load_antao97, k=K), 9 if "sem" in network else 3
    return getattr(peers, network), load_yanx27, 9 if "sem" in network else 3


NETWORKS = [
    "pointnet_sem_seg", "pointnet_part_seg", "dgcnn_semseg", "dgcnn_partseg",
    *(f"pointnet2_{task} {grouping}" for task in ("cls", "part_seg", "sem_seg") for grouping in ("ssg", "msg")),
]  # fmt: skip


def inputs(name, channels, clouds=4, points=60):
    """Ours `(x, category)`, and theirs, the category as a feature."""
    x, category = torch.rand(clouds, points, channels, dtype=torch.float64), torch.arange(clouds) % CATEGORIES
    if "part" not in name:
        return (x,), (x,)
    return (x, category), (x, one_hot(category, CATEGORIES).double())


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def close(found, expected, name="output"):
    size = max(1.0, float(expected.abs().max()))
    apart = float((found - expected).abs().max()) / size
    assert apart <= CLOSE, f"{name}: {apart:.1e} of {size:.1e}"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_converted_network_computes_what_its_textbook_form_does(name):
    form, load, channels = form_of(name)
    ours, theirs = inputs(name, channels)
    weights = Weights(training=False)
    expected = form(weights, *theirs)
    model = without_dropout(load({k: v.detach().clone() for k, v in weights.items()}))
    close(model.eval()(*ours), expected)

    weights.training = True
    out, expected = model.train()(*ours), form(weights, *theirs)
    close(out, expected)
    direction = torch.randn_like(out) / len(out)
    for output in (out, expected):
        (output * direction).sum().backward()
    # Their gradients, and buffers after the step, under our names: by the converter itself.
    after = {k: v.grad if v.requires_grad else v for k, v in weights.items()}
    after = load(after).state_dict()
    named = dict(model.named_parameters())
    for key, value in after.items():
        found = named[key].grad if key in named else model.state_dict()[key]
        close(found, value, key)
