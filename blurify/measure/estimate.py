"""A mean over images with the interval that a bootstrap over images gives it: a share in percent, or a quantity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blurify.errors import ArgumentError

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A percentage (or a difference of percentages, in points), its 95 % interval, and the number of images.

    >>> str(Estimate(91.25, 89.5, 93.0, 1000))
    '91.2 % (89.5 to 93.0)'
    """

    percent: float
    low: float
    high: float
    pictures: int

    def __str__(self) -> str:
        return f"{self.percent:.1f} % ({self.low:.1f} to {self.high:.1f})"

    def as_change(self) -> str:
        """Return the same read as a difference.

        >>> Estimate(12.5, 10.0, 15.0, 1000).as_change()
        '+12.5 points (+10.0 to +15.0)'
        """
        return f"{self.percent:+.1f} points ({self.low:+.1f} to {self.high:+.1f})"


@dataclass(frozen=True)
class Quantity:
    """A mean in a unit of its own (or a difference of means), its 95 % interval, and the number of images.

    >>> str(Quantity(31.25, 30.5, 32.0, 1000, "dB"))
    '31.2 dB (30.5 to 32)'
    """

    mean: float
    low: float
    high: float
    pictures: int
    unit: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, [f"{self.mean:.3g}", self.unit, f"({self.low:.3g} to {self.high:.3g})"]))

    def as_change(self) -> str:
        """Return the same read as a difference.

        >>> Quantity(-0.25, -0.5, 0.0, 1000).as_change()
        '-0.25 (-0.5 to +0)'
        """
        return " ".join(filter(None, [f"{self.mean:+.3g}", self.unit, f"({self.low:+.3g} to {self.high:+.3g})"]))


def estimate(scores: Tensor, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Return the mean of per-picture scores in percent, with a 95 % interval.

    >>> estimate(torch.tensor([1.0, 1.0, 1.0, 1.0])).percent
    100.0

    The interval is the percentile bootstrap (Efron 1979): images are drawn again with replacement, `resamples` times,
    and the central 95 % of the means are kept. Two models' scores on the same images give the paired difference as
    `estimate(after - before)`. Where every score is the same the interval has no width, which says nothing about
    images unlike these.

    Args:
        scores: one number an image, `[N]`; 0 to 1 for a share, -1 to 1 for a difference of shares.
        seed: of the resampling, which has a generator of its own.
        resamples: how often to draw; 2000 settle the first decimal.

    Raises:
        ArgumentError: `scores` is empty or not a vector, or `resamples` is below 1.
    """
    mean, low, high = mean_and_interval(scores, seed, resamples)
    return Estimate(100 * mean, 100 * low, 100 * high, len(scores))


def quantity(scores: Tensor, unit: str = "", *, seed: int = 0) -> Quantity:
    """Return the mean of per-picture numbers of any size in their own unit, with a 95 % interval as `estimate` has it.

    >>> quantity(torch.tensor([30.0, 30.0]), "dB").mean
    30.0

    Raises:
        ArgumentError: `scores` is empty or not a vector.
    """
    return Quantity(*mean_and_interval(scores, seed, RESAMPLES), len(scores), unit)


def mean_and_interval(scores: Tensor, seed: int, resamples: int) -> tuple[float, float, float]:
    """Return the mean, and the ends of the interval."""
    if scores.dim() != 1 or scores.numel() == 0:
        raise ArgumentError(f"scores must hold one number an image, got a tensor of shape {tuple(scores.shape)}.")
    if resamples < 1:
        raise ArgumentError(f"resamples must be at least 1, got {resamples}.")
    values = scores.double().cpu()
    generator = torch.Generator().manual_seed(seed)
    count = len(values)
    # One draw at a time: all at once would take resamples x images numbers of memory.
    means = torch.stack([values[torch.randint(count, (count,), generator=generator)].mean() for _ in range(resamples)])
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=means.dtype)).tolist()
    return float(values.mean()), low, high
