"""The images that `blurify measure` shows to models, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor
from torch.utils.data import DataLoader

from blurify.cli.settings import MeasureSettings
from blurify.errors import FileError
from blurify.measure import processes
from blurify.measure.folder import Folder, Pictures, Preprocessing


def batches(
    folder: Folder, preprocessing: Preprocessing, settings: MeasureSettings, skipped: list[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's images that can be read, with a bar on a terminal; why others cannot goes to `skipped`."""
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
                raise FileError(f"{reasons[0].rstrip('.')}; remove --strict to skip it.")
            skipped += reasons
            read = [(number, picture) for number, picture in items if isinstance(picture, Tensor)]
            if read:
                numbers, pictures = zip(*read, strict=True)
                yield torch.tensor(numbers), torch.stack(pictures).to(device)
            progress.advance(task, len(items))


class Rate(ProgressColumn):
    """Pictures a second."""

    def render(self, task: Task) -> Text:
        """Return the speed of the last seconds."""
        return Text(f"{task.speed:.1f} images/s" if task.speed else "")
