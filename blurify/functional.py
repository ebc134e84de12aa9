"""The numerics: blur-and-subsample and the dense ops, each in the fastest exact way for the case at hand.

Every function takes a batch `(N, C, *spatial)` or a single sample `(C, *spatial)` with 1, 2 or 3 spatial axes, and
lists of one integer per spatial axis. They are scriptable, so they keep to the part of Python that TorchScript knows,
and they trust their arguments: `blurify.layers` and `blurify.planning.spec` validate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from blurify.kernels import any_size, fast, maxima, plain
from blurify.kernels.plain import ceil_extension


def blur(x: Tensor, filt: Tensor, stride: list[int], left: list[int], right: list[int], pad_type: str) -> Tensor:
    """Pad `x`, correlate with `filt` of shape `(1, 1, *taps)`, and subsample; one tap is subsampling alone."""
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        found = fast.blur(x, filt, stride, left, right, pad_type)
        if found is not None:
            return found
    return plain.blur(x, filt, stride, left, right, pad_type)


def one_tap(filt: Tensor) -> Tensor:
    """The filter of one tap that is like `filt` in all else: it leaves what it filters as it is."""
    return torch.ones([1] * filt.dim(), dtype=filt.dtype, device=filt.device)


def dense_max(x: Tensor, kernel_size: list[int], padding: list[int], dilation: list[int]) -> Tensor:
    """Max pooling at stride 1."""
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        found = maxima.dense_max(x, kernel_size, padding, dilation)
        if found is not None:
            return found
    return plain.dense_max(x, kernel_size, padding, dilation)


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
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        found = any_size.same_blur(x, filt, stride, kernel_size, dilation, pad_type)
        if found is not None:
            return found.squeeze(0) if single else found
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
    x = dense_max(x, kernel_size, padding, dilation)
    return x.squeeze(0) if single else x


def max_pool_indices(
    x: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool
) -> Tensor:
    """Return the indices of the maxima that PyTorch's max pooling takes."""
    if len(stride) == 1:
        return F.max_pool1d_with_indices(x, kernel_size, stride, padding, dilation, ceil_mode)[1]
    if len(stride) == 2:
        return F.max_pool2d_with_indices(x, kernel_size, stride, padding, dilation, ceil_mode)[1]
    return F.max_pool3d_with_indices(x, kernel_size, stride, padding, dilation, ceil_mode)[1]


def box_mean(x: Tensor, kernel_size: list[int]) -> Tensor:
    """Return the mean of every `kernel_size` window at stride 1, without padding."""
    if len(kernel_size) == 1:
        return F.avg_pool1d(x, kernel_size, [1])
    if len(kernel_size) == 2:
        return F.avg_pool2d(x, kernel_size, [1, 1])
    return F.avg_pool3d(x, kernel_size, [1, 1, 1])


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
    # Exporters to ONNX lose a `divisor_override`, so other divisors are factors of a plain mean.
    means = box_mean(F.pad(x, pad), kernel_size)
    if divisor_override > 0:
        area = 1
        for k in kernel_size:
            area *= k
        return means * (float(area) / float(divisor_override))
    if not uneven:
        return means
    inside = torch.ones_like(x[:1, :1])
    if count_include_pad:
        inside = F.pad(inside, counted, value=1.0)
        pad = [pad[i] - counted[i] for i in range(2 * axes)]
    return means / box_mean(F.pad(inside, pad), kernel_size)


def avg_blur_pool(
    x: Tensor,
    filt: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int,
    averages: bool,
    pad_type: str,
) -> Tensor:
    """Replace average pooling by a blur that is at least as strong, at the same output size.

    Where the filter `averages`, which one with negative taps does not, and covers the window (`k <= f` on every axis)
    the blur stands in for the average, centred on it: padding `p + ceil((f - k) / 2)` on the left,
    `p + floor((f - k) / 2)` on the right. Where it does not, or where the divisor is the user's own, the dense average
    comes first and the blur follows.
    """
    axes = len(stride)
    single = x.dim() == axes + 1
    x = x.unsqueeze(0) if single else x
    taps = filt.shape[2:]
    covered = averages and divisor_override == 0
    for a in range(axes):
        covered = covered and kernel_size[a] <= taps[a]
    if covered:
        left = [padding[a] + (taps[a] - kernel_size[a] + 1) // 2 for a in range(axes)]
        right = [padding[a] + (taps[a] - kernel_size[a]) // 2 for a in range(axes)]
        if ceil_mode:
            if not torch.jit.is_scripting():  # type: ignore[attr-defined]
                found = any_size.ceil_blur(x, filt, stride, left, right, kernel_size, padding, pad_type)
                if found is not None:
                    return found.squeeze(0) if single else found
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
    averages: bool,
    pad_type: str,
) -> Tensor:
    """Replace power-average pooling: powers, their `avg_blur_pool`, and the root of that times the window's area.

    An infinite `norm_type` is the largest magnitude in the window, a negative infinite one the smallest.
    """
    axes = len(stride)
    nothing, ones = [0] * axes, [1] * axes
    if norm_type == float("inf") or norm_type == -float("inf"):
        sign = 1.0 if norm_type > 0 else -1.0
        largest = dense_max_pool(x.abs() * sign, kernel_size, stride, nothing, ones, ceil_mode)
        return blur_pool(largest, filt, stride, 0, pad_type) * sign
    mean = avg_blur_pool(x.pow(norm_type), filt, kernel_size, stride, nothing, ceil_mode, True, 0, averages, pad_type)
    if not averages:
        # Negative taps can make a mean of powers negative, of which there is no root.
        mean = torch.clamp(mean, min=1e-12)
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


def adaptive_blur_pool(
    x: Tensor, filt: Tensor, output_size: list[int], maximum: bool, averages: bool, pad_type: str
) -> Tensor:
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
        x = avg_blur_pool(x, filt, window, window, nothing, False, True, 0, averages, pad_type)
    return x.squeeze(0) if single else x


def blur_axes(x: Tensor, filt: Tensor, dims: list[int], pad_type: str) -> Tensor:
    """Blur two neighbouring dimensions at stride 1; what is not floating point (a mask, an index) stays as it is."""
    if not x.is_floating_point():
        return x
    moved = x.movedim(dims, [x.dim() - 2, x.dim() - 1])
    # Channels stay channels: the batch among them would be a number of groups that an export for any batch lacks.
    maps = moved if moved.dim() > 2 else moved.unsqueeze(0)
    flat = maps.reshape(-1, maps.shape[-3], maps.shape[-2], maps.shape[-1])
    return blur_pool(flat, filt, [1, 1], 0, pad_type).reshape(moved.shape).movedim([x.dim() - 2, x.dim() - 1], dims)


def blur_if_map(x: Tensor, filt: Tensor, pad_type: str) -> Tensor:
    """Blur a batch of maps at stride 1; what is of another rank stays as it is."""
    axes = filt.dim() - 2
    return blur_pool(x, filt, [1] * axes, 0, pad_type) if x.dim() == axes + 2 else x


# What the layers call. They decide by sizes, so other people's `torch.fx` tracers record each as one node.
for _name in (
    "adaptive_blur_pool",
    "avg_blur_pool",
    "blur_axes",
    "blur_if_map",
    "blur_pool",
    "dense_max_pool",
    "max_pool_indices",
    "lp_blur_pool",
    "same_blur_pool",
):
    fx.wrap(_name)
