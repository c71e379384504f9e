"""An explanation as a value: signed scores, and an account whose terms add up to the logit."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROUNDING = 1e-4  # of the largest term: what is missing is below it in float32 if nothing is left out


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why a network gives samples the logits that it gives.

    scores [B, N], [B, T, H, W], .., or rows [M] with `batch` [M]: signed, neither clipped nor scaled. account: the terms by
    name, each [B]; "evidence" is what the features at `layer` add, "missing" what no term explains. They add up to
    `logit` [B], which is that of class `target` [B], or of a difference of two (`contrast`).
    """

    scores: Tensor
    account: dict[str, Tensor]
    logit: Tensor
    target: Tensor
    method: str
    layer: str
    against: Tensor | None = None
    """The class [B] whose logit is subtracted."""
    points: Tensor | None = None
    """Coordinates [B, N, 3] or [M, 3], if the samples are clouds."""
    batch: Tensor | None = None
    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    logits: Tensor | None = None
    """[B, classes]: all of them, of labelled points their means over the chosen ones."""
    frozen: bool = True
    """Whether T-Nets and gates were constants of the sample."""

    def __len__(self) -> int:
        return len(self.logit)

    def contrast(self, other: Explanation) -> Explanation:
        """Why this class rather than the other's: scores, terms and logits subtracted, which is exact for a network whose
        account is; ValueError if the two are not of the same samples, network, layer and method."""
        mine, theirs = (
            (e.method, e.layer, f"frozen={e.frozen}", tuple(e.scores.shape), tuple(e.account))
            for e in (self, other)
        )
        if mine != theirs or self.against is not None or other.against is not None:
            raise ValueError(
                f"two explanations of the same samples, layer and method can be subtracted; got {mine} and {theirs}."
            )
        for what in ("points", "batch", "logits"):
            if not _close(getattr(self, what), getattr(other, what)):
                raise ValueError(
                    f"two explanations of the same samples and network can be subtracted; these differ in their {what}."
                )
        return replace(
            self,
            scores=self.scores - other.scores,
            account={name: value - other.account[name] for name, value in self.account.items()},
            logit=self.logit - other.logit,
            against=other.target,
        )

    @property
    def frames(self) -> Tensor:
        """[B, T]: the scores of frames, their pixels added up."""
        return self.scores.flatten(2).sum(2) if self.scores.dim() > 2 else self.scores

    def sample(self, i: int) -> Tensor:
        """The scores of sample i."""
        i = self._check(i)
        return self.scores[i] if self.batch is None else self.scores[self.batch == i]

    def title(self, i: int) -> str:
        """The class of sample i, or the two that are subtracted."""
        own = self._name(self.target[i])
        return own if self.against is None else f"{own} minus {self._name(self.against[i])}"

    def sentence(self, i: int) -> str:
        """The account of sample i in words."""
        i = self._check(i)
        terms = {name: float(value[i]) for name, value in self.account.items()}
        shown = " ".join(f"{_signed(v)} {name}" for name, v in terms.items() if name != "missing")
        missing, logit = terms.get("missing", 0.0), float(self.logit[i])
        if "missing" not in terms:
            shown += " + what is not counted"
        elif abs(missing) > ROUNDING * max(abs(logit), *(abs(v) for v in terms.values())):
            shown += f" {_signed(missing)} missing"
        said = f"{shown} = {logit:.3f}, the {self._logit_of(i)}"
        if not bool((self.sample(i) > 0).any()):
            what = "bias alone makes its score" if "bias" in terms else "nothing at the layer speaks for it"
            said += f"; no positive evidence for {self._name(self.target[i])}: {what}"
        return said

    def to_json(self) -> dict[str, Any]:
        """The account as numbers, without the scores."""
        return {
            "method": self.method,
            "layer": self.layer,
            "target": self.target.tolist(),
            "against": None if self.against is None else self.against.tolist(),
            "logit": self.logit.tolist(),
            "account": {name: value.tolist() for name, value in self.account.items()},
            "sum_of_scores": [float(self.sample(i).double().sum()) for i in range(len(self))],
            "notes": list(self.notes),
        }

    def to_ply(self, path: str | Path, i: int = 0) -> None:
        """The points of sample i with their score, which MeshLab (`quality`) and CloudCompare (`scalar_score`) show."""
        if self.points is None:
            raise ValueError("these samples are no clouds, and a PLY holds points; take .scores.")
        i = self._check(i)
        xyz = (self.points[i] if self.batch is None else self.points[self.batch == i]).detach().cpu().numpy()
        write_scores(Path(path), xyz, {"score": self.sample(i)})

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.scores.shape))
        lines = [f"Explanation by {self.method} at {self.layer}, scores {shape}"]
        lines += [f"  {i}: {self.sentence(i)}" for i in range(min(4, len(self)))]
        lines += [f"  and {len(self) - 4} more"] * (len(self) > 4)
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        """In a notebook: the page of these samples, if they are clouds."""
        if self.points is None:
            return f"<pre>{html.escape(repr(self))}</pre>"
        from dropfold.explain.page.page import page_of

        page = html.escape(page_of(self), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:520px;border:0"></iframe>'

    def _name(self, target: Tensor) -> str:
        c = int(target)
        return self.class_names[c] if self.class_names else f"class {c}"

    def _logit_of(self, i: int) -> str:
        own = f"logit of {self._name(self.target[i])}"
        return own if self.against is None else f"{own} minus that of {self._name(self.against[i])}"

    def _check(self, i: int) -> int:
        """The number of a sample, counted from the first."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"there are {len(self)} samples, from 0; got {i}.")
        return i % len(self)


def dumps(explanation: Explanation) -> str:
    """`to_json` as text."""
    return json.dumps(explanation.to_json(), indent=2)


def write_scores(path: Path, xyz: np.ndarray, scores: Mapping[str, Tensor]) -> None:
    """A PLY, whole or not at all, of points [N, 3] and their scores [N] by name: for CloudCompare each is `scalar_NAME`, for
    MeshLab the first is `quality`, too. What is no letter of a property's name becomes _."""
    from dropfold.data_scripts.readers.ply import write_vertices
    from dropfold.data_scripts.work import atomic

    columns = {axis: xyz[:, c].astype(np.float32) for c, axis in enumerate("xyz")}
    for name, score in scores.items():
        values = score.detach().cpu().double().numpy().astype(np.float32)
        columns |= {} if "quality" in columns else {"quality": values}
        columns["scalar_" + re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)] = values
    with atomic.replacing(Path(path), ".ply") as temporary:
        write_vertices(temporary, columns)


def effective_points(scores: Tensor) -> Tensor:
    """exp(entropy) of the positive scores over the last axis: how many points share the evidence."""
    p = scores.clamp(min=0).double()
    p = p / p.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    return torch.special.entr(p).sum(-1).exp()


def _close(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors are the same up to rounding, or both are none."""
    if a is None or b is None:
        return a is b
    if a.shape != b.shape:
        return False
    a, b = (t.double().cpu() for t in (a, b))
    return bool(((a - b).abs() <= ROUNDING * a.abs().amax()).all())


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'} {abs(value):.3f}"
