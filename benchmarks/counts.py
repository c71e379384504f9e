"""`python -m benchmarks.counts`: the parameters that papers publish beside ours, and what our presets hold, core by core.

Published counts are of the input-to-hidden matrix alone: no hidden matrix, no biases, no classifier. The presets' tables
leave nothing out: dense matrices, biases and a classifier of 11 classes stand in columns of their own.
"""

from __future__ import annotations

import argparse
import math
import warnings
from dataclasses import dataclass
from typing import Any

from dropfold.models import VideoClassifier, bt_lstm, fdht_lstm, ht_lstm, rnn_table, tr_lstm, tt_lstm
from dropfold.models.formats import BT, CP, HT, TR, TT, Format, Tucker

CLASSES = 11
VIDEO, GATES = (8, 20, 20, 18), (16, 4, 4, 4)
RING = ((4, 2, 5, 8, 6, 5, 3, 2), (16, 4, 2, 4, 2))
FEATURES, WIDE = (64, 32), (128, 64)
FDHT = (
    "FDHT-LSTM (Wu et al. 2021) publishes 3,132 to 8,808 parameters for whole LSTMs. Its modes and ranks are not known and "
    "no natural choice gives these numbers: they are quoted as published, not reproduced. Below is what ours hold."
)


@dataclass(frozen=True)
class Count:
    """One published matrix: its count in the paper and of our format."""

    what: str
    source: str
    published: int
    parameters: int
    dense: int
    macs: int
    lowered_macs: int


def published() -> list[Count]:
    """All published counts that we reproduce; the multiply-adds are of one frame, core by core and lowered."""
    video, features = "57,600 -> 4 x 256", "2,048 -> 4 x 2,048"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # published ranks above the useful ones
        made: list[tuple[str, str, int, Format]] = [
            (f"TT, rank 4, {video}", "Yang et al. 2017", 3_360, TT(VIDEO, GATES, 4)),
            ("TT, rank 4, 57,600 -> 3 x 256", "Yang et al. 2017, GRU", 3_232, TT(VIDEO, (12, 4, 4, 4), 4)),
            (f"BT, rank 4, 2 blocks, {video}", "Ye et al. 2018", 3_392, BT(VIDEO, GATES, 4)),
            (f"TR, rank 5, closed by 10, {video}", "Pan et al. 2019", 1_725, TR(*RING, [10] + [5] * 12)),
            (f"HT, split, rank 5, {video}", "Yin et al. 2020", 1_245, HT(VIDEO, GATES, 5, leaves="split")),
            (f"TR, rank 20, {features}", "TedNet", 115_200, TR(FEATURES, WIDE, 20)),
            (f"TT, rank 10, {features}", "TedNet", 102_400, TT(FEATURES, WIDE, 10)),
            (f"BT, rank 5, 2 blocks, {features}", "TedNet", 102_450, BT(FEATURES, WIDE, 5)),
            (f"CP, rank 400, {features}", "TedNet", 115_200, CP(FEATURES, WIDE, 400)),
            (f"Tucker-2, rank 10, {features}", "TedNet", 94_880, tucker_2()),
        ]
    dense = math.prod(VIDEO) * math.prod(GATES)
    counts = [Count(f"dense, {video}", "all of these", 58_982_400, dense, dense, dense, dense)]
    for what, source, number, network in made:
        counts.append(
            Count(
                *(what, source, number, network.parameters_count(), math.prod(network.shape)),
                *(network.macs(), network.lowered_macs()),
            )
        )
    return counts


def tucker_2() -> Tucker:
    """Frames on the first input mode and the output alone, as TedNet has it."""
    return Tucker((16, 16, 8), (8192,), (10, None, None, 10), paired=False)


def presets() -> dict[str, VideoClassifier]:
    """Our presets at their defaults with a classifier of 11 classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return {
            make.__name__: VideoClassifier(make(batch_first=True), CLASSES)
            for make in (tt_lstm, bt_lstm, tr_lstm, ht_lstm, fdht_lstm)
        }


def inventory(model: VideoClassifier) -> list[dict[str, Any]]:
    """Every tensor of a preset: its name, indices, shape, and its numbers under "cores", "dense", "biases" or "classifier";
    a matrix's first core has its multiply-adds. Ends with the sum."""
    rnn: Any = model.rnn
    rows: list[dict[str, Any]] = []
    for row in rnn_table(model):
        which = row["name"].split("_")[0]
        costs = {"macs": row["macs"], "dense_macs": row["dense_macs"]}
        if row["kind"] != "cores":
            column = "biases" if row["kind"] == "bias" else "classifier"
            rows.append(
                {
                    "name": row["name"],
                    "indices": "",
                    "shape": row["shape"],
                    column: row["parameters"],
                    **costs,
                }
            )
            continue
        weight = getattr(rnn, which)[0].weight  # presets have one layer and direction
        column = "dense" if len(weight.cores) == 1 else "cores"
        for k, (core, indices) in enumerate(zip(weight.cores, weight.layout)):
            rows.append(
                {"name": f"{row['name']} core {k}", "indices": " ".join(indices), "shape": tuple(core.shape),
                 column: core.numel(), **(costs if k == 0 else {})}
            )  # fmt: skip
    columns = ("cores", "dense", "biases", "classifier", "macs", "dense_macs")
    total = {column: sum(row.get(column, 0) for row in rows) for column in columns}
    return [*rows, {"name": "all", "indices": "", "shape": (), **total}]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    from rich.console import Console
    from rich.table import Table

    def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
        made = Table(title=title, title_justify="left")
        for name in columns:
            made.add_column(
                name, justify="left" if name in ("what", "source", "tensor", "indices") else "right"
            )
        for row in rows:
            made.add_row(*row)
        console.print(made)

    console = Console(width=132)
    table(
        "published counts, input to hidden alone",
        ["what", "source", "published", "ours", "times fewer", "M mult-adds", "lowered", "dense"],
        [
            [c.what, c.source, f"{c.published:,}", f"{c.parameters:,}" + ("" if c.parameters == c.published else " DIFFERS"),
             f"{c.dense / c.parameters:,.0f}", *(f"{n / 1e6:,.3f}" for n in (c.macs, c.lowered_macs, c.dense))]
            for c in published()
        ],
    )  # fmt: skip
    console.print(FDHT)
    for name, model in presets().items():
        columns = ["cores", "dense", "biases", "classifier", "macs", "dense_macs"]
        rows = [
            [row["name"], row["indices"], " x ".join(map(str, row["shape"])),
             *(f"{row[c]:,}" if c in row else "" for c in columns)]
            for row in inventory(model)
        ]  # fmt: skip
        table(f"{name}, {CLASSES} classes", ["tensor", "indices", "shape", *columns], rows)


if __name__ == "__main__":
    main()
