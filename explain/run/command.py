"""`dropfold explain RUN`: why a trained network decides as it does, and which of its units matter.

Writes explanation.json, explanation.npz and explanation.html into the run: for each cloud of the test split the points
that speak for the predicted class, the runner-up and the difference, and the terms that add up to the logit; what dropping
the most salient points does, beside random scores and the distance from the centre; the two-shape game; and the units of
the last pooled layer. For a run on videos: the frames and pixels, with frozen gates. For a run on images: the positions of
the last convolution, pixels replaced by their mean, and the units that the last linear layer reads. For a run that labels
points: what speaks for the labels of each cloud, or of blocks of a scene.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from dropfold.data_scripts.work import atomic

OF_CLOUDS = "xgrad_cam", "grad_cam", "radius", "random"  # the scores, if none are named
OF_IMAGES = "xgrad_cam", "grad_cam", "feature_norm", "random"
FILES = "explanation.json", "explanation.npz", "explanation.html"
OWN = (
    atomic.Own("explanation of dropfold", rb"\{", rb'"command": "dropfold explain '),
    atomic.Own("explanation of dropfold", rb"PK\x03\x04.{26}scores/"),
    atomic.Own("explanation of dropfold", rb"<!doctype html>", rb"<title>dropfold explanation</title>"),
)


@dataclass
class Options:
    """Explain a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    methods: tuple[str, ...] | None = None
    """Scores beside each other. Of points, default xgrad_cam, grad_cam, radius and random: also gradient_x_activation,
    feature_norm, critical_points, zheng, zheng_iterative and ablation. Of images, default xgrad_cam, grad_cam, feature_norm
    and random: also gradient_x_activation and ablation."""
    classes: tuple[str, ...] = ()
    """Only samples of these classes, or maps of these labels; default: all."""
    units: Literal["mean", "zero"] = "mean"
    """What a removed unit is replaced by: its mean over the training split, or 0."""
    split: Literal["train", "validation", "test"] = "test"
    """Which part of the data."""
    seed: int = 0
    """Of random scores and of pairs of clouds."""


def main(options: Options) -> None:
    from dropfold.explain.maps.methods import METHODS
    from dropfold.explain.page.page import write_page
    from dropfold.explain.score.saliency import SCORES
    from dropfold.train.engine.log import log_rows
    from dropfold.train.storage import checkpoint
    from dropfold.train.tasks.trained import Trained

    known = [*METHODS, "ablation", *SCORES]
    if wrong := [name for name in options.methods or () if name not in known]:
        raise ValueError(f"--methods has no {wrong[0]!r}; it takes {', '.join(known)}.")
    if options.methods == ():
        raise ValueError(f"--methods needs one at least, of {', '.join(known)}.")
    trained = Trained.of(options.run, train_on_validation=False)
    refuse_idle(options, trained.config.task)
    for name, own in zip(FILES, OWN, strict=True):
        atomic.check_target(options.run / name, own, option=None)
    found = _explain(options, trained)
    page = found.page | {
        "title": f"{trained.config.recipe}: why it decides",
        "lead": f"{trained.task.describe(trained.config)}; {options.split} split of {trained.data.source}. Orange speaks "
        "for the class, blue against it; a score is a part of the logit, and the terms of each bar add up to it.",
        "command": command_of(options),
    }
    found.values |= {
        "command": page["command"],
        "missing": largest_missing(found.values["predicted"]["account"]),
    }
    checkpoint.save_json(options.run / FILES[0], found.values)
    checkpoint.save_arrays(options.run / FILES[1], found.arrays)
    checkpoint.write(options.run / FILES[2], write_page(page).encode())
    log_rows(trained.config, options.run, rows_of(found.values), print)
    for line in summary(found.values):
        print(line)
    print(f"page: {options.run / FILES[2]}")


def refuse_idle(options: Options, task: str) -> None:
    """Refuse options that a run of this task would take without using them."""
    usual = Options(options.run)
    for name in ("methods", "units", "seed"):
        if task not in ("clouds", "images") and getattr(options, name) != getattr(usual, name):
            raise ValueError(
                f"--{name} is for runs that classify clouds or images, and {options.run} is one on {task}; leave it out."
            )


