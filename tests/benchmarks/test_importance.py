"""Criteria beside the loss of each masked channel, on a network with and without BatchNorms."""

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from benchmarks import importance
from dropfold.compress import plan_channels


def test_a_criterion_that_is_not_for_a_group_is_left_out_before_anything_is_masked(monkeypatch, capsys):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    ).eval()
    nn.init.uniform_(network[1].weight)
    x = torch.rand(5, 6)
    plan = plan_channels(network, x)
    trained = SimpleNamespace(network=network, config=SimpleNamespace(recipe="own"))
    losses = [lambda model: model(x).square().mean() for _ in range(3)]
    order = []

    def taylor(*given):
        order.append("taylor")
        return importance_taylor(*given)

    def ablation(*given):
        order.append("ablation")
        return importance_ablation(*given)

    importance_taylor, importance_ablation = importance.taylor, importance.ablation
    monkeypatch.setattr(importance, "taylor", taylor)
    monkeypatch.setattr(importance, "ablation", ablation)
    monkeypatch.setattr(importance.Trained, "of", lambda _: trained)
    monkeypatch.setattr(importance, "example_of", lambda _: (x,))
    monkeypatch.setattr(importance, "plan_of", lambda *_: plan)
    monkeypatch.setattr(importance, "losses_of", lambda _: iter(losses))
    rows = importance.rows_of(Path("own"), 2)
    found = {(row.group, row.criterion) for row in rows}
    names = {"l1", "norm", "fpgm", "random", "taylor", "fisher", "mean"}
    assert found == {(group, name) for group in ("0", "3") for name in names} | {("0", "bn_scale")}
    assert order == ["taylor", "ablation"]
    monkeypatch.setattr(importance, "rows_of", lambda *_: rows)
    importance.main(importance.Options((Path("own"),), out=None))
    head, first, second = capsys.readouterr().out.splitlines()[-3:]
    assert len(head.split()) == len(first.split()) == len(second.split()) + 1
    assert len(first) == len(second) == len(head)
