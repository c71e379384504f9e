"""Weights of peers' layouts load safely and give the textbook form's logits."""

import numpy as np
import pytest
import torch
from torch import nn

from dropfold.models import DGCNN, PointNet
from dropfold.models.convert.clouds import ANTAO97, YANX27, from_pyg, load, load_antao97, load_yanx27
from tests.models.clouds.test_networks import lived_in
from tests.oracle import networks as oracle


def foreign(model, names, conv_dims):
    """Our state dict under a peer's names, its convolutions with trailing ones."""
    state = {}
    for theirs, ours in names.items():
        for key, value in model.state_dict().items():
            if key.rpartition(".")[0] == ours:
                last = key.rpartition(".")[2]
                dims = conv_dims if "conv" in theirs and last == "weight" else 0
                state[f"module.{theirs}.{last}"] = value[(..., *[None] * dims)]
    return state


def test_antao97(tmp_path):
    model, x = lived_in(DGCNN(7, emb_dims=64)), torch.rand(2, 40, 3)
    state = foreign(model, ANTAO97, 2)
    for i in range(1, 5):  # each BatchNorm has a second name in the file
        state |= {k.replace(f"bn{i}", f"conv{i}.1"): v for k, v in state.items() if f".bn{i}." in k}
    torch.save(state, tmp_path / "model.t7")
    loaded = load_antao97(tmp_path / "model.t7").double().eval()
    expected = oracle.dgcnn(
        {k: v.double() if v.is_floating_point() else v for k, v in model.state_dict().items()}, x.double(), 20
    )
    torch.testing.assert_close(loaded(x.double()), expected, rtol=1e-9, atol=1e-9)
    del state["module.linear3.bias"], state["module.linear3.weight"]
    with pytest.raises(ValueError, match="lacks linear3"):
        load_antao97(state)
    with pytest.raises(ValueError, match=r"'other.weight' is not a weight of antao97"):
        load_antao97({**state, "other.weight": torch.zeros(1)})


def test_yanx27(tmp_path):
    model, x = lived_in(PointNet(7)), torch.rand(2, 40, 3)
    # As yanx27's training saves it: with two NumPy numbers.
    beside = {"epoch": 3, "instance_acc": np.mean([0.5, 1.0]), "class_acc": np.float32(0.5)}
    torch.save({"model_state_dict": foreign(model, YANX27, 1), **beside}, tmp_path / "best.pth")
    loaded = load_yanx27(tmp_path / "best.pth").double().eval()
    state = {k: v.double() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.testing.assert_close(loaded(x.double()), oracle.pointnet(state, x.double()), rtol=1e-9, atol=1e-9)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return print, ("harm",)

    torch.save(Harm(), tmp_path / "model.t7")
    with pytest.raises(Exception, match=r"(?i)weights.only") as caught:
        load_antao97(tmp_path / "model.t7")
    # torch's own text says how to run it after all.
    assert "False" not in str(caught.value)
    assert "state_dict(), FILE" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 5, 300, -200])
def test_a_checkpoint_that_is_not_whole_is_named(keep, tmp_path):
    path = tmp_path / "model.t7"
    torch.save(foreign(PointNet(7), YANX27, 1), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.t7 (is no whole checkpoint|holds more than tensors)"):
        load_yanx27(path)


@pytest.mark.filterwarnings("ignore")
def test_pyg_edge_conv():
    pyg = pytest.importorskip("torch_geometric.nn")
    network = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.1))
    theirs = lived_in(pyg.EdgeConv(network, aggr="max")).eval()
    ours = from_pyg(theirs).eval()
    x, k = torch.randn(12, 5), 3
    idx = torch.stack([torch.randperm(12)[:k] for _ in range(12)])
    edges = torch.stack([idx.flatten(), torch.arange(12).repeat_interleave(k)])
    torch.testing.assert_close(ours(x, idx), theirs(x, edges), rtol=1e-5, atol=1e-5)
    assert from_pyg(theirs.double())(x.double(), idx).dtype == torch.float64
    for other in (
        (nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 8)),
        (nn.Linear(10, 8), nn.ReLU(), nn.BatchNorm1d(8)),
        (nn.Linear(10, 8), nn.BatchNorm1d(8), nn.GELU()),
    ):
        with pytest.raises(ValueError, match="in this order, has an exact counterpart; got Linear, "):
            from_pyg(pyg.EdgeConv(nn.Sequential(*other), aggr="max"))


@pytest.mark.parametrize(
    "wrapper", ["state_dict", "model", "model_state", "model_state_dict", "network", None]
)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "model.", ""])
def test_weights_are_found_where_training_scripts_put_them(wrapper, prefix, tmp_path):
    names = {ours: theirs for theirs, ours in YANX27.items()}
    made = PointNet(7)
    state = {}
    for key, value in made.state_dict().items():
        module, _, last = key.rpartition(".")
        state[f"{prefix}{names[module]}.{last}"] = value
    saved = {"epoch": 3, wrapper: state, "optimizer": {"lr": 0.1}} if wrapper else state
    torch.save(saved, tmp_path / "model.pth")
    loaded = load(tmp_path / "model.pth")
    assert loaded.state_dict().keys() == made.state_dict().keys()
    for name, value in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["edge1.linear.weight", "edge1.norm.weight"], "names of dropfold itself, which needs no conversion"),
        (["encoder.encoder.0.0.convs.0.0.weight"], "names of open-mmlab, OpenPoints or Pointcept"),
        (["conv1.nn.0.weight"], "names of torch_geometric"),
        (["layer1.0.weight"], "names of no project that is known here"),
    ],
)
def test_a_checkpoint_of_another_project_is_named(names, sentence):
    state = {"state_dict": {name: torch.zeros(2) for name in names}}
    with pytest.raises(ValueError, match=f"the source holds no network of antao97.*{names[0]}.*{sentence}"):
        load(state)


def test_the_other_projects_loader_is_named():
    with pytest.raises(ValueError, match=r"no network of antao97/dgcnn.pytorch: .* names of yanx27/Pointnet"):
        load_antao97({"feat.conv1.weight": torch.zeros(2)})
    with pytest.raises(
        ValueError, match=r"no network of yanx27/Pointnet.*: .* names of antao97/dgcnn.pytorch"
    ):
        load_yanx27({"conv1.0.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"holds no state dict of tensors, .*; it holds epoch, best"):
        load({"epoch": 3, "best": 0.5})