def rows_of(values: dict[str, Any], prefix: str = "explain/") -> dict[str, float]:
    """The single numbers of the findings by their path, for W&B; lists are of samples, and stay in the files."""
    rows: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            rows |= rows_of(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            rows[prefix + name] = value
    return rows


def command_of(options: Options) -> str:
    """The command line with the options that differ from their defaults."""
    words = ["dropfold", "explain", str(options.run)]
    for option in fields(Options)[1:]:
        value = getattr(options, option.name)
        if value != option.default:
            words += [f"--{option.name}", *map(str, value if isinstance(value, tuple) else [value])]
    return shlex.join(words)


def _explain(options: Options, trained: Any) -> Any:
    import torch

    task, config, names = trained.task, trained.config, trained.signature.class_names
    split = trained.split(options.split)
    if config.task in ("parts", "blocks", "scenes"):
        from dropfold.explain.run.labels import explain_labels, labelled_split

        known_classes(options.classes, names)
        return explain_labels(labelled_split(trained, split), options.classes)
    chosen = chosen_samples(options.classes, names, split.label)
    device = next(trained.network.parameters()).device
    inputs = tuple(value[chosen] for value in task.inputs(split, config))
    label, title = split.label[chosen], [trained.data.name[i] for i in split.index[chosen.numpy()]]
    if config.task == "video":
        from dropfold.explain.run.videos import explain_videos

        return explain_videos(trained.network, tuple(v.to(device) for v in inputs), label, title, names)
    train = trained.split("train")
    if config.task == "images":
        from dropfold.explain.run.images import Images, explain_images, map_layer

        layer = map_layer(trained.network, inputs[0].to(device))
        images = Images(trained.network, inputs[0].to(device), label.to(device), title, names, layer)
        seen, known = task.inputs(train, config)[0].to(device), train.label.to(device)
        before = Images(trained.network, seen, known, [], names, layer)
        methods = options.methods or OF_IMAGES
        with torch.random.fork_rng(devices=[]):
            return explain_images(images, before, methods, options.units, options.seed)
    from dropfold.explain.run.clouds import explain_clouds
    from dropfold.explain.run.found import Clouds

    seen, known = task.inputs(train, config)[0].to(device), train.label.long().to(device)
    training = Clouds(trained.network, seen, known, [], names)
    clouds = Clouds(trained.network, inputs[0].to(device), label.long().to(device), title, names)
    with torch.random.fork_rng(devices=[]):
        methods = options.methods or OF_CLOUDS
        return explain_clouds(clouds, training, methods, options.units, options.seed)


def known_classes(classes: tuple[str, ...], names: list[str]) -> None:
    """ValueError if there is no such class."""
    import difflib

    for name in classes:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is no class {name!r}.{hint} The classes are {', '.join(names)}.")


def chosen_samples(classes: tuple[str, ...], names: list[str], label: Any) -> Any:
    """The numbers of the samples of the classes; ValueError if there is no such class, or no sample."""
    import torch

    known_classes(classes, names)
    if not classes:
        return torch.arange(len(label))
    numbers = torch.tensor([names.index(name) for name in classes])
    of = torch.isin(label, numbers) if label.dim() == 1 else label[:, numbers].any(1)
    if not bool(of.any()):
        raise ValueError(f"the split has no sample of {', '.join(classes)}.")
    return of.nonzero()[:, 0]


def largest_missing(account: dict[str, Any]) -> float:
    """The missing term relative to the size of all others, of the sample where it is largest."""
    size = sum(np.abs(v) for name, v in account.items() if name != "missing")
    return float(np.max(np.abs(account["missing"]) / size))


def summary(values: dict[str, Any]) -> list[str]:
    """The findings in lines."""
    account, missing = values["predicted"]["account"], values["missing"]
    terms = ", ".join(f"{n} {np.mean(np.abs(v)):.3f}" for n, v in account.items() if n != "missing")
    lines = [f"logit = {terms} (means of absolute values); missing at most {missing:.0e} of them"]
    if "maps" in values:
        inside, share = values["on_own_points"], values["share_of_points"]
        shown = "–" if inside is None else f"{100 * inside:.1f} %"
        lines.append(
            f"{shown} of the evidence for a label lies on the {100 * share:.1f} % of the points that get it (means of "
            f"{len(values['maps'])} maps)"
        )
        lines.append(values["note"])
    if "dropping" in values:
        what = "points" if "inserted_mean" in next(iter(values["dropping"]["methods"].values())) else "pixels"
        for name, v in values["dropping"]["methods"].items():
            alone = (
                f", {100 * v['inserted_mean']:.1f} % with them alone (of up to 50 %)"
                if "inserted_mean" in v
                else ""
            )
            lines.append(
                f"{name}: accuracy {100 * v['most_mean']:.1f} % without its most salient {what} (mean of 10 to 50 %){alone}"
            )
    if "two_shape_game" in values:
        game = values["two_shape_game"]
        shares = [f"{name} {v['top']:.3f}" for name, v in game["methods"].items() if v["top"] is not None]
        lines.append(
            f"two-shape game, {game['valid']:.0%} of {game['pairs']} pairs valid: {', '.join(shares) or 'none'}"
        )
    if "units" in values:
        units = values["units"]
        lines.append(
            f"units of {units['layer']}: a unit costs {units['loss_mean']:.4f} of log p over all and "
            f"{units['worst_class_loss_mean']:.4f} for the class that suffers most in training"
        )
    return lines
