"""The files of a run, each with its checksum."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dropfold.train.config.configs import Signature
from dropfold.train.config.recipes import recipe
from dropfold.train.storage import checkpoint
from tests.fuzz.case import Arrays, Format, Random, chance, pick
from tests.fuzz.mutate import damage_json, rezip


def tensors(random: Random) -> dict[str, torch.Tensor]:
    kinds = (torch.float32, torch.float64, torch.int64, torch.bfloat16, torch.uint8)
    return {
        f"layer.{i}.weight": torch.from_numpy(random.integers(0, 100, (i + 1, 3))).to(pick(random, *kinds))
        for i in range(int(random.integers(1, 5)))
    }


def plain(values: dict[str, torch.Tensor]) -> Arrays:
    return {name: value.double().numpy() for name, value in values.items()}


def as_text(value) -> Arrays:
    return {"text": np.array(json.dumps(value, sort_keys=True, default=str))}


def numbers(random: Random) -> dict:
    return {
        "epoch": int(random.integers(99)),
        "loss": float(random.random()),
        "best": {"accuracy": float(random.random()), "classes": random.integers(0, 9, 3).tolist()},
        "note": pick(random, "as it was", "größer", "<b>"),
    }


def make_checkpoint(random: Random, path: Path) -> Arrays:
    model = tensors(random)
    values = numbers(random)
    checkpoint.save_state(path, {"model": model, **values})
    return plain(model) | as_text(values)


def read_checkpoint(path: Path) -> Arrays:
    state = checkpoint.load_state(path)
    return plain(state.pop("model")) | as_text(state)


def make_weights(random: Random, path: Path) -> Arrays:
    model = tensors(random)
    checkpoint.save_weights(path, model)
    return plain(model)


def read_weights(path: Path) -> Arrays:
    return plain(checkpoint.load_weights(path))


def damage_weights(random: Random, path: Path) -> bool:
    """The header of a safetensors file, well formed; its checksum stays."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = damage_json(random, content[8:end], ("__metadata__", "sha256"))
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    return True


def make_config(random: Random, path: Path) -> Arrays:
    name = pick(random, "furniture", "fdht-lstm-video")
    config = replace(
        recipe(name), lr=float(random.random()) + 1e-3, seed=int(random.integers(99)), data=Path("a.h5")
    )
    classes = [f"class {i}" for i in range(int(random.integers(2, 5)))]
    signature = Signature(
        classes, shape=(64, 3), codes=pick(random, [], [3 * i + 2 for i in range(len(classes))])
    )
    checkpoint.save_config(path, config, signature)
    return read_config(path)


def read_config(path: Path) -> Arrays:
    config, signature = checkpoint.load_config(path.parent)
    return as_text(checkpoint.config_values(config, signature))


def damage_sealed_json(random: Random, path: Path) -> bool:
    path.write_bytes(damage_json(random, path.read_bytes(), ("sha256",)))
    return True


def make_summary(random: Random, path: Path) -> Arrays:
    values = numbers(random)
    checkpoint.save_json(path, values)
    if chance(random, 0.3):  # as an editor may write it
        path.write_text(json.dumps(json.loads(path.read_text()), indent=pick(random, None, 4)))
    return as_text(values)


def read_summary(path: Path) -> Arrays:
    return as_text(checkpoint.load_summary(path.parent))


def make_metrics(random: Random, path: Path) -> Arrays:
    rows = [{"epoch": i, "loss": float(random.random())} for i in range(int(random.integers(1, 6)))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    checkpoint.save_json(
        path.with_name(checkpoint.SUMMARY), {"metrics": checkpoint.metrics_checksum(path.parent)}
    )
    return as_text(rows)


def read_metrics(path: Path) -> Arrays:
    return as_text(checkpoint.load_metrics(path.parent))


def make_predictions(random: Random, path: Path) -> Arrays:
    found = {"target": random.integers(0, 5, 9), "logits": random.random((9, 5)).astype(np.float32)}
    checkpoint.save_arrays(path, found)
    return found


FORMATS = [
    Format("checkpoint.pt", "checkpoint.pt", make_checkpoint, (read_checkpoint,), sealed=True, damage=rezip),
    Format("safetensors", "model.safetensors", make_weights, (read_weights,), sealed=True, damage=damage_weights),
    Format("config.json", "config.json", make_config, (read_config,), sealed=True, damage=damage_sealed_json),
    Format("summary.json", "summary.json", make_summary, (read_summary,), sealed=True, damage=damage_sealed_json),
    Format("metrics.jsonl", "metrics.jsonl", make_metrics, (read_metrics,), sealed=True),
    Format("predictions.npz", "predictions.npz", make_predictions, (checkpoint.load_arrays,), sealed=True, damage=rezip),
]  # fmt: skip
