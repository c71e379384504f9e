"""Whether the files of a run's folder are whole, and belong together: a command needs some of them, and speaks of all.

Each file carries a checksum (`sealed`), and the summary those of the weights and predictions that the run wrote, so that
another run's file in their place is seen, too. Before the summary there is but one such file, the weights of the best epoch,
and the checkpoint keeps its checksum.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from dropfold.train.config.configs import Config, Signature
from dropfold.train.storage import checkpoint
from dropfold.train.storage.checkpoint import BEST, CHECKPOINT, CONFIG, METRICS, PREDICTIONS, SUMMARY, WEIGHTS
from dropfold.train.storage.sealed import DamagedError

FILES = "files"  # of a summary: name -> SHA-256
_said: set[str] = set()


def file_checksums(run: Path) -> dict[str, str]:
    """Of the weights and predictions in a folder, as the summary keeps them."""
    paths = [run / name for name in (WEIGHTS, PREDICTIONS, BEST)]
    return {path.name: file_checksum(path) for path in paths if path.exists()}


def file_checksum(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_file(run: Path, name: str) -> None:
    """Compare a file of a finished run with its own checksum, and with the one in the run's summary.

    Raises:
        DamagedError: it was changed, or is another run's; the message says what to do.
        FileNotFoundError: it is not there.
    """
    path = run / name
    if name == PREDICTIONS:
        checkpoint.load_arrays(path)
    else:
        checkpoint.load_weights(path)
    _compare(path, _stated(run).get(name), SUMMARY)


def check_best(run: Path, checksum: str | None) -> None:
    """Compare the weights of the best epoch with their own checksum, and with the one in the run's checkpoint, None in an
    older version's. They may have been deleted.

    Raises:
        DamagedError: they were changed, or are another run's; the message says what to do.
    """
    if (run / BEST).exists():
        check_file(run, BEST)
        _compare(run / BEST, checksum, CHECKPOINT)


def _compare(path: Path, checksum: str | None, where: str) -> None:
    if checksum is not None and file_checksum(path) != checksum:
        raise DamagedError(
            f"{path} is whole, and not the file that this run wrote (its checksum is not the one in {where}); is it "
            f"another run's? {checkpoint.made_anew(path)}"
        )


def _stated(run: Path) -> dict[str, Any]:
    """The checksums in a summary; nothing of an older version's, or where there is none."""
    if not (run / SUMMARY).exists():
        return {}
    files = checkpoint.load_summary(run).get(FILES, {})
    return files if isinstance(files, dict) else {}


def find_faults(run: Path, config: Config, signature: Signature) -> list[tuple[str, str]]:
    """The name and a sentence for each file of a run's folder that was changed, cannot be read, or is another run's."""
    faults = []

    def try_to(name: str, read: Any, *arguments: Any) -> Any:
        try:
            return read(*arguments)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            faults.append((name, str(error)))
            return None

    state = try_to(CHECKPOINT, checkpoint.load_state, run / CHECKPOINT)
    if state is not None:
        try_to(CONFIG, checkpoint.check_config, run, state, config, signature)
    if (run / SUMMARY).exists() and try_to(SUMMARY, checkpoint.load_summary, run) is not None:
        try_to(METRICS, checkpoint.load_metrics, run)
        for name in (WEIGHTS, PREDICTIONS, BEST):
            try_to(name, check_file, run, name)
    else:
        try_to(WEIGHTS, checkpoint.load_weights, run / WEIGHTS)
        # No epoch comes after the weights: a newer best than the checkpoint's cannot be.
        ended = state is not None and (run / WEIGHTS).exists()
        try_to(BEST, check_best, run, state.get("best_checksum") if ended else None)
        try_to(PREDICTIONS, checkpoint.load_arrays, run / PREDICTIONS)
    return faults


def note_faults(run: Path, config: Config, signature: Signature, needed: tuple[str, ...]) -> None:
    """Say what is wrong with the files of a run that a command does not need; a fault of a needed one is an error.

    Raises:
        DamagedError: a file of `needed`, or a config that is not the checkpoint's.
    """
    for name, fault in find_faults(run, config, signature):
        if name in (*needed, CONFIG):
            raise DamagedError(fault)
        if fault not in _said:
            _said.add(fault)
            print(f"note: {fault} It is not needed here.", file=sys.stderr)
