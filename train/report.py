"""The report of a run: one self-contained HTML page, drawn in the browser from the data embedded in it."""

from __future__ import annotations

import base64
import json
import math
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernels import Noise, knn
from kernels._noise import point_factor
from kernels._random import uniform
from train import checkpoint
from train.data import load
from train.metrics import scores
from train.recipes import RECIPES, Config, recipe

PAGE = Path(__file__).with_name("report_page.html")
SHOWN = 6  # shapes in each gallery


def write_report(run: Path) -> None:
    """Write `report.html` into a finished run's folder."""
    page = PAGE.read_text().replace("{{DATA}}", json.dumps(_finite(collect(run))).replace("</", "<\\/"))
    checkpoint.write(run / "report.html", page.encode())


def collect(run: Path) -> dict[str, Any]:
    """Everything that the page shows, from the files of the run."""
    config, names = checkpoint.load_config(run)
    summary = json.loads((run / "summary.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    data = load(config)
    with np.load(run / "predictions.npz") as found:
        logits, label, index = found["logits"], found["label"], found["index"]
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    predicted = probabilities.argmax(1)
    confusion = scores(torch.from_numpy(logits), torch.from_numpy(label), len(names)).confusion.numpy()
    sure = probabilities.max(1)

    def gallery(chosen: np.ndarray) -> list[dict[str, Any]]:
        order = chosen[np.argsort(-sure[chosen])][:SHOWN]
        return [
            {
                "title": data.clouds.name[index[i]],
                "note": f"{names[label[i]]} → {names[predicted[i]]} {100 * sure[i]:.0f} %",
                "points": packed(data.clouds.points[index[i], : config.points]),
            }
            for i in order
        ]

    right, noise = predicted == label, config.noise
    kind = "no noise" if noise.kind == "none" else f"Drop{noise.kind.capitalize()} p {noise.p}"
    if noise.kind == "cluster":
        kind += f", clusters of {noise.k}"
    return {
        "title": f"{config.recipe}: {100 * summary['test/overall_accuracy']:.1f} % of {len(label)} test shapes",
        "lead": f"{config.network.upper() if config.network == 'dgcnn' else 'PointNet'} with {kind}, {config.epochs} "
        f"epochs on {len(data.train)} shapes of {config.points} points, {len(names)} classes. {data.clouds.source}.",
        "tiles": tiles(config, summary),
        "epochs": [row["epoch"] + 1 for row in rows],
        "curves": curves(config, rows),
        "noise": noise_gallery(config, data.clouds.points[data.train.index], data.train.label.numpy()),
        "best": gallery(np.flatnonzero(right)),
        "worst": gallery(np.flatnonzero(~right)),
        "names": names,
        "confusion": confusion.tolist(),
        "classes": [
            {
                "name": name,
                "shapes": int(confusion[c].sum()),
                "recall": confusion[c, c] / max(1, confusion[c].sum()),
                "precision": confusion[c, c] / max(1, confusion[:, c].sum()),
            }
            for c, name in enumerate(names)
        ],
        "command": command(config),
        "machine": f"Measured: commit {summary['commit']}, {summary['machine']}, torch {summary['torch']}. "
        f"Data: {data.clouds.credits}.",
        "config": [[key, str(value)] for key, value in _flat(asdict(config)).items()],
    }


def tiles(config: Config, summary: dict[str, Any]) -> list[list[str]]:
    """The figures at the top."""
    found = [
        [f"{100 * summary['test/overall_accuracy']:.1f} %", "overall accuracy, last epoch"],
        [f"{100 * summary['test/mean_class_accuracy']:.1f} %", "mean class accuracy, last epoch"],
    ]
    key = f"test_at_best_{config.select}"
    if f"{key}/epoch" in summary:
        accuracy, epoch = 100 * summary[f"{key}/overall_accuracy"], summary[f"{key}/epoch"]
        found.append([f"{accuracy:.1f} %", f"overall accuracy, epoch {epoch} (best on {config.select})"])
    minutes, seconds = divmod(round(summary["seconds"]), 60)
    found += [
        [f"{minutes}:{seconds:02d}", "minutes of training"],
        [f"{summary['parameters']:,}", "parameters"],
        [f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB", "peak memory"],
    ]
    return found


def curves(config: Config, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The charts: title and lines."""

    def lines(**keys: str) -> list[dict[str, Any]]:
        return [
            {"name": name.replace("_", " "), "y": [row.get(key) for row in rows]}
            for name, key in keys.items()
        ]

    select = config.select
    return [
        {"title": "Loss", "lines": lines(training="train/loss", **{select: f"{select}/loss"})},
        {
            "title": "Accuracy",
            "lines": lines(training="train/accuracy", **{select: f"{select}/overall_accuracy"}),
        },
        {"title": "Gradient norm", "lines": lines(mean="gradient_norm")},
        {"title": "Learning rate", "lines": lines(rate="lr")},
    ]


def fallen(points: np.ndarray, level: str, p: float, k: int) -> np.ndarray:
    """What one draw drops of a cloud [N, 3]: the share of its features that falls at each point, [N] (0 or 1 but for
    DropFeat)."""
    x, n = torch.from_numpy(points), len(points)
    seed, rate = torch.tensor(4), torch.tensor(p)
    if level == "feat":
        return (uniform(seed, 3 * n).view(n, 3) < rate).float().mean(1).numpy()
    noise = Noise(level, rate, seed, knn(x, min(k, n)) if level == "cluster" else None)  # type: ignore[arg-type]
    return (point_factor(noise, torch.tensor([0, n]), n) == 0).float().numpy()


def noise_gallery(config: Config, points: np.ndarray, label: np.ndarray) -> list[dict[str, Any]]:
    """The three noises on the first training shape of the first class."""
    cloud = np.ascontiguousarray(points[np.flatnonzero(label == label.min())[0], : config.points])
    p = config.noise.p if config.noise.kind != "none" else 0.3
    notes = {
        "feat": "each feature on its own; shown: 3 a point",
        "point": "single points",
        "cluster": f"clusters of {config.noise.k}",
    }
    return [
        {
            "title": f"Drop{level.capitalize()}, p {p}",
            "note": note,
            "points": packed(cloud),
            "fallen": base64.b64encode(
                (255 * fallen(cloud, level, p, config.noise.k)).astype(np.uint8).tobytes()
            ).decode(),
            "graded": level == "feat",
        }
        for level, note in notes.items()
    ]


def command(config: Config) -> str:
    """The command line that repeats the run: the recipe, and what differs from it."""
    words = ["python", "-m", "train", config.recipe]
    base = _flat(asdict(recipe(config.recipe))) if config.recipe in RECIPES else {}
    for key, value in _flat(asdict(config)).items():
        if key in ("out", "resume", "recipe") or base.get(key) == value:
            continue
        name = "--" + key.replace("_", "-")
        if isinstance(value, bool):
            words.append(
                name
                if value
                else "--" + ".".join([*name[2:].split(".")[:-1], "no-" + name[2:].split(".")[-1]])
            )
        else:
            words += [name, *(str(v) for v in (value if isinstance(value, tuple | list) else [value]))]
    return shlex.join(words)


def packed(points: np.ndarray) -> str:
    """Coordinates in the unit sphere as base64 of int8."""
    scale = max(1e-9, float(np.abs(points).max()))
    return base64.b64encode(np.round(127 * points / max(1.0, scale)).astype(np.int8).tobytes()).decode()


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
