"""Trials of a search for strengths, and its choice."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from blurify.graph.module import TracedModule
from blurify.measure.estimate import Estimate
from blurify.recovery.recover import Recovered


@dataclass(frozen=True)
class Trial:
    """One choice of strengths, by site, what is left of the folding, and what was measured of it.

    `agreement` is with the original, `change` that of consistency against the original's, on the same windows.
    `recovered` says whether the weights were recovered or are the carried ones.
    """

    strengths: dict[str, float]
    folded: float
    agreement: Estimate
    consistency: Estimate
    change: Estimate
    recovered: bool = True

    @property
    def strength(self) -> float:
        """Return the mean over sites."""
        return sum(self.strengths.values()) / len(self.strengths)

    @property
    def weights(self) -> str:
        """Whose weights these are, in a word."""
        return "recovered" if self.recovered else "carried"

    def meets(self, min_agreement: float) -> bool:
        """Return whether it agrees often enough, and is as consistent as the original."""
        return self.agreement.percent >= min_agreement and self.change.percent >= 0


@dataclass(frozen=True)
class Strongest:
    """The trial that is chosen, and the trade-off that was found.

    `carried` is the original with blurs of these strengths and its own weights; `recovered.model` has the weights that
    go with them, recovered again from all images, or the carried ones, if the choice is a trial of these. `trials` of
    each way go from no blur, which is the original, to all of it.
    """

    carried: TracedModule
    recovered: Recovered
    chosen: Trial
    trials: tuple[Trial, ...]
    min_agreement: float

    @property
    def model(self) -> nn.Module:
        """Return the recovered model."""
        return self.recovered.model

    def __str__(self) -> str:
        """Return a table of the trials, and the strengths that were chosen."""
        rows = [("weights", "mean strength", "folding left", "agreement", "consistency", "change of it")]
        for trial in self.trials:
            mark = " *" if trial is self.chosen else ""
            cells = (str(trial.agreement), str(trial.consistency), trial.change.as_change())
            rows.append((trial.weights, f"{trial.strength:.3f}{mark}", f"{100 * trial.folded:.0f} %", *cells))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.append(
            f"* with {self.chosen.weights} weights, the strongest whose agreement is {self.min_agreement:g} % or more, "
            "with consistency not lowered:"
        )
        lines += [f"  {site}  {strength:.3g}" for site, strength in self.chosen.strengths.items()]
        return "\n".join(lines)
