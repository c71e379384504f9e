"""The files of a run, each written whole or not at all: to a temporary file beside it, synchronised, then renamed.

Each carries a checksum (`sealed`). The checkpoint also holds the config and the metrics, so that what is lost or damaged
beside it can be written anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.atomic import write_bytes as write
from dropfold.data_scripts.work.errors import is_of_broken_data
from dropfold.train.config import ranges
from dropfold.train.config.channels import Graph, graph_before_it_was_said
from dropfold.train.config.configs import CONFIGS, BlockConfig, Config, PointConfig, Signature
from dropfold.train.config.recipes import RECIPES, recipe
from dropfold.train.data.input_channels import channels_of
from dropfold.train.storage import sealed
from dropfold.train.storage.sealed import DamagedError

CONFIG, CHECKPOINT, METRICS, SUMMARY = "config.json", "checkpoint.pt", "metrics.jsonl", "summary.json"
BEST, WEIGHTS, PREDICTIONS, REPORT = (
    "best.safetensors",
    "model.safetensors",
    "predictions.npz",
    "report.html",
)
FILES = (CONFIG, CHECKPOINT, METRICS, SUMMARY, BEST, WEIGHTS, PREDICTIONS, REPORT)

_said: set[Path] = set()  # runs of which a line was printed


def tidy(folder: Path) -> None:
    """Remove temporary files that a kill has left; the process holds the folder's lock."""
    atomic.remove_left_over(folder, FILES)


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in a folder."""
    return any((folder / name).exists() for name in FILES)


def save_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as indented JSON."""
    write(path, sealed.seal_json(value))


