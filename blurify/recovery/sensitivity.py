"""Which sites to blur first: what a blur at each does to the outputs, against the folding that it takes away.

For weak blurs the outputs are `y(x) = y(0) + sum_s x_s d_s`, to first order in how much of each site's blur there is,
`x_s`; so their squared error is `x' Q x` with `Q[s, t] = d_s . d_t`, known for every `x` from one run a site. Raising a
little at a time the site that takes most folding away for the error that it adds gives a path from no blur to all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blurify.graph.module import TracedModule
from blurify.measure.aliasing import folded_energy
from blurify.measure.consistency import logits
from blurify.planning.plan import Plan
from blurify.sites import Action

# How much of a blur shows what a little of it does, and yet more than rounding.
PROBE = 0.25
STEPS = 20
# So many images tell of a site's energy: their shares are alike.
LOOKED_AT = 16


@dataclass(frozen=True)
class Step:
    """How much of its blur each site has, in `STEPS` parts, and what comes of it.

    `error` is foretold, relative to the outputs' energy about their mean; `folded` is the folding that is left,
    relative to that without any blur.
    """

    parts: tuple[int, ...]
    error: float
    folded: float


class Effects:
    """Hold the effects of blurs at the sites on the outputs and on folding, from a few images."""

    def __init__(self, original: nn.Module, plan: Plan, pictures: Tensor, batch_size: int) -> None:
        self.sites = [decision.site for decision in plan.rewritten]
        self._errors = _errors(original, plan, self.sites, pictures, batch_size)
        self._folded = _foldings(original, plan, self.sites, pictures[:LOOKED_AT], batch_size)

    def shares(self, step: Step) -> dict[str, float]:
        """How much of its blur each site has."""
        return {site: part / STEPS for site, part in zip(self.sites, step.parts, strict=True)}

    def step(self, parts: tuple[int, ...]) -> Step:
        """Return the effect of that share of each site's blur."""
        share = torch.tensor(parts, dtype=torch.float64) / STEPS
        folded = self._folded[torch.arange(len(parts)), list(parts)].sum() / self._folded[:, 0].sum().clamp_min(1e-300)
        return Step(parts, float(share @ self._errors @ share), float(folded))

    def raised(self, step: Step, by: int = 1) -> list[Step]:
        """The steps with more at one site, first that which takes most folding away for the error that it adds."""
        more = [[min(part + by * (s == t), STEPS) for t, part in enumerate(step.parts)] for s in range(len(step.parts))]
        steps = [self.step(tuple(parts)) for parts in more if tuple(parts) != step.parts]
        # An error that falls costs nothing; of those the one that takes most away comes first.
        return sorted(steps, key=lambda s: (s.folded - step.folded) / max(s.error - step.error, 1e-9))

    def alone(self, error: float) -> list[Step]:
        """The steps with as much at one site, and nothing elsewhere, as has that error; what takes most away first."""
        found = []
        for s in range(len(self.sites)):
            single = [self.step(tuple(part * (s == t) for t in range(len(self.sites)))) for part in range(1, STEPS + 1)]
            found += [step for step in single if step.error <= error][-1:]
        return sorted(found, key=lambda step: step.folded)

    def path(self) -> list[Step]:
        """From no blur to all of it, a part of a site's at a time."""
        steps = [self.step((0,) * len(self.sites))]
        while raised := self.raised(steps[-1]):
            steps.append(raised[0])
        return steps


def with_strengths(plan: Plan, strengths: Mapping[str, float]) -> Plan:
    """Return the plan with these strengths at the sites that it rewrites; those of no strength are kept."""
    return Plan(tuple(d.with_strength(strengths[d.site]) if d.action is Action.REWRITE else d for d in plan.decisions))


def applied(plan: Plan, original: nn.Module, pictures: Tensor, inplace: bool = True) -> TracedModule:
    """Return the original as the plan has it, over the original's own parameters if `inplace`."""
    return plan.apply(original, inplace, form="graph", example_inputs=pictures[:1])


def _errors(original: nn.Module, plan: Plan, sites: list[str], pictures: Tensor, batch_size: int) -> Tensor:
    """`Q`, in units of the outputs' energy about their mean."""
    wanted = logits(original, pictures, batch_size).double()
    rows = []
    for site in sites:
        only = with_strengths(plan, {d.site: PROBE * d.strength * (d.site == site) for d in plan.rewritten})
        given = logits(applied(only, original, pictures), pictures, batch_size).double()
        rows.append(((given - wanted) / PROBE).flatten())
    moved = torch.stack(rows)
    return (moved @ moved.T / (wanted - wanted.mean(0)).square().sum().clamp_min(1e-300)).cpu()


def _foldings(original: nn.Module, plan: Plan, sites: list[str], pictures: Tensor, batch_size: int) -> Tensor:
    """Return the share of energy that each site folds back at every step of its blur: `[sites, STEPS + 1]`.

    Parabolas through what is measured without, with half and with all of it, as a filter's energy is a parabola in its
    strength at every frequency.
    """
    half, whole = (folded_energy(applied(_by(plan, x), original, pictures), pictures, batch_size) for x in (0.5, 1.0))
    x = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)
    found = {}
    for site, shares in whole.items():
        none, most = shares.mean(0)
        middle = half[site][:, 1].mean()
        found[site] = none + (4 * middle - 3 * none - most) * x + (2 * none + 2 * most - 4 * middle) * x.square()
    # Of kinds whose folding is not measured the usual course is taken.
    usual = torch.stack(list(found.values())).mean(0) if found else (1 - x).square()
    curves = torch.stack([found.get(site, usual) for site in sites])
    # A parabola may turn before its end; more blur is never more folding.
    return torch.maximum(curves, curves[:, -1:]).cummin(1).values


def _by(plan: Plan, share: float) -> Plan:
    return with_strengths(plan, {decision.site: share * decision.strength for decision in plan.rewritten})
