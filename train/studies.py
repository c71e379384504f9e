"""Studies: the variants that `python -m train.compare` runs over seeds; the first is what the others are compared to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from models.formats import FormatSpec
from train.config import Config, VideoConfig
from train.recipes import recipe

Shape = tuple[int, ...]


def formats(
    base: VideoConfig, inputs: Shape, ring: tuple[Shape, Shape], hidden: Shape
) -> dict[str, VideoConfig]:
    """TT, TR, BT, CP and HT of the input matrix alone, with a dense hidden one, and of both; `inputs` are the modes of a
    frame, `ring` those of the tensor ring, input and output (it pairs none, so it takes more and smaller ones)."""
    settings: dict[str, dict[str, Any]] = {
        "TT": {"format": "tt", "ranks": (4,)},
        "TR": {"format": "tr", "ranks": (5,)},
        "BT": {"format": "bt", "ranks": (4,), "blocks": 2},
        "CP": {"format": "cp", "ranks": (5,)},
        "HT": {"format": "ht", "ranks": (5,)},
    }
    found = {}
    for name, options in settings.items():
        rows, columns = ring if name == "TR" else (inputs, hidden)
        ih = FormatSpec(in_modes=rows, out_modes=columns, **options)
        hh = FormatSpec(in_modes=columns, out_modes=columns, **options)
        found[f"{name}, input"] = replace(base, ih=ih, hh=FormatSpec(), mega=FormatSpec())
        found[f"{name}, both"] = replace(base, ih=ih, hh=hh, mega=FormatSpec())
    return found


def action_video() -> dict[str, Config]:
    """Every format, of the input matrix alone and of both, and FDHT, beside the dense LSTM."""
    fdht = _video("action-video")
    dense = replace(fdht, mega=FormatSpec(), lr=1e-3)
    ring = ((6, 10, 10, 8), (4, 4, 4, 4))
    return {"dense": dense, **formats(fdht, (6, 10, 10, 8), ring, (4, 4, 4, 4)), "FDHT": fdht}


def moving_furniture() -> dict[str, Config]:
    """TT and HT of the input matrix alone and of both, and FDHT, beside the dense LSTM."""
    fdht = _video("fdht-lstm-video")
    dense = replace(fdht, mega=FormatSpec(), lr=1e-3)
    some = formats(fdht, (8, 20, 20, 18), ((8, 20, 20, 18), (4, 4, 4, 4)), (4, 4, 4, 4))
    chosen = {name: config for name, config in some.items() if name[:2] in ("TT", "HT")}
    return {"dense": dense, **chosen, "FDHT": fdht}


def _video(name: str) -> VideoConfig:
    config = recipe(name)
    assert isinstance(config, VideoConfig)
    return config


STUDIES: dict[str, Callable[[], dict[str, Config]]] = {
    "action-video": action_video,
    "moving-furniture": moving_furniture,
}
