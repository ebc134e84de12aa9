"""Shift consistency and accuracy of a classifier, per image.

The metric is that of Zhang, "Making Convolutional Networks Shift-Invariant Again" (ICML 2019), section 4:
*classification consistency* is how often the network gives the same top-1 class for two shifts of one image, the
shifts drawn at random. Every function runs the model in `.eval()` without gradients and leaves it, and the global
random state, as found. Scores are one number an image; `estimate` makes percentages of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError
from blurify.measure.shifts import crop, draw_offsets, room
from blurify.tracing.modes import evaluating

ROUNDS = 5
PROTOCOLS = ("picture", "zhang-batch")
_BATCH = 250


def logits(model: nn.Module, pictures: Tensor, batch_size: int = _BATCH) -> Tensor:
    """Run a classifier in batches: `[N, C, H, W]` to `[N, classes]`.

    >>> logits(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.zeros(5, 1, 2, 2)).shape
    torch.Size([5, 3])

    Raises:
        ArgumentError: there are no images, or the model's output is not one row of classes an image.
    """
    if len(pictures) == 0:
        raise ArgumentError("There are no images to measure on.")
    with evaluating(model):
        output = torch.cat([model(batch) for batch in torch.split(pictures, batch_size)])
    if output.dim() != 2 or len(output) != len(pictures):
        raise ArgumentError(f"The model must give [N, classes]; for {len(pictures)} images it gave {[*output.shape]}.")
    return output


def accuracy(model: nn.Module, pictures: Tensor, labels: Tensor) -> Tensor:
    """Score 1 where the top-1 class is the label, else 0: `[N]` float64.

    >>> accuracy(nn.Flatten(), torch.eye(2).reshape(2, 2, 1, 1), torch.tensor([0, 0])).tolist()
    [1.0, 0.0]
    """
    _check_labels(labels, len(pictures))
    return (logits(model, pictures).argmax(1) == labels).double()


def shifted_answers(
    model: nn.Module,
    pictures: Tensor,
    size: int,
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
    batch_size: int = _BATCH,
    protocol: str = "picture",
) -> Tensor:
    """Return the top-1 class of `rounds` pairs of random windows of every image: `[N, rounds, 2]` int64.

    >>> shifted_answers(nn.Flatten(), torch.zeros(3, 1, 4, 4), size=1).shape
    torch.Size([3, 5, 2])

    Args:
        model: a classifier, `[N, C, size, size]` to `[N, classes]`.
        pictures: `[N, C, H, W]`, larger than the window; what surrounds the window is what shifts into it.
        size: of the window, in pixels. As published for ImageNet: images of 256, windows of 224.
        rounds: pairs of windows an image; five as published.
        seed: of the offsets, drawn per image and axis from a generator of their own. Models measured with the same
            seed see the same windows, so that their difference is a paired one.
        batch_size: how many windows the model is given at a time.
        protocol: `picture` draws offsets for every image; `zhang-batch` one for all images of a batch, from 0 to
            one less than there is room for, as the published evaluation does.

    Raises:
        ArgumentError: the window does not fit or leaves nothing to shift, `rounds` is below 1, or there is no such
            protocol.
    """
    most = room(pictures, size)
    if most == 0:
        raise ArgumentError(f"A window of {size} pixels fills the images, so it cannot shift; give larger images.")
    if rounds < 1:
        raise ArgumentError(f"rounds must be at least 1, got {rounds}.")
    offsets = window_offsets(len(pictures), most, rounds, seed=seed, protocol=protocol, batch_size=batch_size)
    answers = [logits(model, crop(pictures, drawn, size), batch_size).argmax(1) for drawn in offsets]
    return torch.stack(answers, dim=1).reshape(len(pictures), rounds, 2)


def window_offsets(
    count: int, most: int, rounds: int, *, seed: int, protocol: str = "picture", batch_size: int = _BATCH
) -> list[Tensor]:
    """Return the offsets of both windows of every round, `2 * rounds` times `[count, 2]`; see `shifted_answers`.

    >>> [drawn.shape for drawn in window_offsets(8, 32, 1, seed=0)]
    [torch.Size([8, 2]), torch.Size([8, 2])]

    Raises:
        ArgumentError: there is no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise ArgumentError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}.")
    generator = torch.Generator().manual_seed(seed)
    if protocol == "picture":
        return [draw_offsets(count, most, generator) for _ in range(2 * rounds)]
    offsets: list[Tensor] = []
    for _ in range(rounds):
        # A batch draws both of its own in turn.
        pairs = [draw_offsets(2, most - 1, generator) for _ in range(0, count, batch_size)]
        every = torch.stack(pairs).repeat_interleave(batch_size, 0)[:count]
        offsets += [every[:, 0], every[:, 1]]
    return offsets


