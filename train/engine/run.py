"""The engine: config in, a run's folder out.

Every step is a function of the weights and of (seed, epoch, step): the order, the augmentation, the noise and the
dropout are drawn from generators seeded anew at each step. So a checkpoint needs no generator states, and a resumed
run is the uninterrupted one bit for bit.
"""

from __future__ import annotations

import copy
import datetime
import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn

from dropfold.models import needs_reestimation, reestimate_batch_norm
from dropfold.train.config.configs import Config
from dropfold.train.data.splits import Data, generator
from dropfold.train.engine import memory
from dropfold.train.engine.check import check
from dropfold.train.engine.log import Tracker
from dropfold.train.engine.schedule import learning_rate, set_momentum
from dropfold.train.scoring.metrics import Answers, Scores, in_words
from dropfold.train.scoring.objective import loss_function, restricted, share_right
from dropfold.train.storage import checkpoint
from dropfold.train.storage.provenance import commit, machine
from dropfold.train.tasks.registry import task_of


class Run:
    """A run in progress: its folder, data, network and optimiser."""

    def __init__(self, config: Config) -> None:
        from accelerate import Accelerator

        folder = (
            config.resume
            or config.out
            or Path("runs") / f"{config.recipe}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
        )
        if config.resume is not None:
            config = checkpoint.resumed(config)
        elif (folder / "config.json").exists():
            raise FileExistsError(
                f"{folder} holds a run already; continue it with --resume {folder}, or give another --out."
            )
        self.config, self.folder, self.task = config, folder, task_of(config)
        cuda = torch.cuda.is_available()
        if config.amp == "fp16" and not cuda:
            raise ValueError("amp fp16 needs a GPU, its loss scaling is not made for CPUs; use bf16 or no.")
        if not cuda:
            memory.keep()
        self.accelerator = Accelerator(mixed_precision=config.amp, cpu=not cuda)
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.console = Console(stderr=True, quiet=self.rank != 0)
        self.data: Data = self.task.load(config)
        check(config, self.data, self.processes)
        self.steps = self.task.samples(self.data.train, config) // config.batch_size
        torch.manual_seed(config.seed)
        network: nn.Module = self.task.build(config, self.data.signature, self.steps)
        self.parameters = sum(p.numel() for p in network.parameters())
        optimizer = self._optimizer(network)
        self.epoch, self.seconds, self.best, self.score = 0, 0.0, (-1.0, -1), math.nan
        self.final: nn.Module | None = None  # the network as the last epoch was scored
        saved = folder / "checkpoint.pt"
        state = checkpoint.load_state(saved) if saved.exists() else None
        if state is not None:
            if (began := state.get("data", self.data.checksum)) != self.data.checksum:
                raise ValueError(
                    f"{config.data} is not the file that {folder} began with: its checksum is {self.data.checksum}, it was "
                    f"{began}. Put that file back, or train anew."
                )
            network.load_state_dict(state["model"])
            self.epoch, self.seconds = state["epoch"], state["seconds"]
            self.best = (state["best"], state["best_epoch"])
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        if state is not None:
            optimizer.load_state_dict(state["optimizer"])
            if self.accelerator.scaler is not None and state["scaler"]:
                self.accelerator.scaler.load_state_dict(state["scaler"])

    def _optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        config = self.config
        # Fused: one pass over weights, gradients and moments, and no temporaries of the size of a weight.
        options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
        if config.optimizer == "adam":
            return torch.optim.Adam(network.parameters(), **options)
        return torch.optim.SGD(network.parameters(), momentum=0.9, **options)

    def train(self) -> dict[str, Any]:
        """All epochs that are left, then the last evaluation and the report. Returns the summary."""
        config, main = self.config, self.rank == 0
        if self.epoch == config.epochs and (self.folder / "summary.json").exists():
            return self._ended()
        if main:
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoint.tidy(self.folder)
            checkpoint.save_config(self.folder / "config.json", config, self.data.signature)
            metrics = checkpoint.Metrics(self.folder / "metrics.jsonl", self.epoch)
            tracker = Tracker(config, self.folder, self.console.print)
            splits = [len(split) for split in (self.data.train, self.data.validation, self.data.test)]
            self.console.print(
                f"[bold]{config.recipe}[/bold]: {self.task.describe(config)}, {self.parameters:,} parameters; {splits} "
                f"{self.task.NOUN} to train, validate and test; {self.folder}"
            )
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not (main and self.console.is_terminal),
        ) as progress:
            total = (config.epochs - self.epoch) * self.steps
            task = progress.add_task("training", total=total, note="")
            while self.epoch < config.epochs:
                row = self._epoch(lambda: progress.advance(task))
                self.epoch += 1
                if main:
                    metrics.add(row)
                    tracker.log(row)
                    self._save()
                    note = f"loss {row['train/loss']:.3f}"
                    if f"{config.select}/loss" in row:
                        note += f", {config.select} {100 * self.score:.1f} %"
                    progress.update(task, note=note)
                    if not self.console.is_terminal:
                        left = self.seconds / self.epoch * (config.epochs - self.epoch)
                        self.console.print(f"epoch {self.epoch}/{config.epochs}: {note}, {left:.0f} s left")
        if not main:
            return {}
        summary, answers = self._finish()
        tracker.finish(summary, config, self.data, answers)
        return summary

    def _epoch(self, advance: Any) -> dict[str, Any]:
        """One pass over the training split, and the scores of the split that selects."""
        config, start, device = self.config, time.monotonic(), self.accelerator.device
        losses, hits, norms = [], [], []
        weight, family = (
            None if each is None else each.to(device) for each in (self.data.weight, self.data.family)
        )
        set_momentum(self._plain(), config, self.epoch)
        drawn = self.task.batches(self.data.train, config, self.epoch, self.rank, self.processes)
        for step, (inputs, label) in enumerate(drawn):
            rate = learning_rate(config, self.epoch, step, self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.network.train()
            # Noise and dropout of this step: the same after a resume, another in each process.
            torch.manual_seed(generator(config.seed, self.epoch, step, self.rank).initial_seed())
            label = label.to(device)
            with self.accelerator.autocast():
                logits = self.network(*(value.to(device) for value in inputs))
            if family is not None:
                logits = restricted(logits, family, family[label])
            loss = loss_function(logits, label, config, weight)
            if (penalty := self.task.penalty(self._plain(), config)) is not None:
                loss = loss + penalty
            self.optimizer.zero_grad(set_to_none=True)
            self.accelerator.backward(loss)
            norms.append(self.accelerator.clip_grad_norm_(self.network.parameters(), config.clip or math.inf))
            self.optimizer.step()
            losses.append(loss.detach())
            hits.append(share_right(logits.detach(), label))
            advance()
        means = torch.stack(
            [torch.stack([torch.as_tensor(v) for v in values]).mean() for values in (losses, hits, norms)]
        )
        loss_, accuracy, norm = self.accelerator.reduce(means, "mean").tolist()
        # With fp16's loss scaling a step whose gradient overflows is skipped, and is no fault.
        if not math.isfinite(loss_) or not (math.isfinite(norm) or self.accelerator.scaler):
            kept = f"; epoch {self.epoch} is in {self.folder / 'checkpoint.pt'}" if self.epoch else ""
            raise FloatingPointError(
                f"the mean loss is {loss_}, the gradient's norm {norm} in epoch {self.epoch + 1}{kept}. "
                "A lower --lr may help."
            )
        row: dict[str, Any] = {
            "epoch": self.epoch,
            "lr": rate,
            "train/loss": loss_,
            "train/accuracy": accuracy,
            "gradient_norm": norm,
        }
        split = self.data.test if config.select == "test" else self.data.validation
        done = self.epoch + 1
        due = done % config.validate_every == 0 or done == config.epochs
        if self.rank == 0 and len(split) and due:
            model = self._evaluated()
            self.final = model if done == config.epochs else None
            found = self._scores(model, split)
            row |= {f"{config.select}/{name}": value for name, value in found.figures.items()}
            row[f"{config.select}/loss"] = found.loss
            self.score = found.leading
            if found.leading >= self.best[0]:
                self.best = (found.leading, self.epoch)
                checkpoint.save_weights(self.folder / "best.safetensors", model.state_dict())
        row["seconds"] = time.monotonic() - start
        self.seconds += row["seconds"]
        self.accelerator.wait_for_everyone()
        return row

    def _plain(self) -> Any:
        """The network itself: no process group around it, and no autocast but that of the training step."""
        return self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)

    def _evaluated(self) -> nn.Module:
        """The network as it is evaluated: BatchNorm's statistics re-estimated where noise came before one."""
        model = self._plain()
        if not needs_reestimation(model):
            return model
        model = copy.deepcopy(model)
        for module in model.modules():
            if hasattr(module, "sync"):
                module.sync = False  # one process evaluates alone
        device, config = self.accelerator.device, self.config
        clean = (
            tuple(value.to(device) for value in inputs)
            for inputs, _ in self.task.batches(self.data.train, config, config.epochs)
        )
        reestimate_batch_norm(model, clean, lambda inputs: model(*inputs))
        return model

    def _scores(self, model: nn.Module, split: Any) -> Scores:
        return self.task.scores(self.task.answers(model, split, self.config), self.data.signature)

    def _save(self) -> None:
        scaler = self.accelerator.scaler
        state = {
            "model": self._plain().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
            "epoch": self.epoch,
            "seconds": self.seconds,
            "best": self.best[0],
            "best_epoch": self.best[1],
            "data": self.data.checksum,
        }
        checkpoint.save_state(self.folder / "checkpoint.pt", state)

    def _ended(self) -> dict[str, Any]:
        """The summary of a run that is resumed after its end; a kill may have left it without a report."""
        from dropfold.train.report.report import write_report

        if self.rank != 0:
            return {}
        write_report(self.folder, self.data)
        return json.loads((self.folder / "summary.json").read_text())

    def _finish(self) -> tuple[dict[str, Any], Answers]:
        """Scores on the test split of the last epoch and of the selected one; weights, predictions, summary, report.
        Returns the summary and what the network says of the test split."""
        config, test = self.config, self.data.test
        model = self._evaluated() if self.final is None else self.final
        answers = self.task.answers(model, test, config, final=True)
        last = self.task.scores(answers, self.data.signature)
        checkpoint.save_weights(self.folder / "model.safetensors", model.state_dict())
        save_predictions(self.folder / "predictions.npz", answers)
        summary: dict[str, Any] = {f"test/{name}": value for name, value in last.figures.items()}
        if len(self.data.validation):
            validation = self._scores(model, self.data.validation).figures
            summary |= {f"validation/{name}": value for name, value in validation.items()}
        if (self.folder / "best.safetensors").exists():
            from safetensors.torch import load_file

            there = answers
            if self.best[1] + 1 < config.epochs:
                chosen = copy.deepcopy(model)
                chosen.load_state_dict(load_file(self.folder / "best.safetensors"))
                there = self.task.answers(chosen, test, config, final=True)
            best = {**self.task.scores(there, self.data.signature).figures, "epoch": self.best[1] + 1}
            summary |= {f"test_at_best_{config.select}/{name}": value for name, value in best.items()}
        summary |= {
            "epochs": config.epochs,
            "seconds": round(self.seconds, 2),
            "peak_memory_bytes": peak_memory(self.accelerator.device),
            "parameters": self.parameters,
            **self.task.facts(model),
            "commit": commit(),
            "machine": machine(self.accelerator.device),
            "processes": self.processes,
            "data": self.data.checksum,
            "torch": torch.__version__,
        }
        checkpoint.save_json(self.folder / "summary.json", summary)
        from dropfold.train.report.report import write_report

        write_report(self.folder, self.data)
        return summary, answers


def in_a_line(summary: dict[str, Any], digits: int = 1) -> str:
    """The test split's figures of a summary."""
    figures = {
        name.removeprefix("test/"): value for name, value in summary.items() if name.startswith("test/")
    }
    return ", ".join(f"{in_words(name)} {100 * value:.{digits}f} %" for name, value in figures.items())


def save_predictions(path: Path, answers: Answers) -> None:
    """What the network says of every sample of a split."""
    import io

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **answers)  # type: ignore[arg-type]
    checkpoint.write(path, buffer.getvalue())


def peak_memory(device: torch.device) -> int:
    """Largest memory so far in bytes: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest  # macOS counts bytes, Linux kilobytes
