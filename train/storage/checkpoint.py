"""What a run leaves on disk, each file whole or not at all: written beside its place, synchronised, then renamed."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from dropfold.data_scripts.work.atomic import write_bytes as write
from dropfold.train.config.configs import CONFIGS, Config, Signature
from dropfold.train.config.recipes import recipe


def tidy(folder: Path) -> None:
    """Remove what a kill left of files that were being written."""
    for left in folder.glob(".*"):
        if left.is_file():
            left.unlink()


def save_json(path: Path, value: Any) -> None:
    """`value` as indented JSON."""
    write(path, (json.dumps(value, indent=2, default=str) + "\n").encode())


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Tensors and numbers, to be read with `load_state`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote; nothing in the file is executed."""
    return torch.load(path, map_location="cpu", weights_only=True)


def save_weights(path: Path, state: dict[str, Tensor]) -> None:
    """A state dict as safetensors."""
    from safetensors.torch import save

    write(path, save({name: value.detach().cpu().contiguous() for name, value in state.items()}))


def save_config(path: Path, config: Config, signature: Signature) -> None:
    """The config and its task, and the signature that predictions need."""
    save_json(path, {"task": config.task, **asdict(config), **asdict(signature)})


def load_config(run: Path) -> tuple[Config, Signature]:
    """The config and signature of a run's folder."""
    path = run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there; give the folder of a run, as `dropfold train` printed it."
        )
    values = json.loads(path.read_text())
    kind = CONFIGS[values.get("task", "clouds")]
    signature = {field.name: values[field.name] for field in fields(Signature) if field.name in values}
    signature["shape"] = tuple(signature.get("shape", ()))
    return _dataclass(kind, values), Signature(**signature)


def same_data(run: Path, config: Config, checksum: str) -> None:
    """Refuse a data file that is not the one which a finished run was trained on; `checksum` is the file's."""
    began = json.loads((run / "summary.json").read_text()).get("data", checksum)
    if began != checksum:
        raise ValueError(
            f"{config.data} is not the file that {run} was trained on: its checksum is {checksum}, it was {began}. Put that "
            "file back, or train anew."
        )


def resumed(config: Config) -> Config:
    """The config of the run in `config.resume`; what was asked for beside it must agree."""
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


def _dataclass(kind: Any, values: dict[str, Any]) -> Any:
    hints, found = get_type_hints(kind), {}
    for field in fields(kind):
        if field.name not in values:
            continue
        value, hint = values[field.name], hints[field.name]
        if is_dataclass(hint):
            value = _dataclass(hint, value)
        elif "Path" in str(hint) and value is not None:
            value = Path(value)
        elif isinstance(value, list):
            value = tuple(value)
        found[field.name] = value
    return kind(**found)


class Metrics:
    """metrics.jsonl: a line an epoch. Resuming keeps the lines before the epoch that runs again."""

    def __init__(self, path: Path, before_epoch: int) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:  # a line that the kill cut short
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
