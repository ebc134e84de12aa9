"""Faster ways to blur, each for a case in which it was measured to win (`python -m benchmarks.layers`).

They are for eager float maps on the CPU. What is compiled, exported, scripted, counted or traced is the plain
formulation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from blurify.kernels import plain
from blurify.kernels.eager import in_parts, is_eager, samples_at_a_time

# Up to so many positions a whole map is multiplied by one matrix; so many where channels come last.
WHOLE_MAP, WHOLE_MAP_LAST = 256, 64
# Beyond, maps of sides up to this are by one matrix for each axis, where they are few.
MIDDLING_SIDE, FEW_MAPS = 32, 256
# What is differentiated is so up to that side, if there are many: what is kept for it is half as large.
LARGEST_SIDE, MANY_MAPS = 64, 1024
# Where channels come last, only up to this side, and for filters that are long enough.
MIDDLING_SIDE_LAST, LEAST_TAPS_LAST = 16, 4
# A depthwise conv multiplies by all products of two taps. Of so many taps along an axis, it is worth avoiding: where
# channels come last up to this side, and elsewhere always.
LONG, LARGEST_SIDE_LAST = 7, 32


class Case(NamedTuple):
    """Hold the properties, besides the filter, that choose the fastest kernel."""

    shape: torch.Size
    contiguous: bool
    dtype: torch.dtype
    stride: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    pad_type: str


Way = Callable[[Tensor], Tensor]


def blur(x: Tensor, filt: Tensor, stride: list[int], left: list[int], right: list[int], pad_type: str) -> Tensor | None:
    """Pad, filter and subsample in the fastest way for the case at hand; None where plain is to be used."""
    if len(stride) != 2 or filt.numel() == 1 or not is_eager(x) or filt.is_inference():
        return None
    case = Case(x.shape, x.is_contiguous(), x.dtype, tuple(stride), tuple(left), tuple(right), pad_type)
    way: Way = remembered(filt, case, fastest)
    return way(x)


def fastest(filt: Tensor, case: Case) -> Way:
    """Return the way to blur a map.

    Filtering is linear, so a map of `H x W` positions is multiplied by one matrix of `H W` rows that pads, filters and
    subsamples, or, where the filter is a product of one for each axis, by one for the columns and one for the rows.
    """
    samples, channels, height, width = case.shape
    positions, side, maps = height * width, max(height, width), samples * channels
    if case.contiguous and positions <= WHOLE_MAP:
        return by_whole_matrix(filt, case)
    if not case.contiguous and positions <= WHOLE_MAP_LAST:
        return by_whole_matrix_last(filt, case)
    longest = max(filt.shape)
    if longest >= LONG:
        return by_long_filter(filt, case)
    if case.contiguous:
        worth = side <= MIDDLING_SIDE or (side <= LARGEST_SIDE and maps > MANY_MAPS)
    else:
        worth = side <= MIDDLING_SIDE_LAST and longest >= LEAST_TAPS_LAST
    matrices = axis_matrices(filt, case) if worth else None
    if matrices is None:
        return by_depthwise(filt, case)
    if not case.contiguous:
        return by_axis_matrices_last(*matrices, case)
    by_matrices = by_axis_matrices(*matrices)
    return by_matrices if maps <= FEW_MAPS else differentiated(by_matrices, by_depthwise(filt, case))


def differentiated(way: Way, otherwise: Way) -> Way:
    """Return one way for maps through which gradients pass, and another for all else."""
    return lambda x: way(x) if x.requires_grad and torch.is_grad_enabled() else otherwise(x)


def by_whole_matrix(filt: Tensor, case: Case) -> Way:
    """Multiply each map's positions, which lie one after the other."""
    matrix, size = whole_matrix(filt, case)
    samples, channels, height, width = case.shape
    flat, shape = (samples * channels, height * width), (samples, channels, *size)
    return lambda x: (x.view(flat) @ matrix).view(shape)


