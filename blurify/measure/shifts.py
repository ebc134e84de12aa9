"""Shifted images: windows of one size, cut from a larger image at different places.

An image seen through a window that moves by (dy, dx) is the image shifted by (-dy, -dx), with true content at its
edge, where rolling or padding the image itself would invent some.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blurify.errors import ArgumentError


def room(pictures: Tensor, size: int) -> int:
    """How many pixels a `size` x `size` window can move inside `[N, C, H, W]` images, along either axis.

    >>> room(torch.zeros(8, 3, 256, 256), 224)
    32

    Raises:
        ArgumentError: the images have another rank, or the window does not fit.
    """
    if pictures.dim() != 4:
        raise ArgumentError(f"pictures must be of shape [N, C, H, W], got {tuple(pictures.shape)}.")
    height, width = pictures.shape[-2:]
    if not 1 <= size <= min(height, width):
        raise ArgumentError(f"A window of {size} pixels does not fit images of {height} x {width}.")
    return min(height, width) - size


def draw_offsets(count: int, most: int, generator: torch.Generator) -> Tensor:
    """Draw one offset an image, `[count, 2]` (dy, dx), int64, each uniform over 0 to `most` inclusive.

    >>> draw_offsets(2, 31, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 2])
    """
    return torch.randint(most + 1, (count, 2), generator=generator)


def crop(pictures: Tensor, offsets: Tensor, size: int) -> Tensor:
    """Cut a `size` x `size` window out of every image, each at its own offset.

    >>> crop(torch.arange(16.0).reshape(1, 1, 4, 4), torch.tensor([[1, 2]]), 2).flatten().tolist()
    [6.0, 7.0, 10.0, 11.0]

    Args:
        pictures: `[N, C, H, W]`, any dtype.
        offsets: `[N, 2]` integers (dy, dx), from 0 to `room(pictures, size)`.
        size: of the window, in pixels.

    Returns:
        `[N, C, size, size]` of the images' dtype, and channels last in memory if they are.

    Raises:
        ArgumentError: a window does not lie inside its image, or the counts differ.
    """
    room(pictures, size)
    if offsets.shape != (len(pictures), 2):
        raise ArgumentError(f"offsets must be of shape [{len(pictures)}, 2], got {tuple(offsets.shape)}.")
    most = torch.tensor(pictures.shape[-2:]) - size
    if bool((offsets < 0).any()) or bool((offsets > most).any()):
        raise ArgumentError(f"offsets must be from 0 to {most.tolist()} so that the window stays inside the image.")
    places = zip(pictures, offsets.tolist(), strict=True)
    return stacked([picture[:, y : y + size, x : x + size] for picture, (y, x) in places], pictures)


def stacked(windows: Sequence[Tensor], pictures: Tensor) -> Tensor:
    """Windows `[C, h, w]` as one batch, channels last in memory if the images `[N, C, H, W]` that they are of are."""
    last = pictures.is_contiguous(memory_format=torch.channels_last) and not pictures.is_contiguous()
    return torch.stack(list(windows)).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
