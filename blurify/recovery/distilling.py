"""Self-distillation: the converted network is trained to give what the original gives, on images without labels.

The loss is the error of the logits and, unless their weight is 0, of what each site gives, each relative to the energy
of what is wanted, and the divergence of the classes' probabilities; with labels the cross-entropy on them comes in
addition. Norms and dropouts stay in evaluation: there is nothing new to be learnt about statistics, and a target that
is the same for both. Images are shifted at random. Where the device has bfloat16 of its own, the networks run in it;
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
from torch import Tensor, nn

from blurify.graph.module import TracedModule
from blurify.measure.shifts import stacked
from blurify.recovery.judging import Score
from blurify.recovery.progress import TrainingProgress
from blurify.recovery.team import Team
from blurify.verifying.outputs import tensors_in
from blurify.verifying.twins import blurring

# A few steps cannot make up for what large ones disturb.
RATE_A_STEP, HIGHEST_RATE = 5e-7, 1e-3


@dataclass(frozen=True)
class Schedule:
    """How long to train and how fast, the learning rate falling to nothing along a cosine.

    Without a `rate` it begins with half a millionth a step, and 0.001 at most. So many epochs as `patience` in a row
    that are no better than the one before end it earlier. `shift` is the most that images are moved, as a share of
    their shorter side. `truth` is the weight of the cross-entropy on labels, and `features` that of what sites give,
    beside the divergence from the original's probabilities at 1.
    """

    epochs: int = 4
    patience: int = 2
    rate: float | None = None
    shift: float = 1 / 28
    batch_size: int = 16
    seed: int = 0
    truth: float = 1.0
    features: float = 1.0


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

    `score` tells how far it is from what is wanted on held-out images. The student is left with the weights of the
    epoch where that was lowest, or with its own if none lowered it. A `checkpoint` is written after every epoch, and
    gone on from if it is there already, to the same weights as without an interruption. `labels` are int64, one a
    image. The processes of a `team` all call this with the same, and end with the same weights. A checkpoint of
    another `mark` is refused.
    """
    team = team or Team()
    generator = torch.Generator().manual_seed(schedule.seed)
    trained = [value for value in student.parameters() if value.is_floating_point()]
    wanted = [value.requires_grad for value in trained]
    try:
        for value in trained:
            value.requires_grad_(True)
        with listening(teacher) as theirs, listening(student) as mine:
            loss = Loss(teacher, student, theirs, mine, schedule, has_bfloat16(pictures.device))
            training = Training(loss, trained, pictures, labels, schedule, team)
            steps = schedule.epochs * training.steps
            pace = Pace(trained, schedule.rate or min(RATE_A_STEP * steps, HIGHEST_RATE), steps)
            parts = {"optimizer": pace.optimizer, "course": pace.course}
            progress = TrainingProgress(checkpoint, student, parts, generator, mark)
            # The file must not change before all have read it.
            team.wait()
            return _train(training, pace, progress, score)
    finally:
        for value, flag in zip(trained, wanted, strict=True):
            value.requires_grad_(flag)
            value.grad = None


def _train(training: Training, pace: Pace, progress: TrainingProgress, score: Callable[[], Score]) -> list[Score]:
    team, schedule = training.team, training.schedule
    if not progress.scores:
        progress.note(team.decided(score()), team.first)
    while len(progress.scores) <= schedule.epochs and progress.stale < schedule.patience and not progress.lost:
        training.run(pace, progress.random)
        progress.note(team.decided(score()), team.first)
    progress.student.load_state_dict(progress.best)
    return progress.scores[1:]


@dataclass
class Loss:
    """Return the loss, as a mean over images."""

    teacher: TracedModule
    student: TracedModule
    theirs: dict[str, Tensor]
    mine: dict[str, Tensor]
    schedule: Schedule
    autocast: bool = False

    def __call__(self, pictures: Tensor, labels: Tensor | None) -> Tensor:
        """Return the sum of its parts."""
        half = torch.autocast(pictures.device.type, torch.bfloat16, enabled=self.autocast)
        with torch.no_grad(), half:
            wanted = list(tensors_in(self.teacher(pictures)))
        with half:
            given = list(tensors_in(self.student(pictures)))
        parts = [*map(relative, given, wanted), *map(divergence, given, wanted)]
        if self.schedule.features:
            parts += [self.schedule.features * relative(own, self.theirs[path]) for path, own in self.mine.items()]
        if labels is not None:
            parts.append(self.schedule.truth * F.cross_entropy(given[0].float(), labels))
        return torch.stack(parts).sum()


class Pace:
    """The optimizer, and its rate, which falls from `rate` to nothing within so many steps."""

    def __init__(self, weights: list[nn.Parameter], rate: float, steps: int) -> None:
        self.optimizer = torch.optim.AdamW(weights, rate, weight_decay=0.0)
        self.course = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)

    def step(self) -> None:
        """Change the weights as their gradients say."""
        self.optimizer.step()
        self.course.step()


@dataclass
class Training:
    """Of the weights, on the images in a random order and at random shifts."""

    loss: Loss
    weights: list[nn.Parameter]
    pictures: Tensor
    labels: Tensor | None
    schedule: Schedule
    team: Team

    @property
    def steps(self) -> int:
        """How many there are in an epoch."""
        return math.ceil(len(self.pictures) / self.schedule.batch_size)

    def run(self, pace: Pace, generator: torch.Generator) -> None:
        """Train on every image once."""
        order = torch.randperm(len(self.pictures), generator=generator)
        for batch in torch.split(order, self.schedule.batch_size):
            shifted = shift(self.pictures[batch], self.schedule.shift, generator)
            own = self.team.own(torch.arange(len(batch)))
            pace.optimizer.zero_grad()
            if len(own):
                with torch.enable_grad():
                    loss = self.loss(shifted[own], None if self.labels is None else self.labels[batch[own]])
                    (loss * (len(own) / len(batch))).backward()  # type: ignore[no-untyped-call]
            self.team.add_up(self.weights)
            pace.step()


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device computes faster in bfloat16; on CPUs that depends, and they are left alone."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


@contextmanager
def listening(network: TracedModule) -> Iterator[dict[str, Tensor]]:
    """Collect every site's output, by the path of its blur, in each run of the network."""
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
    """Return the squared error in units of the energy of what is wanted."""
    scale = wanted.float().square().mean().clamp_min(1e-12)
    return F.mse_loss(given.float(), wanted.float()) / scale


def divergence(given: Tensor, wanted: Tensor) -> Tensor:
    """How far the probabilities of classes are apart; nothing for what is no row of classes."""
    if wanted.dim() != 2:
        return wanted.new_zeros(())
    own, other = wanted.float().log_softmax(1), given.float().log_softmax(1)
    return F.kl_div(other, own, reduction="batchmean", log_target=True)


def shift(pictures: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return every image moved by its own random whole number of pixels on each axis, mirrored at its edge.

    By `share` of its shorter side at most.
    """
    if pictures.dim() != 4:
        return pictures
    height, width = pictures.shape[2:]
    most = round(share * min(height, width))
    padded = F.pad(pictures, (most,) * 4, mode="reflect")
    places = torch.randint(2 * most + 1, (len(pictures), 2), generator=generator).tolist()
    return stacked([p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, places, strict=True)], pictures)
