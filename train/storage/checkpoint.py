"""The files of a run, each written whole or not at all: to a temporary file beside it, synchronised, then renamed."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor

from dropfold.data_scripts.work.atomic import write_bytes as write
from dropfold.train.config.channels import Channels, Graph, graph_before_it_was_said
from dropfold.train.config.configs import CONFIGS, BlockConfig, Config, PointConfig, Signature
from dropfold.train.config.recipes import recipe
from dropfold.train.data.input_channels import channels_of

_said: set[Path] = set()  # runs of which a line was printed


def tidy(folder: Path) -> None:
    """Remove temporary files that a kill has left."""
    for left in folder.glob(".*"):
        if left.is_file():
            left.unlink()


def save_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON."""
    write(path, (json.dumps(value, indent=2, default=str) + "\n").encode())


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name, as a compressed .npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write(path, buffer.getvalue())


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and numbers, to be read with `load_state`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote; nothing in the file is executed."""
    return torch.load(path, map_location="cpu", weights_only=True)


def save_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Write a state dict as safetensors."""
    from safetensors.torch import save

    write(path, save({name: value.detach().cpu().contiguous() for name, value in state.items()}))


def save_config(path: Path, config: Config, signature: Signature) -> None:
    """Write the config, its task, and the signature that predictions need."""
    save_json(path, {"task": config.task, **asdict(config), **asdict(signature)})


def load_config(run: Path) -> tuple[Config, Signature]:
    """Read the config and the signature of a run's folder."""
    path = run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there; give the folder of a run, as `dropfold train` printed it."
        )
    values = json.loads(path.read_text())
    kind = CONFIGS[values.get("task", "clouds")]
    config = _read_dataclass(kind, values)
    if isinstance(config, BlockConfig) and "graph" not in values:
        config.graph = _graph_of_old_run(run, config)
    signature = {field.name: values[field.name] for field in fields(Signature) if field.name in values}
    signature["shape"] = tuple(signature.get("shape", ()))
    # Runs made before channels were saved: their config says which they had.
    channels = values.get("channels")
    if channels is not None:
        graph = {"graph": config.graph} if isinstance(config, BlockConfig) else {}
        signature["channels"] = Channels(**graph | channels)
    else:
        signature["channels"] = channels_of(config) if isinstance(config, PointConfig) else None
    return config, Signature(**signature)


def _graph_of_old_run(run: Path, config: BlockConfig) -> Graph:
    """What made the graph of a run whose config does not say it, and a line where it is no longer what new runs take."""
    graph = graph_before_it_was_said(channels_of(config))
    if config.network == "dgcnn" and graph != BlockConfig.graph and run not in _said:
        _said.add(run)
        print(
            f"{run} does not say which channels make its graph: it was trained with {graph}, and keeps it; new runs take "
            f"{BlockConfig.graph}."
        )
    return graph


def same_data(run: Path, config: Config, checksum: str) -> None:
    """Refuse a data file that differs from the one a finished run was trained on; `checksum` is the file's."""
    began = json.loads((run / "summary.json").read_text()).get("data", checksum)
    if began != checksum:
        raise ValueError(
            f"{config.data} is not the file that {run} was trained on: its checksum is {checksum}, it was {began}. Put that "
            "file back, or train anew."
        )


def resume_config(config: Config) -> Config:
    """The config of the run in `config.resume`; other options given beside it must agree with it."""
    assert config.resume is not None
    saved, _ = load_config(config.resume)
    default = recipe(config.recipe) if config.recipe else config
    asked = {name: value for name, value in vars(config).items() if value != getattr(default, name)}
    asked = {"recipe": config.recipe or saved.recipe, **asked, "resume": None}
    other = [name for name, value in asked.items() if value != getattr(saved, name, None)]
    if other:
        given = ", ".join(f"{name} {asked[name]} (the run: {getattr(saved, name, None)})" for name in other)
        raise ValueError(f"a resumed run keeps its own config, and this asks for another: {given}.")
    return saved


def _read_dataclass(kind: Any, values: dict[str, Any]) -> Any:
    hints, options = get_type_hints(kind), {}
    for field in fields(kind):
        if field.name not in values:
            continue
        value, hint = values[field.name], hints[field.name]
        if is_dataclass(hint):
            value = _read_dataclass(hint, value)
        elif "Path" in str(hint) and value is not None:
            value = Path(value)
        elif isinstance(value, list):
            value = tuple(value)
        options[field.name] = value
    return kind(**options)


class Metrics:
    """metrics.jsonl: a line an epoch. Resuming keeps the lines before the epoch that runs again."""

    def __init__(self, path: Path, before_epoch: int) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:  # a kill cut the line short
                    break
                if row["epoch"] < before_epoch:
                    self.rows.append(row)
        self._save()

    def add(self, row: dict[str, Any]) -> None:
        """Append a line."""
        self.rows.append(row)
        self._save()

    def _save(self) -> None:
        write(self.path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())
