"""What a compression shows: a table at the end of the command, and sections on the new run's page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dropfold.models.formats import FormatSpec
from dropfold.train.tasks.section import Section

DIGITS = {
    "ms at batch 1": 2,
    "ms at batch 32": 1,
    "M multiply-adds": 1,
    "parameters": 0,
    "bytes of weights": 0,
}


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Rows of name, before, after and after / before, of costs and of the leading figure at each stage."""
    shown = []
    for name, (before, after) in found["cost"].items():
        digits = DIGITS.get(name, 2)
        shown.append([name, f"{before:,.{digits}f}", f"{after:,.{digits}f}", f"{after / before:.2f}"])
    leading = next(iter(found["scores"]["original"]))
    for stage, scores in found["scores"].items():
        shown.append([f"{leading}, {stage}".replace("_", " "), "", f"{100 * scores[leading]:.1f} %", ""])
    kept = found.get("explanations")
    if kept:
        name = f"rank correlation of {kept['samples']:.0f} maps with the original's"
        shown.append([name, "", f"{kept['rank correlation']:.2f}", ""])
    return shown


def table(found: Mapping[str, Any]) -> Any:
    """The rows as the command prints them."""
    from rich.table import Table

    shown = Table(title=title(found))
    for name in ("", "before", "after", "after / before"):
        shown.add_column(name, justify="right" if name else "left")
    for row in rows(found):
        if ", p" not in row[0]:
            shown.add_row(*row)
    return shown


def title(found: Mapping[str, Any]) -> str:
    """Which run, how, and to what."""
    target = " ".join(map(str, found.get("target", ())))
    return f"{Path(found['run']).name}, {found['method']} {target}".strip()


def command(found: Mapping[str, Any], out: Path) -> str:
    """The command line that repeats it."""
    words = ["dropfold", "compress", found["run"]]
    for name in ("method", "target", "epochs", "lr", "seed", "rho"):
        if name in found:
            value = found[name]
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    usual = json.loads(json.dumps(asdict(FormatSpec())))
    for matrix in ("ih", "hh"):
        for name, value in found.get(matrix, {}).items():
            if value != usual[name]:
                words += [
                    f"--{matrix}.{name.replace('_', '-')}",
                    *map(str, value if isinstance(value, list) else [value]),
                ]
    return shlex.join([*words, "--out", str(out)])


def sections(found: Mapping[str, Any]) -> list[Section]:
    """Of the run's page: what it was made of, and layer by layer what went."""
    head = ["", "", "before", "after", "after / before"]
    about = (
        f"Made of {title(found)}, with {found['epochs']} epochs{_share(found['method'])}. Times were measured on this run's "
        "machine, the two networks in turns: medians. The accuracies are those of the test split; nothing was chosen by "
        "them."
    )
    made = [Section("Compression", about, head=head, rows=[[row[0], "", *row[1:]] for row in rows(found)])]
    if "layers" in found:
        made.append(_by_layer(found))
    if len(timed := found.get("times", {}).get("choices", [])) > 1:
        made.append(
            Section(
                "What was timed to meet the target",
                "Networks that the method offers, the whole one first.",
                charts=[{"title": "milliseconds at batch 1", "x": [w for w, _ in timed], "unit": "of multiply-adds",
                         "lines": [{"name": "p50", "y": [ms for _, ms in timed]}]}],
            )
        )  # fmt: skip
    return made


def _share(method: str) -> str:
    """What the epochs were for."""
    if method == "admm":
        return (
            ", half of them in the dense network, drawn near to what its matrices became, half of fine-tuning"
        )
    if method == "transform":
        return " of training after those of the shared weights"
    return " of training" if method in ("dcff", "dcff-released", "scratch") else " of fine-tuning"


def _by_layer(found: Mapping[str, Any]) -> Section:
    sizes, ms = found["layers"]["sizes"], found["layers"]["ms"]
    lines, done = [], set()
    for name, (before, after) in sizes.items():
        layer = max(
            (other for other in ms if name == other or name.startswith(f"{other}.")), key=len, default=""
        )
        times = ["", ""] if layer in done or layer not in ms else [_milliseconds(v) for v in ms[layer]]
        done.add(layer)
        lines.append([name, "", _size(before), _size(after), *times])
    rest = [
        whole - sum(t[i] or 0.0 for t in ms.values())
        for i, whole in enumerate(found["cost"]["ms at batch 1"])
    ]
    lines.append(
        ["outside of them: searches, pools, calls", "", "", "", *(f"{max(0.0, v):.3f}" for v in rest)]
    )
    return Section(
        "Layer by layer",
        "Channels in to channels out of each matrix or convolution, with the rank where two thin ones took its place; "
        "milliseconds of a layer at batch 1, measured with a clock around each.",
        head=["", "", "before", "after", "ms before", "ms after"],
        rows=lines,
    )


def _milliseconds(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _size(size: list[int]) -> str:
    if not size:
        return "none"
    out, inputs, *rank = size
    return f"{inputs} to {out}" + (f", rank {rank[0]}" if rank else "")
