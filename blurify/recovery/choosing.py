"""Choose the filter to recover with: cheap signals leave two of a short list, which are recovered and measured.

A sharp filter keeps more of what the carried weights read, and a smooth one suppresses more of what is folded; which of
them serves a network best, after recovery, its images tell. All filters of the list are odd, so no grid moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError
from blurify.filters import Filter
from blurify.measure.aliasing import folded_energy
from blurify.measure.consistency import agreement, logits
from blurify.measure.estimate import Estimate, estimate
from blurify.measure.probes import middle
from blurify.measure.shifts import room
from blurify.recovery.judging import Judge
from blurify.recovery.recover import Recovered, recover
from blurify.tracing.modes import evaluating

CANDIDATES = (Filter("binomial", 3), Filter("halfband", 7), Filter("halfband", 11), Filter("lanczos", 11))
# How many are recovered, from images of which so many choose and are not fitted to.
FINALISTS, CHOOSING = 2, 0.25
# Images that the cheap signals are taken of.
PROBED = 32
NEIGHBOURS = ((0, 1), (1, 0))


@dataclass(frozen=True)
class FilterTrial:
    """One filter: the error of the outputs with carried weights, and the mean share of energy folded at the sites.

    Of a finalist, which was recovered, there are its agreement with the original and its consistency at one pixel, both
    on images that it was not recovered from. `original` is the original's consistency at one pixel.
    """

    filter: str
    error: float
    folded: float
    agreement: Estimate | None = None
    one_pixel: Estimate | None = None
    original: Estimate | None = None

    @property
    def height(self) -> float:
        """Return how high the trial lies on the curve of agreement and consistency: their sum, in percent."""
        return (self.agreement.percent + self.one_pixel.percent) if self.agreement and self.one_pixel else 0.0


@dataclass(frozen=True)
class Choice:
    """The filter that was chosen, what recovering with it gave, and all trials."""

    filter: Filter
    carried: nn.Module
    recovered: Recovered
    trials: tuple[FilterTrial, ...]

    @property
    def chosen(self) -> FilterTrial:
        """Return the trial of the chosen filter."""
        return next(trial for trial in self.trials if trial.filter == str(self.filter))

    def __str__(self) -> str:
        """Return a table of the trials, and why one of them was chosen."""
        rows = [("filter", "error carried", "folded", "agreement", "one-pixel consistency")]
        for trial in self.trials:
            cells = (str(trial.agreement or ""), str(trial.one_pixel or ""))
            rows.append((trial.filter, f"{trial.error:.4f}", f"{100 * trial.folded:.1f} %", *cells))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, self.sentence()])

    def sentence(self) -> str:
        """Say which filter was chosen, and why."""
        best = self.chosen
        if best.agreement is None or best.one_pixel is None:
            return f"The filter is {best.filter}: it has the lowest error and folding of those tried."
        return (
            f"The filter is {best.filter}: of those recovered, its agreement ({best.agreement}) and one-pixel "
            f"consistency ({best.one_pixel}; the original's is {best.original}) are the highest in sum."
        )


def choose(
    original: nn.Module, candidates: Mapping[Filter, nn.Module], images: Tensor, *, size: int, **options: Any
) -> Choice:
    """Recover the original with that of several filters which keeps most predictions and is the steadiest.

    >>> import blurify
    >>> from blurify.demo import load_demo
    >>> original, pictures, _ = load_demo()
    >>> smooth = {each: blurify.antialias(original, filter=each) for each in CANDIDATES[:2]}
    >>> framed = torch.nn.functional.pad(pictures[:64], (4,) * 4)
    >>> len(choose(original, smooth, framed, size=40).trials)
    2

    The candidates are ranked by the error of their outputs times the energy that they fold, on a part of the images.
    The first two are recovered from three quarters of the images and measured on the others, and the better one is
    recovered from all.

    Args:
        original: the network before `blurify.antialias`.
        candidates: what that returned for each filter.
        images: float `[N, C, H, W]`, larger than what the networks take.
        size: side of the windows that the networks take, in pixels.
        options: those of `blurify.recover`.

    Raises:
        ArgumentError: there are no candidates, or the images have no room for a shift.
    """
    if not candidates or room(images, size) < 1:
        raise ArgumentError("Choosing a filter takes candidates, and images larger than what the networks take.")
    batch_size = options.get("batch_size", 16)
    inner = middle(images, size).contiguous()
    fitted = len(images) - max(1, round(len(images) * CHOOSING))
    with evaluating(original):
        judge = Judge(original, inner[: min(fitted, PROBED)], batch_size)
    trials = {each: _signals(each, network, judge, batch_size) for each, network in candidates.items()}
    ranked = sorted(trials, key=lambda each: trials[each].error * trials[each].folded)
    finalists = ranked[:FINALISTS] if judge.classes else []
    for each in finalists:
        found = recover(original, candidates[each], inner[:fitted], **options)
        trials[each] = _measured(trials[each], original, found.model, images[fitted:], size, batch_size)
    best = max(finalists, key=lambda each: trials[each].height) if finalists else ranked[0]
    found = recover(original, candidates[best], inner, **options)
    return Choice(best, candidates[best], found, tuple(trials.values()))


def _signals(each: Filter, network: nn.Module, judge: Judge, batch_size: int) -> FilterTrial:
    with evaluating(network):
        error = judge.score(network).error
    shares = folded_energy(network, judge.held, batch_size).values()
    folded = [float(share[:, 1].mean()) for share in shares]
    return FilterTrial(str(each), error, sum(folded) / len(folded) if folded else 0.0)


def _measured(
    trial: FilterTrial, original: nn.Module, network: nn.Module, images: Tensor, size: int, batch_size: int
) -> FilterTrial:
    wanted, given = (near_answers(each, images, size, batch_size) for each in (original, network))
    same = (wanted[:, 0, 0] == given[:, 0, 0]).double()
    own, one_pixel = (estimate(agreement(answers)) for answers in (wanted, given))
    return replace(trial, agreement=estimate(same), one_pixel=one_pixel, original=own)


def near_answers(
    network: nn.Module,
    images: Tensor,
    size: int,
    batch_size: int = 16,
    moves: Sequence[tuple[int, int]] = NEIGHBOURS,
) -> Tensor:
    """Return the top-1 classes of the middle window, and of that one pixel further: `[N, moves, 2]`.

    >>> near_answers(nn.Flatten(), torch.zeros(3, 1, 2, 2), size=1).shape
    torch.Size([3, 2, 2])
    """
    answers = [logits(network, middle(images, size, move), batch_size).argmax(1) for move in ((0, 0), *moves)]
    return torch.stack([torch.stack([answers[0], moved], 1) for moved in answers[1:]], 1)
