"""Normal equations of a layer, and their ridge solution towards the weights that it has.

For rows `x` and `t`, `W` minimises `sum |W x + b - t|^2 + r |W - W0|^2`. With the means of `x` and `t` taken off, `b`
drops out, and the change `D = W - W0` solves `D (G + r I) = C - W0 G` with `G = sum x x'` and `C = sum t x'`,
in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# What float32 networks leave of a number's square, by far.
ROUNDING = 1e-10


class NormalEquations:
    """Sums over rows, for each group of channels by itself; `intercept` says whether a bias is fitted too."""

    def __init__(self, intercept: bool) -> None:
        self.intercept = intercept
        self.rows = 0
        self._sums: tuple[Tensor, ...] | None = None

    def add(self, x: Tensor, t: Tensor) -> None:
        """Add rows of inputs `[groups, P, K]` and of targets `[groups, P, O]`."""
        x, t = _exact(x), _exact(t)
        sums = (x.mT @ x, x.mT @ t, x.sum(1), t.sum(1), t.square().sum((1, 2)))
        self.rows += x.shape[1]
        self._sums = sums if self._sums is None else tuple(a.add_(b) for a, b in zip(self._sums, sums, strict=True))

    def joined(self, other: NormalEquations) -> NormalEquations:
        """Return the equations of both's rows."""
        both = NormalEquations(self.intercept)
        both.rows = self.rows + other.rows
        both._sums = tuple(a + b for a, b in zip(self.sums, other.sums, strict=True))
        return both

    @property
    def sums(self) -> tuple[Tensor, ...]:
        """`G`, `C'`, and the sums of `x`, `t` and `t^2`."""
        if self._sums is None:
            raise ValueError("no rows were added")
        return self._sums

    def centred(self) -> tuple[Tensor, Tensor, Tensor]:
        """`G`, `C'` and the energy of the targets, about the means where there is an intercept."""
        gram, cross, x, t, energy = self.sums
        if not self.intercept:
            return gram, cross, energy
        n = self.rows
        return (
            gram - x[:, :, None] * x[:, None, :] / n,
            cross - x[:, :, None] * t[:, None, :] / n,
            energy - t.square().sum(1) / n,
        )

    def solve(self, start: Tensor, ridge: float) -> Fit:
        """The weights `[groups, O, K]` nearest to `start` that fit; `ridge` is in units of the mean diagonal of `G`."""
        gram, cross, _ = self.centred()
        scale, raw = (square.diagonal(dim1=1, dim2=2).mean(1) for square in (gram, self.sums[0]))
        # Where inputs hardly vary, rounding alone is left when their means are taken off.
        strength = torch.maximum(ridge * scale, ROUNDING * raw).clamp_min(torch.finfo(raw.dtype).tiny)
        damped = gram + torch.diag_embed(strength[:, None].expand(gram.shape[:2]))
        change = torch.cholesky_solve(cross - gram @ start.mT, torch.linalg.cholesky(damped))
        weight = start + change.mT
        return Fit(weight, self._offset(weight))

    def _offset(self, weight: Tensor) -> Tensor:
        _, _, x, t, _ = self.sums
        if not self.intercept:
            return torch.zeros_like(t)
        return (t - (weight @ x[:, :, None]).squeeze(2)) / self.rows

    def error(self, fit: Fit) -> float:
        """Return the sum of squares that `fit` leaves, relative to that of the targets about their mean."""
        gram, cross, x, t, energy = self.sums
        w, b = fit.weight, fit.offset
        left = energy.sum() - 2 * (w * cross.mT).sum() + ((w @ gram) * w).sum()
        left = left + 2 * (b * ((w @ x[:, :, None]).squeeze(2) - t)).sum() + self.rows * b.square().sum()
        whole = (energy - t.square().sum(1) / self.rows).sum()
        return float(left.clamp_min(0) / whole) if whole > 0 else float("nan")

    @property
    def constant(self) -> bool:
        """Return whether the targets hardly vary."""
        energy, t = self.sums[4].sum(), self.sums[3]
        return bool(energy - t.square().sum() / self.rows <= ROUNDING * energy)


@dataclass(frozen=True)
class Fit:
    """Weights `[groups, O, K]` and what is added to the outputs `[groups, O]`."""

    weight: Tensor
    offset: Tensor


def _exact(x: Tensor) -> Tensor:
    # Apple's GPUs have no float64. Small products of rows that lie apart are slow.
    return (x.cpu() if x.device.type == "mps" else x).to(torch.float64, memory_format=torch.contiguous_format)
