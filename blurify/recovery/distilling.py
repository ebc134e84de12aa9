"""Self-distillation: the converted network is trained to give what the original gives, on pictures without labels.

The loss is the error of the logits and of what each site gives, each relative to the energy of what is wanted, and the
divergence of the classes' probabilities. Norms and dropouts stay in evaluation: there is nothing new to be learnt about
statistics, and a target that is the same for both. Pictures are shifted at random, so that a few go a long way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blurify.graph_module import TracedModule
from blurify.proofs import blurring, tensors_in


@dataclass(frozen=True)
class Schedule:
    """How long to train and how fast; `shift` in pixels. The learning rate falls to nothing along a cosine."""

    epochs: int = 4
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
) -> list[float]:
    """Train the student, which is in evaluation mode, in place; return its error after every epoch.

    `error` tells how far it is from the teacher on held-out pictures. Training stops when an epoch does not lower it
    below the lowest so far, and the weights of that one are what the student is left with.
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
            epoch = Epoch(teacher, student, theirs, mine, optimizer, course)
            return _train(epoch, pictures, schedule, generator, error)
    finally:
        for value, flag in zip(trained, wanted, strict=True):
            value.requires_grad_(flag)
            value.grad = None


def _train(
    epoch: Epoch, pictures: Tensor, schedule: Schedule, generator: torch.Generator, error: Callable[[], float]
) -> list[float]:
    errors: list[float] = []
    lowest, best = error(), epoch.student.state_dict()
    best = {key: value.clone() for key, value in best.items()}
    for _ in range(schedule.epochs):
        epoch.run(pictures, schedule, generator)
        errors.append(error())
        if errors[-1] < lowest:
            lowest, best = errors[-1], {key: value.clone() for key, value in epoch.student.state_dict().items()}
        elif not math.isfinite(errors[-1]):
            break
    epoch.student.load_state_dict(best)
    return errors


@dataclass
class Epoch:
    """One pass over the pictures, in a random order and at random shifts."""

    teacher: TracedModule
    student: TracedModule
    theirs: dict[str, Tensor]
    mine: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    course: torch.optim.lr_scheduler.LRScheduler

    def run(self, pictures: Tensor, schedule: Schedule, generator: torch.Generator) -> None:
        """Train on every picture once."""
        for batch in torch.split(torch.randperm(len(pictures), generator=generator), schedule.batch_size):
            shifted = shift(pictures[batch], schedule.shift, generator)
            with torch.no_grad():
                wanted = list(tensors_in(self.teacher(shifted)))
            with torch.enable_grad():
                given = list(tensors_in(self.student(shifted)))
                parts = [*map(relative, given, wanted), *map(divergence, given, wanted)]
                parts += [relative(features, self.theirs[path]) for path, features in self.mine.items()]
                loss = torch.stack(parts).sum()
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.course.step()


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
