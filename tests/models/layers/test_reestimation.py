"""Re-estimated statistics are the plain mean over batches of clean values; nothing else of a network changes."""

import pytest
import torch
from torch import nn

from dropfold.models import DGCNN, DropFeat, DropPoint, reestimate_batch_norm


def network(p=0.5, dropout=0.5):
    torch.manual_seed(1)
    noise = {"edge2": DropPoint(p), "pool": DropFeat(p)} if p else None
    return DGCNN(4, k=4, emb_dims=16, dropout=dropout, noise=noise)


def norms(model):
    return {name: norm for name, norm in model.named_modules() if isinstance(norm, nn.BatchNorm1d)}


def batches(count=3):
    random = torch.Generator().manual_seed(2)
    return [torch.rand(8, 20, 3, generator=random) for _ in range(count)]


def test_statistics_are_those_of_clean_values():
    """Of a network that was built without noise and without dropout (two layers have a norm after dropout or noise)."""
    model, clean = network(), network(0.0, 0.0).train()
    clean.load_state_dict(model.state_dict(), strict=False)
    total = {name: [0.0, 0.0] for name in norms(clean)}
    for batch in batches():
        for norm in norms(clean).values():
            norm.momentum = 1.0
        clean(batch)
        for name, norm in norms(clean).items():
            total[name][0] += norm.running_mean / 3
            total[name][1] += norm.running_var / 3
    reestimate_batch_norm(model, batches())
    for name, norm in norms(model).items():
        # Three float32 numbers, added in another order.
        torch.testing.assert_close(norm.running_mean, total[name][0], rtol=1e-4, atol=1e-6, msg=name)
        torch.testing.assert_close(norm.running_var, total[name][1], rtol=1e-4, atol=1e-6, msg=name)


def test_what_was_there_before_has_no_weight():
    a, b = network(), network()
    for norm in norms(b).values():
        norm.running_mean.fill_(100.0)
        norm.running_var.fill_(1e4)
    for model in (a, b):
        reestimate_batch_norm(model, batches())
    for one, two in zip(norms(a).values(), norms(b).values(), strict=True):
        torch.testing.assert_close(one.running_mean, two.running_mean)
        torch.testing.assert_close(one.running_var, two.running_var)


class Fault(Exception):
    pass


@pytest.mark.parametrize("fails", [False, True])
def test_weights_modes_momenta_and_schedules_stay(fails):
    model = network().train()
    model.edge1.eval()
    model.fc1.norm.momentum = 0.03
    model.noise["edge2"].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    momenta = {name: norm.momentum for name, norm in norms(model).items()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    during = []

    def run(batch):
        model(batch)
        during.append({name: module.training for name, module in model.named_modules()})
        if fails and len(during) == 2:
            raise Fault

    if fails:
        with pytest.raises(Fault):
            reestimate_batch_norm(model, batches(), run)
    else:
        reestimate_batch_norm(model, batches(), run)
    for seen in during:
        for name, module in model.named_modules():
            drops = isinstance(module, nn.Dropout | DropPoint | DropFeat)
            assert seen[name] is not drops, name
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: norm.momentum for name, norm in norms(model).items()} == momenta
    for name, value in model.state_dict().items():
        if "running" not in name and "num_batches" not in name:  # the noise's rate and step among them
            assert torch.equal(value, before[name]), name
