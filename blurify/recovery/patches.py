"""Extract the inputs of a conv at a few sampled positions: `y[p] = W x[p] + b`, a row of `x` a position."""

from __future__ import annotations

from itertools import chain
from math import ceil, prod

import torch
import torch.nn.functional as F
from torch import Tensor

from blurify.recovery.calls import Geometry


def sample_rows(
    x: Tensor, y: Tensor, geometry: Geometry, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows of inputs `[groups, P, K]` and of outputs `[groups, P, O]` at `count` positions of every image, or all.

    `x` is what the layer is fed and `y` what it is to give; both keep their dtype.
    """
    if geometry.axes == 0:
        return _linear_rows(x, y, count, generator)
    padded = pad(x, geometry)
    sizes = y.shape[2:]
    picked = _positions(len(y), prod(sizes), count, generator).to(x.device)
    batch = torch.arange(len(y), device=x.device).repeat_interleave(picked.shape[1])
    where = _unravel(picked.flatten(), sizes)
    rows = y.movedim(1, -1)[tuple(chain([batch], where))]
    taps = []
    laid = padded.movedim(1, -1)
    if picked.shape[1] * prod(geometry.kernel_size) > prod(padded.shape[2:]):
        # What is read many times over is laid out for it once.
        laid = laid.contiguous()
    for tap in range(prod(geometry.kernel_size)):
        offsets = _unravel(torch.tensor(tap), geometry.kernel_size)
        at = [p * s + int(o) * d for p, s, o, d in zip(where, geometry.stride, offsets, geometry.dilation, strict=True)]
        taps.append(laid[tuple(chain([batch], at))])
    columns = torch.stack(taps, dim=-1).view(len(batch), geometry.groups, -1)
    return columns.transpose(0, 1), rows.view(len(batch), geometry.groups, -1).transpose(0, 1)


def pad(x: Tensor, geometry: Geometry) -> Tensor:
    """Pad as the conv does."""
    pads: list[int] = []
    for axis in reversed(range(geometry.axes)):
        kernel, stride, dilation = geometry.kernel_size[axis], geometry.stride[axis], geometry.dilation[axis]
        span = dilation * (kernel - 1)
        if geometry.padding == "tf_same":
            size = x.shape[2 + axis]
            total = max((ceil(size / stride) - 1) * stride + span + 1 - size, 0)
            pads += [total // 2, total - total // 2]
        elif geometry.padding == "same":
            pads += [span // 2, span - span // 2]
        elif geometry.padding == "valid":
            pads += [0, 0]
        else:
            pads += [int(geometry.padding[axis])] * 2
    return F.pad(x, pads, mode=geometry.pad_mode) if any(pads) else x


def _linear_rows(x: Tensor, y: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    rows, columns = x.reshape(len(x), -1, x.shape[-1]), y.reshape(len(x), -1, y.shape[-1])
    picked = _positions(len(x), rows.shape[1], count, generator).to(x.device)[..., None]
    return tuple(  # type: ignore[return-value]
        t.gather(1, picked.expand(-1, -1, t.shape[-1])).flatten(0, 1)[None] for t in (rows, columns)
    )


def _positions(pictures: int, available: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` different positions of every image, `[pictures, count]`; all where there are no more."""
    if count >= available:
        return torch.arange(available).expand(pictures, -1)
    return torch.rand(pictures, available, generator=generator).topk(count, dim=1).indices


def _unravel(flat: Tensor, sizes: tuple[int, ...] | torch.Size) -> tuple[Tensor, ...]:
    where = []
    for size in reversed(sizes):
        where.append(flat % size)
        flat = flat // size
    return tuple(reversed(where))
