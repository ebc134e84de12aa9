"""One way through a search for strengths: which trials to make of networks of one kind.

By halving, roughly, to where the path from no blur to all of it leaves the budget; from there a site at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor, nn

from blurify.graph.module import TracedModule
from blurify.recovery.recover import Recovered
from blurify.recovery.sensitivity import Effects, Step
from blurify.recovery.trials import Trial

# Of the trials, those that go along the path; the others raise one site each.
ALONG = 0.75
# By how many parts they raise it.
RAISED = 3
# How far into what is left between two trials the next may lie, so that each narrows it.
NARROWING = 0.15


class Search(Protocol):
    """Hold the inputs of a search: effects of blurs, images to recover from, and others to measure on."""

    original: nn.Module
    effects: Effects
    middle: Tensor
    fitted: int

    def strengths(self, step: Step) -> dict[str, float]:
        """Return the strengths of the sites at a step."""

    def measured(self, step: Step, network: nn.Module, recovered: bool) -> Trial:
        """Return the trial that a network of the step's strengths is."""


class Way:
    """The trials along the path with networks of one kind: `made` gives one of these strengths from images."""

    def __init__(
        self,
        search: Search,
        made: Callable[[Mapping[str, float], Tensor], tuple[TracedModule, Recovered]],
        recovered: bool,
        min_agreement: float,
        most: int,
        tell: Callable[[Trial], None],
    ) -> None:
        self.search, self.made, self.recovered = search, made, recovered
        self.min_agreement, self.most, self.tell = min_agreement, most, tell
        self.done: dict[Step, Trial] = {}

    def run(self) -> list[Trial]:
        """All trials, by strength; the first is the original."""
        steps = self.search.effects.path()
        self.done[steps[0]] = self.search.measured(steps[0], self.search.original, self.recovered)
        low, high = 0, len(steps) - 1
        if self._try(steps[high]).meets(self.min_agreement):
            low = high
        # Nothing is raised from before something leaves enough answers.
        while high - low > 1 and len(self.done) <= (ALONG if low else 1) * self.most:
            middle = self._between(steps, low, high)
            met = self._try(steps[middle]).agreement.percent >= self.min_agreement
            low, high = (middle, high) if met else (low, middle)
        self._try_sites_alone()
        self._refine()
        return sorted(self.done.values(), key=lambda trial: trial.strength)

    def _between(self, steps: list[Step], low: int, high: int) -> int:
        """Where disagreement would be as allowed, if it grew with the root of the error."""
        (near, lack), (far, much) = (
            (steps[at].error ** 0.5, 100 - self.done[steps[at]].agreement.percent) for at in (low, high)
        )
        wanted = near + (far - near) * (100 - self.min_agreement - lack) / max(much - lack, 1e-9)
        at = sum(step.error**0.5 <= wanted for step in steps)
        # Until something meets the budget, to find that comes first.
        at = at if low else min(at, high // 2)
        margin = max(1, round(NARROWING * (high - low)))
        return min(max(at, low + margin), high - margin) if high - low > 2 * margin else (low + high) // 2

    def _meeting(self) -> list[Step]:
        """Return those with any blur that are enough."""
        return [step for step, trial in self.done.items() if trial.meets(self.min_agreement) and any(step.parts)]

    def _try_sites_alone(self) -> None:
        """Where the path makes nothing more consistent, spend the error that the budget allows on single sites."""
        if self._meeting():
            return
        enough = [step for step, trial in self.done.items() if trial.agreement.percent >= self.min_agreement]
        allowed = max(step.error for step in enough)
        alone = [step for step in self.search.effects.alone(allowed) if step not in self.done]
        for step in alone[: max(0, 1 + self.most - len(self.done))]:
            self._try(step)

    def _refine(self) -> None:
        """Raise one site at a time of the strongest that meets the budget, as long as it goes on meeting it."""
        effects = self.search.effects
        best = max(self._meeting(), key=lambda step: sum(step.parts), default=None)
        untried = [] if best is None else effects.raised(best, RAISED)
        while untried and len(self.done) <= self.most:
            step = untried.pop(0)
            if step not in self.done and self._try(step).meets(self.min_agreement):
                untried = effects.raised(step, RAISED)

    def _try(self, step: Step) -> Trial:
        search = self.search
        _, found = self.made(search.strengths(step), search.middle[: search.fitted])
        self.done[step] = search.measured(step, found.model, self.recovered)
        self.tell(self.done[step])
        return self.done[step]