def by_whole_matrix_last(filt: Tensor, case: Case) -> Way:
    """Multiply from the left what lies channel by channel at each position."""
    matrix, size = whole_matrix(filt, case)
    samples, channels, height, width = case.shape
    flat, shape, transposed = (samples, height * width, channels), (samples, *size, channels), matrix.t().contiguous()
    return lambda x: (transposed @ x.permute(0, 2, 3, 1).reshape(flat)).view(shape).permute(0, 3, 1, 2)


def by_axis_matrices(columns: Tensor, rows: Tensor) -> Way:
    """Multiply the columns, then the rows."""
    return lambda x: (columns @ x) @ rows


def by_axis_matrices_last(columns: Tensor, rows: Tensor, case: Case) -> Way:
    """Return the same from the left, of what lies channel by channel at each position."""
    samples, channels, height, width = case.shape
    across = rows.t().contiguous()
    flat, half = (samples, height, width * channels), (samples, len(columns), width, channels)
    return lambda x: (across @ (columns @ x.permute(0, 2, 3, 1).reshape(flat)).view(half)).permute(0, 3, 1, 2)


def by_depthwise(filt: Tensor, case: Case) -> Way:
    """Pad, then convolve: a batch of maps too large for the cache in parts."""
    way = pad_and_filter(filt, case)

    def by_parts(x: Tensor) -> Tensor:
        at_a_time = samples_at_a_time(x)
        return way(x) if at_a_time is None else in_parts(way, x, at_a_time)

    return by_parts


def pad_and_filter(filt: Tensor, case: Case) -> Way:
    """Return the way to pad any number of samples and convolve them."""
    if case.pad_type == "zero-renorm":
        return rescaled(pad_and_filter(filt, case._replace(pad_type="zero")), filt, case)
    stride, channels = list(case.stride), case.shape[1]
    # Spread out by strides of 0, the filter is gathered at every call.
    weight = filt.to(case.dtype).expand(channels, *filt.shape[1:]).contiguous()
    left, right = list(case.left), list(case.right)
    folded = left if plain.pads_as_convs_do(left, right, case.pad_type) else [0, 0]
    pad: Way = (lambda x: x) if any(folded) else padding(case)
    return lambda x: F.conv2d(pad(x), weight, None, stride, folded, 1, channels)


def by_long_filter(filt: Tensor, case: Case) -> Way:
    """Filter along one axis, then the other: by matrices, or by shifts where large maps have contiguous rows."""
    side = max(case.shape[2:])
    lines = axis_taps(filt)
    if lines is None or (not case.contiguous and side > LARGEST_SIDE_LAST):
        return by_depthwise(filt, case)
    if side > LARGEST_SIDE:
        return by_shifts(lines, filt, case)
    columns, rows = (axis_matrix(line, case, axis).to(case.dtype) for axis, line in enumerate(lines))
    across = columns.t().contiguous()
    return by_axis_matrices(across, rows) if case.contiguous else by_axis_matrices_last(across, rows, case)


def by_shifts(lines: tuple[Tensor, Tensor], filt: Tensor, case: Case) -> Way:
    """Pad, then sum up what each tap weighs, along one axis and then the other; taps of zero cost nothing."""
    if case.pad_type == "zero-renorm":
        return rescaled(by_shifts(lines, filt, case._replace(pad_type="zero")), filt, case)
    pad, (down, across) = padding(case), (line.flatten().tolist() for line in lines)
    return lambda x: weighed(weighed(pad(x), down, case.stride[0], 2), across, case.stride[1], 3)


def weighed(x: Tensor, taps: list[float], stride: int, dim: int) -> Tensor:
    """Return a map correlated with taps along one of its dimensions, keeping every `stride`-th position."""
    count = (x.shape[dim] - len(taps)) // stride + 1

    def read(offset: int) -> Tensor:
        places = slice(offset, offset + (count - 1) * stride + 1, stride)
        return x[:, :, places] if dim == 2 else x[..., places]

    offsets = [offset for offset, tap in enumerate(taps) if tap != 0]
    total = read(offsets[0]) * taps[offsets[0]]
    for offset in offsets[1:]:
        total = total.add_(read(offset), alpha=taps[offset])
    return total


