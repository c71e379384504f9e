"""What `dropfold explain` finds of a run on videos: the evidence of frames and pixels with frozen gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropfold.explain.maps.explanation import Explanation
from dropfold.explain.maps.maps import explain
from dropfold.explain.page.page import account_of, pack_scores
from dropfold.explain.run.found import Found, join
from dropfold.train.data.splits import stratified
from dropfold.train.tasks.points import to_base64

BATCH = 8
SHOWN = 12
FRAMES_SHOWN = 16


def explain_videos(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    label: Tensor | None,
    title: Sequence[str],
    names: list[str],
) -> Found:
    """The predicted class of clips: `inputs` are frames [n, T, H, W, C] and, where clips differ, their lengths [n]; labels
    if they are known."""
    pieces = zip(*(value.split(BATCH) for value in inputs), strict=True)
    whole = join([explain(network, piece, class_names=names) for piece in pieces])
    found = Found()
    found.values = {"predicted": whole.to_json(), "classes": names}
    found.arrays = {
        "scores/frames": whole.frames.cpu().numpy(),
        "logit": whole.logit.cpu().numpy(),
    }
    if label is not None:
        found.values["label"], found.arrays["label"] = label.tolist(), label.numpy()
    shown = list(range(len(whole))) if label is None else stratified(label, SHOWN).tolist()
    clips = [clip_of(whole, inputs, i, title[i], names, None if label is None else label[i]) for i in shown]
    found.page = {"names": names, "clips": clips, "notes": list(whole.notes)}
    if len(shown) < len(whole):
        found.page["notes"].append(
            f"the page shows {len(shown)} of {len(whole):,} clips, of each class its share; explanation.npz has all."
        )
    return found


def clip_of(
    whole: Explanation, inputs: tuple[Tensor, ...], i: int, title: str, names: list[str], label: Tensor | None
) -> dict[str, Any]:
    """Frames spread over a clip, the map of each below it; the number is the frame's evidence."""
    frames, scores = inputs[0][i].cpu(), whole.scores[i].cpu()
    length = int(inputs[1][i]) if len(inputs) > 1 else len(frames)
    shown = np.unique(np.linspace(0, length - 1, min(length, FRAMES_SHOWN)).round().astype(int)).tolist()
    scale = float(scores.abs().max())
    pixels = frames if frames.dtype == torch.uint8 else (255 * frames).to(torch.uint8)
    truth = "" if label is None else f"{_truth(label, names)} → "
    return {
        "title": title,
        "note": f"{truth}{names[int(whole.target[i])]}. {whole.sentence(i)}",
        "size": list(frames.shape[1:3]),
        "account": account_of(whole, i),
        "frames": [
            {
                "pixels": to_base64(pixels[t].expand(-1, -1, 3).numpy()),
                "scores": pack_scores(scores[t], scale),
                "sum": float(whole.frames[i, t]),
            }
            for t in shown
        ],
    }


def _truth(label: Tensor, names: list[str]) -> str:
    """The class of a clip, or all that it has."""
    return names[int(label)] if label.dim() == 0 else ", ".join(n for n, v in zip(names, label.tolist()) if v)
