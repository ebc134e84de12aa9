"""Self-distillation: the converted network is trained to give what the original gives, on pictures without labels.

The loss is the error of the logits and of what each site gives, each relative to the energy of what is wanted, and the
divergence of the classes' probabilities; with labels the cross-entropy on them comes in addition. Norms and dropouts
stay in evaluation: there is nothing new to be learnt about statistics, and a target that is the same for both. Pictures
are shifted at random, so that a few go a long way. Where the device has bfloat16 of its own, the networks run in it;
weights and losses are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from blurify.graph_module import TracedModule
from blurify.proofs import blurring, tensors_in
from blurify.recovery.judging import Score
from blurify.recovery.progress import Progress
from blurify.recovery.team import Team


@dataclass(frozen=True)
class Schedule:
    """How long to train and how fast; `shift` in pixels. The learning rate falls to nothing along a cosine.

    So many epochs as `patience` in a row that bring nothing end it earlier. `truth` is the weight of the cross-entropy
    on labels, beside the divergence from the original's probabilities at 1.
    """

    epochs: int = 4
    patience: int = 2
    rate: float = 3e-5
    shift: int = 8
    batch_size: int = 16
    seed: int = 0
    truth: float = 1.0


def distill(
    teacher: TracedModule,
    student: TracedModule,
    pictures: Tensor,
    schedule: Schedule,
    score: Callable[[], Score],
    checkpoint: Path | None = None,
    labels: Tensor | None = None,
    team: Team | None = None,
    mark: str = "",
) -> list[Score]:
    """Train the student, which is in evaluation mode, in place; return its score after every epoch.

    `score` tells how far it is from what is wanted on held-out pictures. The student is left with the weights of the
    epoch where that was lowest, or with its own if none lowered it. A `checkpoint` is written after every epoch, and
    gone on from if it is there already, to the same weights as without an interruption. `labels` are int64, one a
    picture. The processes of a `team` all call this with the same, and end with the same weights. A checkpoint of
    another `mark` is refused.
    """
    team = team or Team()
    generator = torch.Generator().manual_seed(schedule.seed)
    trained = [value for value in student.parameters() if value.is_floating_point()]
    wanted = [value.requires_grad for value in trained]
    steps = schedule.epochs * math.ceil(len(pictures) / schedule.batch_size)
    try:
        for value in trained:
            value.requires_grad_(True)
        optimizer = torch.optim.AdamW(trained, schedule.rate, weight_decay=0.0)
        course = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        progress = Progress(checkpoint, student, {"optimizer": optimizer, "course": course}, generator, mark)
        # The file must not change before all have read it.
        team.wait()
        with listening(teacher) as theirs, listening(student) as mine:
            loss = Loss(teacher, student, theirs, mine, schedule.truth, has_bfloat16(pictures.device))
            epoch = Epoch(loss, optimizer, course, team)
            return _train(epoch, pictures, labels, schedule, progress, score)
    finally:
        for value, flag in zip(trained, wanted, strict=True):
            value.requires_grad_(flag)
            value.grad = None


def _train(
    epoch: Epoch,
    pictures: Tensor,
    labels: Tensor | None,
    schedule: Schedule,
    progress: Progress,
    score: Callable[[], Score],
) -> list[Score]:
    team = epoch.team
    if not progress.scores:
        progress.note(team.decided(score()), team.first)
    while len(progress.scores) <= schedule.epochs and progress.stale < schedule.patience and not progress.lost:
        epoch.run(pictures, labels, schedule, progress.random)
        progress.note(team.decided(score()), team.first)
    progress.student.load_state_dict(progress.best)
    return progress.scores[1:]


@dataclass
class Loss:
    """What is to become small, as a mean over pictures."""

    teacher: TracedModule
    student: TracedModule
    theirs: dict[str, Tensor]
    mine: dict[str, Tensor]
    truth: float
    autocast: bool = False

    def __call__(self, pictures: Tensor, labels: Tensor | None) -> Tensor:
        """The sum of its parts."""
        half = torch.autocast(pictures.device.type, torch.bfloat16, enabled=self.autocast)
        with torch.no_grad(), half:
            wanted = list(tensors_in(self.teacher(pictures)))
        with half:
            given = list(tensors_in(self.student(pictures)))
        parts = [*map(relative, given, wanted), *map(divergence, given, wanted)]
        parts += [relative(features, self.theirs[path]) for path, features in self.mine.items()]
        if labels is not None:
            parts.append(self.truth * F.cross_entropy(given[0].float(), labels))
        return torch.stack(parts).sum()


@dataclass
class Epoch:
    """One pass over the pictures, in a random order and at random shifts."""

    loss: Loss
    optimizer: torch.optim.Optimizer
    course: torch.optim.lr_scheduler.LRScheduler
    team: Team

    def run(self, pictures: Tensor, labels: Tensor | None, schedule: Schedule, generator: torch.Generator) -> None:
        """Train on every picture once."""
        for batch in torch.split(torch.randperm(len(pictures), generator=generator), schedule.batch_size):
            shifted = shift(pictures[batch], schedule.shift, generator)
            own = self.team.own(torch.arange(len(batch)))
            self.optimizer.zero_grad()
            if len(own):
                with torch.enable_grad():
                    loss = self.loss(shifted[own], None if labels is None else labels[batch[own]])
                    (loss * (len(own) / len(batch))).backward()  # type: ignore[no-untyped-call]
            self.team.add_up(self.optimizer.param_groups[0]["params"])
            self.optimizer.step()
            self.course.step()


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
