"""What a compression has changed, measured: times, work, bytes, the sizes of layers, and what is left of explanations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.compress.cost.times import layer_times, times_of
from dropfold.compress.cost.work import multiply_adds, work_of
from dropfold.data_scripts.work.notes import say
from dropfold.explain import explain
from dropfold.models.layers.sizes import sizes_of
from dropfold.train.data.splits import stratified
from dropfold.train.storage.checkpoint import WEIGHTS
from dropfold.train.tasks.registry import CLASSIFYING
from dropfold.train.tasks.trained import Trained

MANY = 32  # samples of the larger batch
EXPLAINED = 16  # samples whose maps are compared

Pair = list[float]  # [before, after]


def measured(trained: Trained, fine: Trained, example: Sequence[Tensor]) -> dict[str, Any]:
    """What became of a run: its costs and, but of one on videos, its layers and explanations."""
    if trained.config.task == "video":  # whose networks count their own work, for all frames
        work = [trained.task.facts(network)["macs"] / 1e6 for network in (trained.network, fine.network)]
        return {"cost": {"M multiply-adds": work, **costs(trained, fine, example, many=False)}}
    work = [multiply_adds(work_of(network, *example)) / 1e6 for network in (trained.network, fine.network)]
    return {
        "cost": {"M multiply-adds": work, **costs(trained, fine, example)},
        "layers": layers(trained, fine, example),
        "explanations": explanations_kept(trained, fine),
    }


def costs(trained: Trained, fine: Trained, example: Sequence[Tensor], many: bool = True) -> dict[str, Pair]:
    """[before, after] of each cost; `many` for those of a batch of 32, too."""
    networks = [trained.network, fine.network]
    one = times_of(networks, *example)
    found = {f"ms at batch 1{name}": [t[i] for t in one] for i, name in ((1, ""), (0, ", p20"), (2, ", p80"))}
    if many:
        batch = [value.expand(MANY, *value.shape[1:]).contiguous() for value in example]
        found[f"ms at batch {MANY}"] = [t.p50 for t in times_of(networks, *batch)]
        if example[0].is_cuda:
            found[f"MB at most, batch {MANY}"] = [_peak_memory(network, batch) / 1e6 for network in networks]
    found["parameters"] = [sum(p.numel() for p in network.parameters()) for network in networks]
    found["bytes of weights"] = [_size_of(run) for run in (trained.run, fine.run)]
    return found


def layers(trained: Trained, fine: Trained, example: Sequence[Tensor]) -> dict[str, Any]:
    """Milliseconds of each layer before and after at batch 1, None for one that is gone, and the sizes of each matrix:
    [out, in] or [out, in, rank]."""
    times = [layer_times(network, *example) for network in (trained.network, fine.network)]
    sizes = [sizes_of(network) for network in (trained.network, fine.network)]
    return {
        "ms": {name: [ms, times[1].get(name)] for name, ms in times[0].items()},
        "sizes": {name: [size, sizes[1].get(name, [])] for name, size in sizes[0].items() if len(size) > 1},
    }


def explanations_kept(trained: Trained, fine: Trained) -> dict[str, float] | None:
    """The rank correlation (Spearman's) of the maps before and after for what the original predicts, its mean over samples.

    Of samples of the test split, of each class its share, where a sample is one cloud or one image; None for other runs.
    """
    if trained.config.task not in ("clouds", "images"):
        return None
    device = next(trained.network.parameters()).device
    test = trained.data.test
    chosen = stratified(test.label, EXPLAINED)
    inputs = [
        value[chosen].to(device) for value in CLASSIFYING[trained.config.task].inputs(test, trained.config)
    ]
    try:
        first = explain(trained.network, tuple(inputs), account=False)
        second = explain(fine.network, tuple(inputs), first.target, account=False)
    except ValueError as error:  # a user's own network may have no cut
        say(f"the maps before and after are not compared: {error}")
        return None
    pairs = [(first.sample(i).flatten(), second.sample(i).flatten()) for i in range(len(first))]
    if any(len(a) != len(b) for a, b in pairs):
        return None
    correlations = [_spearman(a, b) for a, b in pairs]
    return {"rank correlation": sum(correlations) / len(correlations), "samples": len(correlations)}


def _spearman(a: Tensor, b: Tensor) -> float:
    from scipy.stats import spearmanr

    found = float(spearmanr(a.detach().cpu().numpy(), b.detach().cpu().numpy()).statistic)
    return 0.0 if math.isnan(found) else found  # a map that is the same everywhere ranks nothing


def _size_of(run: Path) -> int:
    return (run / WEIGHTS).stat().st_size


@torch.inference_mode()
def _peak_memory(network: nn.Module, batch: Sequence[Tensor]) -> int:
    """Bytes that a call holds at most above what was held before it, on a GPU."""
    network(*batch)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    network(*batch)
    return torch.cuda.max_memory_allocated() - before
