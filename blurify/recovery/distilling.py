"""Self-distillation: the converted network is trained to give what the original gives, on pictures without labels.

The loss is the error of the logits and of what each site gives, each relative to the energy of what is wanted, and the
divergence of the classes' probabilities. Norms and dropouts stay in evaluation: there is nothing new to be learnt about
statistics, and a target that is the same for both. Pictures are shifted at random, so that a few go a long way. Where
the device has bfloat16 of its own, the networks run in it; weights and losses are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blurify.errors import FileError
from blurify.files.atomic import write_atomically
from blurify.graph_module import TracedModule
from blurify.proofs import blurring, tensors_in


@dataclass(frozen=True)
class Schedule:
    """How long to train and how fast; `shift` in pixels. The learning rate falls to nothing along a cosine.

    So many epochs as `patience` in a row that bring nothing end it earlier.
    """

    epochs: int = 4
    patience: int = 2
    rate: float = 3e-5
    shift: int = 8
    batch_size: int = 16
    seed: int = 0


def distill(
    teacher: TracedModule,
    student: TracedModule,
    pictures: Tensor,
    schedule: Schedule,
    error: Callable[[], float],
    checkpoint: Path | None = None,
) -> list[float]:
    """Train the student, which is in evaluation mode, in place; return its error after every epoch.

    `error` tells how far it is from the teacher on held-out pictures. The student is left with the weights of the epoch
    where that was lowest, or with its own if none lowered it. A `checkpoint` is written after every epoch, and gone on
    from if it is there already, to the same weights as without an interruption.
    """
    generator = torch.Generator().manual_seed(schedule.seed)
    trained = [value for value in student.parameters() if value.is_floating_point()]
    wanted = [value.requires_grad for value in trained]
    steps = schedule.epochs * math.ceil(len(pictures) / schedule.batch_size)
    try:
        for value in trained:
            value.requires_grad_(True)
        optimizer = torch.optim.AdamW(trained, schedule.rate, weight_decay=0.0)
        course = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        with listening(teacher) as theirs, listening(student) as mine:
            epoch = Epoch(teacher, student, theirs, mine, optimizer, course, has_bfloat16(pictures.device))
            progress = Progress(checkpoint, epoch, generator)
            return _train(epoch, pictures, schedule, progress, error)
    finally:
        for value, flag in zip(trained, wanted, strict=True):
            value.requires_grad_(flag)
            value.grad = None


def _train(
    epoch: Epoch, pictures: Tensor, schedule: Schedule, progress: Progress, error: Callable[[], float]
) -> list[float]:
    if not progress.errors:
        progress.note(error())
    while len(progress.errors) <= schedule.epochs and progress.stale < schedule.patience:
        epoch.run(pictures, schedule, progress.generator)
        progress.note(error())
        if not math.isfinite(progress.errors[-1]):
            break
    epoch.student.load_state_dict(progress.best)
    return progress.errors[1:]


@dataclass
class Epoch:
    """One pass over the pictures, in a random order and at random shifts."""

    teacher: TracedModule
    student: TracedModule
    theirs: dict[str, Tensor]
    mine: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    course: torch.optim.lr_scheduler.LRScheduler
    autocast: bool = False

    def run(self, pictures: Tensor, schedule: Schedule, generator: torch.Generator) -> None:
        """Train on every picture once."""
        for batch in torch.split(torch.randperm(len(pictures), generator=generator), schedule.batch_size):
            shifted = shift(pictures[batch], schedule.shift, generator)
            half = torch.autocast(shifted.device.type, torch.bfloat16, enabled=self.autocast)
            with torch.no_grad(), half:
                wanted = list(tensors_in(self.teacher(shifted)))
            with torch.enable_grad():
                with half:
                    given = list(tensors_in(self.student(shifted)))
                parts = [*map(relative, given, wanted), *map(divergence, given, wanted)]
                parts += [relative(features, self.theirs[path]) for path, features in self.mine.items()]
                loss = torch.stack(parts).sum()
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.course.step()


class Progress:
    """The errors so far, the first of them before any training, and the best weights; in a file, if one is named."""

    def __init__(self, path: Path | None, epoch: Epoch, generator: torch.Generator) -> None:
        self.path, self.epoch, self.generator = path, epoch, generator
        self.errors: list[float] = []
        self.best: dict[str, Tensor] = {}
        if path is not None and path.exists():
            self._read(path)

    @property
    def stale(self) -> int:
        """How many epochs in a row have not lowered the error."""
        return len(self.errors) - 1 - self.errors.index(min(self.errors))

    def note(self, error: float) -> None:
        """Note the error of the weights as they are."""
        self.errors.append(error)
        # A NaN is not below anything.
        if len(self.errors) == 1 or error < min(self.errors[:-1]):
            self.best = {key: value.clone() for key, value in self.epoch.student.state_dict().items()}
        if self.path is not None:
            content = {name: part.state_dict() for name, part in self._parts().items()}
            content |= {"errors": self.errors, "best": self.best, "random": self.generator.get_state()}
            write_atomically(self.path, lambda file: torch.save(content, file))

    def _parts(self) -> dict[str, Any]:
        return {"student": self.epoch.student, "optimizer": self.epoch.optimizer, "course": self.epoch.course}

    def _read(self, path: Path) -> None:
        try:
            content: dict[str, Any] = torch.load(path, weights_only=True)
            for name, part in self._parts().items():
                part.load_state_dict(content[name])
            self.errors, self.best = content["errors"], content["best"]
            self.generator.set_state(content["random"])
        except Exception as error:  # whatever a broken file makes torch raise
            raise FileError(f"{path} is no checkpoint of this network's training; remove it to begin anew.") from error


def checkpoint_of(journal: Path) -> Path:
    """The file of a recovery's training, beside its journal of fits."""
    return journal.with_name(f"{journal.name}.training")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes faster in bfloat16; on CPUs that depends, and they are left alone."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


@contextmanager
def listening(network: TracedModule) -> Iterator[dict[str, Tensor]]:
    """What every site gives, by the path of its blur, each time that the network has run."""
    heard: dict[str, Tensor] = {}

    def hook(path: str) -> Callable[..., None]:
        return lambda module, inputs, output: heard.__setitem__(path, output)

    paths = [str(node.target) for node in blurring(network.eval_graph) if node.op == "call_module"]
    handles = [network.get_submodule(path).register_forward_hook(hook(path)) for path in dict.fromkeys(paths)]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def relative(given: Tensor, wanted: Tensor) -> Tensor:
    """The squared error in units of the energy of what is wanted."""
    scale = wanted.float().square().mean().clamp_min(1e-12)
    return F.mse_loss(given.float(), wanted.float()) / scale


def divergence(given: Tensor, wanted: Tensor) -> Tensor:
    """How far the probabilities of classes are apart; nothing for what is no row of classes."""
    if wanted.dim() != 2:
        return wanted.new_zeros(())
    own, other = wanted.float().log_softmax(1), given.float().log_softmax(1)
    return F.kl_div(other, own, reduction="batchmean", log_target=True)


def shift(pictures: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Every picture moved by its own random whole number of pixels on each axis, mirrored at its edge."""
    if pictures.dim() != 4 or most == 0 or min(pictures.shape[2:]) <= most:
        return pictures
    height, width = pictures.shape[2:]
    padded = F.pad(pictures, (most,) * 4, mode="reflect")
    places = torch.randint(2 * most + 1, (len(pictures), 2), generator=generator).tolist()
    return torch.stack([p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, places, strict=True)])
