"""What the page of explanations shows: clouds with signed scores, and the terms of their logits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from dropfold.train.report.report import fill_page
from dropfold.train.tasks.points import pack_points, to_base64

if TYPE_CHECKING:
    from dropfold.explain.maps.explanation import Explanation

PAGE = Path(__file__).with_name("page.html")


def write_page(content: dict[str, Any]) -> str:
    """The page of its content, one file that asks for no other."""
    return fill_page(PAGE, {"notes": [], "names": [], "shapes": [], **content})


def page_of(explanation: Explanation) -> str:
    """The page of the clouds of an explanation."""
    rows = range(len(explanation))
    return write_page(
        {
            "title": f"{explanation.method} at {explanation.layer}",
            "lead": f"{len(explanation)} clouds, the first of them shown; turn them with the pointer.",
            "notes": list(explanation.notes),
            "shapes": [shape_of([explanation], i, f"sample {i}", explanation.sentence(i)) for i in rows],
        }
    )


def shape_of(explanations: list[Explanation], i: int, title: str, note: str) -> dict[str, Any]:
    """Sample i of one explanation or several, side by side on one scale."""
    first = explanations[0]
    assert first.points is not None
    points = first.points[i] if first.batch is None else first.points[first.batch == i]
    scale = max(float(e.sample(i).abs().max()) for e in explanations)
    maps = [
        {"title": e.title(i), "scores": pack_scores(e.sample(i), scale), "account": account_of(e, i), "words": doubt(e, i)}
        for e in explanations
    ]  # fmt: skip
    return {
        "title": title,
        "note": note,
        "points": pack_points(points.cpu().numpy()),
        "scale": scale,
        "maps": maps,
    }


def account_of(explanation: Explanation, i: int) -> dict[str, Any]:
    """The terms of sample i; a missing one only where it is more than rounding."""
    terms = {name: float(value[i]) for name, value in explanation.account.items()}
    if abs(terms.get("missing", 0.0)) <= 1e-4 * max(map(abs, terms.values())):
        terms.pop("missing", None)
    return {"terms": list(terms.items()), "logit": float(explanation.logit[i]), "of": "logit"}


def doubt(explanation: Explanation, i: int) -> str:
    """What a picture without orange would not say."""
    said = explanation.sentence(i)
    return said.partition("; ")[2]


def pack_scores(scores: Tensor, scale: float) -> str:
    """Scores from -scale to scale as base64 of int8."""
    values = scores.detach().cpu().double().numpy() / max(scale, np.finfo(np.float64).tiny)
    return to_base64(np.round(127 * values).astype(np.int8))
