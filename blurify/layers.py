"""Antialiased downsampling layers: thin modules on `blurify.functional`.

This is a stable, public path: saved models name these classes. None of them has parameters, and the blur filters are
non-persistent buffers, so a `state_dict` never sees them.
"""

# No `from __future__ import annotations` here: TorchScript reads the annotation of `filt` and wants it evaluated.

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from blurify import functional
from blurify.checks import check_int, check_pad_type, check_per_axis, check_strength
from blurify.errors import ArgumentError, ArgumentTypeError
from blurify.filters import Filter, FilterLike, as_filter

# Where the extra tap of an even filter is.
SIDES = ("right", "left", "both")


class Others(TypedDict, total=False):
    """Arguments of a blurring layer besides the size and the padding, by name; see `Blurring`."""

    strength: float
    filter: FilterLike | Sequence[Filter]
    rate: Sequence[int] | None


class Blurring(Others, total=False):
    """Arguments that every blurring layer takes by name.

    `filter` is a family's name, taps, or a `Filter`, of which there may be one per axis. A `filt_size` of None is the
    family's own, 4 for the binomial one. `rate` is the subsampling that the filter prepares for, by default the stride
    of the layer.
    """

    filt_size: int | Sequence[int] | None
    pad_type: str


def filters_of(
    filter: FilterLike | Sequence[Filter], filt_size: int | Sequence[int] | None, strength: float, axes: int
) -> tuple[Filter, ...]:
    """Return one filter per axis, from what a layer was given."""
    amount = check_strength("strength", strength)
    if isinstance(filter, (tuple, list)) and filter and all(isinstance(each, Filter) for each in filter):
        if len(filter) != axes:
            raise ArgumentError(f"filter must be one Filter or {axes}, one per spatial axis; got {len(filter)}.")
        return tuple(filter)
    chosen = as_filter(filter)
    sizes = (chosen.size,) * axes if filt_size is None else check_per_axis("filt_size", filt_size, axes, 1)
    return tuple(replace(chosen, size=size, strength=chosen.strength * amount) for size in sizes)


def separable_filter(filters: Sequence[Filter], rate: Sequence[int]) -> Tensor:
    """Return the outer product of the filters along each axis: `(1, 1, *taps)`, float32, sum 1."""
    filt = torch.ones((1,) * 2, dtype=torch.float64)
    for each, stride in zip(filters, rate, strict=True):
        filt = filt.unsqueeze(-1) * torch.tensor(each.taps(stride), dtype=torch.float64)
    return filt.to(torch.float32)


def sided(filt: Tensor, zeros: list[int], side: str) -> Tensor:
    """Return a filter with its extra tap on the `left`, where `zeros` are behind it, or half of it on `both` sides."""
    mirrored = F.pad(filt.flip(list(range(2, filt.dim()))), zeros)
    if side == "left":
        return mirrored
    in_front = [zeros[pair ^ 1] for pair in range(len(zeros))]
    return separable_mean(F.pad(filt, in_front), mirrored)


def separable_mean(one: Tensor, other: Tensor) -> Tensor:
    """Return the product, over the axes, of the means of two filters' taps along each."""
    result = torch.ones((1, 1), dtype=one.dtype)
    for axis in range(2, one.dim()):
        others = [dim for dim in range(2, one.dim()) if dim != axis]
        taps = [filt.sum(others).flatten() if others else filt.flatten() for filt in (one, other)]
        result = result.unsqueeze(-1) * (taps[0] + taps[1]) / 2
    return result


