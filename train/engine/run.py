"""The engine: config in, a run's folder out.

Every step is a function of the weights and of (seed, epoch, step): the order, the augmentation, the noise and the
dropout come from generators seeded anew at each step. So a checkpoint needs no generator states, and a resumed run equals
the uninterrupted one bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor, nn

from dropfold.data_scripts.work import atomic
from dropfold.data_scripts.work.processes import FolderLock, hold_folder
from dropfold.train.config.configs import Config
from dropfold.train.config.ranges import check_options
from dropfold.train.data.splits import Data, Samples, generator, lacking_classes
from dropfold.train.engine import memory
from dropfold.train.engine.check import check, note_grid
from dropfold.train.engine.display import Display
from dropfold.train.engine.log import Tracker
from dropfold.train.engine.method import Method, owns_step
from dropfold.train.engine.methods import methods_of
from dropfold.train.engine.schedule import learning_rate
from dropfold.train.engine.start import load_start
from dropfold.train.engine.step import Learner, Step
from dropfold.train.report.report import write_report
from dropfold.train.scoring.metrics import Predictions, Scores
from dropfold.train.scoring.objective import accuracy
from dropfold.train.storage import belonging, checkpoint
from dropfold.train.storage.provenance import commit, machine
from dropfold.train.tasks.registry import AnyTask, build, task_of
from dropfold.train.tasks.trained import Trained


class Run:
    """A run in progress: its folder, data, network and optimiser.

    `methods` change how it trains, after those that the config itself asks for (`methods_of`). They are no part of the
    config: a run that is resumed is given them again. `weights`, a state dict, are those that a new run begins from.
    """

    def __init__(
        self, config: Config, methods: Sequence[Method] = (), weights: Mapping[str, Tensor] | None = None
    ) -> None:
        from accelerate import Accelerator

        resuming = config.resume is not None
        self.config, self.folder = _config_and_folder(config)
        self.resuming = resuming
        config = self.config
        check_options(config)
        self.task: AnyTask = task_of(config)
        cuda = torch.cuda.is_available()
        if config.amp == "fp16" and not cuda:
            raise ValueError("amp fp16 needs a GPU, its loss scaling is not made for CPUs; use bf16 or no.")
        if not cuda:
            memory.keep()
        self.accelerator = Accelerator(mixed_precision=config.amp, cpu=not cuda)
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.console = Console(stderr=True, quiet=self.rank != 0)
        state = self._load_state() if resuming else None
        self.data = self._load_data(state)
        check(config, self.data, self.processes)
        self.steps = self.task.samples(self.data.train, config) // config.batch_size
        self.methods = [*methods_of(config), *methods]
        self._weights = weights
        owners = [method for method in self.methods if owns_step(method)]
        if len(owners) > 1:
            names = ", ".join(type(method).__name__ for method in owners)
            raise ValueError(f"a step has one owner, and {names} each want to own it.")
        self.step_owner = owners[0] if owners else None
        self.epoch, self.seconds, self.best, self.score = 0, 0.0, (-1.0, -1), math.nan
        self.best_checksum: str | None = None  # of the file of the best epoch's weights
        self.final: nn.Module | None = None  # the network as it was scored after the last epoch
        self.metrics: checkpoint.Metrics | None = None
        self._kept_metrics: str | None = state["metrics"] if state and "metrics" in state else None
        self.commit = commit()
        self._build(state)

    def _load_state(self) -> dict[str, Any] | None:
        """The checkpoint of a run that is resumed, None if it was interrupted before its first."""
        if self.rank == 0:  # refuse a run that another process is training, before anything is read
            with hold_folder(self.folder, "trained in"):
                pass
        self._seen = _stamp(self.folder / checkpoint.CHECKPOINT)
        if self._seen is not None:
            return checkpoint.load_state(self.folder / checkpoint.CHECKPOINT)
        if (self.folder / checkpoint.SUMMARY).exists():
            raise FileNotFoundError(
                f"{self.folder} has ended, and its {checkpoint.CHECKPOINT} is not there: nothing to go on from. "
                "`evaluate` and `predict` need none; to train it again, give another --out."
            )
        return None

    def _load_data(self, state: dict[str, Any] | None) -> Data[Any]:
        try:
            return self.task.load(self.config)
        except (ValueError, OSError) as error:
            if not self.resuming:
                raise
            known = f" (checksum {state['data']})" if state and "data" in state else ""
            raise ValueError(
                f"{error} {self.folder} is trained on {self.config.data}{known}: put that file back in its place, or train "
                "anew with another --data and --out."
            ) from error

    def _build(self, state: dict[str, Any] | None) -> None:
        """The network, its methods and its optimiser: new ones, or as a checkpoint left them."""
        config = self.config
        torch.manual_seed(config.seed)
        network = build(config, self.data.signature, self.steps)
        if config.start is not None and state is None:
            for note in load_start(network, config.start, config, self.data.signature):
                self.console.print(f"note: {note}", markup=False, soft_wrap=True)
        if self._weights is not None and state is None:
            network.load_state_dict(self._weights)
        for method in self.methods:
            network = method.prepare(network)
        self.parameters = sum(p.numel() for p in network.parameters())
        optimizer = make_optimizer(config, network)
        if state is not None:
            self._check_state(state)
            for method, (_, kept) in zip(self.methods, state.get("methods", ())):
                method.load_state_dict(kept)
            with self._naming_version(state):
                network.load_state_dict(state["model"])
                self.epoch, self.seconds = state["epoch"], state["seconds"]
                self.best = (state["best"], state["best_epoch"])
                self.best_checksum = state.get("best_checksum")
            self._refuse_lost_best()
        wrapped, self.optimizer = self.accelerator.prepare(network, optimizer)
        if state is not None:
            with self._naming_version(state):
                optimizer.load_state_dict(state["optimizer"])
            if self.accelerator.scaler is not None and state["scaler"]:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        # No process group around it, and no autocast but that of the training step.
        self.network: nn.Module = self.accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
        device = self.accelerator.device
        weight, family = (
            None if value is None else value.to(device) for value in (self.data.weight, self.data.family)
        )
        terms = [method.loss for method in self.methods]
        self.learner = Learner(
            config, wrapped, self.network, self.optimizer, self.accelerator, weight, family, terms
        )

    @contextlib.contextmanager
    def _naming_version(self, state: dict[str, Any]) -> Iterator[None]:
        """A checkpoint that does not fit the network of its config is another version's."""
        try:
            yield
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            lines = str(error).splitlines()
            raise ValueError(
                f"{self.folder / checkpoint.CHECKPOINT} does not fit the network that this version of dropfold "
                f"({self.commit}) builds ({' '.join(lines[:2])}). Go on with the version that it was trained with "
                f"({state.get('commit', 'unknown')}), or train anew with another --out."
            ) from None

    def _check_state(self, state: dict[str, Any]) -> None:
        """Refuse to go on with another config, other data, or other methods, than the run began with."""
        config, folder, checksum = self.config, self.folder, self.data.checksum
        checkpoint.check_config(folder, state, config, checkpoint.load_config(folder)[1])
        if (began := state.get("data", checksum)) != checksum:
            raise ValueError(
                f"{config.data} is not the file that {folder} began with: its checksum is {checksum}, it was "
                f"{began}. Put that file back, or train anew."
            )
        names = [type(method).__name__ for method in self.methods]
        if (kept := [name for name, _ in state.get("methods", ())] or names) != names:
            raise ValueError(
                f"{folder} was trained with the methods {', '.join(kept)}, and is resumed with {', '.join(names)}; give "
                "the same ones."
            )

    def train(self) -> dict[str, Any]:
        """All epochs that are left, then the last evaluation and the report. Returns the summary."""
        lock = FolderLock(self.folder)
        try:
            if self.rank == 0:
                self._enter_folder(lock)
            self.accelerator.wait_for_everyone()
            return self._train_in_folder()
        finally:
            lock.release()

    def _train_in_folder(self) -> dict[str, Any]:
        config, main = self.config, self.rank == 0
        if main:
            metrics = self._prepare_folder()
            if self._has_ended():
                return self._ended()
            tracker = Tracker(config, self.folder, self.console.print)
            self._announce()
        with Display(self.console, config.epochs, self.steps, self.epoch, quiet=not main) as display:
            while self.epoch < config.epochs:
                row = self._epoch(display.advance)
                self.epoch += 1
                if main:
                    metrics.add(row)
                    tracker.log(row)
                    self._save()
                    display.end_epoch(self.epoch, self._note(row), self.seconds)
        if not main:
            return {}
        summary, predictions = self._finish()
        tracker.finish(summary, config, self.data, predictions)
        return summary

    def _enter_folder(self, lock: FolderLock) -> None:
        """Be the one process that trains in the folder."""
        atomic.make_folder(self.folder)
        lock.take("trained in")
        if self.resuming and _stamp(self.folder / checkpoint.CHECKPOINT) != self._seen:
            raise ValueError(
                f"{self.folder} was trained by another process meanwhile; give the same command again."
            )
        if not self.resuming:
            refuse_run(self.folder)
        self.resuming = True  # if this object trains again

    def _prepare_folder(self) -> checkpoint.Metrics:
        """The files that a run has from its start, and those that were lost of a run that is resumed."""
        checkpoint.tidy(self.folder)
        if (self.config.start is not None or self._weights is not None) and self.epoch == 0:
            self._save()  # from now on the run needs no other run's folder
        checkpoint.save_config(self.folder / checkpoint.CONFIG, self.config, self.data.signature)
        path = self.folder / checkpoint.METRICS
        self.metrics = checkpoint.Metrics(path, self.epoch, self._kept_metrics)
        return self.metrics

    def _announce(self) -> None:
        config, data = self.config, self.data
        splits = [len(split) for split in (data.train, data.validation, data.test)]
        self.console.print(
            f"[bold]{config.recipe}[/bold]: {self.task.describe(config)}, {self.parameters:,} parameters; {splits} "
            f"{self.task.NOUN} to train, validate and test; {escape(str(self.folder))}",
            soft_wrap=True,
        )
        if note := note_grid(self.network, config, data.signature.shape):
            self.console.print(note, markup=False, soft_wrap=True)
        for note in lacking_classes(data, self.task.NOUN):
            self.console.print(f"note: {note}", markup=False, soft_wrap=True)

    def _note(self, row: dict[str, Any]) -> str:
        select = self.config.select
        scored = f", {select} {100 * self.score:.1f} %" if f"{select}/loss" in row else ""
        return f"loss {row['train/loss']:.3f}{scored}"

    def _epoch(self, advance: Callable[[], object]) -> dict[str, Any]:
        """One pass over the training split, and the scores of the split that selects: the epoch's line of metrics."""
        start = time.monotonic()
        row = self._train_epoch(advance)
        for method in self.methods:
            row |= method.after_epoch(self.network, self.epoch)
        self._check_weights()
        if self.rank == 0 and self._validates():
            row |= self._validate()
        row["seconds"] = time.monotonic() - start
        self.seconds += row["seconds"]
        self.accelerator.wait_for_everyone()
        return row

    def _train_epoch(self, advance: Callable[[], object]) -> dict[str, Any]:
        """All steps of an epoch. Returns the means of their loss, accuracy and gradient norm."""
        config = self.config
        for method in self.methods:
            method.before_epoch(self.network, self.epoch)
        rate, figures = config.lr, []
        batches = self.task.batches(self.data.train, config, self.epoch, self.rank, self.processes)
        for index, (inputs, target) in enumerate(batches):
            rate = learning_rate(config, self.epoch, index, self.steps)
            figures.append(self._step(index, rate, inputs, target))
            advance()
        means = torch.stack([torch.stack(values).mean() for values in zip(*figures, strict=True)])
        loss, mean_accuracy, norm = self.accelerator.reduce(means, "mean").tolist()
        self._check_finite(loss, norm)
        return {
            "epoch": self.epoch,
            "lr": rate,
            "train/loss": loss,
            "train/accuracy": mean_accuracy,
            "gradient_norm": norm,
        }

    def _step(
        self, index: int, rate: float, inputs: tuple[Tensor, ...], target: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step at a learning rate. Returns its loss, accuracy and gradient norm."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.learner.wrapped.train()
        # The seed of the step's noise and dropout: the same after a resume, another on each rank.
        torch.manual_seed(generator(self.config.seed, self.epoch, index, self.rank).initial_seed())
        device = self.accelerator.device
        on_device = tuple(value.to(device) for value in inputs)
        step = Step(self.learner, self.epoch, index, on_device, target.to(device))
        step.clear_gradients()
        for method in self.methods:
            method.before_step(step)
        taken = self.step_owner.take_step(step) if self.step_owner is not None else None
        loss, logits = step.take() if taken is None else taken
        for method in self.methods:
            method.after_step(step)
        return (
            loss.detach(),
            accuracy(logits.detach(), step.target),
            torch.as_tensor(step.gradient_norm, device=loss.device),
        )

    def _check_finite(self, loss: float, norm: float) -> None:
        # With fp16's loss scaling a step whose gradient overflows is skipped, and is no fault.
        if math.isfinite(loss) and (math.isfinite(norm) or self.accelerator.scaler):
            return
        kept = f"; epoch {self.epoch} is in {self.folder / checkpoint.CHECKPOINT}" if self.epoch else ""
        raise FloatingPointError(
            f"the mean loss is {loss}, the gradient's norm {norm} in epoch {self.epoch + 1}{kept}. "
            "A lower --lr may help."
        )

    def _check_weights(self) -> None:
        """Refuse to save weights, buffers or moments that are not finite: the checkpoint of the epoch before stays."""
        found = checkpoint.find_not_finite(self.network.state_dict())
        moments = checkpoint.find_not_finite(self.optimizer.state_dict()["state"])
        if found is not None or moments is not None:
            self._refuse_diverged(found or f"the optimizer's state {moments}", self.epoch + 1)

    def _refuse_diverged(self, name: str, epoch: int) -> NoReturn:
        kept = f" The checkpoint of epoch {self.epoch} is in {self.folder}." if self.epoch else ""
        raise FloatingPointError(
            f"{name} is not finite after epoch {epoch}: the weights have diverged, and are not saved.{kept} --resume would "
            "come to the same; train anew with a lower --lr, or with --clip 1."
        )

    def _selection_split(self) -> Samples:
        """The split whose best epoch is reported beside the last one."""
        return self.data.test if self.config.select == "test" else self.data.validation

    def _validates(self) -> bool:
        """Whether the epoch ends with scores of the split that selects."""
        done = self.epoch + 1
        due = done % self.config.validate_every == 0 or done == self.config.epochs
        return due and len(self._selection_split()) > 0

    def _refuse_lost_best(self) -> None:
        """Refuse to go on with weights of the best epoch that are damaged, or another run's, where no other file holds them.

        If a kill came between an epoch's best weights and its checkpoint, they are not those that the checkpoint knows: the
        epoch, which runs again, tells them from another run's (`_validate`).
        """
        epochs = self.config.epochs
        if self.best[1] + 1 < epochs:
            newer = self.epoch < epochs and self._validates()
            belonging.check_best(self.folder, None if newer else self.best_checksum)

    def _validate(self) -> dict[str, float]:
        """Score the network on the split that selects, and keep it if it is the best so far."""
        select, network = self.config.select, self._evaluated()
        self.final = network if self.epoch + 1 == self.config.epochs else None
        scores = self._scores(network, self._selection_split())
        self.score = scores.leading
        if scores.leading >= self.best[0]:
            self.best = (scores.leading, self.epoch)
            checkpoint.save_weights(self.folder / checkpoint.BEST, network.state_dict())
            self.best_checksum = belonging.file_checksum(self.folder / checkpoint.BEST)
        else:
            belonging.check_best(self.folder, self.best_checksum)
        figures = {f"{select}/{name}": value for name, value in scores.figures.items()}
        return figures | {f"{select}/loss": scores.loss}

    def _evaluated(self) -> nn.Module:
        """The network to score and save."""
        network = self.network
        for method in self.methods:
            network = method.evaluated(network, self._clean_batches)
        if (found := checkpoint.find_not_finite(network.state_dict())) is not None:
            self._refuse_diverged(found, min(self.epoch + 1, self.config.epochs))
        return network

    def _clean_batches(self) -> Iterator[tuple[Tensor, ...]]:
        """The inputs of one more epoch of training."""
        batches = self.task.batches(self.data.train, self.config, self.config.epochs)
        return (tuple(value.to(self.accelerator.device) for value in inputs) for inputs, _ in batches)

    def _scores(self, network: nn.Module, split: Samples) -> Scores:
        predictions = self.task.predict_split(network, split, self.config)
        return self.task.scores(predictions, self.data.signature)

    def _save(self) -> None:
        scaler = self.accelerator.scaler
        state = {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
            "methods": [(type(method).__name__, method.state_dict()) for method in self.methods],
            "epoch": self.epoch,
            "seconds": self.seconds,
            "best": self.best[0],
            "best_epoch": self.best[1],
            "best_checksum": self.best_checksum,
            "data": self.data.checksum,
            "config": json.dumps(checkpoint.config_values(self.config, self.data.signature)),
            "metrics": json.dumps(self.metrics.rows if self.metrics is not None else []),
            "commit": self.commit,
        }
        path = self.folder / checkpoint.CHECKPOINT
        checkpoint.save_state(path, state)
        self._seen = _stamp(path)

    def _has_ended(self) -> bool:
        """Whether a run has all files that `_finish` writes, whole; others are made anew from the checkpoint."""
        if self.epoch < self.config.epochs or not (self.folder / checkpoint.SUMMARY).exists():
            return False
        try:
            checkpoint.load_summary(self.folder)
            checkpoint.load_metrics(self.folder)
            for name in (checkpoint.WEIGHTS, checkpoint.PREDICTIONS):
                belonging.check_file(self.folder, name)
            if (self.folder / checkpoint.BEST).exists():
                belonging.check_file(self.folder, checkpoint.BEST)
        except (FileNotFoundError, checkpoint.DamagedError) as error:
            self.console.print(f"note: {error} This is done now.", markup=False, soft_wrap=True)
            return False
        return True

    def _ended(self) -> dict[str, Any]:
        """The summary of a run that is resumed after its end; a kill may have left it without a report."""
        write_report(Trained(self.folder, self.config, self.data.signature, data=self.data))
        return checkpoint.load_summary(self.folder)

    def _finish(self) -> tuple[dict[str, Any], Predictions]:
        """Scores on the test split of the last epoch and of the selected one; weights, predictions, summary, report.
        Returns the summary and the predictions on the test split."""
        config, test, signature = self.config, self.data.test, self.data.signature
        network = self._evaluated() if self.final is None else self.final
        predictions = self.task.predict_split(network, test, config, final=True)
        checkpoint.save_weights(self.folder / checkpoint.WEIGHTS, network.state_dict())
        checkpoint.save_arrays(self.folder / checkpoint.PREDICTIONS, predictions)
        if self.best[1] + 1 == config.epochs:
            checkpoint.save_weights(self.folder / checkpoint.BEST, network.state_dict())
        figures = self.task.scores(predictions, signature).figures
        summary: dict[str, Any] = {f"test/{name}": value for name, value in figures.items()}
        if len(self.data.validation):
            validation = self._scores(network, self.data.validation).figures
            summary |= {f"validation/{name}": value for name, value in validation.items()}
        if (self.folder / checkpoint.BEST).exists():
            best = {**self._best_figures(network, predictions), "epoch": self.best[1] + 1}
            summary |= {f"test_at_best_{config.select}/{name}": value for name, value in best.items()}
        summary |= {
            "epochs": config.epochs,
            "seconds": round(self.seconds, 2),
            "peak_memory_bytes": memory.peak(self.accelerator.device),
            "parameters": sum(p.numel() for p in network.parameters()),
            **self.task.facts(network),
            "commit": self.commit,
            "machine": machine(self.accelerator.device),
            "processes": self.processes,
            "data": self.data.checksum,
            "metrics": checkpoint.metrics_checksum(self.folder),
            belonging.FILES: belonging.file_checksums(self.folder),
            "torch": torch.__version__,
        }
        checkpoint.save_json(self.folder / checkpoint.SUMMARY, summary)
        trained = Trained(
            self.folder, config, signature, network=network, data=self.data, predictions=predictions
        )
        write_report(trained)
        return summary, predictions

    def _best_figures(self, last: nn.Module, predictions: Predictions) -> dict[str, float]:
        """Figures on the test split of the selected epoch's network; `last` and `predictions` are the last epoch's."""
        if self.best[1] + 1 < self.config.epochs:
            belonging.check_best(self.folder, self.best_checksum)
            best = copy.deepcopy(last)
            best.load_state_dict(checkpoint.load_weights(self.folder / checkpoint.BEST))
            predictions = self.task.predict_split(best, self.data.test, self.config, final=True)
        return self.task.scores(predictions, self.data.signature).figures


def _config_and_folder(config: Config) -> tuple[Config, Path]:
    """The config of a run, as saved if it is resumed, and its folder."""
    if config.resume is not None:
        return checkpoint.resume_config(config), config.resume
    folder = config.out or Path("runs") / f"{config.recipe}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    refuse_run(folder)
    return config, folder


def refuse_run(folder: Path) -> None:
    """Refuse a folder that holds a run, whose files a new one would replace."""
    if os.path.lexists(folder) and not folder.is_dir():
        kind = "a file" if folder.exists() else "a link that leads nowhere"
        raise FileExistsError(f"--out {folder} is {kind}, and a run is a folder; give another.")
    atomic.check_folder(folder)
    if checkpoint.holds_run(folder):
        raise FileExistsError(
            f"{folder} holds a run already; continue it with --resume {folder}, or give another --out."
        )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes whenever a file is written anew; None: it is not there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def make_optimizer(config: Config, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a config."""
    # Fused: one pass over weights, gradients and moments, and no temporaries of the size of a weight.
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), **options)
    return torch.optim.SGD(network.parameters(), momentum=0.9, **options)
