"""Logits of point-cloud networks in evaluation, without autograd: ours and the peers', from the same weights and clouds.

A peer runs as its repository does, through inductor ("compiled"), and as an ONNX graph in onnxruntime. PointNet++'s peers
run eager alone: through inductor and onnxruntime they were not tried.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import cloud_steps, limits
from benchmarks.cases.cloud_steps import LOOPING, PEER, TASKS, Network, Setting, Side
from benchmarks.harness import Case

WAYS = ("compiled", "onnxruntime")


def make(setting: Setting, provider: str) -> Callable[[], Tensor]:
    """The forward of "dropfold", of a peer, or of a peer in one of `WAYS`."""
    name, _, how = provider.partition(" ")
    chosen = cloud_steps.side(setting, name)
    inputs = cloud_steps.inputs(setting, chosen, cloud_steps.data(setting)[0])
    chosen.model.to(setting.device).eval()
    if how == "onnxruntime":
        return _in_onnxruntime(chosen, inputs)
    if how == "compiled":
        chosen.model.compile()

    @torch.inference_mode()
    def step() -> Tensor:
        return chosen.logits(chosen.model(*inputs))

    return step


def _in_onnxruntime(chosen: Side, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    """The network exported and run by onnxruntime on as many threads as torch has."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(chosen.model, inputs, path, dynamo=True, external_data=False, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {of.name: x.numpy() for of, x in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: torch.from_numpy(session.run(None, given)[0])


def comparison(network: Network, setting: Setting) -> list[Case]:
    """Ours, the peer in each way if its checkout is given, and our products alone, in torch's libraries."""
    peer = PEER[network]
    more = [] if setting.checkout is None else [peer]
    if more and setting.device == "cpu":
        more += [f"{peer} {how}" for how in WAYS if not network.startswith(LOOPING)]
    cases = [
        Case(f"{network}_inference", name, str(setting), "float32", partial(make, setting, name))
        for name in ("dropfold", *more)
    ]
    chosen = cloud_steps.side(setting, "dropfold")
    given = cloud_steps.data(setting)[0]
    model = chosen.model.eval()
    with torch.enable_grad():  # the products that our loops make, as products of torch
        model(*given)
        found = limits.products(lambda: model(*given))
    flops = sum(product.flops for product in found)
    limited = [replace(case, flops_least=flops) for case in cases]
    libraries = (limits.GEMMS, limits.ONEDNN) if setting.device == "cpu" else (limits.GEMMS,)
    return limited + [
        replace(
            limited[0],
            provider=library,
            make=partial(limits.gemms, found, library, setting.device),
            memory=False,
        )
        for library in libraries
    ]


def distance(setting: Setting) -> float:
    """How far the log-probabilities in evaluation are apart, relative to their spread, in float64."""
    task = TASKS[setting.network]
    setting = replace(setting, points=min(setting.points, task.least), device="cpu")
    x, *category = cloud_steps.data(setting)[0]
    found: list[Any] = []
    for provider in ("dropfold", task.peer):
        chosen = cloud_steps.side(setting, provider)
        model = chosen.model.double()
        given = cloud_steps.inputs(setting, chosen, (x.double(), *category))
        with torch.no_grad():
            found.append(chosen.logits(model.eval()(*given)).log_softmax(-1).flatten(0, -2))
    ours, theirs = found
    return float((ours - theirs).norm() / (theirs - theirs.mean(0)).norm())
