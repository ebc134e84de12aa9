"""One or more models on the same windows of the same pictures, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError
from blurify.measure.shifts import crop
from blurify.tracing.modes import evaluating

TOP = 5


@dataclass(frozen=True)
class Answers:
    """A model's top-1 classes for the windows, `[N, rounds, 2]`, and its best classes for the middle one, `[N, 5]`."""

    windows: Tensor
    middle: Tensor
    classes: int


@dataclass(frozen=True)
class Comparison:
    """The answers of every model, the numbers of the pictures that they are of, and whether these are all."""

    answers: list[Answers]
    pictures: Tensor
    complete: bool


Batch = tuple[Tensor, Tensor]


def compare(models: dict[str, nn.Module], batches: Iterable[Batch], offsets: list[Tensor], size: int) -> Comparison:
    """Ask every model for the class of the same windows of every picture.

    Args:
        models: classifiers by the names that messages call them.
        batches: numbers of pictures `[B]`, and the pictures `[B, C, H, W]`. Interrupting them ends the run.
        offsets: of both windows of every round, `2 * rounds` times `[N, 2]`, by the pictures' numbers.
        size: of the windows, in pixels.

    Raises:
        ArgumentError: there is no picture, a model gives no classes or no numbers, or the models differ in classes.
    """
    found: dict[str, list[tuple[Tensor, Tensor, int]]] = {name: [] for name in models}
    seen: list[Tensor] = []
    complete = True
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        try:
            for numbers, pictures in batches:
                if len(numbers) == 0:
                    continue
                rows = {name: _ask(name, model, numbers, pictures, offsets, size) for name, model in models.items()}
                for name, row in rows.items():
                    found[name].append(row)
                seen.append(numbers)
        except KeyboardInterrupt:
            complete = False
    if not seen:
        raise ArgumentError("there are no pictures to measure on.")
    return Comparison([_joined(rows) for rows in found.values()], torch.cat(seen), complete)


def _ask(
    name: str, model: nn.Module, numbers: Tensor, pictures: Tensor, offsets: list[Tensor], size: int
) -> tuple[Tensor, Tensor, int]:
    middle = (torch.tensor(pictures.shape[-2:]) - size) // 2
    answers: list[Tensor] = []
    classes = 0
    for drawn in (*offsets, middle.expand(int(numbers.max()) + 1, 2)):
        output = _run(name, model, crop(pictures, drawn[numbers], size))
        if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != len(pictures):
            shape = [*output.shape] if isinstance(output, Tensor) else type(output).__name__
            raise ArgumentError(
                f"{name} must give a row of classes for each picture; for {len(pictures)} it gave {shape}."
            )
        finite = output.isfinite().all(1)
        if not bool(finite.all()):
            number = int(numbers[int((~finite).nonzero()[0])])
            raise NotFiniteError(name, number)
        classes = output.shape[1]
        answers.append(output.topk(min(TOP, classes)).indices.cpu())
    windows = torch.stack([answer[:, 0] for answer in answers[:-1]], dim=1).reshape(len(pictures), -1, 2)
    return windows, answers[-1], classes


def _run(name: str, model: nn.Module, windows: Tensor) -> object:
    try:
        return model(windows)
    except Exception as error:  # whatever it is, the user must know of which model
        fact = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        size = "x".join(map(str, windows.shape[1:]))
        raise ArgumentError(
            f"{name} does not run on pictures of {size}: {fact}; "
            "give the size that it takes (--input-size on the command line)."
        ) from error


class NotFiniteError(ArgumentError):
    """A model gave something that is no number; `picture` is the number of the first such picture."""

    def __init__(self, name: str, picture: int) -> None:
        super().__init__(f"{name} gives values that are not finite for picture {picture}.")
        self.name, self.picture = name, picture


def _joined(rows: list[tuple[Tensor, Tensor, int]]) -> Answers:
    return Answers(torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows]), rows[0][2])
