"""Checkpoints of the peers' networks, converted, compute what their textbook forms do: outputs, gradients, buffers.

The real checkpoint of antao97's DGCNN_semseg_s3dis is checked where DROPFOLD_DGCNN_S3DIS names its file
(dgcnn.pytorch's pretrained/semseg_s3dis/model_1.t7, of area 1).
"""

import os
from functools import partial
from pathlib import Path

import pytest
import torch
import tyro
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import one_hot

from dropfold.__main__ import main
from dropfold.models import DGCNNSegmentation
from dropfold.models.clouds import pointnet2, pointnet2_segmentation
from dropfold.models.convert.clouds import load_antao97, load_yanx27
from dropfold.train.predict import convert
from tests.oracle import peers
from tests.oracle.peers import Weights

CLOSE = 1e-10  # float64 over some twenty layers, to the largest number of a tensor (at least 1)
CATEGORIES, K = 4, 6


pytestmark = pytest.mark.usefixtures("small_groups")


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
    size = max(1.0, float(expected.detach().abs().max()))
    apart = float((found - expected).detach().abs().max()) / size
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


def test_what_a_checkpoint_lacks_is_named():
    form, load, channels = form_of("pointnet2_cls msg")
    weights = Weights(training=False)
    form(weights, *inputs("pointnet2_cls msg", channels)[1])
    del weights["sa2.bn_blocks.1.0.weight"]
    with pytest.raises(ValueError, match=r"lacks sa2.bn_blocks.1.0 of yanx27's pointnet2 \(msg\)"):
        load(weights)
    with pytest.raises(ValueError, match=r"lacks sa1.mlp_convs.0 of yanx27's pointnet2 \(ssg\)"):
        load({"sa1.mlp_bns.0.weight": torch.ones(3)})
    weights["sa1.other.weight"] = torch.ones(3)
    with pytest.raises(ValueError, match=r"'sa1\.other\.weight' is not a weight of yanx27's pointnet2"):
        load(weights)


def test_a_checkpoint_is_converted_by_one_command(tmp_path, capsys):
    form, _, channels = form_of("dgcnn_semseg")
    weights = Weights(training=False, dtype=torch.float32)
    x = torch.rand(1, 30, channels)
    expected = form(weights, x)
    torch.save({f"module.{k}": v.detach() for k, v in weights.items()}, tmp_path / "model.t7")
    arguments = [str(tmp_path / "model.t7"), "--out", str(tmp_path / "scenes.safetensors")]
    convert.main(tyro.cli(convert.Options, args=arguments))
    assert "scenes.safetensors: DGCNNSegmentation, " in capsys.readouterr().out
    model = DGCNNSegmentation(5, k=K, emb_dims=32).eval()
    model.load_state_dict(load_file(tmp_path / "scenes.safetensors"))
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)  # float32, eight layers
    arguments[0] = str(tmp_path / "none.t7")
    with pytest.raises(SystemExit, match=r"error: .*No such file"):
        main(["convert", *arguments])


CHECKPOINT = Path(os.environ.get("DROPFOLD_DGCNN_S3DIS", ""))


@pytest.mark.skipif(not CHECKPOINT.is_file(), reason="DROPFOLD_DGCNN_S3DIS names no file")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_published_scene_network_gives_the_logits_of_its_textbook_form(seed):
    """Ours in float32, the form in float64: in float32 the form's own distances move neighbours."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 512, 9, generator=generator)
    x[..., :3] = x[..., :3] * torch.tensor([1.0, 1.0, 3.0]) - torch.tensor(
        [0.5, 0.5, 0.0]
    )  # a block, in metres
    weights = Weights(training=False)
    for name, value in torch.load(CHECKPOINT, map_location="cpu", weights_only=True).items():
        weights[name.removeprefix("module.")] = value.double() if value.is_floating_point() else value
    model = load_antao97(CHECKPOINT).eval()
    with torch.no_grad():
        found, expected = model(x), peers.dgcnn_semseg(weights, x.double(), k=20, classes=13)
    torch.testing.assert_close(found.double(), expected, rtol=0.0, atol=1e-4)
