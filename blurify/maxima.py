"""Faster ways to maxima, each for a case in which it was measured to win (`python -m benchmarks.layers`).

They are for eager float maps on the CPU, as those of `blurify.fast`. What a gradient must pass through is the plain
formulation too, where ties are `max_pool`'s to settle.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blurify import plain
from blurify.eager import is_eager


def dense_max(x: Tensor, kernel_size: list[int], padding: list[int], dilation: list[int]) -> Tensor | None:
    """Max pooling at stride 1 by maxima of shifted maps, one axis after the other; None where plain is to be used.

    A maximum over a rectangle is the maximum over columns of the maxima over rows, and `max_pool` at stride 1 computes
    each of its outputs from all `k * k` inputs instead.
    """
    if len(kernel_size) != 2 or max(kernel_size) == 1 or not is_eager(x):
        return None
    channels_last = not x.is_contiguous()
    if (x.requires_grad and torch.is_grad_enabled()) or (channels_last and max(kernel_size) > 2):
        return None
    for axis in (1, 0):
        x = shifted_max(x, 2 + axis, kernel_size[axis], padding[axis], dilation[axis])
    return x


def max_pool(
    x: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool
) -> Tensor | None:
    """Max pooling by maxima of the rows that are read, then of all columns, which lie side by side; or None."""
    differentiated = x.requires_grad and torch.is_grad_enabled()
    if len(kernel_size) != 2 or not is_eager(x) or not x.is_contiguous() or differentiated:
        return None
    down, across = zip(kernel_size, stride, padding, dilation, strict=True)
    found = strided_max(x, down, plain.pooled_size(x.shape[2], *down, ceil_mode))
    if found is None or plain.pooled_size(x.shape[3], *across, ceil_mode) < 1:
        return None
    lacking = plain.ceil_extension(x.shape[3], *across, ceil_mode)
    found = F.pad(found, [0, lacking], value=-float("inf")) if lacking else found
    return shifted_max(found, 3, kernel_size[1], padding[1], dilation[1])[..., :: stride[1]].contiguous()


def strided_max(x: Tensor, window: tuple[int, int, int, int], size: int) -> Tensor | None:
    """The maxima of so many windows of rows; None where no row of the window is in the map for all of them."""
    kernel_size, stride, padding, dilation = window
    whole: list[tuple[int, Tensor]] = []
    part: list[tuple[int, Tensor]] = []
    for shift in range(-padding, dilation * (kernel_size - 1) - padding + 1, dilation):
        first, last = max(0, -(shift // stride)), min(size - 1, (x.shape[2] - 1 - shift) // stride)
        if first <= last:
            rows = x[:, :, first * stride + shift : last * stride + shift + 1 : stride]
            (whole if rows.shape[2] == size else part).append((first, rows))
    if not whole:
        return None
    out = torch.maximum(whole[0][1], whole[-1][1])
    for first, rows in (*whole[1:-1], *part):
        into = out.narrow(2, first, rows.shape[2])
        torch.maximum(into, rows, out=into)
    return out


def shifted_max(x: Tensor, dim: int, kernel_size: int, padding: int, dilation: int) -> Tensor:
    """The maximum over `kernel_size` positions, `dilation` apart, of one dimension with `padding` of -inf around."""
    reach = dilation * (kernel_size - 1)
    if padding and (reach != 2 * padding or padding % dilation):
        pad = [0, 0] * (x.dim() - dim)
        pad[-2:] = [padding, padding]
        x, padding = F.pad(x, pad, value=-float("inf")), 0
    if padding:
        return shifted_max_beside(x, dim, padding, dilation)
    length = x.shape[dim] - reach
    out = x.narrow(dim, 0, length)
    for shift in range(dilation, reach + 1, dilation):
        out = torch.maximum(out, x.narrow(dim, shift, length))
    return out


def shifted_max_beside(x: Tensor, dim: int, padding: int, dilation: int) -> Tensor:
    """The same where there are as many positions as before: each takes the larger of itself and those beside it."""
    out, size = x.clone(), x.shape[dim]
    for shift in range(dilation, min(padding, size - 1) + 1, dilation):
        low, high = out.narrow(dim, 0, size - shift), out.narrow(dim, shift, size - shift)
        torch.maximum(low, x.narrow(dim, shift, size - shift), out=low)
        torch.maximum(high, x.narrow(dim, 0, size - shift), out=high)
    return out
