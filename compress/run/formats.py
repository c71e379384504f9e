"""The stages of a compression into tensor formats: draw near (ADMM), decompose, fine-tune, measure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from dropfold.compress.methods.admm import decomposed, onto_formats
from dropfold.compress.run.record import FILE, Request, begun, example_of, figures, settle, show_again
from dropfold.compress.run.training import draw_near, train_and_finish
from dropfold.data_scripts.work import atomic
from dropfold.models import TensorGRU
from dropfold.models.formats import FormatSpec
from dropfold.train.config.configs import VideoConfig
from dropfold.train.storage import checkpoint
from dropfold.train.tasks.registry import build


def compress_into_formats(request: Request, ih: FormatSpec, hh: FormatSpec) -> dict[str, Any]:
    """Make the run in `out`, or go on with it, and return what its compression.json holds.

    `admm` spends half of the epochs on the dense network with the penalty and half on the cores; `decompose` all on the
    cores. So both take equally long.

    Raises:
        ValueError: no format is given, a matrix is none of the run's or is not dense, or modes do not fit it.
    """
    trained, out, method, rho = request.trained, request.out, request.method, request.rho
    config = trained.config
    if not isinstance(config, VideoConfig):
        raise ValueError(
            f"formats are for runs on videos, and {trained.run} is one on {config.task}: its matrices get ranks "
            "(compress_into_ranks)."
        )
    specs = specs_of(trained.network, {"ih": ih, "hh": hh})
    config = request.config(max(2, config.epochs // 2), config.lr / 5)
    assert isinstance(config, VideoConfig)
    formats = json.loads(json.dumps({"ih": asdict(ih), "hh": asdict(hh)}))
    asked = request.words(config, rho=rho, **formats)
    found = begun(out, asked)
    if found is not None and "cost" in found:
        return show_again(out, found)
    gates = 3 if isinstance(trained.network.get_submodule("rnn"), TensorGRU) else 4
    cored = replace(config, ih=ih, hh=hh)
    small = build(cored, trained.signature)  # before anything is written: modes that do not fit are refused
    errors = decomposed(trained.network, small, specs, gates)
    if found is None:
        scores = {"original": figures(trained, trained.network), "decomposed": figures(trained, small)}
        found = {**settle(asked, trained), "errors": {"of the original": errors}, "scores": scores}
        atomic.make_folder(out)
        checkpoint.save_json(out / FILE, found)
    start: nn.Module = small
    if method == "admm":
        dense = draw_near(trained, config, onto_formats(specs, gates), rho)
        start = build(cored, trained.signature)
        found["errors"]["after ADMM"] = decomposed(dense, start, specs, gates)
        found["scores"]["dense after ADMM"] = figures(trained, dense)
        found["scores"]["decomposed after ADMM"] = figures(trained, start)
        checkpoint.save_json(out / FILE, found)
        cored = replace(cored, epochs=config.epochs - config.epochs // 2)
    example, weights = example_of(trained), start.state_dict()
    return train_and_finish(trained, found, cored, "fine-tuned", example, weights=weights)


def specs_of(network: nn.Module, formats: Mapping[str, FormatSpec]) -> dict[str, FormatSpec]:
    """The module of each matrix that gets a format, and its format; ValueError if there is none."""
    given = {name: spec for name, spec in formats.items() if spec.format != "dense"}
    if not given:
        raise ValueError(
            "give a format for a matrix: --ih.format tt --ih.in-modes 8 20 20 18 --ih.out-modes 4 4 4 4 --ih.ranks 4, and "
            "the same for --hh."
        )
    rnn: Any = network.get_submodule("rnn")
    if rnn.num_layers > 1 or rnn.directions > 1 or len(rnn.mega):
        raise ValueError("formats are fitted to an RNN of one layer in one direction with dense ih and hh.")
    return {f"rnn.{name}.0": spec for name, spec in given.items()}
