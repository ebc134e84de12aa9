"""The strongest antialiasing that leaves enough of the answers as they were.

Sites are weakened along one path (`blurify.recovery.sensitivity`), and trials on it are measured on images that
neither chose the path nor were fitted to. There are two ways along it: with weights recovered at every trial, and with
the carried weights, which bear weaker blurs but do not learn what the original does with what it folds. The images
choose among the trials, so what others say of the choice may be a little less; a recovery is made once more from all of
them, which makes up for some of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypedDict

from torch import Tensor, nn

from blurify.errors import ArgumentError, ArgumentTypeError
from blurify.graph.module import TracedModule
from blurify.measure.consistency import agreement, shifted_answers
from blurify.measure.estimate import estimate
from blurify.measure.shifts import room
from blurify.planning.plan import Plan
from blurify.recovery.layout import layout
from blurify.recovery.recover import Recovered, recover
from blurify.recovery.sensitivity import Effects, Step, applied, with_strengths
from blurify.recovery.trials import Strongest, Trial
from blurify.recovery.ways import Way
from blurify.verifying.twins import with_plan

# Of the images, those that choose among the trials and are not fitted to.
CHOOSING = 0.5
# Pairs of windows of each image that chooses: what weak blurs change is small against what one pair shows.
ROUNDS = 4
# Images that tell what each site does to the outputs.
PROBED = 64


def strongest(
    original: nn.Module,
    converted: nn.Module,
    images: Tensor,
    *,
    size: int,
    min_agreement: float,
    trials: int = 8,
    method: str = "lstsq",
    memory: int = 4 * 10**9,
    batch_size: int = 16,
    seed: int = 0,
    frozen_norms: bool = False,
    epochs: int = 4,
    rate: float | None = None,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> Strongest:
    """Weaken the blurs of `converted`, site by site, just so far that it answers as `original` does often enough.

    >>> import blurify, torch
    >>> from blurify.demo import load_demo
    >>> original, pictures, _ = load_demo()
    >>> smooth = blurify.antialias(original, 3)
    >>> framed = torch.nn.functional.pad(pictures[:64], (4,) * 4)
    >>> found = strongest(original, smooth, framed, size=40, min_agreement=75.0)
    >>> found.chosen.agreement.percent >= 75
    True

    Every trial is a choice of strengths, recovered from the first half of the images by `blurify.recover`, or left
    with the carried weights, and measured on eight windows of each of the others. Without any blur agreement is 100 %,
    so the search lies between that and the whole of `converted`'s blurs. Of the strongest that meets the budget
    recovered and the strongest that meets it carried the more consistent is chosen; if that is the former, it is
    recovered once more, from all images. Where the whole of the blurs meets the budget recovered, that is it.

    Args:
        original: a classifier, the network before `blurify.antialias`.
        converted: what that returned; its strengths are the most that is tried.
        images: float `[N, C, H, W]`, larger than what the networks take: windows shift in them.
        size: of the windows, in pixels.
        min_agreement: in percent: how often the answer must be the original's.
        trials: how many choices are measured of each way, at most.
        method: see `blurify.recover`, as for all others but `tell`.
        tell: called after each trial.

    Raises:
        ArgumentTypeError: `converted` was not made by blurify, or `images` is no float tensor.
        ArgumentError: an argument is not allowed, or no trial with any blur meets the budget.
    """
    _, plan = with_plan(converted)
    # A plan of before sites of no strength were kept may rewrite some.
    plan = with_strengths(plan, {decision.site: decision.strength for decision in plan.rewritten})
    _check(images, size, min_agreement, trials)
    if not plan.rewritten:
        raise ArgumentError("converted has no blur that the original has not, so there is nothing to weaken.")
    options: Options = {
        "method": method,
        "memory": memory,
        "batch_size": batch_size,
        "seed": seed,
        "frozen_norms": frozen_norms,
        "epochs": epochs,
        "rate": rate,
    }
    search = _Search(original, plan, images, size, options)
    found = search.run(min_agreement, trials, tell)
    chosen = _chosen(found, min_agreement)
    carried, recovered = (search.recovered if chosen.recovered else search.carried)(chosen.strengths, search.middle)
    return Strongest(carried, recovered, chosen, tuple(found), min_agreement)


class Options(TypedDict):
    """Arguments of every recovery."""

    method: str
    memory: int
    batch_size: int
    seed: int
    frozen_norms: bool
    epochs: int
    rate: float | None


class _Search:
    def __init__(self, original: nn.Module, plan: Plan, images: Tensor, size: int, options: Options) -> None:
        self.original, self.plan, self.size, self.options = original, plan, size, options
        low = room(images, size) // 2
        middle = images[..., low : low + size, low : low + size]
        order = layout(middle, [original])
        self.middle = middle.contiguous(memory_format=order)
        self.fitted = len(images) - max(1, round(len(images) * CHOOSING))
        self.choosing = images[self.fitted :].contiguous(memory_format=order)
        self.wanted = self._answers(original)
        probed = self.middle[: min(self.fitted, PROBED)]
        self.effects = Effects(original, plan, probed, options["batch_size"])

    def run(self, min_agreement: float, most: int, tell: Callable[[Trial], None]) -> list[Trial]:
        """All trials, way by way and then by strength; the first of each way is the original."""
        recovered = Way(self, self.recovered, True, min_agreement, most, tell).run()
        if recovered[-1].meets(min_agreement):
            return recovered
        return [*Way(self, self.carried, False, min_agreement, most, tell).run(), *recovered]

    def measured(self, step: Step, network: nn.Module, recovered: bool) -> Trial:
        """Measure a trial on the choosing images."""
        answers = self.wanted if network is self.original else self._answers(network)
        before, after = agreement(self.wanted), agreement(answers)
        same = (answers == self.wanted).double().mean((1, 2))
        figures = estimate(same), estimate(after), estimate(after - before)
        return Trial(self.strengths(step), step.folded, *figures, recovered)

    def strengths(self, step: Step) -> dict[str, float]:
        """Return those of the sites, of what their decisions say at most."""
        shares = self.effects.shares(step)
        return {decision.site: decision.strength * shares[decision.site] for decision in self.plan.rewritten}

    def _answers(self, network: nn.Module) -> Tensor:
        return shifted_answers(
            network,
            self.choosing,
            self.size,
            rounds=ROUNDS,
            seed=self.options["seed"],
            batch_size=self.options["batch_size"],
        )

    def carried(self, strengths: Mapping[str, float], pictures: Tensor) -> tuple[TracedModule, Recovered]:
        """Return the original with blurs of these strengths, and that again, with nothing recovered."""
        network = applied(with_strengths(self.plan, strengths), self.original, pictures, inplace=False)
        return network, Recovered(network, (), {}, {}, {}, 0)

    def recovered(self, strengths: Mapping[str, float], pictures: Tensor) -> tuple[TracedModule, Recovered]:
        """Return the original with blurs of these strengths, and what recovering that gives."""
        network, _ = self.carried(strengths, pictures)
        return network, recover(self.original, network, pictures, **self.options)


def _chosen(found: list[Trial], min_agreement: float) -> Trial:
    """Of the strongest of each way that meets the budget, the more consistent."""
    blurred = [trial for trial in found if trial.strength > 0]
    meeting = [trial for trial in blurred if trial.meets(min_agreement)]
    if not meeting:
        raise ArgumentError(_nothing_left(min(blurred, key=lambda trial: trial.strength), min_agreement))
    strongest_of = {trial.recovered: trial for trial in sorted(meeting, key=lambda trial: trial.strength)}
    return max(strongest_of.values(), key=lambda trial: trial.change.percent)


def _check(images: object, size: int, min_agreement: float, trials: int) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.dim() != 4:
        kind = f"{images.dtype} of {images.dim()} axes" if isinstance(images, Tensor) else type(images).__name__
        raise ArgumentTypeError(f"images must be a float tensor [N, C, H, W], got {kind}.")
    if not 0 < min_agreement < 100:
        raise ArgumentError(f"min_agreement must be above 0 and below 100 %, got {min_agreement:g}.")
    if trials < 1:
        raise ArgumentError(f"trials must be at least 1, got {trials}.")
    if room(images, size) == 0:
        raise ArgumentError(f"A window of {size} pixels fills the images, so it cannot shift; give larger images.")
    if len(images) < 4:
        raise ArgumentError(
            f"The search needs images to fit to and to choose by, and there are {len(images)}; give 128 or more."
        )


def _nothing_left(weakest: Trial, min_agreement: float) -> str:
    return (
        f"nothing is left of the blurs at a min_agreement of {min_agreement:g} %: the weakest tried, of mean strength "
        f"{weakest.strength:.2g}, agrees on {weakest.agreement} and changes consistency by "
        f"{weakest.change.as_change()}; ask for less, or give more images."
    )
