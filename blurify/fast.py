"""Faster ways to the plain result, each for a case in which it was measured to win (`python -m benchmarks.layers`).

They are for eager float maps on the CPU. What is compiled, exported, scripted, counted or traced is the plain
formulation, and so is what a gradient must pass through a maximum, where ties are `max_pool`'s to settle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.weak import WeakTensorKeyDictionary

from blurify import plain

# So much of a map stays in a processor's cache, in bytes.
PART = 6 * 2**20
# Up to this many positions a whole map is multiplied by one matrix, beyond by one for each axis.
WHOLE_MAP = 256
# What the axes' matrices are worth: sides up to this, and at least so many maps.
LARGEST_SIDE, LEAST_MAPS = 64, 1024


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
    """The same where there are as many positions as before: each takes the larger of itself and those beside it."""
    out, size = x.clone(), x.shape[dim]
    for shift in range(dilation, min(padding, size - 1) + 1, dilation):
        low, high = out.narrow(dim, 0, size - shift), out.narrow(dim, shift, size - shift)
        torch.maximum(low, x.narrow(dim, shift, size - shift), out=low)
        torch.maximum(high, x.narrow(dim, 0, size - shift), out=high)
    return out


class Case(NamedTuple):
    """What a matrix that pads, filters and subsamples depends on, beside the filter."""

    size: tuple[int, int]
    stride: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    pad_type: str
    dtype: torch.dtype


def blur(x: Tensor, filt: Tensor, stride: list[int], left: list[int], right: list[int], pad_type: str) -> Tensor | None:
    """Pad, filter and subsample by products with banded matrices that hold all three; None where plain is to be used.

    Filtering is linear, so a map of `H x W` positions is multiplied by one matrix of `H W` rows, or, where the filter
    is a product of one for each axis, by one for the columns and one for the rows.
    """
    if len(stride) != 2 or not is_eager(x) or filt.is_inference() or filt.numel() == 1:
        return None
    samples, channels, height, width = x.shape
    maps = samples * channels
    small, middling = height * width <= WHOLE_MAP, max(height, width) <= LARGEST_SIDE and maps >= LEAST_MAPS
    if (small or middling) and x.is_contiguous():
        case = Case((height, width), tuple(stride), tuple(left), tuple(right), pad_type, x.dtype)
        if small:
            matrix, size = remembered(filt, case, whole_matrix)
            whole: Tensor = x.view(maps, height * width) @ matrix
            return whole.view(samples, channels, *size)
        matrices = remembered(filt, case, axis_matrices)
        if matrices is not None:
            columns, rows = matrices
            result: Tensor = (columns @ x) @ rows
            return result
    weight = remembered(filt, (channels, x.dtype), depthwise_weight)

    def pad_and_filter(x: Tensor) -> Tensor:
        return F.conv2d(plain.pad_axes(x, left, right, pad_type), weight, stride=stride, groups=channels)

    at_a_time = samples_at_a_time(x)
    return pad_and_filter(x) if at_a_time is None else in_parts(pad_and_filter, x, at_a_time)


def depthwise_weight(filt: Tensor, case: tuple[int, torch.dtype]) -> Tensor:
    """The filter for each channel, in memory of its own: spread out by strides of 0 it is gathered at every call."""
    channels, dtype = case
    return filt.to(dtype).expand(channels, *filt.shape[1:]).contiguous()


def samples_at_a_time(x: Tensor, channels: float = 0.0) -> int | None:
    """How many samples of a batch to run at a time, whose largest map has so many channels; None for all at once.

    A map that does not fit the cache is written to memory and read again by every layer, and memory of that size is
    given back to the system and cleared by it for every layer anew.
    """
    if type(x) is not Tensor or torch.compiler.is_compiling() or torch.is_grad_enabled() or x.dim() != 4:
        return None
    samples, own, height, width = x.shape
    size = max(own, channels) * height * width * x.element_size()
    if samples == 1 or samples * size < 2 * PART or not is_eager(x):
        return None
    return max(1, int(PART // size))


def in_parts(run: Callable[[Tensor], Tensor], x: Tensor, samples: int) -> Tensor:
    """Run so many samples at a time."""
    return torch.cat([run(part) for part in torch.split(x, samples)])


def is_eager(x: Tensor) -> bool:
    """Whether the tensor is a plain float map on the CPU, and nothing looks on or computes otherwise."""
    plain_map = type(x) is Tensor and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    if not plain_map or x.dim() != 4 or x.numel() == 0:
        return False
    recorded = torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None
    recorded = recorded or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
    transformed = forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None
    return not recorded and not transformed and not torch.is_autocast_enabled("cpu")


def whole_matrix(filt: Tensor, case: Case) -> tuple[Tensor, tuple[int, int]]:
    """The matrix of `H W` rows that pads, filters and subsamples a flattened map, and the size of what it gives."""
    height, width = case.size
    units = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    given = plain.blur(units, filt, list(case.stride), list(case.left), list(case.right), case.pad_type)
    return given.reshape(height * width, -1).to(case.dtype), (given.shape[2], given.shape[3])


def axis_matrices(filt: Tensor, case: Case) -> tuple[Tensor, Tensor] | None:
    """The matrices that do it to the columns and to the rows; None if the filter is no product of two."""
    taps = filt.to(torch.float64)
    down, across, total = taps.sum(3), taps.sum(2), taps.sum()
    if not torch.allclose(down.unsqueeze(3) * across.unsqueeze(2), taps * total, rtol=1e-6, atol=1e-9):
        return None
    filters = (down / total, across)
    columns, rows = (axis_matrix(filters[axis], case, axis).to(case.dtype) for axis in (0, 1))
    return columns.t().contiguous(), rows


def axis_matrix(taps: Tensor, case: Case, axis: int) -> Tensor:
    """The matrix that pads, filters and subsamples one axis, a row for each position that is read."""
    units = torch.eye(case.size[axis], dtype=torch.float64).unsqueeze(1)
    stride, left, right = [case.stride[axis]], [case.left[axis]], [case.right[axis]]
    return plain.blur(units, taps, stride, left, right, case.pad_type).squeeze(1)


C = TypeVar("C")
_matrices: Any = WeakTensorKeyDictionary()
# Sizes vary in detection, and a matrix for each would never be used again.
MOST_CASES = 32
MISSING = object()


def remembered(filt: Tensor, case: C, make: Callable[[Tensor, C], Any]) -> Any:
    """What was made for this filter and case, as long as the filter lives and is not written to."""
    version, known = _matrices.get(filt, (None, {}))
    if version != filt._version:
        known = {}
        _matrices[filt] = (filt._version, known)
    # Looked up once: another thread may clear what is known.
    made = known.get(case, MISSING)
    if made is MISSING:
        if len(known) >= MOST_CASES:
            known.clear()
        with torch.no_grad(), torch.inference_mode(False):
            made = known[case] = make(filt, case)
    return made
