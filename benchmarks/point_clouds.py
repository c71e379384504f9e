"""`python -m benchmarks.point_clouds --antao97 PATH`: training steps beside their peers, in one interleaved run.

PATH is a checkout of github.com/antao97/dgcnn.pytorch. Without it only ours is measured. `--out` appends the rows to
a CSV file; those in benchmarks/results/ were made so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks import harness, peers
from benchmarks.harness import Case


@dataclass
class Options:
    """Time one DGCNN training step (forward, loss, backward, SGD) of ours and of the peers given."""

    antao97: Path | None = None
    """A checkout of antao97/dgcnn.pytorch to run beside ours."""
    clouds: int = 8
    """Clouds in a batch (B)."""
    points: int = 1024
    """Points in a cloud (N)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """float32, or the type of autocast, on both sides."""
    device: str = "cpu"
    """The device of both sides: cpu or cuda."""
    repetitions: int = 7
    """Timed steps of each; the table and the rows hold their quantiles."""
    out: Path | None = None
    """A CSV file to append the rows to."""


def dgcnn_step(
    provider: str, checkout: Path | None, clouds: int, points: int, dtype: str, device: str
) -> Callable[[], Any]:
    """A DGCNN training step on random points in the unit cube, with the same weights for every provider."""
    torch.manual_seed(0)
    from models import DGCNN
    from models.convert import load_antao97

    x = torch.rand(clouds, points, 3, device=device)
    labels = torch.randint(40, (clouds,), device=device)
    amp = None if dtype == "float32" else getattr(torch, dtype)
    if checkout is None:
        return peers.training_step(DGCNN(40).to(device), x, labels, amp)
    peer = peers.antao97_dgcnn(checkout)
    if provider == "antao97":
        return peers.training_step(peer.to(device), x.transpose(1, 2).contiguous(), labels, amp)
    return peers.training_step(load_antao97(peer.state_dict()).to(device), x, labels, amp)


def cases(options: Options) -> list[Case]:
    """Ours first: `times` in the table is over it."""
    shape = f"B{options.clouds}-N{options.points}-k20"
    providers = ["dropfold", "antao97"] if options.antao97 else ["dropfold"]
    return [
        Case(
            operation="dgcnn_step",
            provider=provider,
            shape=shape,
            dtype=options.dtype,
            make=partial(
                dgcnn_step,
                *(provider, options.antao97, options.clouds, options.points, options.dtype, options.device),
            ),
        )
        for provider in providers
    ]


def main() -> None:
    import tyro

    options = tyro.cli(Options, description=__doc__)
    rows = harness.measure(cases(options), repetitions=options.repetitions, device=options.device)
    harness.show(rows, f"one training step, {rows[0].machine}")
    if options.out:
        harness.append(rows, options.out)


if __name__ == "__main__":
    main()