def rescaled(way: Way, filt: Tensor, case: Case) -> Way:
    """Return the same, multiplied at the border by what it lacks there."""
    scale = plain.border_scale(list(case.shape[2:]), filt, list(case.stride), list(case.left), list(case.right))
    scale = scale.to(case.dtype)
    return lambda x: way(x) * scale


def padding(case: Case) -> Way:
    """Return the way to pad: by one call where all axes are padded alike."""
    left, right, pad_type = list(case.left), list(case.right), case.pad_type
    crop, main, fallback = plain.paddings(list(case.shape[2:]), left, right, pad_type)
    if any(crop) or any(fallback) or not any(main):
        return lambda x: plain.pad_axes(x, left, right, pad_type)
    mode = "constant" if pad_type == "zero" else pad_type
    return lambda x: F.pad(x, main, mode)


def whole_matrix(filt: Tensor, case: Case) -> tuple[Tensor, tuple[int, int]]:
    """The matrix of `H W` rows that pads, filters and subsamples a flattened map, and the size of what it gives."""
    height, width = case.shape[2:]
    units = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    given = plain.blur(units, filt, list(case.stride), list(case.left), list(case.right), case.pad_type)
    return given.reshape(height * width, -1).to(case.dtype), (given.shape[2], given.shape[3])


def axis_matrices(filt: Tensor, case: Case) -> tuple[Tensor, Tensor] | None:
    """Return the matrices that do it to the columns and to the rows; None if the filter is no product of two."""
    filters = axis_taps(filt)
    if filters is None:
        return None
    columns, rows = (axis_matrix(filters[axis], case, axis).to(case.dtype) for axis in (0, 1))
    return columns.t().contiguous(), rows


def axis_taps(filt: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the filters along the columns and along the rows; None if the filter is no product of two."""
    taps = filt.to(torch.float64)
    down, across, total = taps.sum(3), taps.sum(2), taps.sum()
    if total == 0 or not torch.allclose(down.unsqueeze(3) * across.unsqueeze(2), taps * total, rtol=1e-6, atol=1e-8):
        return None
    return down / total, across


def axis_matrix(taps: Tensor, case: Case, axis: int) -> Tensor:
    """Return the matrix that pads, filters and subsamples one axis, a row for each position that is read."""
    units = torch.eye(case.shape[2:][axis], dtype=torch.float64).unsqueeze(1)
    stride, left, right = [case.stride[axis]], [case.left[axis]], [case.right[axis]]
    return plain.blur(units, taps, stride, left, right, case.pad_type).squeeze(1)


C = TypeVar("C")
# What was made for a filter, by the filter's identity: a reference that tells whether it is still that filter, how
# often it was written to until then, and what was made for each case.
_made: dict[int, tuple[weakref.ref[Tensor], int, dict[Any, Any]]] = {}
# Sizes vary in detection, and what was made for each would never be used again.
MOST_CASES = 32
MISSING = object()


def remembered(filt: Tensor, case: C, make: Callable[[Tensor, C], Any]) -> Any:
    """Cache a value for this filter and case while the filter lives and is not written to."""
    identity = id(filt)
    entry = _made.get(identity)
    if entry is None or entry[0]() is not filt or entry[1] != filt._version:
        reference = weakref.ref(filt, lambda gone: _forget(identity, gone))
        entry = _made[identity] = (reference, filt._version, {})
    known = entry[2]
    # Looked up once: another thread may clear what is known.
    made = known.get(case, MISSING)
    if made is MISSING:
        if len(known) >= MOST_CASES:
            known.clear()
        with torch.no_grad(), torch.inference_mode(False):
            made = known[case] = make(filt, case)
    return made


def _forget(identity: int, gone: weakref.ref[Tensor]) -> None:
    # By then another filter may have taken the identity.
    entry = _made.get(identity)
    if entry is not None and entry[0] is gone:
        _made.pop(identity, None)
