"""Probes of a model on a batch of images; every result is one row an image.

A probe is called with `run`, which gives the model's output for a batch of inputs, the images' numbers `[B]`, by
which whatever was drawn at random is looked up, and the images `[B, C, H, W]`. So an image meets the same shifts
whatever batch, process or model it is in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from blurify.measure.consistency import divergence, soft_change
from blurify.measure.dense import mean_iou, overlap, psnr
from blurify.measure.shifts import crop, room

Run = Callable[[Tensor], Tensor]
Rows = dict[str, Tensor]
Probe = Callable[[Run, Tensor, Tensor], Rows]

TOP = 5
# Equal images are infinitely alike, of which there is no mean.
MOST_DECIBELS = 100.0


def middle(pictures: Tensor, size: int, move: tuple[int, int] = (0, 0)) -> Tensor:
    """Return the window in the middle of every image, moved down and to the right by as much as there is room for.

    >>> middle(torch.arange(9.0).reshape(1, 1, 3, 3), 1).item()
    4.0
    """
    lengths = zip(pictures.shape[-2:], move, strict=True)
    top, left = (min((length - size) // 2 + by, length - size) for length, by in lengths)
    return pictures[..., top : top + size, left : left + size]


@dataclass(frozen=True)
class Windows:
    """A classifier's answers for pairs of windows, and for the one in the middle.

    `answers [B, rounds, 2]` are the top-1 classes, `change` and `divergence` `[B]` how far the probabilities of a pair
    are apart in the mean, `middle [B, 5]` the best classes for the window in the middle, and `near [B, 2, 2]` the top-1
    classes of that and of the window one pixel to the right, and one pixel down.
    """

    offsets: list[Tensor]
    size: int

    def __call__(self, run: Run, numbers: Tensor, pictures: Tensor) -> Rows:
        """Ask."""
        answers, changes, divergences = [], [], []
        for one, other in zip(self.offsets[::2], self.offsets[1::2], strict=True):
            first, second = (run(crop(pictures, drawn[numbers], self.size)) for drawn in (one, other))
            answers.append(torch.stack([first.argmax(1), second.argmax(1)], 1))
            changes.append(soft_change(first, second))
            divergences.append(divergence(first, second))
        best = run(middle(pictures, self.size))
        near = [run(middle(pictures, self.size, move)).argmax(1) for move in ((0, 1), (1, 0))]
        return {
            "answers": torch.stack(answers, 1),
            "change": torch.stack(changes, 1).mean(1),
            "divergence": torch.stack(divergences, 1).mean(1),
            "near": torch.stack([torch.stack([best.argmax(1), moved], 1) for moved in near], 1),
            "middle": best.topk(min(TOP, best.shape[1])).indices,
        }


@dataclass(frozen=True)
class Rolled:
    """A classifier's top-1 classes for pairs of circular shifts of the middle window: `rolled [B, rounds, 2]`."""

    shifts: list[Tensor]
    size: int

    def __call__(self, run: Run, numbers: Tensor, pictures: Tensor) -> Rows:
        """Ask."""
        windows = middle(pictures, self.size)
        answers = []
        for drawn in self.shifts:
            shifts = drawn[numbers].tolist()
            rolled = [window.roll(shift, (1, 2)) for window, shift in zip(windows, shifts, strict=True)]
            answers.append(run(torch.stack(rolled)).argmax(1))
        return {"rolled": torch.stack(answers, 1).reshape(len(pictures), -1, 2)}


@dataclass(frozen=True)
class Diagonal:
    """The probability of the true class, or else of the model's first choice, along a diagonal: `sweep [B, shifts]`."""

    size: int
    labels: Tensor | None = None

    def __call__(self, run: Run, numbers: Tensor, pictures: Tensor) -> Rows:
        """Ask."""
        steps = range(room(pictures, self.size) + 1)
        windows = (pictures[..., step : step + self.size, step : step + self.size] for step in steps)
        sweep = torch.stack([run(window).double().softmax(1) for window in windows], 1)
        first = sweep[:, 0].argmax(1) if self.labels is None else self.labels[numbers]
        return {"sweep": sweep[torch.arange(len(sweep)), :, first]}


@dataclass(frozen=True)
class Maps:
    """How alike the maps of pairs of windows are where they overlap: `iou` and `psnr`, in decibels, `[B, rounds]`."""

    offsets: list[Tensor]
    size: int
    data_range: float | None = None

    def __call__(self, run: Run, numbers: Tensor, pictures: Tensor) -> Rows:
        """Ask."""
        found = []
        for one, other in zip(self.offsets[::2], self.offsets[1::2], strict=True):
            places = [drawn[numbers] for drawn in (one, other)]
            maps = [run(crop(pictures, drawn, self.size)) for drawn in places]
            pairs = [overlap(*each) for each in zip(*maps, *places, strict=True)]
            alike = mean_iou(pairs) if self.data_range is None else psnr(pairs, self.data_range)
            found.append(alike.clamp_max(MOST_DECIBELS))
        return {"iou" if self.data_range is None else "psnr": torch.stack(found, 1)}
