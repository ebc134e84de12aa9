"""Networks made of one another, on the same images: how consistent each is, and how often it answers as the first."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError, FileError
from blurify.measure.compare import Comparison, EvaluatedModel, NoPicturesError, compare
from blurify.measure.consistency import ROUNDS, agreement, window_offsets
from blurify.measure.estimate import Estimate, estimate
from blurify.measure.folder import Pictures, Preprocessing, Source
from blurify.measure.probes import Rows, Windows

Item = TypeVar("Item")
# Of images that are no more than are asked for, what is held back to measure on.
TEST_SHARE = 1 / 3
FEWEST = 4


@dataclass(frozen=True)
class EvalConfig:
    """How many pairs of windows of that side are shown of an image, how far apart, and how many images at a time."""

    size: int
    shift: int = 32
    rounds: int = ROUNDS
    batch_size: int = 16
    seed: int = 0
    device: str = "cpu"


def shares(pictures: Sequence[Item], wanted: int, seed: int, source: Path) -> tuple[list[Item], list[Item]]:
    """Shuffled: so many of them as are wanted, at most, and the others, a third at least.

    >>> [len(share) for share in shares(range(12), 256, 0, Path("pictures"))]
    [8, 4]

    Raises:
        ArgumentError: there are fewer than four.
    """
    if len(pictures) < FEWEST:
        raise ArgumentError(f"{source} holds {len(pictures)} images, too few to recover from; give 64 or more.")
    shuffled = list(pictures)
    random.Random(seed).shuffle(shuffled)
    used = min(wanted, len(shuffled) - max(1, round(len(shuffled) * TEST_SHARE)))
    return shuffled[:used], shuffled[used:]


def stacked(paths: Sequence[Source], preprocessing: Preprocessing) -> tuple[Tensor, list[str]]:
    """Return the images that can be read, `[N, C, H, W]`, and why others cannot.

    Raises:
        FileError: none can be read.
    """
    pictures, _, reasons = readable(paths, preprocessing)
    return pictures, reasons


def readable(paths: Sequence[Source], preprocessing: Preprocessing) -> tuple[Tensor, list[int], list[str]]:
    """Return the same, and between them the numbers of those that can be read.

    Raises:
        FileError: none can be read.
    """
    items = [item for _, item in (Pictures(paths, preprocessing)[number] for number in range(len(paths)))]
    pictures = {number: item for number, item in enumerate(items) if isinstance(item, Tensor)}
    reasons = [item for item in items if isinstance(item, str)]
    if not pictures:
        raise FileError(f"None of {len(paths)} images can be read; the first: {reasons[0]}")
    return torch.stack(list(pictures.values())), list(pictures), reasons


@dataclass(frozen=True)
class Figures:
    """Of every network its figures by name; how the last one's differ from the first's; what could not be read."""

    networks: dict[str, dict[str, Estimate]]
    difference: dict[str, Estimate]
    pictures: int
    skipped: list[str]


def side_by_side(
    networks: Mapping[str, nn.Module],
    paths: Sequence[Source],
    preprocessing: Preprocessing,
    manner: EvalConfig,
    labels: Sequence[int] | None = None,
) -> Figures:
    """Shift consistency of every network, its agreement with the first, and with labels its accuracy.

    >>> figures = side_by_side({"original": model, "converted": smooth}, paths, preprocessing, EvalConfig(224))
    >>> figures.networks["converted"]["consistency"].percent
    87.5

    Raises:
        ArgumentError: no image can be read, or a network is no classifier.
    """
    skipped: list[str] = []
    offsets = window_offsets(len(paths), manner.shift, manner.rounds, seed=manner.seed)
    asked = [EvaluatedModel(name, network) for name, network in networks.items()]
    compared = _whole(asked, Windows(offsets, manner.size), _batches(paths, preprocessing, manner, skipped))
    known = None if labels is None else torch.tensor([labels[number] for number in compared.pictures])
    scores = [_scores(answers, compared.answers[0], known) for answers in compared.answers]
    change = {name: scores[-1][name] - scores[0][name] for name in scores[0] if name != "agreement"}

    def estimated(found: dict[str, Tensor]) -> dict[str, Estimate]:
        return {name: estimate(score, seed=manner.seed) for name, score in found.items()}

    of_each = {name: estimated(found) for name, found in zip(networks, scores, strict=True)}
    return Figures(of_each, estimated(change), len(compared.pictures), skipped)


def _whole(asked: Sequence[EvaluatedModel], windows: Windows, batches: Iterator[tuple[Tensor, Tensor]]) -> Comparison:
    """Measure all images: an interruption, of which `compare` makes a part, ends this too."""
    try:
        compared = compare(asked, [windows], batches)
    except NoPicturesError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
        raise
    if not compared.complete:
        raise KeyboardInterrupt
    return compared


def _batches(
    paths: Sequence[Source], preprocessing: Preprocessing, manner: EvalConfig, skipped: list[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    for numbers in torch.split(torch.arange(len(paths)), manner.batch_size):
        items = [Pictures([paths[number]], preprocessing)[0][1] for number in numbers]
        skipped += [item for item in items if isinstance(item, str)]
        read = [(number, item) for number, item in zip(numbers, items, strict=True) if isinstance(item, Tensor)]
        if read:
            yield torch.stack([n for n, _ in read]), torch.stack([p for _, p in read]).to(manner.device)


def _scores(answers: Rows, first: Rows, labels: Tensor | None) -> dict[str, Tensor]:
    scores = {
        "consistency": agreement(answers["answers"]),
        "one-pixel consistency": agreement(answers["near"]),
        "agreement": _same(answers, first["middle"][:, 0]),
    }
    return scores if labels is None else scores | {"accuracy": _same(answers, labels)}


def _same(answers: Rows, wanted: Tensor) -> Tensor:
    return (answers["middle"][:, 0] == wanted).double()
