"""What `dropfold explain` finds of a run on images: maps, curves of dropped pixels, units; as JSON, arrays and a page."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dropfold.explain.cut.images import last_convolution
from dropfold.explain.cut.inputs import Inputs
from dropfold.explain.maps.explanation import Explanation, effective_points
from dropfold.explain.maps.maps import explain
from dropfold.explain.maps.methods import METHODS
from dropfold.explain.page.page import account_of, doubt, pack_scores
from dropfold.explain.run.clouds import join
from dropfold.explain.run.found import Found, check_runner_up, in_words, mean, mean_interval, percent
from dropfold.explain.run.image_units import explain_image_units
from dropfold.explain.score.curves import FRACTIONS, rank_correlation, with_random_layers
from dropfold.explain.units.ablation import To, unit_values
from dropfold.train.data.splits import stratified
from dropfold.train.scoring.logits import predict
from dropfold.train.tasks.points import to_base64

BATCH = 64
DROPPED = 200  # images of the curves: each is seen again at every step
SHOWN = 300  # images of the page
SCORES = (*METHODS, "ablation", "feature_norm", "random")


@dataclass(frozen=True)
class Images:
    """A trained network, the images x uint8 [n, H, W, C] of a split, their classes [n] (-1: not known) and names; and the
    layer that their maps are of."""

    network: nn.Module
    x: Tensor
    label: Tensor
    title: list[str]
    names: list[str]
    layer: str

    def logits(self) -> Tensor:
        """[n, classes]."""
        return predict(self.network, (self.x,), BATCH).to(self.label.device)


def map_layer(network: nn.Module, x: Tensor) -> str:
    """The layer that maps of images are of; ValueError if there is none."""
    layer = last_convolution(network, Inputs.of(network, x[:1]))
    if layer is None:
        raise ValueError(
            "no convolution of this network is a cut: something goes round each of them; explain it in Python, with "
            "dropfold.explain.explain(network, images, layer=..., channels=1)."
        )
    return layer


def explain_images(images: Images, training: Images, methods: Sequence[str], to: To, seed: int = 0) -> Found:
    """Everything, of the test split; what replaces units, and dropped pixels, is the mean of `training` images."""
    for name in methods:
        if name not in SCORES:
            raise ValueError(f"--methods {name} is no score of images; these take {', '.join(SCORES)}.")
    found = Found()
    logits = images.logits()
    order = logits.argsort(dim=1, descending=True)
    shown = stratified(images.label, SHOWN)
    explain_maps(images, found, logits, order, shown)
    explain_curves(images, found, training, methods, order[:, 0], seed)
    explain_image_units(images, found, training, logits, to, shown)
    return found


def explain_maps(images: Images, found: Found, logits: Tensor, order: Tensor, shown: Tensor) -> None:
    """The predicted class, the runner-up and their difference, with their accounts; on the page those of the images
    `shown`."""
    check_runner_up(images.names)
    first, second = (in_batches(images, order[:, place]) for place in (0, 1))
    difference = first.contrast(second)
    accounts = {"predicted": first, "runner_up": second, "difference": difference}
    found.values |= {name: e.to_json() for name, e in accounts.items()}
    found.values |= {"classes": images.names, "label": images.label.tolist()}
    found.arrays |= {f"scores/{name}": e.scores.cpu().numpy() for name, e in accounts.items()}
    found.arrays |= {"logits": logits.cpu().numpy(), "label": images.label.cpu().numpy()}
    found.page["notes"] = list(first.notes)
    if len(shown) < len(first):
        found.page["notes"].append(
            f"the page shows {len(shown)} of {len(first):,} images, of each class its share; explanation.npz has all."
        )
    items = []
    for i in shown.tolist():
        label, predicted = int(images.label[i]), int(order[i, 0])
        scale = max(float(e.scores[i].abs().max()) for e in accounts.values())
        maps = [
            {
                "title": e.title(i),
                "scores": pack_scores(e.scores[i], scale),
                "account": account_of(e, i),
                "words": doubt(e, i),
            }
            for e in accounts.values()
        ]
        known = label >= 0
        note = f"{images.names[label]} → {images.names[predicted]}" if known else first.sentence(i)
        items.append(
            {
                **picture_of(images.x[i]), "cells": list(first.scores.shape[1:]), "title": images.title[i], "note": note,
                "scale": scale, "maps": maps, "label": label, "wrong": known and label != predicted,
            }
        )  # fmt: skip
    found.page |= {"images": items, "names": images.names}


def of_all(count: int, all_of_them: int) -> str:
    """How many images a figure is of."""
    return (
        f"{count} images"
        if count == all_of_them
        else f"{count} of {all_of_them:,} images, of each class its share"
    )


def picture_of(pixels: Tensor) -> dict[str, Any]:
    """An image uint8 [H, W, C] as the page draws it."""
    return {"size": list(pixels.shape), "pixels": to_base64(pixels.cpu().numpy())}


def in_batches(images: Images, target: Tensor) -> Explanation:
    """`explain` of all images, some at a time."""
    pieces = zip(images.x.split(BATCH), target.split(BATCH), strict=True)
    options: dict[str, Any] = {"layer": images.layer, "channels": 1, "class_names": images.names}
    return join([explain(images.network, x, c, **options) for x, c in pieces])


def scores_of(images: Images, network: nn.Module, x: Tensor, target: Tensor, name: str, seed: int) -> Tensor:
    """A score of positions [n, h, w] by its name; the last two of SCORES know no class."""
    options: dict[str, Any] = {"layer": images.layer, "channels": 1}
    if name == "feature_norm" or name == "random":
        parts = [unit_values(network, some, **options).parts[0].norm(dim=-1) for some in x.split(BATCH)]
        norm = torch.cat(parts)
        drawn = torch.rand(norm.shape, generator=torch.Generator().manual_seed(seed)).to(norm)
        return norm if name == "feature_norm" else drawn
    pieces = zip(x.split(BATCH), target.split(BATCH), strict=True)
    return torch.cat(
        [explain(network, some, c, method=name, account=False, **options).scores for some, c in pieces]
    )


def dropped(
    network: Callable[[Tensor], Tensor], x: Tensor, scores: Tensor, mean: Tensor, fraction: float, most: bool
) -> Tensor:
    """Logits of images x uint8 [n, H, W, C] whose `most` (or least) salient pixels are the training mean [C], from 0 to 1.
    Scores [n, h, w] are spread over the pixels by bilinear interpolation; of equal ones the first goes first."""
    n, H, W, _ = x.shape
    fine = nn.functional.interpolate(scores[:, None].double(), (H, W), mode="bilinear")[:, 0].flatten(1)
    gone = fine.argsort(dim=1, descending=most, stable=True)[:, : round(fraction * H * W)]
    mask = torch.zeros(n, H * W, dtype=torch.bool, device=x.device).scatter(1, gone, True)
    pixels = torch.where(mask.view(n, H, W, 1), mean, x.to(mean.dtype) / 255)
    with torch.no_grad():
        return torch.cat([network(some) for some in pixels.split(BATCH)])


def explain_curves(
    images: Images, found: Found, training: Images, methods: Sequence[str], target: Tensor, seed: int
) -> None:
    """Accuracy after the most, and after the least salient pixels are the mean; each method's time, spread and sanity."""
    chosen = stratified(images.label, DROPPED)
    x, label, target = (value[chosen] for value in (images.x, images.label, target))
    average = (training.x.double() / 255).mean((0, 1, 2)).float()
    some = stratified(label, BATCH)
    drawn = with_random_layers(images.network, 1, seed)
    values: dict[str, Any] = {}
    for name in methods:
        start = time.perf_counter()
        scores = scores_of(images, images.network, x, target, name, seed)
        seconds = time.perf_counter() - start
        curves = {
            order: torch.stack(
                [
                    dropped(images.network, x, scores, average, f, order == "most").argmax(1) == label
                    for f in FRACTIONS
                ]
            ).double()
            for order in ("most", "least")
        }
        anew = scores_of(images, drawn, x[some], target[some], name, seed)
        left = mean_interval(curves["most"].mean(0))  # of each image's mean over the fractions
        values[name] = {
            **{order: right.mean(1).tolist() for order, right in curves.items()},
            "most_mean": left[0],
            "most_interval": left[1:],
            "effective_points": mean(effective_points(scores.flatten(1))),
            "head_randomised": mean(rank_correlation(scores[some].flatten(1), anew.flatten(1))),
            "seconds": seconds,
        }
        found.arrays[f"dropping/{name}"] = curves["most"].cpu().numpy().astype(bool)
    found.values["dropping"] = {"fractions": list(FRACTIONS), "images": len(x), "methods": values}
    found.arrays["dropping/images"] = chosen.cpu().numpy()
    clean = float((dropped(images.network, x, scores, average, 0.0, True).argmax(1) == label).double().mean())
    charts = [
        {
            "title": f"Accuracy without the {order} salient share of pixels",
            "lines": [{"name": in_words(n), "y": [clean, *values[n][order]]} for n in methods],
            "x": [0.0, *FRACTIONS],
            "share": True,
        }
        for order in ("most", "least")
    ]
    text = (
        f"Pixels are replaced by the mean of the training images. That is no image any more, so a fall is also that of a "
        f"network that sees what it never saw: compare with random pixels. {of_all(len(x), len(images.x))}, one seed."
    )
    found.page["curves"] = {"title": "Dropping pixels", "text": text, "charts": charts}
    rows = [
        [in_words(n), percent(v["most_mean"]), "{} to {}".format(*map(percent, v["most_interval"])),
         f"{v['effective_points']:.0f}", f"{v['head_randomised']:+.2f}", f"{v['seconds']:.2f} s"]
        for n, v in values.items()
    ]  # fmt: skip
    text = (
        "Mean accuracy over the five steps, lower is better, with its 95 % bootstrap interval over images; how many of the "
        f"{scores[0].numel()} positions share the evidence; the rank correlation with the map of the network whose last "
        f"layer is drawn anew ({of_all(len(some), len(images.x))}): a score that knows no class stays at 1. Where the mean "
        "over all positions feeds one linear layer, XGrad-CAM, Grad-CAM and gradient x activation are the same map: CAM."
    )
    head = ["score", "accuracy left", "interval", "effective positions", "head drawn anew", "time"]
    found.page["tables"] = [{"title": "Scores beside each other", "text": text, "head": head, "rows": rows}]
