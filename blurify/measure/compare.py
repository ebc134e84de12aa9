"""One or more models on the same windows of the same images, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError, one_line
from blurify.measure.probes import Probe, Rows
from blurify.tracing.modes import evaluating

# Under these names networks of several outputs give the one that counts.
MAIN_OUTPUTS = ("out", "logits")
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Comparison:
    """Hold every model's predictions, a row an image; the numbers of the images, in order; and if these are all."""

    answers: list[Rows]
    pictures: Tensor
    complete: bool


@dataclass(frozen=True)
class Classes:
    """How many classes the labels know: all that have a name, or one more than their largest number."""

    count: int
    named: bool


class NoPicturesError(ArgumentError):
    """There was nothing to show to a model."""


class NotFiniteError(ArgumentError):
    """A model gave something that is no number; `picture` is the number of the first such image."""

    def __init__(self, name: str, picture: int) -> None:
        super().__init__(f"{name} gives values that are not finite for image {picture}.")
        self.name, self.picture = name, picture


@dataclass
class EvaluatedModel:
    """A model that is asked: how it is run, and what its outputs must be like.

    `dense` models give a map as large as their input for each image, all others a row of classes.
    """

    name: str
    model: nn.Module
    dense: bool = False
    amp: bool = False
    channels_last: bool = False
    channels: int = field(default=0, init=False)

    def about(self, probes: Sequence[Probe], numbers: Tensor, pictures: Tensor) -> Rows:
        """Hold the part of a batch that all probes share."""

        def run(inputs: Tensor) -> Tensor:
            output = self.checked(self.run(inputs), inputs)
            finite = output.isfinite().flatten(1).all(1)
            if not bool(finite.all()):
                raise NotFiniteError(self.name, int(numbers[int((~finite).nonzero()[0])]))
            return output

        rows: Rows = {}
        for probe in probes:
            rows.update(probe(run, numbers, pictures))
        return rows

    def run(self, inputs: Tensor) -> object:
        """Return the model's output; of several, the main one."""
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        try:
            with torch.autocast(inputs.device.type, enabled=self.amp):
                output = self.model(inputs)
        except Exception as error:  # whatever it is, the user must know of which model
            fact = one_line(error)
            size = "x".join(map(str, inputs.shape[1:]))
            raise ArgumentError(
                f"{self.name} does not run on images of {size}: {fact}; "
                "give the size that it takes (--input-size on the command line)."
            ) from error
        named = [output[name] for name in MAIN_OUTPUTS if name in output] if isinstance(output, dict) else []
        return named[0] if named else output

    def checked(self, output: object, inputs: Tensor) -> Tensor:
        """Return the output, if it is of the kind that is asked for."""
        shape = tuple(output.shape) if isinstance(output, Tensor) else None
        rest = tuple(inputs.shape[2:]) if self.dense else ()
        if not isinstance(output, Tensor) or shape is None or (shape[:1], shape[2:]) != ((len(inputs),), rest):
            wanted = "a map as large as its input" if self.dense else "a row of classes"
            gave = type(output).__name__ if shape is None else [*shape]
            kind = "" if shape is None or len(shape) != 4 or self.dense else " (of masks or images, say so: --task)"
            raise ArgumentError(
                f"{self.name} must give {wanted} for each image; for {len(inputs)} it gave {gave}{kind}."
            )
        self.channels = output.shape[1]
        return output.float().cpu()


def compare(
    models: Sequence[EvaluatedModel], probes: Sequence[Probe], batches: Iterable[Batch], classes: Classes | None = None
) -> Comparison:
    """Ask every model the same of every image.

    Args:
        models: who is asked.
        probes: what is asked; see `blurify.measure.probes`.
        batches: numbers of images `[B]`, and the images `[B, C, H, W]`. Interrupting them ends the run.
        classes: those of the labels, if there are any.

    Raises:
        ArgumentError: there is no image, a model gives something else or no numbers, or the models differ in classes.
    """
    found: list[list[Rows]] = []
    seen: list[Tensor] = []
    interrupted: KeyboardInterrupt | None = None
    with ExitStack() as stack:
        for asked in models:
            stack.enter_context(evaluating(asked.model))
        try:
            for numbers, pictures in batches:
                if len(numbers):
                    rows = [asked.about(probes, numbers, pictures) for asked in models]
                    check_alike(models, classes)
                    found.append(rows)
                    seen.append(numbers)
        except KeyboardInterrupt as error:
            interrupted = error
    if not seen:
        raise NoPicturesError("There are no images to measure on.") from interrupted
    return joined([Comparison(rows, numbers, interrupted is None) for rows, numbers in zip(found, seen, strict=True)])


def check_alike(models: Sequence[EvaluatedModel], classes: Classes | None) -> None:
    """Refuse models that cannot be compared, and labels of other classes than a model has."""
    first, *others = models
    for other in others:
        if other.channels != first.channels:
            raise ArgumentError(
                f"The models have {first.channels} and {other.channels} classes, so they cannot be compared; "
                "give two models of the same classes, or measure them one by one."
            )
    if classes is None:
        return
    if classes.named and classes.count != first.channels:
        raise ArgumentError(
            f"The labels have {classes.count} classes and the model {first.channels}; "
            "give one subfolder, or one name, a class, or leave the labels out."
        )
    if classes.count > first.channels:
        raise ArgumentError(
            f"There is a label {classes.count - 1}, and the model has {first.channels} classes, counted from 0; "
            "give labels of the model's own classes, or leave them out."
        )


def joined(parts: Sequence[Comparison]) -> Comparison:
    """Return the comparisons of different images as one, in order of the images."""
    numbers = torch.cat([part.pictures for part in parts])
    order = numbers.argsort()
    answers = [
        {name: torch.cat([part.answers[i][name] for part in parts])[order] for name in model}
        for i, model in enumerate(parts[0].answers)
    ]
    return Comparison(answers, numbers[order], all(part.complete for part in parts))
