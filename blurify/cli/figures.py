"""The figures that `blurify measure` makes of what models answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from blurify.measure.consistency import agreement
from blurify.measure.estimate import Estimate, Quantity, estimate, quantity
from blurify.measure.probes import Rows

Figure: TypeAlias = Estimate | Quantity
# One number an image for each figure.
Scores = dict[str, Tensor]

# What is no share, and its unit.
UNITS = {"probability change": "", "divergence": "nats", "diagonal variation": "", "PSNR": "dB"}
OF_COLUMN: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "answers": ("consistency", agreement),
    "near": ("one-pixel consistency", agreement),
    "iou": ("mean IoU", lambda column: column.mean(1)),
    "psnr": ("PSNR", lambda column: column.mean(1)),
    "rolled": ("circular consistency", agreement),
    "change": ("probability change", Tensor.double),
    "divergence": ("divergence", Tensor.double),
    "sweep": ("diagonal variation", lambda column: column.diff(dim=1).abs().sum(1)),
}


def scores_of(rows: Rows, labels: Tensor | None) -> Scores:
    """Return one number an image for each figure that the answers allow."""
    scores: Scores = {}
    if labels is not None and "middle" in rows:
        hits = rows["middle"] == labels[:, None]
        scores["accuracy"] = hits[:, 0].double()
        if hits.shape[1] == 5:
            scores["top-5 accuracy"] = hits.any(1).double()
    others = {name: score(rows[column]) for column, (name, score) in OF_COLUMN.items() if column in rows}
    # What the command is for comes first.
    return dict([next(iter(others.items()))]) | scores | others


def differences(scores: list[Scores], answers: list[Rows]) -> Scores:
    """Return the second model's scores less the first's on the same windows, and how often both say the same."""
    before, after = scores
    found = {name: after[name] - values for name, values in before.items()}
    if "middle" not in answers[0]:
        return found
    first, second = (rows["middle"][:, 0] for rows in answers)
    return found | {"agreement": (first == second).double()}


def estimated(scores: Scores, seed: int) -> dict[str, Figure]:
    """Return every figure with its interval."""
    return {
        name: quantity(values, UNITS[name], seed=seed) if name in UNITS else estimate(values, seed=seed)
        for name, values in scores.items()
    }


def labels_of(labels: tuple[int, ...] | None, pictures: Tensor) -> Tensor | None:
    """Return the labels of the images that could be read."""
    return None if labels is None else torch.tensor(labels)[pictures]
