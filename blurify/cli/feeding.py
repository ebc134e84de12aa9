"""The pictures that `blurify measure` shows to models: prepared as a model's own configuration says, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor
from torch.utils.data import DataLoader

from blurify import files
from blurify.cli.settings import Settings
from blurify.errors import ArgumentError, FileError
from blurify.files.transforms import torchvision_preprocessing
from blurify.measure import processes
from blurify.measure.folder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INTERPOLATIONS,
    Folder,
    Pictures,
    Preprocessing,
    check_normalisation,
)
from blurify.tracing.inputs import input_size


@dataclass(frozen=True)
class Wishes:
    """What a user says of how pictures are prepared."""

    input_size: tuple[int, ...] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    shift: int


def prepared(loaded: files.LoadedModel, asked: Wishes) -> tuple[int, Preprocessing]:
    """The side of the model's input, and what happens to pictures before it.

    What the user asked for, else what the model's own configuration (timm) or its weights' transforms (torchvision)
    say, else what ImageNet's models take.
    """
    config: Mapping[str, Any] = getattr(loaded.model, "pretrained_cfg", None) or torchvision_preprocessing(loaded.arch)
    own = config.get("input_size") if loaded.arch and loaded.arch.startswith("torchvision:") else None
    channels, size = square(asked.input_size or own or input_size(loaded.model))

    def chosen(given: tuple[float, ...] | None, name: str, usual: tuple[float, ...]) -> tuple[float, ...]:
        own = tuple(given or config.get(name) or usual)
        # Of a grey picture, what its three equal channels have on the average.
        return own if given or len(own) == channels else (sum(own) / len(own),) * channels

    mean, std = chosen(asked.mean, "mean", IMAGENET_MEAN), chosen(asked.std, "std", IMAGENET_STD)
    check_normalisation(mean, std, channels)
    interpolation = str(config.get("interpolation", "bilinear"))
    known = interpolation if interpolation in INTERPOLATIONS else "bilinear"
    return size, Preprocessing(size + asked.shift, mean, std, known)


def square(size: tuple[int, ...]) -> tuple[int, int]:
    """The channels and the side of an input."""
    if len(size) != 3 or size[1] != size[2]:
        raise ArgumentError(
            f"windows are square, and an input of {'x'.join(map(str, size))} is not; "
            "give channels and a square with --input-size, such as 3,224,224."
        )
    return size[0], size[1]


def batches(
    folder: Folder, preprocessing: Preprocessing, settings: Settings, skipped: list[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's pictures that can be read, with a bar on a terminal; why others cannot goes to `skipped`."""
    # Whole batches are shared out, so that what is in a batch does not depend on how many processes there are.
    own = processes.own_share(torch.split(torch.arange(len(folder.paths)), settings.batch_size))
    loader: DataLoader[Any] = DataLoader(
        Pictures(folder.paths, preprocessing),
        batch_sampler=[batch.tolist() for batch in own],
        num_workers=settings.workers,
        collate_fn=list,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    console = Console(stderr=True)
    hidden = not console.is_terminal or processes.rank() > 0
    device = processes.own_device(settings.device)
    with Progress(*columns, console=console, disable=hidden, transient=True) as progress:
        task = progress.add_task("measuring", total=sum(map(len, own)))
        for items in loader:
            reasons = [what for _, what in items if isinstance(what, str)]
            if reasons and settings.strict:
                raise FileError(f"{reasons[0].rstrip('.')}; leave --strict out to skip it.")
            skipped += reasons
            read = [(number, picture) for number, picture in items if isinstance(picture, Tensor)]
            if read:
                numbers, pictures = zip(*read, strict=True)
                yield torch.tensor(numbers), torch.stack(pictures).to(device)
            progress.advance(task, len(items))


class Rate(ProgressColumn):
    """Pictures a second."""

    def render(self, task: Task) -> Text:
        """The speed of the last seconds."""
        return Text(f"{task.speed:.1f} pictures/s" if task.speed else "")
