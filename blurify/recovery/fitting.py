"""Layer by layer, in graph order: give the converted network the weights with which it does what the original does.

At a layer the converted network, its earlier layers fitted already, is fed `x`, and the original gives `t`; the new
weights are the ridge solution of `W x + b = t`; where a sum reads the layer, `t` makes up for what the sum's other part
lacks (`blurify.recovery.joins`). How strong the ridge is, the images held out say; where they say that no fit is
better than the carried weights, these stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from blurify.errors import ArgumentError
from blurify.graph.module import TracedModule
from blurify.recovery.calls import LayerCall, Skip, find_calls
from blurify.recovery.fits import FitSettings, LayerFit
from blurify.recovery.joins import ordered
from blurify.recovery.lockstep import Batches, Progress, Stepper
from blurify.recovery.normal import Fit, NormalEquations
from blurify.recovery.patches import sample_rows

# Positions of a layer that are used: so many a weight, and at least so many in all; fewer of a grouped layer, whose
# groups each have their own equations with few unknowns.
ROWS_A_WEIGHT, LEAST_ROWS, LEAST_ROWS_OF_GROUPS = 64, 32768, 8192


class Refit:
    """The walk through both networks, which are given in evaluation mode."""

    def __init__(self, original: TracedModule, student: TracedModule, pictures: Tensor, settings: FitSettings) -> None:
        self.settings = settings
        self.before, self.after = Stepper(original), Stepper(student)
        calls, self.skipped = find_calls(student)
        self.groups, self.joins = ordered(grouped(calls), self.after)
        held = settings.held_out_of(len(pictures))
        self.pictures = len(pictures)
        self.fitting = self._batches(pictures[:-held], settings.memory * len(pictures[:-held]) // len(pictures))
        self.holding = self._batches(pictures[-held:], settings.memory * held // len(pictures))
        self.generator = torch.Generator().manual_seed(settings.seed)

    def _batches(self, pictures: Tensor, budget: int) -> Batches:
        batches = Batches(budget // 2)
        for part in torch.split(pictures, self.settings.batch_size):
            # A part would be counted, and written, with the memory of all images.
            own = part.clone()
            batches.append((self.before.start(own), self.after.start(own)))
        return batches

    def run(self, tell: Callable[[LayerFit], None]) -> list[LayerFit]:
        """Fit every layer that can be; `tell` is called after each."""
        fits: list[LayerFit] = []
        try:
            for number, group in enumerate(self.groups):
                fits.append(self._fit(group, self._passes_others(number)))
                tell(fits[-1])
            return fits
        finally:
            self.fitting.close()
            self.holding.close()

    def _passes_others(self, number: int) -> bool:
        """Return whether a call of a later group, or of this one, comes before the last of this group."""
        last = self.after.numbers[self.groups[number][-1].node]
        return any(self.after.numbers[group[0].node] < last for group in self.groups[number:])

    def _fit(self, group: list[LayerCall], on_trial: bool) -> LayerFit:
        begin = time.perf_counter()
        call = group[0]
        weight = as_rows(call)
        needed = 2 * 8 * weight.shape[0] * weight.shape[2] * (weight.shape[1] + 2 * weight.shape[2])
        if needed > self.settings.memory // 2:
            return LayerFit(call.path, 0.0, 0.0, skip=Skip.TOO_LARGE, unknowns=weight.shape[2], memory=2 * needed)
        fitting, holding = (self._equations(group, batches, on_trial) for batches in (self.fitting, self.holding))
        if holding.constant or fitting.constant:
            return LayerFit(call.path, 0.0, 0.0, skip=Skip.CONSTANT, unknowns=weight.shape[2], rows=fitting.rows)
        carried = Fit(weight, torch.zeros_like(weight[:, :, 0]))
        before = holding.error(carried)
        ridge, fit = self._chosen(fitting, holding, carried)
        after = holding.error(fit)
        better = after < before
        if better:
            write(call, fit)
        return LayerFit(
            call.path,
            before,
            after if better else before,
            ridge=ridge if better else None,
            skip=None if better else Skip.NOT_BETTER,
            unknowns=weight.shape[2],
            rows=fitting.rows,
            pictures=self.pictures,
            seconds=time.perf_counter() - begin,
        )

    def _chosen(self, fitting: NormalEquations, holding: NormalEquations, carried: Fit) -> tuple[float, Fit]:
        """The best ridge, from the strongest down for as long as the held-out images gain: solving is what costs."""
        first, *weaker = sorted(self.settings.ridges, reverse=True)
        best = first, fitting.solve(carried.weight, first)
        lowest = holding.error(best[1])
        for ridge in weaker:
            fit = fitting.solve(carried.weight, ridge)
            error = holding.error(fit)
            if not error < lowest:
                break
            best, lowest = (ridge, fit), error
        return best

    def _equations(self, group: list[LayerCall], batches: Batches, on_trial: bool) -> NormalEquations:
        equations = NormalEquations(intercept=group[0].bias is not None or group[0].mean is not None)
        groups, _, unknowns = as_rows(group[0]).shape
        rows = max(LEAST_ROWS if groups == 1 else LEAST_ROWS_OF_GROUPS, ROWS_A_WEIGHT * unknowns)
        each = -(-rows // self.pictures)
        for before, after in batches:
            if on_trial:
                # What lies before and is fitted later is passed on trial.
                before, after = before.copied(), after.copied()
            for call in group:
                self._add(call, before, after, each, equations)
        return equations

    def _making_up(self, call: LayerCall, t: Tensor, before: Progress, after: Progress) -> Tensor:
        """Return the target, with what the sum that reads the call lacks without it."""
        join = self.joins.get(call.node)
        if join is None:
            return t
        both = (self.before, before), (self.after, after)
        original, converted = (step.look(at, join.other, join.sum) for step, at in both)
        return t + join.missing(original, converted) if original.shape == t.shape else t

    def _add(self, call: LayerCall, before: Progress, after: Progress, count: int, equations: NormalEquations) -> None:
        t = self.before.advance(before, call.node, through=True)
        self.after.advance(after, call.node)
        t = self._making_up(call, t, before, after)
        rows = sample_rows(after.values[call.source], t, call.geometry, count, self.generator)
        if not all(bool(part.isfinite().all()) for part in rows):
            raise ArgumentError(
                f"The networks give values that are not finite at {call.path!r}; look at the images and the weights."
            )
        x, t = rows
        if call.made is not None and call.made.centred:
            # Weights of mean 0 do not see the mean, and on rows without it the fit is one of them.
            x = x - x.mean(2, keepdim=True)
        if call.bias is not None:
            # What is fitted is added to it.
            t = t - call.bias.detach().reshape(len(t), 1, -1)
        equations.add(x, t)


def grouped(calls: Iterable[LayerCall]) -> list[list[LayerCall]]:
    """Calls of one weight together, in the order of the first."""
    groups: dict[int, list[LayerCall]] = {}
    for call in calls:
        groups.setdefault(id(call.weight), []).append(call)
    return list(groups.values())


def as_rows(call: LayerCall) -> Tensor:
    """Return the weight as `[groups, O, K]` float64."""
    weight = call.carried()
    return weight.reshape(call.geometry.groups, len(weight) // call.geometry.groups, -1)


def write(call: LayerCall, fit: Fit) -> None:
    """Put the fitted values into the layer's tensors."""
    with torch.no_grad():
        call.change(fit.weight.reshape(call.weight.shape))
        if call.bias is not None:
            call.bias.add_(fit.offset.reshape(-1).to(call.bias))
        elif call.mean is not None:
            call.mean.sub_(fit.offset.reshape(-1).to(call.mean))
