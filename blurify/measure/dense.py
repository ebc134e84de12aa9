"""Consistency of networks that give a map: shift, run, shift back, compare where both windows saw the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError
from blurify.measure.shifts import crop, draw_offsets, room
from blurify.tracing.modes import evaluating


def shifted_maps(
    model: nn.Module, pictures: Tensor, size: int, *, seed: int = 0, batch_size: int = 8
) -> list[tuple[Tensor, Tensor]]:
    """Run the model on two random crops of every image and return the overlaps: pairs of `[C, h, w]`.

    >>> pairs = shifted_maps(nn.Identity(), torch.rand(2, 3, 8, 8), size=6)
    >>> all(torch.equal(first, second) for first, second in pairs)
    True

    Args:
        model: `[N, C, size, size]` to `[N, K, size, size]`: a score for each class at each position, or an image.
        pictures: `[N, C, H, W]`, larger than the window.
        size: of the window, in pixels.
        seed: of the offsets, drawn per image and axis.
        batch_size: how many windows the model is given at a time.

    Raises:
        ArgumentError: the window does not fit or leaves nothing to shift, or the model's output has another size.
    """
    most = room(pictures, size)
    if most == 0:
        raise ArgumentError(f"A window of {size} pixels fills the images, so it cannot shift; give larger images.")
    generator = torch.Generator().manual_seed(seed)
    offsets = [draw_offsets(len(pictures), most, generator) for _ in range(2)]
    maps = [_maps(model, crop(pictures, drawn, size), batch_size) for drawn in offsets]
    return [overlap(*each) for each in zip(*maps, *offsets, strict=True)]


def _maps(model: nn.Module, windows: Tensor, batch_size: int) -> Tensor:
    with evaluating(model):
        output = torch.cat([model(batch) for batch in torch.split(windows, batch_size)])
    if output.dim() != 4 or output.shape[-2:] != windows.shape[-2:]:
        raise ArgumentError(
            f"The model must give a map as large as its input; for {[*windows.shape]} it gave {[*output.shape]}."
        )
    return output


def overlap(first: Tensor, second: Tensor, at: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return the parts of two maps that are of the same positions of the image."""
    for axis, (here, there) in enumerate(zip(at.tolist(), other.tolist(), strict=True), start=1):
        length = first.shape[axis] - abs(here - there)
        first = first.narrow(axis, max(there - here, 0), length)
        second = second.narrow(axis, max(here - there, 0), length)
    return first, second


def mean_iou(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean intersection over union of the classes that two masks have, for each pair of score maps: `[N]` float64.

    >>> scores = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    >>> mean_iou([(scores, scores)]).tolist()
    [1.0]

    A class that neither mask has does not count.
    """
    return torch.stack([_iou(first.argmax(0), second.argmax(0)) for first, second in pairs])


def _iou(first: Tensor, second: Tensor) -> Tensor:
    classes = torch.unique(torch.cat([first.flatten(), second.flatten()]))
    own: Tensor = first[None] == classes[:, None, None]
    other: Tensor = second[None] == classes[:, None, None]
    return ((own & other).sum((1, 2)).double() / (own | other).sum((1, 2)).double()).mean()


def psnr(pairs: list[tuple[Tensor, Tensor]], data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in decibels of each pair of images: `[N]` float64, infinite where they are equal.

    >>> psnr([(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.1))]).round().tolist()
    [20.0]

    Raises:
        ArgumentError: `data_range`, the span of values, is not above 0.
    """
    if not data_range > 0:
        raise ArgumentError(f"data_range must be above 0, got {data_range}.")
    errors = torch.stack([(first.double() - second.double()).square().mean() for first, second in pairs])
    return 10 * torch.log10(data_range**2 / errors)
