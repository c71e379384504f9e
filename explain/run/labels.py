"""What `dropfold explain` finds of a run that labels points: for each class that a cloud is seen to hold, why.

The logit of a class is averaged over the points that are predicted as it; the map lies on all points of the cloud, or of
one block of a scene, and says which of them speak for that label, also from outside the part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.explain.maps.explanation import Explanation, effective_points
from dropfold.explain.maps.maps import explain
from dropfold.explain.page.page import shape_of
from dropfold.explain.run.found import Found, join, mean, percent
from dropfold.train.config.configs import BlockConfig, PartConfig, SceneConfig
from dropfold.train.data.splits import spread
from dropfold.train.scoring.objective import restrict_to_family
from dropfold.train.tasks import parts, scenes
from dropfold.train.tasks.segmentation import to_page

SHOWN = 12  # clouds of a split that are explained
CLASSES = 3  # of each cloud, those with the most points
NOTE = (
    "A network that labels points has no single class: dropping points, the two-shape game and units of the pooled layer "
    "are measured of runs that classify clouds."
)


@dataclass(frozen=True)
class Labelled:
    """Clouds of a network that labels points: its inputs (x [n, N, C], and of parts the category [n]), the class predicted
    at each point [n, N], titles and class names; `upright` turns coordinates so that y is up."""

    network: nn.Module
    inputs: tuple[Tensor, ...]
    predicted: Tensor
    title: list[str]
    names: list[str]
    upright: Callable[[np.ndarray], np.ndarray] = lambda points: points


def explain_labels(clouds: Labelled, classes: Sequence[str] = ()) -> Found:
    """A map for each of the most frequent predicted classes (or those in `classes`) of each cloud.

    Raises:
        ValueError: no point is predicted as any of `classes`.
    """
    found, shapes, rows, maps = Found(), [], [], []
    for i, title in enumerate(clouds.title):
        predicted = clouds.predicted[i]
        counts = torch.bincount(predicted, minlength=len(clouds.names))
        order = counts.argsort(descending=True, stable=True).tolist()
        chosen = [c for c in order if counts[c] and (not classes or clouds.names[c] in classes)][:CLASSES]
        if not chosen:
            continue
        own = [explain_class(clouds, i, c) for c in chosen]
        for c, e in zip(chosen, own, strict=True):
            rows.append(_row(e, predicted == c, title, clouds.names[c]))
        seen = ", ".join(
            f"{clouds.names[c]} {percent(float(counts[c]) / len(predicted))}" for c in order if counts[c]
        )
        pos = clouds.upright(own[0].points[0].cpu().numpy())  # type: ignore[index]
        shown = [replace(e, points=torch.from_numpy(np.ascontiguousarray(pos))[None]) for e in own]
        shapes.append(shape_of(shown, 0, title, f"predicted: {seen}"))
        maps += own
    if not maps:
        raise ValueError(
            f"no point of the {len(clouds.title)} clouds that are explained is predicted as {', '.join(classes)}."
        )
    whole = join(maps)
    found.values = {"predicted": whole.to_json(), "classes": clouds.names, "maps": rows, "note": NOTE}
    for name in ("share_of_points", "on_own_points", "effective_points"):
        known = [row[name] for row in rows if row[name] is not None]
        found.values[name] = float(np.mean(known)) if known else None
    found.arrays = {
        "scores/predicted": whole.scores.cpu().numpy(),
        "predicted": clouds.predicted.cpu().numpy().astype(np.uint8),
    }
    found.page = {"shapes": shapes, "notes": [*whole.notes, NOTE], "tables": [_table(rows)]}
    return found


def explain_class(clouds: Labelled, i: int, c: int) -> Explanation:
    """Of cloud i: the logit of class c, averaged over the points predicted as it."""
    inputs = tuple(value[i : i + 1] for value in clouds.inputs)
    mask = (clouds.predicted[i] == c)[None].to(inputs[0].device)
    return explain(clouds.network, inputs, c, points=mask, class_names=clouds.names)


def _row(e: Explanation, own: Tensor, title: str, name: str) -> dict[str, Any]:
    positive = e.scores[0].clamp(min=0).double().cpu()
    total = float(positive.sum())
    return {
        "cloud": title,
        "class": name,
        "points": int(own.sum()),
        "share_of_points": mean(own),
        "on_own_points": float(positive[own.cpu()].sum()) / total if total else None,
        "effective_points": mean(effective_points(e.scores)),
    }


def _table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By class, over its maps."""
    shown = []
    for name in dict.fromkeys(row["class"] for row in rows):
        of = [row for row in rows if row["class"] == name]
        on = [row["on_own_points"] for row in of if row["on_own_points"] is not None]
        shown.append(
            [name, str(len(of)), percent(float(np.mean([row["share_of_points"] for row in of]))),
             percent(float(np.mean(on))) if on else "–", f"{np.mean([row['effective_points'] for row in of]):.0f}"]
        )  # fmt: skip
    text = (
        "Where the positive evidence for a label lies: on the points that get it, or around them? By class, in the mean of "
        "its maps; the share of the points that get it is what a map without knowledge would have there."
    )
    head = ["class", "maps", "its share of the points", "evidence on them", "effective points"]
    return {"title": "Evidence inside and outside", "text": text, "head": head, "rows": shown}


# Of a run


def labelled_split(trained: Any, split: Any) -> Labelled:
    """Clouds spread over a split, or blocks of its rooms at random, as evaluation sees them."""
    config, signature, network = trained.config, trained.signature, trained.network
    device = next(network.parameters()).device
    names = signature.class_names
    chosen = spread(len(split), SHOWN)
    if isinstance(config, PartConfig):
        inputs, _ = parts.fixed(split, chosen.tolist(), config)
        return label_parts(network, inputs, config, signature, _titles(trained, split, chosen))
    assert isinstance(config, BlockConfig)
    if isinstance(config, SceneConfig):
        inputs, _ = scenes.fixed(split, replace(config, validation_blocks=SHOWN))
        titles = [f"block {i}" for i in range(len(inputs[0]))]
    else:
        inputs = (split.read(chosen)[0][:, : config.points],)
        titles = _titles(trained, split, chosen)
    return label_blocks(network, inputs[0].to(device), titles, names)


@torch.no_grad()
def label_parts(
    network: nn.Module, inputs: Sequence[Tensor], config: PartConfig, signature: Any, titles: list[str]
) -> Labelled:
    """Shapes (x [n, N, C], category [n]) with their parts: among those of the category, or of all, as the run chooses."""
    device = next(network.parameters()).device
    x, category = (value.to(device) for value in inputs)
    logits = (
        torch.cat([network(*pair) for pair in zip(x.split(4), category.split(4), strict=True)]).float().cpu()
    )
    if not config.all_parts:
        logits = restrict_to_family(logits, torch.tensor(signature.part_category), category.cpu()[:, None])
    return Labelled(network, (x, category), logits.argmax(-1), titles, signature.class_names)


@torch.no_grad()
def label_blocks(network: nn.Module, x: Tensor, titles: list[str], names: list[str]) -> Labelled:
    """Blocks of rooms, x [n, N, C], z upwards."""
    logits = torch.cat([network(some) for some in x.split(4)])
    return Labelled(network, (x,), logits.argmax(-1).cpu(), titles, names, to_page)


def _titles(trained: Any, split: Any, chosen: np.ndarray) -> list[str]:
    return [trained.data.name[i] for i in split.index[chosen]]