def load_summary(run: Path) -> dict[str, Any]:
    """The summary of a finished run."""
    with _advising(run / SUMMARY):
        return sealed.load_json(run / SUMMARY)


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name, as a compressed .npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write(path, sealed.seal_archive(buffer.getbuffer()))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what `save_arrays` wrote."""
    with _advising(path), np.load(sealed.open_archive(path), allow_pickle=False) as arrays:
        _check_sizes(path, arrays)
        return dict(arrays)


def _check_sizes(path: Path, arrays: Any) -> None:
    """Refuse an array whose header states more than is there, before memory is taken for it."""
    for member in arrays.zip.infolist():
        with arrays.zip.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(file)
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise DamagedError(
                f"{path} is damaged: {member.filename} states {list(shape)} numbers, and holds fewer."
            )


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and numbers, to be read with `load_state`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(path, sealed.seal_archive(buffer.getbuffer()))


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote; nothing in the file is executed."""
    try:
        state = torch.load(sealed.open_archive(path), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise DamagedError(f"{path} is damaged: it holds no run.")
        return state
    except MemoryError:
        raise
    except Exception as error:  # the unpickler raises what it likes on broken data
        if not is_of_broken_data(error):
            raise
        run = path.parent
        anew = (
            f"The run has ended: `evaluate` and `predict` need {WEIGHTS} alone. Put a copy of the file back; or train it "
            "again, with another --out."
            if (run / SUMMARY).exists()
            else f"Put a copy of the file back; or delete it, and --resume {run} trains anew from the first epoch with the "
            "run's own config."
        )
        reason = error if isinstance(error, DamagedError) else f"{path} is damaged."
        raise DamagedError(f"{reason} Training cannot go on from it. {anew}") from None


def save_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Write a state dict as safetensors."""
    write(
        path,
        sealed.seal_tensors({name: value.detach().cpu().contiguous() for name, value in state.items()}),
    )


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read what `save_weights` wrote."""
    with _advising(path):
        return sealed.load_tensors(path)


def fill_network(network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load the weights from `path` into a network that was built by its run's config."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        first = next((line.strip() for line in str(error).splitlines()[1:]), str(error))
        raise ValueError(
            f"{path} is of another network than its {CONFIG} builds with this version of dropfold ({first}) Use the version "
            "that it was trained with, or train anew."
        ) from None


def find_not_finite(state: Mapping[str, Any], prefix: str = "") -> str | None:
    """The name of a tensor in a state, or in states within it, with NaN or infinite numbers; None if all are finite."""
    for key, value in state.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if (found := find_not_finite(value, f"{name}.")) is not None:
                return found
        elif isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            return name
    return None


@contextlib.contextmanager
def _advising(path: Path) -> Iterator[None]:
    """Say of a file of a run that is lost or damaged what to do."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not there. {made_anew(path)}") from None
    except MemoryError:
        raise
    except Exception as error:  # the libraries raise what they like on broken data
        if not is_of_broken_data(error):
            raise
        reason = error if isinstance(error, DamagedError) else f"{path} is damaged ({error})."
        raise DamagedError(f"{reason} {made_anew(path)}") from None


def made_anew(path: Path) -> str:
    """What to do about a lost or damaged file."""
    run, name, delete = path.parent, path.name, "Delete it, and " * path.exists()
    if name == BEST and (run / SUMMARY).exists():
        return (
            f"Put a copy of the file back; or delete it: the run has ended, and {SUMMARY} keeps the figures of its best "
            "epoch."
        )
    if name == BEST:
        return (
            f"Put a copy of the file back; or delete it, and --resume {run} ends without the figures of the best epoch, "
            "unless a later one is better."
        )
    if name in FILES and (run / CHECKPOINT).exists():
        return f"{delete}--resume {run} writes it anew."
    if name in FILES:
        return "Put a copy of the file back, or train anew."
    return f"{delete}give the same command again, which measures it anew."


def config_values(config: Config, signature: Signature) -> dict[str, Any]:
    """What config.json holds: the task, the config, and the signature that predictions need."""
    values = {"task": config.task, **asdict(config), **asdict(signature)}
    return json.loads(json.dumps(values, default=str))


def save_config(path: Path, config: Config, signature: Signature) -> None:
    """Write the config, its task, and the signature that predictions need."""
    save_json(path, config_values(config, signature))


def load_config(run: Path) -> tuple[Config, Signature]:
    """Read the config and the signature of a run's folder. If the file is lost or cut, they are those in the checkpoint.

    Raises:
        FileNotFoundError: no run there.
        ValueError: a file that was changed, or holds what no config can.
    """
    path = run / CONFIG
    try:
        values, whole = sealed.open_json(path)
    except (FileNotFoundError, NotADirectoryError, DamagedError) as error:
        kept = _config_of_checkpoint(run)
        if kept is None and not isinstance(error, DamagedError):
            raise FileNotFoundError(
                f"{path} is not there; give the folder of a run, as `dropfold train` printed it."
            ) from None
        if kept is None:
            raise DamagedError(f"{error} Put a copy of the file back, or train anew.") from None
        lost = "is lost" if isinstance(error, FileNotFoundError) else "is damaged"
        print(f"note: {path} {lost}; the config is the one in {CHECKPOINT}.", file=sys.stderr)
        return read_config(kept, run / CHECKPOINT)
    if not whole:
        raise DamagedError(_edited(run, values))
    return read_config(values, path)


def read_config(values: dict[str, Any], path: Path) -> tuple[Config, Signature]:
    """A config and its signature from JSON; ValueError names `path` and what in it is no config."""
    task = values.get("task", "clouds")
    try:
        kind = CONFIGS.get(task) if isinstance(task, str) else None
        if kind is None:
            raise ValueError(f"task must be one of {', '.join(CONFIGS)}; got {task!r}.")
        own = {field.name for field in fields(Signature)}
        signature = ranges.read(Signature, {key: value for key, value in values.items() if key in own})
        config = ranges.read(kind, {key: value for key, value in values.items() if key not in own | {"task"}})
        if isinstance(config, BlockConfig) and "graph" not in values:
            config.graph = _graph_of_old_run(path.parent, config)
            if signature.channels is not None:
                signature.channels = replace(signature.channels, graph=config.graph)
        # Runs made before channels were saved: their config says which they had.
        if signature.channels is None and isinstance(config, PointConfig):
            signature.channels = channels_of(config)
        ranges.check_options(config)
        ranges.check_signature(signature)
    except ValueError as error:
        raise ValueError(
            f"{path} is not the config of a run: {error} Put a copy of the file back, or train anew."
        ) from None
    return config, signature


def _config_of_checkpoint(run: Path) -> dict[str, Any] | None:
    """The fields of the config that the checkpoint holds, if it does."""
    try:
        text = load_state(run / CHECKPOINT).get("config")
        return json.loads(text) if text else None
    except (OSError, ValueError):
        return None


def _edited(run: Path, values: dict[str, Any]) -> str:
    """What to do about a config that was changed by hand, or by a fault of the disk."""
    kept = _config_of_checkpoint(run) or {}
    other = [name for name in kept if kept[name] != values.get(name)]
    changed = ", ".join(f"{name} {values.get(name)} (the run: {kept[name]})" for name in other[:3])
    restore = f" or delete the file, and --resume {run} restores it from {CHECKPOINT};" if kept else ""
    name = str(values.get("recipe"))  # of any type in an edited file
    return (
        f"{run / CONFIG} was changed after the run wrote it: its checksum differs{': ' * bool(changed)}{changed}. A run "
        f"keeps its config. Put back what was there,{restore} for other options train anew: dropfold train "
        f"{name if name in RECIPES else 'RECIPE'} with these options and another --out."
    )


def check_config(run: Path, state: Mapping[str, Any], config: Config, signature: Signature) -> None:
    """Refuse a config that is not the one its checkpoint was trained with."""
    if "config" not in state:  # of an older version
        return
    kept = read_config(json.loads(state["config"]), run / CHECKPOINT)
    if kept != (config, signature):
        raise DamagedError(_edited(run, config_values(config, signature)))


def _graph_of_old_run(run: Path, config: BlockConfig) -> Graph:
    """What made the graph of a run whose config does not say it, and a line where it is no longer what new runs take."""
    graph = graph_before_it_was_said(channels_of(config))
    if config.network == "dgcnn" and graph != BlockConfig.graph and run not in _said:
        _said.add(run)
        print(
            f"note: {run} does not say which channels make its graph: it was trained with {graph}, and keeps it; new runs "
            f"take {BlockConfig.graph}.",
            file=sys.stderr,
        )
    return graph


def same_data(run: Path, config: Config, checksum: str) -> None:
    """Refuse a data file that differs from the one a finished run was trained on; `checksum` is the file's."""
    began = load_summary(run).get("data", checksum)
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
    if config.out is not None and config.out.resolve() == config.resume.resolve():
        del asked["out"]  # the folder was moved since the run began
    other = [name for name, value in asked.items() if value != getattr(saved, name, None)]
    if other:
        given = ", ".join(f"{name} {asked[name]} (the run: {getattr(saved, name, None)})" for name in other)
        raise ValueError(f"a resumed run keeps its own config, and this asks for another: {given}.")
    return saved


class Metrics:
    """metrics.jsonl: a line an epoch. Resuming keeps the lines before the epoch that runs again.

    kept: the lines as the checkpoint has them, which are written anew if the file is lost or changed; None: an older
    version's, which has none.
    """

    def __init__(self, path: Path, before_epoch: int, kept: str | None = None) -> None:
        self.path = path
        found = [row for row in _rows_before_a_cut(path) if row["epoch"] < before_epoch]
        self.rows: list[dict[str, Any]] = found if kept is None else json.loads(kept)
        if kept is not None and path.exists() and json.dumps(found) != json.dumps(self.rows):
            print(f"note: {path} was cut or changed; it is written anew from {CHECKPOINT}.", file=sys.stderr)
        elif kept is None and len(self.rows) < before_epoch:
            lost = before_epoch - len(self.rows)
            print(f"note: {path} has lost the figures of {lost} of {before_epoch} epochs.", file=sys.stderr)
        self._save()

    def add(self, row: dict[str, Any]) -> None:
        """Append a line."""
        self.rows.append(row)
        self._save()

    def _save(self) -> None:
        write(self.path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())


def _rows_before_a_cut(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl up to the first that is none."""
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            if not isinstance(row["epoch"], int):
                break
        except (ValueError, TypeError, KeyError, RecursionError):
            break
        rows.append(row)
    return rows


def metrics_checksum(run: Path) -> str:
    """What the summary of a run says of its metrics.jsonl."""
    return hashlib.sha256((run / METRICS).read_bytes()).hexdigest()


def load_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a finished run's metrics.jsonl, compared with the checksum in its summary."""
    path, expected = run / METRICS, load_summary(run).get("metrics")
    with _advising(path):
        if metrics_checksum(run) != expected and expected is not None:
            raise DamagedError(f"{path} was changed after it was written, or {SUMMARY} is another run's.")
        return _rows_before_a_cut(path)
