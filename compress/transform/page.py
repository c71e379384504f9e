"""What a transformation shows on the new run's page: the architecture before and after, the front, and the policy's way."""

from __future__ import annotations

import base64
import io
import json
import shlex
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from dropfold.compress.transform.architecture import Architecture, key_of
from dropfold.train.tasks.section import Section

INK, PALE, BLUE, ORANGE = "#333333", "#9aa3ab", "#1668a8", "#e8743b"
IN_A_ROW = 6
SLOWER = 0.02  # of the original's time: what is said to be slower
LINES = 4  # operations of a chart
OPTIONS = {
    "search": "search", "scores_at_most": "scores", "supernet_epochs": "supernet-epochs", "weights_from": "weights",
    "epochs": "epochs", "lr": "lr", "seed": "seed",
}  # fmt: skip


def command(found: Mapping[str, Any], out: Path) -> str:
    """The command line that repeats it."""
    words = ["dropfold", "transform", found["run"], "--target", *map(str, found["target"])]
    for name, option in OPTIONS.items():
        words += [f"--{option}", str(found[name])]
    words += ["--sandwich"] if found["sandwich"] else []
    words += ["--keep", *found["keep"]] if found["keep"] else []
    return shlex.join([*words, "--out", str(out)])


def sections(found: Mapping[str, Any], architecture: Architecture) -> list[Section]:
    """Of the run's page; `architecture` is the original one."""
    after, singles, original = found["operations"], found["singles"], architecture.operations()
    rows = []
    for name, before in original.items():
        log_p, cost = singles.get(name, (0.0, 0.0))
        change = [f"{-log_p:.3f}", f"{-100 * cost:.1f} %"] if name in singles else ["", ""]
        rows.append([name, "", before, after[name], *change])
    (what, part), scored = found["target"], found["architectures"]
    made = [
        Section(
            "The architecture, before and after",
            "Orange: what was replaced. Fall of log p(truth) on the validation split, and saving of the original's "
            f"{what}, by this transition alone (and what it brings with it), with the shared weights.",
            picture=_drawn(architecture, after),
        ),
        Section("", head=["layer", "", "before", "after", "fall of log p", "saving"], rows=rows),
        Section(
            "What was scored",
            f"{len(scored)} architectures with the shared weights, their BatchNorms measured, by {found['search']}. log "
            "p(truth) is the mean over the validation split; the cost is "
            + ("estimated by the table of times." if what == "latency" else "counted."),
            picture=_front(scored, found["operations"], what, part),
        ),
    ]
    if found["times"]:
        made.append(_times(found["times"]))
    if found["probabilities"]:
        made.append(_policy(found))
    return made


def _times(times: Mapping[str, Any]) -> Section:
    """The table of times, and what is slower although it needs no more multiply-adds."""
    whole = times["original"]
    rows = [
        [name, "", option, f"{ms:+.3f}", f"{100 * ms / whole:+.1f} %", "slower" * (ms > SLOWER * whole)]
        for name, options in times["added"].items()
        for option, ms in options.items()
        if ms
    ]
    slower = sum(row[-1] != "" for row in rows)
    return Section(
        "What each operation adds to the time",
        f"Of one sample, with this operation alone in its layer; the original takes {whole:.2f} ms, the cheapest "
        f"architecture {times['least']:.2f} ms. {slower} of {len(rows)} are slower by more than {100 * SLOWER:.0f} %, "
        "though none needs more multiply-adds.",
        head=["layer", "", "operation", "ms", "of the original's", ""],
        rows=rows,
    )


def _drawn(architecture: Architecture, after: Mapping[str, str]) -> str:
    from matplotlib.figure import Figure

    before, edges = architecture.operations(), architecture.edges
    follows = {b.name for a, b in pairwise(edges) if a.target == b.source}
    names = list(before)
    chunks = [names[i : i + IN_A_ROW] for i in range(0, len(names), IN_A_ROW)]
    picture = Figure(figsize=(10, 1.5 * len(chunks) + 0.2), layout="constrained")
    axes = picture.subplots(len(chunks), 1, squeeze=False)[:, 0]
    for ax, chunk in zip(axes, chunks, strict=True):
        ax.set(xlim=(-0.75, IN_A_ROW - 0.4), ylim=(-0.6, 1.85))
        ax.axis("off")
        for row, (operations, word) in enumerate(((after, "after"), (before, "before"))):
            ax.text(-0.72, row, word, va="center", color=PALE, fontsize=9)
            for i, name in enumerate(chunk):
                changed = before[name] != after[name]
                color = ORANGE if changed and not row else BLUE if not changed else PALE
                text = operations[name].replace("_reused", "\nreused").replace("_w", "\nwidth ")
                box = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": color, "lw": 1.6}
                ax.text(i, row, text, ha="center", va="center", fontsize=8, color=INK, bbox=box)
                if row:
                    ax.text(i, 1.72, name, ha="center", va="center", fontsize=8, color=PALE)
                if i + 1 < len(chunk) and chunk[i + 1] in follows:
                    ax.annotate(
                        "", (i + 0.58, row), (i + 0.44, row), arrowprops={"arrowstyle": "->", "color": PALE}
                    )
    return _png(picture)


def _front(scored: Mapping[str, Any], chosen: Mapping[str, str], what: str, part: float) -> str:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7, 3.6), layout="constrained")
    ax = picture.subplots()
    points = sorted((cost, log_p) for log_p, _, cost in scored.values())
    ax.scatter([cost for cost, _ in points], [log_p for _, log_p in points], s=14, color=PALE, label="scored")
    front: list[tuple[float, float]] = []
    for cost, log_p in points:
        if not front or log_p > front[-1][1]:
            front.append((cost, log_p))
    ax.step(*zip(*front, strict=True), where="post", color=BLUE, lw=1.6, label="front")
    own = scored[key_of(chosen)]
    ax.scatter([own[2]], [own[0]], s=60, color=ORANGE, zorder=3, label="taken")
    ax.axvline(part, color=PALE, ls=":", lw=1)
    ax.set(xlabel=f"{what}, part of the original's", ylabel="log p(truth), validation")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    return _png(picture)


def _png(picture: Any) -> str:
    file = io.BytesIO()
    picture.savefig(file, format="png", dpi=150)
    return base64.b64encode(file.getvalue()).decode()


def _policy(found: Mapping[str, Any]) -> Section:
    """The probabilities of the operations that a layer's policy came to, from time to time."""
    history, vocabulary = found["probabilities"], found["vocabulary"]
    charts = []
    for i, name in enumerate(found["operations"]):
        last = history[-1][i]
        top = sorted(range(len(last)), key=last.__getitem__, reverse=True)[:LINES]
        lines = [{"name": vocabulary[j], "y": [at[i][j] for at in history]} for j in top]
        charts.append({"title": name, "lines": lines, "x": list(range(len(history))), "share": True})
    return Section(
        "The policy's probabilities",
        "Of the operations that came out on top, every ten steps.",
        charts=json.loads(json.dumps(charts)),
    )
