"""Means over seeds and differences within a seed, with the intervals that seeds give them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from benchmarks.effect.experiment import Run
from benchmarks.effect.results import Line

METRICS = ("accuracy", "accuracy_shifted", "consistency", "variation")
# 97.5 % quantiles of Student's t, by the number of seeds.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and the half width of its 95 % interval, which one seed alone does not give."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.half is None else f"{self.mean:.2f} ± {self.half:.2f}"

    def as_change(self) -> str:
        return f"{self.mean:+.2f}" if self.half is None else f"{self.mean:+.2f} ± {self.half:.2f}"


def spread(values: list[float]) -> Spread:
    """Student's interval: seeds are few, and their spread is estimated from themselves."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Spread(mean, None)
    return Spread(mean, STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5)


class Summary:
    """The runs of one set of images."""

    def __init__(self, results: dict[Run, Line], data: str) -> None:
        self.lines = {(r.network, r.taps, r.seed): line for r, line in results.items() if r.recipe.data == data}
        self.networks = list(dict.fromkeys(network for network, _, _ in self.lines))
        self.taps = sorted({taps for _, taps, _ in self.lines})
        variants = {(network, taps) for network, taps, _ in self.lines}
        # A seed that is not done would make means over different seeds.
        self.seeds = [s for s in sorted({seed for _, _, seed in self.lines}) if self._has_all(variants, s)]

    def _has_all(self, variants: set[tuple[str, int]], seed: int) -> bool:
        return all((*variant, seed) in self.lines for variant in variants)

    def values(self, network: str, taps: int, metric: str) -> dict[int, float]:
        """By seed."""
        return {seed: self.lines[network, taps, seed][metric][0] for seed in self.seeds}

    def mean(self, network: str, taps: int, metric: str) -> Spread:
        return spread([*self.values(network, taps, metric).values()])

    def change(self, network: str, taps: int, metric: str, since: int = 1) -> Spread:
        """Of the network with these taps, from that with `since`: the same initial weights, images and shifts."""
        before, after = (self.values(network, t, metric) for t in (since, taps))
        return spread([after[seed] - before[seed] for seed in self.seeds])

    def bar(self, network: str, taps: int, metric: str) -> tuple[float, float]:
        """How far down and up the interval goes from the mean: over seeds, else over the images of the only one."""
        found = self.mean(network, taps, metric)
        if found.half is not None:
            return found.half, found.half
        mean, low, high = self.lines[network, taps, self.seeds[0]][metric]
        return mean - low, high - mean
