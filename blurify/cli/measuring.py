"""What `blurify measure` does: read models and pictures, ask, and say what came out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from blurify import files
from blurify.cli.measured import About, Measured
from blurify.errors import ArgumentError, FileError
from blurify.measure.compare import Answers, Comparison, NotFiniteError, compare
from blurify.measure.consistency import agreement, window_offsets
from blurify.measure.estimate import Estimate, estimate
from blurify.measure.folder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Folder,
    Pictures,
    Preprocessing,
    check_normalisation,
    find_pictures,
)
from blurify.tracing.inputs import input_size


@dataclass(frozen=True)
class Settings:
    """The options of one command line."""

    images: Path
    labels: bool
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    shift: int
    rounds: int
    protocol: str
    seed: int
    batch_size: int
    workers: int
    device: str
    strict: bool
    arch: str | None
    allow: tuple[str, ...]
    input_size: tuple[int, ...] | None
    pretrained: bool


def run(names: list[str], settings: Settings) -> Measured:
    """Measure the named models on the pictures of the settings' folder."""
    folder = find_pictures(settings.images, settings.labels)
    models = {name: _read(name, settings) for name in names}
    first = next(iter(models.values()))
    channels, size = _square(settings.input_size or input_size(first))
    preprocessing = _preprocessing(first, settings, channels, size)
    offsets = window_offsets(
        len(folder.paths),
        settings.shift,
        settings.rounds,
        seed=settings.seed,
        protocol=settings.protocol,
        batch_size=settings.batch_size,
    )
    skipped: list[str] = []
    try:
        compared = compare(models, _batches(folder, preprocessing, settings, skipped), offsets, size)
    except NotFiniteError as error:
        raise ArgumentError(
            f"{error.name} gives values that are not finite for {folder.paths[error.picture]}."
        ) from error
    labels = _labels(folder, compared)
    figures = {name: _scores(answers, labels) for name, answers in zip(models, compared.answers, strict=True)}
    both = _differences(list(figures.values()), compared)
    about = About(
        str(settings.images),
        len(compared.pictures),
        compared.complete,
        settings.rounds,
        size,
        settings.shift,
        settings.protocol,
        settings.seed,
        preprocessing.mean,
        preprocessing.std,
    )
    estimated = {name: _estimated(scores, settings.seed) for name, scores in figures.items()}
    return Measured(estimated, _estimated(both, settings.seed), about, skipped)


def _read(name: str, settings: Settings) -> nn.Module:
    # What is known of a state_dict's architecture is not asked of a name or of our own files.
    named = files.looks_like_architecture(name) and not Path(name).exists()
    arch = None if named else settings.arch
    loaded = files.read_model(name, arch=arch, allow=settings.allow, pretrained=settings.pretrained and named)
    try:
        return loaded.model.to(settings.device)
    except (RuntimeError, AssertionError) as error:
        fact = " ".join(str(error).split()).rstrip(".")
        raise ArgumentError(f"--device {settings.device} cannot be used: {fact}.") from error


def _square(size: tuple[int, ...]) -> tuple[int, int]:
    if len(size) != 3 or size[1] != size[2]:
        raise ArgumentError(
            f"windows are square, and an input of {'x'.join(map(str, size))} is not; "
            "give channels and a square with --input-size, such as 3,224,224."
        )
    return size[0], size[1]


def _preprocessing(model: nn.Module, settings: Settings, channels: int, size: int) -> Preprocessing:
    """What the user asked for, else what the model's own configuration says, else what ImageNet's models take."""
    config = getattr(model, "pretrained_cfg", None) or {}

    def chosen(asked: tuple[float, ...] | None, name: str, usual: tuple[float, ...]) -> tuple[float, ...]:
        own = tuple(asked or config.get(name) or usual)
        # Of a grey picture, what its three equal channels have on the average.
        return own if asked or len(own) == channels else (sum(own) / len(own),) * channels

    mean, std = chosen(settings.mean, "mean", IMAGENET_MEAN), chosen(settings.std, "std", IMAGENET_STD)
    check_normalisation(mean, std, channels)
    return Preprocessing(size + settings.shift, mean, std)


def _batches(
    folder: Folder, preprocessing: Preprocessing, settings: Settings, skipped: list[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The pictures that can be read, with a bar on a terminal; why others cannot goes to `skipped`."""
    loader: DataLoader[Any] = DataLoader(
        Pictures(folder.paths, preprocessing),
        settings.batch_size,
        num_workers=settings.workers,
        collate_fn=list,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("measuring", total=len(folder.paths))
        for items in loader:
            reasons = [what for _, what in items if isinstance(what, str)]
            if reasons and settings.strict:
                raise FileError(f"{reasons[0].rstrip('.')}; leave --strict out to skip it.")
            skipped += reasons
            read = [(number, picture) for number, picture in items if isinstance(picture, Tensor)]
            if read:
                numbers, pictures = zip(*read, strict=True)
                yield torch.tensor(numbers), torch.stack(pictures).to(settings.device)
            progress.advance(task, len(items))
    if len(skipped) == len(folder.paths):
        raise FileError(f"none of the {len(skipped)} pictures can be read; the first: {skipped[0]}")


def _labels(folder: Folder, compared: Comparison) -> Tensor | None:
    if folder.labels is None:
        return None
    classes = compared.answers[0].classes
    if len(folder.classes) != classes:
        raise ArgumentError(
            f"the folder has {len(folder.classes)} subfolders and the model {classes} classes; "
            "give one subfolder a class, or leave --labels out."
        )
    return torch.tensor(folder.labels)[compared.pictures]


def _scores(answers: Answers, labels: Tensor | None) -> dict[str, Tensor]:
    """One number a picture, for each figure."""
    scores = {"consistency": agreement(answers.windows)}
    if labels is not None:
        hits = answers.middle == labels[:, None]
        scores["accuracy"] = hits[:, 0].double()
        if answers.middle.shape[1] == 5 < answers.classes:
            scores["top-5 accuracy"] = hits.any(1).double()
    return scores


def _differences(figures: list[dict[str, Tensor]], compared: Comparison) -> dict[str, Tensor]:
    """The second model's scores less the first's on the same windows, and how often both say the same."""
    if len(figures) < 2:
        return {}
    first, second = compared.answers
    if first.classes != second.classes:
        raise ArgumentError(
            f"the models have {first.classes} and {second.classes} classes, so they cannot be compared; "
            "give two models of the same classes, or measure them one by one."
        )
    differences = {name: figures[1][name] - scores for name, scores in figures[0].items()}
    return differences | {"agreement": (first.middle[:, 0] == second.middle[:, 0]).double()}


def _estimated(scores: dict[str, Tensor], seed: int) -> dict[str, Estimate]:
    return {name: estimate(score, seed=seed) for name, score in scores.items()}
