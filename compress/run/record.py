"""What a compression keeps of itself, so that it can be interrupted, and what all of them measure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dropfold.compress.run.page import command, sections
from dropfold.compress.run.target import Keep
from dropfold.data_scripts.work import atomic
from dropfold.train.config.configs import Config
from dropfold.train.engine.log import log_rows
from dropfold.train.engine.run import refuse_run
from dropfold.train.report.report import write_report
from dropfold.train.storage import checkpoint
from dropfold.train.storage.belonging import file_checksum
from dropfold.train.storage.checkpoint import WEIGHTS
from dropfold.train.storage.provenance import commit, machine
from dropfold.train.storage.sealed import load_json
from dropfold.train.tasks.section import Section
from dropfold.train.tasks.trained import Trained

FILE = "compression.json"
WHEN = ("before", "after")


@dataclass(frozen=True)
class Request:
    """A run, the folder of the smaller one, a method and its target (what shrinks, and to which part); epochs, rate and seed
    of training, None for the method's own; and ADMM's penalty."""

    trained: Trained
    out: Path
    method: str
    target: tuple[str, float]
    epochs: int | None = None
    lr: float | None = None
    seed: int | None = None
    rho: float = 1.0

    def config(self, epochs: int, lr: float) -> Config:
        """The run's config for training in the new folder, with the method's own `epochs` and `lr` where none are asked
        for."""
        own = self.trained.config
        return replace(
            own, out=self.out, start=None, resume=None, epochs=self.epochs or epochs,
            lr=lr if self.lr is None else self.lr, seed=own.seed if self.seed is None else self.seed,
        )  # fmt: skip

    def words(self, config: Config, **more: Any) -> dict[str, Any]:
        """What is asked for, as it is kept: which run by its folder and the checksum of its weights."""
        run = self.trained.run
        return {
            "run": str(run.resolve()), "weights": file_checksum(run / WEIGHTS), "method": self.method,
            "epochs": config.epochs, "lr": config.lr, "seed": config.seed, **more,
        }  # fmt: skip


def begun(out: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an interrupted compression with the same options has kept in a folder; None if there is nothing.

    Raises:
        ValueError: it was begun with other options.
        FileExistsError: the folder holds another run.
    """
    if not (out / FILE).exists():
        refuse_run(out)
        return None
    found = load_json(out / FILE)
    if not isinstance(found, dict) or "method" not in found:
        raise ValueError(f"{out / FILE} is no record of a compression; give another --out.")
    refuse_others(out, found, asked)
    done = (
        "is finished: only its page is written again"
        if "cost" in found
        else "goes on from what was done before"
    )
    print(f"note: {out} {done}.", file=sys.stderr)
    return found


def begin(out: Path, asked: Mapping[str, Any], trained: Trained) -> dict[str, Any]:
    """What is kept in a folder (`begun`), or what is to be kept of a new compression; nothing is written."""
    found = begun(out, asked)
    return {**settle(asked, trained), "times": {}} if found is None else found


def keeping(out: Path, found: dict[str, Any]) -> Keep:
    """`keep(name, measure)`: a time that was measured for the choice. It is kept in the folder as soon as it is known, and
    not measured again, so that a compression that is interrupted goes on to the same choice."""

    def keep(name: str, measure: Callable[[], Any]) -> Any:
        if name not in found["times"]:
            found["times"][name] = measure()
            atomic.make_folder(out)
            checkpoint.save_json(out / FILE, found)
        return found["times"][name]

    return keep


def refuse_others(out: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """ValueError if what is kept in a folder was begun with other options."""
    for name, value in asked.items():
        if found.get(name) != value:
            raise ValueError(
                f"{out} was begun with {name} {found.get(name)}, and this asks for {value}; give another --out."
            )


@contextmanager
def going_on(out: Path) -> Iterator[None]:
    """What is interrupted says how it goes on, once something is kept."""
    try:
        yield
    except BaseException as error:
        if (out / FILE).exists():
            error.add_note(f"what is done is in {out}, and the same command goes on from there")
        raise


def settle(asked: Mapping[str, Any], trained: Trained) -> dict[str, Any]:
    """What was asked for, by whom and where."""
    return {**asked, "commit": commit(), "machine": machine(next(trained.network.parameters()).device)}


def show(
    fine: Trained, found: Mapping[str, Any], more: Sequence[Section] = (), made_by: str | None = None, again: bool = False
) -> None:  # fmt: skip
    """Write the new run's page again, with what the compression found and `more`, and send it to its W&B run, unless that
    was done before (`again`).

    `made_by` is the command that repeats it, if it is no `dropfold compress`.
    """
    write_report(fine, [*sections(found), *more], made_by=made_by or command(found, fine.run))
    if again:
        return
    numbers = {
        f"compress/{name}, {when}": pair[i]
        for name, pair in found["cost"].items()
        for i, when in enumerate(WHEN)
    }
    for stage, scores in found["scores"].items():
        numbers |= {f"compress/{stage}/{name}": value for name, value in scores.items()}
    log_rows(fine.config, fine.run, numbers, lambda text: print(text, file=sys.stderr))


def show_again(out: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Write the page of a finished compression again, and return what was found."""
    show(Trained.of(out), found, again=True)
    return found


def example_of(trained: Trained) -> tuple[Tensor, ...]:
    """The first sample of an epoch, as a batch of one."""
    inputs, _ = next(iter(trained.task.batches(trained.data.train, trained.config, 0)))
    device = next(trained.network.parameters()).device
    return tuple(value[:1].to(device) for value in inputs)


def figures(trained: Trained, network: nn.Module) -> dict[str, float]:
    """The figures of a network on the run's test split."""
    network = network.to(next(trained.network.parameters()).device).eval()
    predictions = trained.task.predict_split(network, trained.split("test"), trained.config, final=True)
    return dict(trained.task.scores(predictions, trained.signature).figures)
