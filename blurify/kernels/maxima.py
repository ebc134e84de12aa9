"""Faster ways to maxima, each for a case in which it was measured to win (`python -m benchmarks.layers`).

Like those of `fast` they are for eager float maps on the CPU. Gradients pass through the plain formulation, where
`max_pool` settles ties.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blurify.kernels.eager import is_eager


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
    """The same where there are as many positions as before: each takes the larger of itself and those next to it."""
    out, size = x.clone(), x.shape[dim]
    for shift in range(dilation, min(padding, size - 1) + 1, dilation):
        low, high = out.narrow(dim, 0, size - shift), out.narrow(dim, shift, size - shift)
        torch.maximum(low, x.narrow(dim, shift, size - shift), out=low)
        torch.maximum(high, x.narrow(dim, 0, size - shift), out=high)
    return out
