"""Sections of a report: values that a task (or a later command) makes and the page draws."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Section:
    """A heading, a text, and one of: a table (`head` and `rows`), charts, a picture (base64 PNG), or small ones (`items`).

    A chart is {"title", "lines": [{"name", "y": [...]}], "x": [...], "unit": of x}; without x it counts from 1. An item is a
    cloud ({"points" | "fine": base64, ...}), a strip of frames ({"strip": base64 PNG}) or an image ({"image": base64 PNG})
    with "title" and "note".
    """

    title: str
    text: str = ""
    items: list[dict[str, Any]] = field(default_factory=list)
    wide: bool = False
    """Items stand three in a row and turn together: truth, prediction, errors."""
    tilt: float | None = None
    """Of wide items: the angle in radians from which they are seen at first."""
    legend: list[list[str]] | None = None
    """Of wide items: [name, colour] of each class."""
    head: list[str] | None = None
    rows: list[list[str]] | None = None
    charts: list[dict[str, Any]] | None = None
    picture: str | None = None

    def as_json(self) -> dict[str, Any]:
        """What the page reads: the fields that are set."""
        return {name: value for name, value in vars(self).items() if value is not None and value is not False}


@dataclass
class ClassTable:
    """A row a class: name, count, and figures from 0 to 1 under `head`; and the confusion matrix, if a sample (or point) has
    one class."""

    head: list[str]
    rows: list[list[Any]]
    confusion: list[list[int]] | None = None
    unit: str | None = None
    """Of the confusion matrix; default: samples."""


def to_png(image: np.ndarray) -> str:
    """An image [H, W, 3] as a base64 PNG."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, image, format="png")
    return base64.b64encode(file.getvalue()).decode()
