"""The plain formulation of everything: sizes, padding, depthwise filters, max pooling at stride 1.

What compiles, exports and scripts is this; `blurify.kernels.fast` must give the same.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def ceil_extension(size: int, kernel_size: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many positions the dense output lacks on the right, so that striding over it reaches the last output.

    There is no branch on `size`: an export for any size would take one side of it for good.
    """
    if not ceil_mode:
        return 0
    reach = dilation * (kernel_size - 1)
    lacking = (stride - (size + 2 * padding - reach - 1) % stride) % stride
    # A window that would start in the right padding is dropped; it starts so far behind the dense ones.
    too_far = reach + 1 - padding
    dropped = (lacking // too_far + stride - 1) // stride
    return lacking * (1 - dropped)


def paddings(
    sizes: list[int], left: list[int], right: list[int], pad_type: str
) -> tuple[list[int], list[int], list[int]]:
    """Return the `F.pad` steps that crop, pad as asked, and replicate an axis too small for `reflect` or `circular`."""
    axes = len(left)
    crop = [0] * (2 * axes)
    main = [0] * (2 * axes)
    fallback = [0] * (2 * axes)
    for axis in range(axes):
        # `F.pad` lists the last axis first.
        low, high = 2 * (axes - 1 - axis), 2 * (axes - 1 - axis) + 1
        crop[low], crop[high] = min(left[axis], 0), min(right[axis], 0)
        before, after = max(left[axis], 0), max(right[axis], 0)
        if before == 0 and after == 0:
            continue
        size = sizes[axis] + crop[low] + crop[high]
        reach = max(before, after)
        too_small = (pad_type == "reflect" and reach >= size) or (pad_type == "circular" and reach > size)
        if too_small:
            fallback[low], fallback[high] = before, after
        else:
            main[low], main[high] = before, after
    return crop, main, fallback


def pad_axes(x: Tensor, left: list[int], right: list[int], pad_type: str) -> Tensor:
    """Pad (or, where negative, crop) each spatial axis; an axis too small for `reflect` or `circular` is replicated."""
    sizes = [x.shape[2 + axis] for axis in range(len(left))]
    crop, main, fallback = paddings(sizes, left, right, pad_type)
    if min(crop) < 0:
        x = F.pad(x, crop)
    if max(fallback) > 0:
        x = F.pad(x, fallback, mode="replicate")
    if max(main) > 0:
        x = F.pad(x, main) if pad_type in ("zero", "zero-renorm") else F.pad(x, main, mode=pad_type)
    return x


def subsample(x: Tensor, stride: list[int]) -> Tensor:
    """Keep every `stride`-th position of each spatial axis, in the memory layout of `x`."""
    if len(stride) == 1:
        x = x[:, :, :: stride[0]]
    elif len(stride) == 2:
        x = x[:, :, :: stride[0], :: stride[1]]
    else:
        x = x[:, :, :: stride[0], :: stride[1], :: stride[2]]
    return x.clone(memory_format=torch.preserve_format)


@torch.jit.ignore  # type: ignore[untyped-decorator]
def as_int(size: Any) -> Any:
    """Return a number of channels as a number, where `torch.jit.trace` has made a tensor of it.

    A model has one number of channels, and the older exporter to ONNX takes no kernel of an unknown size.
    """
    if not isinstance(size, Tensor):
        return size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a `TracerWarning`
        return int(size)


def depthwise(x: Tensor, filt: Tensor, stride: list[int], padding: list[int]) -> Tensor:
    """Correlate every channel of `x` with the one filter `filt` of shape `(1, 1, *size)`, keeping every `stride`-th."""
    channels = x.shape[1] if torch.jit.is_scripting() else as_int(x.shape[1])  # type: ignore[attr-defined]
    if len(stride) == 1:
        return F.conv1d(x, filt.expand(channels, 1, -1), None, stride, padding, groups=channels)
    if len(stride) == 2:
        return F.conv2d(x, filt.expand(channels, 1, -1, -1), None, stride, padding, groups=channels)
    return F.conv3d(x, filt.expand(channels, 1, -1, -1, -1), None, stride, padding, groups=channels)


def pads_as_convs_do(left: list[int], right: list[int], pad_type: str) -> bool:
    """Return whether a conv itself can pad so: by zeros, as many on one side as on the other."""
    return pad_type in ("zero", "zero-renorm") and left == right and min(left) >= 0


def blur(x: Tensor, filt: Tensor, stride: list[int], left: list[int], right: list[int], pad_type: str) -> Tensor:
    """Pad `x`, correlate with `filt` of shape `(1, 1, *taps)`, and subsample; one tap is subsampling alone."""
    if pad_type.startswith("ideal"):
        return subsample(pad_axes(ideal(x, filt, pad_type), left, right, "circular"), stride)
    one_tap = True
    for t in filt.shape[2:]:
        one_tap = one_tap and t == 1
    if one_tap:
        return subsample(pad_axes(x, left, right, pad_type), stride)
    if pads_as_convs_do(left, right, pad_type):
        out = depthwise(x, filt.to(x.dtype), stride, left)
    else:
        out = depthwise(pad_axes(x, left, right, pad_type), filt.to(x.dtype), stride, [0] * len(stride))
    if pad_type != "zero-renorm":
        return out
    scale = border_scale([x.shape[2 + axis] for axis in range(len(stride))], filt, stride, left, right)
    return out * scale.to(x.dtype)


def ideal(x: Tensor, unfiltered: Tensor, pad_type: str) -> Tensor:
    """Take away all frequencies from the new Nyquist limit on, along each axis of a periodic map.

    `pad_type` is "ideal:" and the stride of each axis; `unfiltered` is the share of `x` that stays as it is.
    """
    wide = x.float() if x.dtype == torch.float16 or x.dtype == torch.bfloat16 else x
    for axis, rate in enumerate(pad_type.split(":")[1].split(",")):
        if int(rate) == 1:
            continue
        size = x.shape[2 + axis]
        spectrum = torch.fft.rfft(wide, dim=2 + axis)
        kept = torch.arange(size // 2 + 1, device=x.device) * (2 * int(rate)) < size
        shape = [1] * x.dim()
        shape[2 + axis] = -1
        low = torch.fft.irfft(spectrum * kept.view(shape), n=size, dim=2 + axis)
        wide = torch.lerp(low, wide, unfiltered.to(low.dtype))
    return wide.to(x.dtype)


def border_scale(sizes: list[int], filt: Tensor, stride: list[int], left: list[int], right: list[int]) -> Tensor:
    """Return what each output of a blur padded by zeros lacks: 1 over the sum of the taps that lie inside the map.

    The filter is a product of one for each axis, and so is the sum of the taps inside a rectangle.
    """
    inside = torch.ones([1, 1] + [1] * len(stride), dtype=filt.dtype, device=filt.device)
    for axis in range(len(stride)):
        taps = filt
        shape = [1] * filt.dim()
        for other in range(len(stride)):
            if other != axis:
                taps = taps.sum(2 + other, keepdim=True)
        shape[2 + axis] = -1
        ones = torch.ones([1, 1, sizes[axis]], dtype=filt.dtype, device=filt.device)
        line = F.conv1d(F.pad(ones, [left[axis], right[axis]]), taps.reshape(1, 1, -1), None, [stride[axis]])
        inside = inside * line.reshape(shape)
    # Positions that lie in the padding alone are cut off later, and must not make gradients that are no numbers.
    return 1.0 / (inside + (inside == 0).to(inside.dtype))


def dense_max(x: Tensor, kernel_size: list[int], padding: list[int], dilation: list[int]) -> Tensor:
    """Max pooling at stride 1."""
    if len(kernel_size) == 1:
        return F.max_pool1d(x, kernel_size, [1], padding, dilation)
    if len(kernel_size) == 2:
        return F.max_pool2d(x, kernel_size, [1, 1], padding, dilation)
    return F.max_pool3d(x, kernel_size, [1, 1, 1], padding, dilation)
