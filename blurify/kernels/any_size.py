"""Compute sizes without branching on odd or even, for models exported with dynamic shapes.

How much is padded may differ from size to size. Here as much is padded as any size needs, and what is too much is cut
off at a place that is computed: an exported graph computes places, but takes one side of a branch for good.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blurify.kernels import plain


def is_exporting() -> bool:
    """Return whether a graph is recorded that other sizes may run through."""
    # `is_exporting` is newer than what we support, and what compiles may be run with other sizes, too.
    asked = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return bool(asked())


def ceil_blur(
    x: Tensor,
    filt: Tensor,
    stride: list[int],
    left: list[int],
    right: list[int],
    kernel_size: list[int],
    padding: list[int],
    pad_type: str,
) -> Tensor | None:
    """Blur to the size that `ceil_mode` gives, of an average of `kernel_size`; None where nothing is exported."""
    if not is_exporting():
        return None
    farthest = [r + s - 1 for r, s in zip(right, stride, strict=True)]
    out = plain.blur(x, filt, stride, left, farthest, pad_type)
    for a in range(len(stride)):
        dense = x.shape[2 + a] + 2 * padding[a] - (kernel_size[a] - 1)
        lacking = plain.ceil_extension(x.shape[2 + a], kernel_size[a], stride[a], padding[a], 1, True)
        out = taken(out, 2 + a, 0, (dense - 1 + lacking) // stride[a] + 1)
    return out


def same_blur(
    x: Tensor, filt: Tensor, stride: list[int], kernel_size: list[int], dilation: list[int], pad_type: str
) -> Tensor | None:
    """See `blurify.functional.same_blur_pool`; None where nothing is exported, or a branch cannot be helped."""
    if not is_exporting():
        return None
    if pad_type == "zero-renorm":
        ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        maps = [same_blur(each, filt, stride, kernel_size, dilation, "zero") for each in (x, ones)]
        return None if maps[0] is None or maps[1] is None else maps[0] / maps[1]
    taps = list(filt.shape[2:])
    axes = range(len(stride))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
    if any(0 < r < s - 1 for r, s in zip(reach, stride, strict=True)) or max(taps) == 1:
        return None

    def ends(a: int, over: int) -> tuple[int, int]:
        """Return the padding of an axis of which `over` positions lie behind the last that a stride reaches."""
        strided = reach[a] - over if reach[a] else 0
        before = (taps[a] - 1) // 2 - (reach[a] // 2 - strided // 2)
        return before, taps[a] - 1 - over - before

    most = [tuple(map(max, zip(*(ends(a, over) for over in range(stride[a])), strict=True))) for a in axes]
    sizes = [x.shape[2 + a] for a in axes]
    x = plain.pad_axes(x, [before for before, _ in most], [after for _, after in most], pad_type)
    for a in axes:
        over = (sizes[a] - 1) % stride[a]
        x = taken(x, 2 + a, most[a][0] - ends(a, over)[0], sizes[a] - 1 - over + taps[a])
    return plain.depthwise(x, filt.to(x.dtype), stride, [0] * len(stride))


def taken(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    """So many positions from one on; `narrow` would ask whether they are there, which is a branch."""
    return x.index_select(dim, torch.arange(length, device=x.device) + start)
