"""Costs of models, for `blurify measure`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError
from blurify.measure.cost import CountsItself, cost, milliseconds
from blurify.measure.folder import Preprocessing
from blurify.tracing.inputs import random_batch


@dataclass(frozen=True)
class Price:
    """Multiply-accumulates, bytes of maps at the peak and milliseconds of one image; parameters; bytes on disk."""

    macs: int
    parameters: int
    activations: int
    milliseconds: float
    file: int | None

    def cells(self) -> dict[str, float | None]:
        """Return the same in the units that people read."""
        return {
            "GMAC": self.macs / 1e9,
            "parameters, M": self.parameters / 1e6,
            "peak maps, MiB": self.activations / 2**20,
            "ms an image": self.milliseconds,
            "file, MB": None if self.file is None else self.file / 1e6,
        }


def prices_of(models: dict[str, nn.Module], preprocessing: Preprocessing, size: int, device: str) -> dict[str, Price]:
    """Return the price of every model; the milliseconds are of interleaved runs."""
    weights = (value for model in models.values() for value in model.parameters())
    like: Tensor | None = next(weights, None)
    if like is None and any(isinstance(model, CountsItself) for model in models.values()):
        like = torch.empty(0)
    shape = (1, len(preprocessing.mean), size, size)
    if like is None:
        raise ArgumentError("A model without parameters has no price; give --no-cost.")
    example = random_batch(shape, like).to(device)
    seconds = milliseconds(models, example)
    prices = {}
    for name, model in models.items():
        counted = cost(model, example)
        path = Path(name)
        file = path.stat().st_size if path.is_file() else None
        prices[name] = Price(counted.macs, counted.parameters, counted.activations, seconds[name], file)
    return prices