def rolled_answers(
    model: nn.Module, pictures: Tensor, most: int, *, rounds: int = ROUNDS, seed: int = 0, batch_size: int = _BATCH
) -> Tensor:
    """Return the top-1 class of `rounds` pairs of circular shifts of every image: `[N, rounds, 2]` int64.

    >>> rolled_answers(nn.Flatten(), torch.zeros(3, 1, 4, 4), most=2).shape
    torch.Size([3, 5, 2])

    What leaves the image at one side comes in at the other. Zhang (ICML 2019), section 4.1, tests so on CIFAR-10.

    Args:
        model: a classifier, `[N, C, H, W]` to `[N, classes]`.
        pictures: `[N, C, H, W]`.
        most: pixels of the largest shift along each axis; every one from 0 is as likely.
        rounds: pairs of shifts an image.
        seed: of the shifts, drawn per image and axis from a generator of their own.
        batch_size: how many images the model is given at a time.

    Raises:
        ArgumentError: `most` or `rounds` is below 1.
    """
    if most < 1 or rounds < 1:
        raise ArgumentError(f"most and rounds must be at least 1, got {most} and {rounds}.")
    generator = torch.Generator().manual_seed(seed)
    answers = []
    for _ in range(2 * rounds):
        shifts = draw_offsets(len(pictures), most, generator).tolist()
        rolled = [picture.roll(shift, (1, 2)) for picture, shift in zip(pictures, shifts, strict=True)]
        answers.append(logits(model, torch.stack(rolled) if rolled else pictures, batch_size).argmax(1))
    return torch.stack(answers, dim=1).reshape(len(pictures), rounds, 2)


def agreement(answers: Tensor) -> Tensor:
    """Return the consistency of `shifted_answers`: each image's share of pairs that agree, `[N]` float64.

    >>> agreement(torch.tensor([[[3, 3], [3, 8]]])).tolist()
    [0.5]
    """
    return (answers[..., 0] == answers[..., 1]).double().mean(1)


def correctness(answers: Tensor, labels: Tensor) -> Tensor:
    """Return each image's share of `shifted_answers` that are its label: `[N]` float64.

    >>> correctness(torch.tensor([[[3, 3], [3, 8]]]), torch.tensor([3])).tolist()
    [0.75]

    Raises:
        ArgumentError: there is not one label an image.
    """
    _check_labels(labels, len(answers))
    return (answers == labels[:, None, None]).double().mean((1, 2))


def soft_change(first: Tensor, second: Tensor) -> Tensor:
    """How far the probabilities of two rows of logits are apart: the sum of absolute differences, `[N]`, 0 to 2.

    >>> soft_change(torch.tensor([[50.0, -50.0]]), torch.tensor([[-50.0, 50.0]])).tolist()
    [2.0]
    """
    return (first.double().softmax(1) - second.double().softmax(1)).abs().sum(1)


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of the second's probabilities from the first's, in nats: `[N]` float64.

    >>> divergence(torch.zeros(1, 2), torch.zeros(1, 2)).tolist()
    [0.0]
    """
    own, other = first.double().log_softmax(1), second.double().log_softmax(1)
    return (own.exp() * (own - other)).sum(1)


def _check_labels(labels: Tensor, count: int) -> None:
    if labels.shape != (count,):
        raise ArgumentError(f"labels must be of shape [{count}], got {tuple(labels.shape)}.")


def diagonal_sweep(model: nn.Module, pictures: Tensor, size: int) -> Tensor:
    """Class probabilities while the window moves along the diagonal: `[N, shifts, classes]`, one row a pixel of shift.

    >>> diagonal_sweep(nn.Flatten(), torch.zeros(2, 1, 5, 5), size=1).shape
    torch.Size([2, 5, 1])
    """
    steps = range(room(pictures, size) + 1)
    windows = (pictures[..., step : step + size, step : step + size] for step in steps)
    return torch.stack([logits(model, window).softmax(1) for window in windows], dim=1)


def variation(sweep: Tensor, labels: Tensor) -> Tensor:
    """How far each image's probability of its true class moves along a sweep: the sum of its absolute steps, `[N]`.

    >>> variation(torch.tensor([[[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]]), torch.tensor([0])).item()
    1.0

    Raises:
        ArgumentError: there is not one label an image.
    """
    _check_labels(labels, len(sweep))
    return sweep[torch.arange(len(labels)), :, labels].diff(dim=1).abs().sum(1)
