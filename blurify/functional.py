"""The numerics: blur-and-subsample, the dense ops, and the sizes they must have. Nothing else.

Every function takes a batch `(N, C, *spatial)` or a single sample `(C, *spatial)` with 1, 2 or 3 spatial axes, and
lists
of one integer per spatial axis. They are scriptable, so they keep to the part of Python that TorchScript knows, and
they
trust their arguments: `blurify.layers` and `blurify.spec` validate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pooled_size(size: int, kernel_size: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Output length of a pooling or convolution window sliding over one axis (PyTorch's own rule)."""
    span = size + 2 * padding - dilation * (kernel_size - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    out = (span + stride - 1) // stride + 1
    # A window that would start in the right padding is dropped.
    if (out - 1) * stride >= size + padding:
        out -= 1
    return out


def ceil_extension(size: int, kernel_size: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many positions the dense output lacks on the right, so that striding over it reaches the last output."""
    if not ceil_mode:
        return 0
    dense = size + 2 * padding - dilation * (kernel_size - 1)
    wanted = (pooled_size(size, kernel_size, stride, padding, dilation, ceil_mode) - 1) * stride + 1
    return max(wanted - dense, 0)


def pad_axes(x: Tensor, left: list[int], right: list[int], pad_type: str) -> Tensor:
    """Pad (or, where negative, crop) each spatial axis; an axis too small for `reflect` or `circular` is replicated."""
    axes = len(left)
    crop = [0] * (2 * axes)
    main = [0] * (2 * axes)
    fallback = [0] * (2 * axes)
    cropped, padded, fell_back = False, False, False
    for axis in range(axes):
        # `F.pad` lists the last axis first.
        low, high = 2 * (axes - 1 - axis), 2 * (axes - 1 - axis) + 1
        before, after = left[axis], right[axis]
        if before < 0 or after < 0:
            crop[low], crop[high] = min(before, 0), min(after, 0)
            cropped = True
        before, after = max(before, 0), max(after, 0)
        if before == 0 and after == 0:
            continue
        size = x.shape[2 + axis] + crop[low] + crop[high]
        reach = max(before, after)
        too_small = (pad_type == "reflect" and reach >= size) or (pad_type == "circular" and reach > size)
        if too_small:
            fallback[low], fallback[high] = before, after
            fell_back = True
        else:
            main[low], main[high] = before, after
            padded = True
    if cropped:
        x = F.pad(x, crop)
    if fell_back:
        x = F.pad(x, fallback, mode="replicate")
    if padded:
        x = F.pad(x, main) if pad_type == "zero" else F.pad(x, main, mode=pad_type)
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


def depthwise(x: Tensor, filt: Tensor, stride: list[int]) -> Tensor:
    """Correlate every channel of `x` with the one filter `filt` of shape `(1, 1, *size)`, keeping every `stride`-th."""
    channels = x.shape[1]
    if len(stride) == 1:
        return F.conv1d(x, filt.expand(channels, 1, -1), stride=stride, groups=channels)
    if len(stride) == 2:
        return F.conv2d(x, filt.expand(channels, 1, -1, -1), stride=stride, groups=channels)
    return F.conv3d(x, filt.expand(channels, 1, -1, -1, -1), stride=stride, groups=channels)


def blur(x: Tensor, filt: Tensor, stride: list[int], left: list[int], right: list[int], pad_type: str) -> Tensor:
    """Pad `x`, correlate with `filt` of shape `(1, 1, *taps)`, and subsample; one tap is subsampling alone."""
    x = pad_axes(x, left, right, pad_type)
    one_tap = True
    for t in filt.shape[2:]:
        one_tap = one_tap and t == 1
    if one_tap:
        return subsample(x, stride)
    return depthwise(x, filt.to(x.dtype), stride)


def blur_pool(x: Tensor, filt: Tensor, stride: list[int], pad_off: int, pad_type: str) -> Tensor:
    """Blur `x` with `filt` of shape `(1, 1, *taps)`, then subsample (Zhang 2019, section 3.2, "BlurPool").

    Padding is `(f - 1) // 2` on the left and `f // 2` on the right, plus `pad_off` on both sides.
    """
    single = x.dim() == len(stride) + 1
    x = x.unsqueeze(0) if single else x
    taps = filt.shape[2:]
    left = [(t - 1) // 2 + pad_off for t in taps]
    right = [t // 2 + pad_off for t in taps]
    x = blur(x, filt, stride, left, right, pad_type)
    return x.squeeze(0) if single else x


def same_blur_pool(
    x: Tensor, filt: Tensor, stride: list[int], kernel_size: list[int], dilation: list[int], pad_type: str
) -> Tensor:
    """Blur and subsample the dense output `x` of an op whose SAME padding depends on its stride.

    At stride `s` TensorFlow's SAME padding puts `P(s) // 2` zeros on the left, with
    `P(s) = max((ceil(H / s) - 1) * s + d * (k - 1) + 1 - H, 0)`. So the strided op's output `i` is the dense op's
    output
    `i * s + P(1) // 2 - P(s) // 2`: the same values, on a grid that starts a little later.
    """
    single = x.dim() == len(stride) + 1
    x = x.unsqueeze(0) if single else x
    taps = filt.shape[2:]
    left = [0] * len(stride)
    right = [0] * len(stride)
    for a in range(len(stride)):
        length = x.shape[2 + a]
        last = (length - 1) // stride[a] * stride[a]
        reach = dilation[a] * (kernel_size[a] - 1)
        strided = max(last + reach + 1 - length, 0)
        left[a] = (taps[a] - 1) // 2 - (reach // 2 - strided // 2)
        right[a] = last + taps[a] - length - left[a]
    x = blur(x, filt, stride, left, right, pad_type)
    return x.squeeze(0) if single else x


def dense_max_pool(
    x: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool
) -> Tensor:
    """Max pooling at stride 1 whose every `stride`-th output is the strided pooling's output.

    Per axis the length is `H + 2p - d(k - 1)`, and in `ceil_mode` as many more as the last strided window needs.
    """
    axes = len(stride)
    single = x.dim() == axes + 1
    x = x.unsqueeze(0) if single else x
    if ceil_mode:
        extension = [0] * (2 * axes)
        for a in range(axes):
            extension[2 * (axes - 1 - a) + 1] = ceil_extension(
                x.shape[2 + a], kernel_size[a], stride[a], padding[a], dilation[a], ceil_mode
            )
        x = F.pad(x, extension, value=-float("inf"))
    if axes == 1:
        x = F.max_pool1d(x, kernel_size, [1], padding, dilation)
    elif axes == 2:
        x = F.max_pool2d(x, kernel_size, [1, 1], padding, dilation)
    else:
        x = F.max_pool3d(x, kernel_size, [1, 1, 1], padding, dilation)
    return x.squeeze(0) if single else x


def box_sum(x: Tensor, kernel_size: list[int]) -> Tensor:
    """Sum over every `kernel_size` window at stride 1, without padding."""
    if len(kernel_size) == 1:
        return F.avg_pool1d(x, kernel_size, [1]) * float(kernel_size[0])
    if len(kernel_size) == 2:
        return F.avg_pool2d(x, kernel_size, [1, 1], divisor_override=1)
    return F.avg_pool3d(x, kernel_size, [1, 1, 1], divisor_override=1)


def dense_avg_pool(
    x: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int,
) -> Tensor:
    """Average pooling at stride 1 whose every `stride`-th output is the strided pooling's output.

    `divisor_override=0` means none: the divisor counts the positions of the window inside the map, and those of the
    zero padding if `count_include_pad`. What `ceil_mode` adds beyond the padding is never counted.
    """
    axes = len(stride)
    pad = [0] * (2 * axes)
    counted = [0] * (2 * axes)
    uneven = not count_include_pad
    for a in range(axes):
        low, high = 2 * (axes - 1 - a), 2 * (axes - 1 - a) + 1
        extension = ceil_extension(x.shape[2 + a], kernel_size[a], stride[a], padding[a], 1, ceil_mode)
        pad[low], pad[high] = padding[a], padding[a] + extension
        counted[low], counted[high] = padding[a], padding[a]
        uneven = uneven or extension > 0
    sums = box_sum(F.pad(x, pad), kernel_size)
    if divisor_override > 0:
        return sums / float(divisor_override)
    area = 1
    for k in kernel_size:
        area *= k
    if not uneven:
        return sums / float(area)
    inside = torch.ones_like(x[:1, :1])
    if count_include_pad:
        inside = F.pad(inside, counted, value=1.0)
        pad = [pad[i] - counted[i] for i in range(2 * axes)]
    return sums / box_sum(F.pad(inside, pad), kernel_size)


def avg_blur_pool(
    x: Tensor,
    filt: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int,
    pad_type: str,
) -> Tensor:
    """What replaces average pooling: a blur that is at least as strong, at the same output size.

    Where the filter covers the window (`k <= f` on every axis) the blur stands in for the average, centred on it:
    padding `p + ceil((f - k) / 2)` on the left, `p + floor((f - k) / 2)` on the right. Where it does not, or where
    the divisor is the user's own, the dense average
    comes first and the blur follows.
    """
    axes = len(stride)
    single = x.dim() == axes + 1
    x = x.unsqueeze(0) if single else x
    taps = filt.shape[2:]
    covered = divisor_override == 0
    for a in range(axes):
        covered = covered and kernel_size[a] <= taps[a]
    if covered:
        left = [padding[a] + (taps[a] - kernel_size[a] + 1) // 2 for a in range(axes)]
        right = [padding[a] + (taps[a] - kernel_size[a]) // 2 for a in range(axes)]
        if ceil_mode:
            for a in range(axes):
                right[a] += ceil_extension(x.shape[2 + a], kernel_size[a], stride[a], padding[a], 1, ceil_mode)
    else:
        x = dense_avg_pool(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
        left = [(t - 1) // 2 for t in taps]
        right = [t // 2 for t in taps]
    x = blur(x, filt, stride, left, right, pad_type)
    return x.squeeze(0) if single else x


def lp_blur_pool(
    x: Tensor,
    filt: Tensor,
    norm_type: float,
    kernel_size: list[int],
    stride: list[int],
    ceil_mode: bool,
    pad_type: str,
) -> Tensor:
    """What replaces power-average pooling: powers, their `avg_blur_pool`, and the root of that times the window's area.

    An infinite `norm_type` is the largest magnitude in the window, a negative infinite one the smallest.
    """
    axes = len(stride)
    nothing, ones = [0] * axes, [1] * axes
    if norm_type == float("inf") or norm_type == -float("inf"):
        sign = 1.0 if norm_type > 0 else -1.0
        largest = dense_max_pool(x.abs() * sign, kernel_size, stride, nothing, ones, ceil_mode)
        return blur_pool(largest, filt, stride, 0, pad_type) * sign
    mean = avg_blur_pool(x.pow(norm_type), filt, kernel_size, stride, nothing, ceil_mode, True, 0, pad_type)
    area = 1
    for k in kernel_size:
        area *= k
    # As PyTorch has it, whose gradient at a sum of zero is zero.
    return (torch.sign(mean) * F.relu(torch.abs(mean))).mul(area).pow(1.0 / norm_type)


def adaptive_pool(x: Tensor, output_size: list[int], maximum: bool) -> Tensor:
    """PyTorch's adaptive pooling to sizes that are all known."""
    if len(output_size) == 1:
        return F.adaptive_max_pool1d(x, output_size) if maximum else F.adaptive_avg_pool1d(x, output_size)
    if len(output_size) == 2:
        return F.adaptive_max_pool2d(x, output_size) if maximum else F.adaptive_avg_pool2d(x, output_size)  # type: ignore[arg-type]
    return F.adaptive_max_pool3d(x, output_size) if maximum else F.adaptive_avg_pool3d(x, output_size)  # type: ignore[arg-type]


def adaptive_blur_pool(x: Tensor, filt: Tensor, output_size: list[int], maximum: bool, pad_type: str) -> Tensor:
    """Adaptive pooling, blurred where every axis shrinks by a whole factor; an output size of 0 keeps the axis."""
    axes = len(output_size)
    single = x.dim() == axes + 1
    x = x.unsqueeze(0) if single else x
    sizes = [output_size[a] if output_size[a] > 0 else x.shape[2 + a] for a in range(axes)]
    whole = True
    for a in range(axes):
        whole = whole and x.shape[2 + a] % sizes[a] == 0 and x.shape[2 + a] > sizes[a]
    if not whole:
        x = adaptive_pool(x, sizes, maximum)
        return x.squeeze(0) if single else x
    window = [x.shape[2 + a] // sizes[a] for a in range(axes)]
    nothing, ones = [0] * axes, [1] * axes
    if maximum:
        x = blur_pool(dense_max_pool(x, window, window, nothing, ones, False), filt, window, 0, pad_type)
    else:
        x = avg_blur_pool(x, filt, window, window, nothing, False, True, 0, pad_type)
    return x.squeeze(0) if single else x
