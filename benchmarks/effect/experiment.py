"""One run: a network trained from scratch on centred images, then shown the test images elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.digits import Digits, mnist, small_digits
from benchmarks.effect.networks import NETWORKS, variant
from benchmarks.fit import fit
from blurify.measure.consistency import accuracy, agreement, correctness, diagonal_sweep, rolled_answers, variation
from blurify.measure.estimate import estimate

TAPS = (1, 2, 3, 4, 5)
WEIGHT_DECAY = 5e-4
# Both networks shrink a map by this in all, so that a longer slide repeats itself.
PERIOD = 8


@dataclass(frozen=True)
class Recipe:
    """What is common to all the runs on one set of images."""

    data: str
    # Images sit in the middle of an empty square of so many pixels, which the networks can halve three times.
    frame: int
    epochs: int
    batch: int
    # Pairs of shifts of an image.
    rounds: int
    # Test images that slide along the diagonal.
    slid: int


@dataclass(frozen=True)
class Run:
    """One line of the results; one tap is the network as it is."""

    recipe: Recipe
    network: str
    taps: int
    seed: int

    def key(self) -> dict[str, Any]:
        """What tells this run from others, as it stands in the results."""
        return asdict(self)


MNIST = Recipe("mnist", frame=32, epochs=2, batch=128, rounds=2, slid=2000)
QUICK = Recipe("digits", frame=16, epochs=12, batch=32, rounds=5, slid=597)
DATA: dict[str, Callable[[], Digits]] = {"mnist": mnist, "digits": small_digits}


def runs(recipe: Recipe, seeds: int) -> list[Run]:
    """All of them; the first seed's come first, so that what is interrupted is a whole table already."""
    return [Run(recipe, network, taps, seed) for seed in range(seeds) for network in NETWORKS for taps in TAPS]


def framed(pictures: Tensor, size: int) -> Tensor:
    """Put uint8 images `[N, H, W]` in the middle of empty squares: `[N, 1, size, size]`, 0 to 1."""
    before = (size - pictures.shape[-1]) // 2
    after = size - pictures.shape[-1] - before
    return F.pad(pictures.float() / 255, (before, after, before, after)).unsqueeze(1)


def carry_out(run: Run, digits: Digits) -> dict[str, list[float]]:
    """Train and measure; percentages by name, each with its 95 % interval over the test images."""
    recipe = run.recipe
    model = variant(run.network, run.taps, run.seed).to(memory_format=torch.channels_last)
    # The order of the images is the same for every filter.
    torch.manual_seed(run.seed)
    fit(
        model,
        lambda pictures: framed(pictures, recipe.frame),
        digits.pictures,
        digits.labels,
        epochs=recipe.epochs,
        weight_decay=WEIGHT_DECAY,
        batch_size=recipe.batch,
    )
    test, slid = framed(digits.test, recipe.frame), slice(recipe.slid)
    rolled = rolled_answers(model, test, recipe.frame - 1, rounds=recipe.rounds)
    sweep = diagonal_sweep(model, framed(digits.test[slid], recipe.frame + PERIOD), recipe.frame)
    scores = {
        "accuracy": accuracy(model, test, digits.truth),
        "consistency": agreement(rolled),
        "accuracy_shifted": correctness(rolled, digits.truth),
        "variation": variation(sweep, digits.truth[slid]),
    }
    return {name: interval(values) for name, values in scores.items()}


def interval(scores: Tensor) -> list[float]:
    """Mean, lower and upper end, in percent, to the digits that the interval leaves sense in."""
    found = estimate(scores)
    return [round(value, 3) for value in (found.percent, found.low, found.high)]