class Blur(nn.Module):
    """Abstract body of every layer here that blurs: it owns the filter, and can be asked for its one-tap twin."""

    axes: ClassVar[int]
    # Whether strength mixes what the layer gives with what one tap gives, instead of the taps themselves.
    mixes_outputs: ClassVar[bool] = False
    # Layers that were pickled before there was a choice have it here.
    side: str = "right"
    filt: Tensor

    __jit_unused_properties__: ClassVar[list[str]] = ["filters"]

    def __init__(
        self,
        stride: int | Sequence[int],
        filt_size: int | Sequence[int] | None = None,
        pad_type: str = "reflect",
        strength: float = 1.0,
        filter: FilterLike | Sequence[Filter] = "binomial",
        rate: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.stride = list(check_per_axis("stride", stride, self.axes, 1))
        self.rate = list(self.stride if rate is None else check_per_axis("rate", rate, self.axes, 1))
        self.pad_type = check_pad_type(pad_type)
        self.take_filters(filters_of(filter, filt_size, strength, self.axes))
        self.register_buffer("filt", self.make_filter(), persistent=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # What was pickled by an older blurify says nothing of what that did not know.
        known = {"strength": 1.0, "kind": "binomial", "own": (), "averages": True}
        super().__setstate__({**known, "rate": state["stride"], "boundary": state["pad_type"], **state})  # type: ignore[no-untyped-call]

    def take_filters(self, filters: Sequence[Filter]) -> None:
        """Keep the filters as plain values, which pickles hold whatever becomes of `Filter`."""
        chosen = max(filters, key=lambda each: each.size)
        self.filt_size, self.kind, self.own = [each.size for each in filters], chosen.kind, chosen.own
        self.strength, self.averages = chosen.strength, chosen.averages
        ideal = [max(rate, 2) if each.is_ideal else 1 for each, rate in zip(filters, self.rate, strict=True)]
        if chosen.is_ideal and self.pad_type != "circular":
            raise ArgumentError(
                f"The ideal filter takes a map to be periodic; use pad_type='circular', not {self.pad_type!r}."
            )
        self.boundary = "ideal:" + ",".join(map(str, ideal)) if chosen.is_ideal else self.pad_type

    @property
    def filters(self) -> tuple[Filter, ...]:
        """Return the filter along each axis."""
        return tuple(Filter(self.kind, size, self.strength, self.own) for size in self.filt_size)

    def make_filter(self) -> Tensor:
        """Return the filter that the layer was asked for: `(1, 1, *taps)`, float32, sum 1.

        Of an ideal filter it holds the share of the input that stays unfiltered.
        """
        filters = self.filters
        if self.mixes_outputs:
            filters = tuple(replace(each, strength=float(each.strength > 0)) for each in filters)
        if self.boundary != self.pad_type:
            return torch.full((1,) * (2 + self.axes), 1 - filters[0].strength)
        filt = separable_filter(filters, self.rate)
        return filt if self.side == "right" else sided(filt, self.further_taps(filt.shape[2:]), self.side)

    def further_taps(self, taps: Sequence[int]) -> list[int]:
        """Return the zeros, as `F.pad` takes them, behind the mirrored filter that has its extra tap on the left."""
        return [zeros for size in reversed(taps) for zeros in (0, int(size % 2 == 0))]

    def put_extra_tap(self, side: str) -> None:
        """Put the extra tap of an even filter on the `right`, on the `left`, or half of it on `both` sides.

        The filter on the right is the published one; on the left it is mirrored, and their mean keeps the grid.
        """
        if side not in SIDES:
            raise ArgumentError(f"side must be one of {', '.join(map(repr, SIDES))}, got {side!r}.")
        self.side = side
        self.filt = self.make_filter().to(self.filt)

    def is_one_tap(self) -> bool:
        """Return whether the filter has one tap, and so leaves what it filters as it is."""
        return max(self.filt_size) == 1 or self.strength == 0

    def reset_parameters(self) -> None:
        """Fill the filter again, as after `to_empty`: it is in no checkpoint that could bring it back."""
        with torch.no_grad():
            self.filt.copy_(self.make_filter())

    def with_filt_size(self, filt_size: int | Sequence[int]) -> "Blur":
        """Return this layer with another filter and all else equal, on the same device."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._buffers = dict(self._buffers)
        sizes = check_per_axis("filt_size", filt_size, self.axes, 1)
        twin.take_filters([replace(each, size=size) for each, size in zip(self.filters, sizes, strict=True)])
        twin._buffers["filt"] = twin.make_filter().to(self.filt)
        return twin

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Blur":
        was_meta = self.filt.is_meta
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if was_meta and not self.filt.is_meta:
            self.reset_parameters()
        return self

    def extra_repr(self) -> str:
        """Return the layer's arguments."""
        asked = f"filt_size={tuple(self.filt_size)}, stride={tuple(self.stride)}, pad_type={self.pad_type!r}"
        asked = asked if self.kind == "binomial" else f"{asked}, filter={self.own or self.kind!r}"
        asked = asked if self.side == "right" else f"{asked}, side={self.side!r}"
        return asked if self.strength == 1 else f"{asked}, strength={self.strength}"


class _MixingBlur(Blur):
    """A blur in the place of an op that has an output of its own: strength mixes that output and the blurred one."""

    mixes_outputs = True

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, blurred, to the size that the op in whose place this is gives."""
        blurred = self.pooled(x, self.filt)
        if self.strength == 0 or self.strength == 1:
            return blurred
        return torch.lerp(self.pooled(x, functional.one_tap(self.filt)), blurred, self.strength)

    def pooled(self, x: Tensor, filt: Tensor) -> Tensor:
        """Pool `x` by the filter; by one of one tap that is the op itself."""
        raise NotImplementedError


class _BlurPool(Blur):
    def __init__(
        self,
        channels: int | None = None,
        pad_type: str = "reflect",
        filt_size: int | Sequence[int] | None = None,
        stride: int | Sequence[int] = 2,
        pad_off: int = 0,
        *,
        strength: float = 1.0,
        filter: FilterLike | Sequence[Filter] = "binomial",
        rate: Sequence[int] | None = None,
    ) -> None:
        if channels is not None:
            check_int("channels", channels, 1)
        super().__init__(stride, filt_size, pad_type, strength, filter, rate)
        self.channels = channels
        self.pad_off = check_int("pad_off", pad_off, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Blur and subsample `x`."""
        # What a tracer of `torch.fx` passes has no sizes.
        if not torch.jit.is_scripting() and isinstance(x, Tensor):  # type: ignore[attr-defined]
            _check_map(x, self.axes, self.channels)
        return functional.blur_pool(x, self.filt, self.stride, self.pad_off, self.boundary)

    def extra_repr(self) -> str:
        """Return the layer's arguments."""
        channels = "" if self.channels is None else f"{self.channels}, "
        pad_off = f", pad_off={self.pad_off}" if self.pad_off else ""
        return channels + super().extra_repr() + pad_off


def _check_map(x: Tensor, axes: int, channels: int | None) -> None:
    if x.dim() not in (axes + 1, axes + 2):
        raise ArgumentError(
            f"BlurPool{axes}d takes a batch of {axes + 2} dimensions (or one sample of {axes + 1}); "
            f"got a tensor of shape {tuple(x.shape)}."
        )
    if channels is not None and x.shape[-axes - 1] != channels:
        raise ArgumentError(
            f"BlurPool{axes}d was made for {channels} channels and got {x.shape[-axes - 1]}; "
            "make it with channels=None to take any number."
        )


class BlurPool1d(_BlurPool):
    """Blur, then subsample, a signal: `(N, C, L)` to `(N, C, ceil(L / stride))`. See `BlurPool2d`.

    >>> BlurPool1d(8)(torch.zeros(2, 8, 15)).shape
    torch.Size([2, 8, 8])
    """

    axes = 1


class BlurPool2d(_BlurPool):
    """Blur, then subsample, a map: `(N, C, H, W)` to `(N, C, ceil(H / stride), ceil(W / stride))`.

    >>> BlurPool2d(64, filt_size=4, stride=2)(torch.zeros(1, 64, 56, 56)).shape
    torch.Size([1, 64, 28, 28])

    The published layer of Zhang, "Making Convolutional Networks Shift-Invariant Again" (ICML 2019), section 3.2.
    Any floating dtype, any device; the memory layout is kept.

    Args:
        channels: number of channels, checked at every call; `None` takes any number.
        pad_type: `reflect` (or `refl`), `replicate` (or `repl`), `zero`, `zero-renorm` or `circular`. An axis too small
            to be reflected is replicated. With `zero-renorm` the taps inside the map are rescaled to sum 1.
        filt_size: size of the filter, one integer or one per axis; 1 means plain subsampling. None is the family's
            own, 4 for the binomial one.
        stride: keep every `stride`-th position, one integer or one per axis; 1 blurs only.
        pad_off: padding added on every side, on top of `(f - 1) // 2` on the left and `f // 2` on the right.
        strength: how much of the filter, 0 to 1: along each axis the taps are those of `Filter.taps`. 0 is plain
            subsampling on the same grid.
        filter: a family such as "lanczos", taps such as `[1, 2, 1]`, or a `Filter`; the binomial one by default.
        rate: the subsampling that the filter prepares for, per axis, where it is not the layer's own stride.

    Raises:
        ArgumentError: a value that is not allowed, or an input of another rank or channel count.
        ArgumentTypeError: a value of a type that is not allowed.
    """

    axes = 2


class BlurPool3d(_BlurPool):
    """Blur, then subsample, a volume or clip: `(N, C, D, H, W)`. See `BlurPool2d`.

    >>> BlurPool3d(8, stride=(1, 2, 2), filt_size=(1, 4, 4))(torch.zeros(1, 8, 4, 16, 16)).shape
    torch.Size([1, 8, 4, 8, 8])
    """

    axes = 3


class _SameBlurPool(Blur):
    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 2,
        dilation: int | Sequence[int] = 1,
        **blurring: Unpack[Blurring],
    ) -> None:
        super().__init__(stride, **blurring)
        self.kernel_size = list(check_per_axis("kernel_size", kernel_size, self.axes, 1))
        self.dilation = list(check_per_axis("dilation", dilation, self.axes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Blur and subsample the dense output `x`."""
        return functional.same_blur_pool(x, self.filt, self.stride, self.kernel_size, self.dilation, self.boundary)


class SameBlurPool1d(_SameBlurPool):
    """`SameBlurPool2d` for signals `(N, C, L)`."""

    axes = 1


class SameBlurPool2d(_SameBlurPool):
    """Blur-and-subsample after the dense form of an op with TensorFlow's SAME padding, on that op's own grid.

    >>> SameBlurPool2d(kernel_size=3, stride=2)(torch.zeros(1, 8, 15, 15)).shape
    torch.Size([1, 8, 8, 8])
    """

    axes = 2


class SameBlurPool3d(_SameBlurPool):
    """`SameBlurPool2d` for volumes `(N, C, D, H, W)`."""

    axes = 3


class _DenseMaxPool(nn.Module):
    axes: ClassVar[int]

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = list(check_per_axis("kernel_size", kernel_size, self.axes, 1))
        self.stride = list(check_per_axis("stride", kernel_size if stride is None else stride, self.axes, 1))
        self.padding = list(check_per_axis("padding", padding, self.axes, 0))
        self.dilation = list(check_per_axis("dilation", dilation, self.axes, 1))
        self.ceil_mode = bool(ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """Take the maximum over every window at stride 1."""
        return functional.dense_max_pool(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def extra_repr(self) -> str:
        """Return the layer's arguments."""
        return (
            f"kernel_size={tuple(self.kernel_size)}, for stride={tuple(self.stride)}, padding={tuple(self.padding)}, "
            f"dilation={tuple(self.dilation)}, ceil_mode={self.ceil_mode}"
        )


class DenseMaxPool1d(_DenseMaxPool):
    """`DenseMaxPool2d` for signals `(N, C, L)`."""

    axes = 1


class DenseMaxPool2d(_DenseMaxPool):
    """Max pooling at stride 1, as long as subsampling it by `stride` needs to give `MaxPool2d(stride)`'s output.

    >>> DenseMaxPool2d(3, stride=2, padding=1)(torch.zeros(1, 8, 14, 14)).shape
    torch.Size([1, 8, 14, 14])

    `(N, C, H, W)` to `(N, C, H + 2p - d(k - 1), ...)`; `ceil_mode` may add positions on the right.
    """

    axes = 2


class DenseMaxPool3d(_DenseMaxPool):
    """`DenseMaxPool2d` for volumes `(N, C, D, H, W)`."""

    axes = 3


class _IndexedMaxPool(_DenseMaxPool):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Take the maximum over every window at stride 1; the indices are those of the strided pooling."""
        window = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        return functional.dense_max_pool(x, *window), functional.max_pool_indices(x, *window)


class IndexedMaxPool1d(_IndexedMaxPool):
    """`IndexedMaxPool2d` for signals `(N, C, L)`."""

    axes = 1


class IndexedMaxPool2d(_IndexedMaxPool):
    """Return `DenseMaxPool2d`'s maxima, and the indices that `MaxPool2d(stride, return_indices=True)` gives.

    >>> values, indices = IndexedMaxPool2d(2, stride=2)(torch.zeros(1, 8, 14, 14))
    >>> values.shape, indices.shape
    (torch.Size([1, 8, 13, 13]), torch.Size([1, 8, 7, 7]))

    The values are blurred and subsampled behind it; an unpooling puts them where the maxima were.
    """

    axes = 2


class IndexedMaxPool3d(_IndexedMaxPool):
    """`IndexedMaxPool2d` for volumes `(N, C, D, H, W)`."""

    axes = 3


class _AvgBlurPool(_MixingBlur):
    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        **blurring: Unpack[Blurring],
    ) -> None:
        super().__init__(kernel_size if stride is None else stride, **blurring)
        self.kernel_size = list(check_per_axis("kernel_size", kernel_size, self.axes, 1))
        self.padding = list(check_per_axis("padding", padding, self.axes, 0))
        self.ceil_mode = bool(ceil_mode)
        self.count_include_pad = bool(count_include_pad)
        self.divisor_override = 0 if divisor_override is None else check_int("divisor_override", divisor_override, 1)

    def further_taps(self, taps: Sequence[int]) -> list[int]:
        """Return the zeros in front of a filter of another parity than the window, which was centred on its left."""
        pairs = list(zip(self.kernel_size, taps, strict=True))
        stands_in = self.averages and all(k <= size for k, size in pairs) and self.divisor_override == 0
        return [zeros for k, size in reversed(pairs) for zeros in (int(stands_in and (size - k) % 2 == 1), 0)]

    def pooled(self, x: Tensor, filt: Tensor) -> Tensor:
        """Blur and subsample `x` to the size that the average pooling gives."""
        return functional.avg_blur_pool(
            x,
            filt,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
            self.averages,
            self.boundary,
        )

    def extra_repr(self) -> str:
        """Return the layer's arguments."""
        return f"{super().extra_repr()}, for kernel_size={tuple(self.kernel_size)}, padding={tuple(self.padding)}"


class AvgBlurPool1d(_AvgBlurPool):
    """`AvgBlurPool2d` for signals `(N, C, L)`."""

    axes = 1


class AvgBlurPool2d(_AvgBlurPool):
    """Replace `AvgPool2d`: a blur at least as strong as the average, at the same output size.

    >>> AvgBlurPool2d(2, stride=2, filt_size=4)(torch.zeros(1, 8, 15, 15)).shape
    torch.Size([1, 8, 7, 7])

    Takes `AvgPool2d`'s arguments. A window larger than the filter is averaged densely first, then blurred. At a
    `strength` of 0 it is `AvgPool2d`, and in between the two outputs are mixed.
    """

    axes = 2


class AvgBlurPool3d(_AvgBlurPool):
    """`AvgBlurPool2d` for volumes `(N, C, D, H, W)`."""

    axes = 3


class _LpBlurPool(_MixingBlur):
    def __init__(
        self,
        norm_type: float,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        ceil_mode: bool = False,
        **blurring: Unpack[Blurring],
    ) -> None:
        super().__init__(kernel_size if stride is None else stride, **blurring)
        self.norm_type = float(norm_type)
        self.kernel_size = list(check_per_axis("kernel_size", kernel_size, self.axes, 1))
        self.ceil_mode = bool(ceil_mode)

    def pooled(self, x: Tensor, filt: Tensor) -> Tensor:
        """Blur and subsample the powers of `x` to the size that the pooling gives, and take the root."""
        return functional.lp_blur_pool(
            x, filt, self.norm_type, self.kernel_size, self.stride, self.ceil_mode, self.averages, self.boundary
        )

    def extra_repr(self) -> str:
        """Return the layer's arguments."""
        return f"{super().extra_repr()}, for norm_type={self.norm_type}, kernel_size={tuple(self.kernel_size)}"


class LpBlurPool1d(_LpBlurPool):
    """`LpBlurPool2d` for signals `(N, C, L)`."""

    axes = 1


class LpBlurPool2d(_LpBlurPool):
    """Replace `LPPool2d`: the root of blurred powers, at the same output size.

    >>> LpBlurPool2d(2, kernel_size=3, stride=2, filt_size=4)(torch.zeros(1, 8, 15, 15)).shape
    torch.Size([1, 8, 7, 7])

    Takes `LPPool2d`'s arguments.
    """

    axes = 2


class LpBlurPool3d(_LpBlurPool):
    """`LpBlurPool2d` for volumes `(N, C, D, H, W)`."""

    axes = 3


class _AdaptiveBlurPool(_MixingBlur):
    __constants__: ClassVar[list[str]] = ["maximum"]
    maximum: ClassVar[bool]

    def __init__(
        self,
        output_size: int | Sequence[int | None],
        **blurring: Unpack[Blurring],
    ) -> None:
        super().__init__(1, **blurring)
        sizes = output_size if isinstance(output_size, Sequence) else (output_size,) * self.axes
        if len(sizes) != self.axes:
            raise ArgumentError(f"output_size must be one integer or {self.axes}, got {tuple(sizes)!r}.")
        self.output_size = [0 if size is None else check_int("output_size", size, 1) for size in sizes]

    def pooled(self, x: Tensor, filt: Tensor) -> Tensor:
        """Pool to the output size, blurring where the size shrinks by a whole factor on every axis."""
        return functional.adaptive_blur_pool(x, filt, self.output_size, self.maximum, self.averages, self.boundary)

    def extra_repr(self) -> str:
        """Return the layer's arguments."""
        return f"output_size={tuple(self.output_size)}, {super().extra_repr()}"


class AdaptiveAvgBlurPool1d(_AdaptiveBlurPool):
    """`AdaptiveAvgBlurPool2d` for signals `(N, C, L)`."""

    axes = 1
    maximum = False


class AdaptiveAvgBlurPool2d(_AdaptiveBlurPool):
    """`AdaptiveAvgPool2d` that blurs: `AvgBlurPool2d` where its input is a whole multiple of the output size.

    >>> AdaptiveAvgBlurPool2d(7)(torch.zeros(1, 8, 28, 28)).shape
    torch.Size([1, 8, 7, 7])

    At other sizes it is the adaptive pool itself.
    """

    axes = 2
    maximum = False


class AdaptiveAvgBlurPool3d(_AdaptiveBlurPool):
    """`AdaptiveAvgBlurPool2d` for volumes `(N, C, D, H, W)`."""

    axes = 3
    maximum = False


class AdaptiveMaxBlurPool1d(_AdaptiveBlurPool):
    """`AdaptiveMaxBlurPool2d` for signals `(N, C, L)`."""

    axes = 1
    maximum = True


class AdaptiveMaxBlurPool2d(_AdaptiveBlurPool):
    """`AdaptiveMaxPool2d` that blurs: `MaxBlurPool2d` where its input is a whole multiple of the output size.

    >>> AdaptiveMaxBlurPool2d(7)(torch.zeros(1, 8, 28, 28)).shape
    torch.Size([1, 8, 7, 7])
    """

    axes = 2
    maximum = True


class AdaptiveMaxBlurPool3d(_AdaptiveBlurPool):
    """`AdaptiveMaxBlurPool2d` for volumes `(N, C, D, H, W)`."""

    axes = 3
    maximum = True


class BlurAxes(Blur):
    """Blur two neighbouring dimensions, wherever they are, at stride 1.

    >>> BlurAxes((1, 2), filt_size=3)(torch.zeros(1, 14, 14, 8)).shape
    torch.Size([1, 14, 14, 8])

    What is not floating point (a mask, an index) is returned as it is.
    """

    axes = 2

    def __init__(
        self,
        dims: Sequence[int],
        **blurring: Unpack[Blurring],
    ) -> None:
        super().__init__(1, **blurring)
        self.dims = list(dims)

    def forward(self, x: Tensor) -> Tensor:
        """Blur the two dimensions of `x`."""
        return functional.blur_axes(x, self.filt, self.dims, self.boundary)

    def extra_repr(self) -> str:
        """Return the layer's arguments."""
        return f"dims={tuple(self.dims)}, {super().extra_repr()}"


class AntialiasedResize(Blur):
    """`F.interpolate` without aliasing: `antialias=True` where the mode has it, else a blur before.

    >>> AntialiasedResize(4)(torch.zeros(1, 8, 28, 28), scale_factor=0.5, mode="bilinear").shape
    torch.Size([1, 8, 14, 14])

    With one tap it is `F.interpolate` itself, which `strength` mixes its output with. Where `antialias` is set to False
    every mode is blurred before.
    """

    axes = 2
    mixes_outputs = True
    antialias: bool = True

    def __init__(
        self, filt_size: int | Sequence[int] | None = None, pad_type: str = "reflect", **blurring: Unpack[Others]
    ) -> None:
        super().__init__(1, filt_size, pad_type, **blurring)

    def forward(
        self,
        x: Tensor,
        size: int | list[int] | None = None,
        scale_factor: float | list[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> Tensor:
        """Resize `x`; the arguments are those of `F.interpolate`."""
        one_tap = self.is_one_tap()
        smooth = not one_tap and self.antialias and mode in ("bilinear", "bicubic")
        blurred = x if one_tap or smooth else functional.blur_if_map(x, self.filt, self.boundary)
        resized = F.interpolate(
            blurred, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias=smooth
        )
        if one_tap or self.strength == 1:
            return resized
        plain = F.interpolate(x, size, scale_factor, mode, align_corners, recompute_scale_factor)
        return torch.lerp(plain, resized, self.strength)


class AntialiasedResize1d(AntialiasedResize):
    """`AntialiasedResize` for signals `(N, C, L)`."""

    axes = 1


class AntialiasedResize3d(AntialiasedResize):
    """`AntialiasedResize` for volumes `(N, C, D, H, W)`."""

    axes = 3


class _MaxBlurPool(nn.Module):
    axes: ClassVar[int]
    dense: ClassVar[type[_DenseMaxPool]]
    blur: ClassVar[type[_BlurPool]]

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 2,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
        **blurring: Unpack[Blurring],
    ) -> None:
        super().__init__()
        if not isinstance(ceil_mode, bool):
            raise ArgumentTypeError(f"ceil_mode must be True or False, got {ceil_mode!r}.")
        self.max_pool = self.dense(kernel_size, stride, padding, dilation, ceil_mode)
        self.blur_pool = self.blur(None, stride=stride, **blurring)

    def forward(self, x: Tensor) -> Tensor:
        """Take the dense maximum, then blur and subsample it."""
        return self.blur_pool(self.max_pool(x))  # type: ignore[no-any-return]


class MaxBlurPool1d(_MaxBlurPool):
    """`MaxBlurPool2d` for signals `(N, C, L)`."""

    axes = 1
    dense = DenseMaxPool1d
    blur = BlurPool1d


class MaxBlurPool2d(_MaxBlurPool):
    """Max pooling without aliasing: the dense maximum, then blur and subsample, at `MaxPool2d`'s output size.

    >>> MaxBlurPool2d(3, stride=2, padding=1)(torch.zeros(1, 8, 15, 15)).shape
    torch.Size([1, 8, 8, 8])

    Zhang (ICML 2019), section 3.2, "MaxBlurPool". Takes `MaxPool2d`'s arguments and `BlurPool2d`'s.
    """

    axes = 2
    dense = DenseMaxPool2d
    blur = BlurPool2d


class MaxBlurPool3d(_MaxBlurPool):
    """`MaxBlurPool2d` for volumes `(N, C, D, H, W)`."""

    axes = 3
    dense = DenseMaxPool3d
    blur = BlurPool3d


BLUR_POOLS: dict[int, type[_BlurPool]] = {1: BlurPool1d, 2: BlurPool2d, 3: BlurPool3d}
SAME_BLUR_POOLS: dict[int, type[_SameBlurPool]] = {1: SameBlurPool1d, 2: SameBlurPool2d, 3: SameBlurPool3d}
AVG_BLUR_POOLS: dict[int, type[_AvgBlurPool]] = {1: AvgBlurPool1d, 2: AvgBlurPool2d, 3: AvgBlurPool3d}
LP_BLUR_POOLS: dict[int, type[_LpBlurPool]] = {1: LpBlurPool1d, 2: LpBlurPool2d, 3: LpBlurPool3d}
ADAPTIVE_AVG_BLUR_POOLS: dict[int, type[_AdaptiveBlurPool]] = {
    1: AdaptiveAvgBlurPool1d,
    2: AdaptiveAvgBlurPool2d,
    3: AdaptiveAvgBlurPool3d,
}
ADAPTIVE_MAX_BLUR_POOLS: dict[int, type[_AdaptiveBlurPool]] = {
    1: AdaptiveMaxBlurPool1d,
    2: AdaptiveMaxBlurPool2d,
    3: AdaptiveMaxBlurPool3d,
}
RESIZES: dict[int, type[AntialiasedResize]] = {1: AntialiasedResize1d, 2: AntialiasedResize, 3: AntialiasedResize3d}
DENSE_MAX_POOLS: dict[int, type[_DenseMaxPool]] = {1: DenseMaxPool1d, 2: DenseMaxPool2d, 3: DenseMaxPool3d}
INDEXED_MAX_POOLS: dict[int, type[_IndexedMaxPool]] = {1: IndexedMaxPool1d, 2: IndexedMaxPool2d, 3: IndexedMaxPool3d}
