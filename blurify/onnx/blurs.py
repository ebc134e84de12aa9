"""The blur of an ONNX graph: `Pad`, then a depthwise `Conv` of a constant kernel, which subsamples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from blurify.errors import PlanError
from blurify.layers import AVG_BLUR_POOLS, BLUR_POOLS, Blur
from blurify.onnx.shapes import Value
from blurify.onnx.writer import FLOAT, FLOATING, INT64, Writer
from blurify.planning.decision import Decision

MODES = {"reflect": "reflect", "replicate": "edge"}
# The first opset whose `Pad` takes what is computed.
COMPUTED_PADS = 11
# No image that is so long here is so small elsewhere that a blur cannot reflect it.
LONG = 32


@dataclass(frozen=True)
class Filtering:
    """A filter with one dimension for each spatial axis, and what it pads and keeps.

    `computed` is the name of further padding that depends on the size of the map.
    """

    taps: np.ndarray[Any, Any]
    stride: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    pad_type: str
    computed: str = ""

    @property
    def axes(self) -> int:
        """Return the number of spatial axes."""
        return self.taps.ndim

    @property
    def pads(self) -> list[int]:
        """Return the padding as ONNX lists it, of samples and channels too."""
        return [0, 0, *self.left, 0, 0, *self.right]


def filtering(decision: Decision, stride: Sequence[int]) -> Filtering:
    """Return the blur of a decision, with the taps that the layer of it has."""
    if any(each.is_ideal for each in decision.filters):
        raise PlanError(
            f"The plan blurs {decision.site!r} by the ideal filter, which has no taps to write to an ONNX file."
        )
    # Before a step that stays in the file, the filter is that of its step.
    rate = decision.stride if max(stride) == 1 else stride
    layer = with_side(BLUR_POOLS[len(stride)](None, stride=list(stride), rate=rate, **decision.blurring), decision)
    taps = layer.filt[0, 0].numpy()
    left = tuple((size - 1) // 2 for size in taps.shape)
    return Filtering(taps, tuple(stride), left, tuple(size // 2 for size in taps.shape), decision.pad_type)


def mixing(decision: Decision, stride: Sequence[int]) -> Filtering:
    """Return the blur of an op whose strength mixes what it gives with what it gives of a blurred map."""
    whole = filtering(replace(decision, strength=1.0), stride)
    taps = decision.strength * whole.taps
    taps[whole.left] += 1 - decision.strength
    return replace(whole, taps=taps)


def averaging(decision: Decision, begin: Sequence[int], end: Sequence[int]) -> Filtering | None:
    """Return the blur that stands in for an average, centred on its window; None where it would blur less."""
    blurring = replace(decision, strength=float(decision.strength > 0)).blurring
    layer = AVG_BLUR_POOLS[len(begin)](list(decision.kernel_size), list(decision.stride), **blurring)
    taps = with_side(layer, decision).filt[0, 0].numpy()
    spare = [size - kernel for size, kernel in zip(taps.shape, decision.kernel_size, strict=True)]
    if min(spare) < 0 or not layer.averages:
        return None
    left = tuple(before + (more + 1) // 2 for before, more in zip(begin, spare, strict=True))
    right = tuple(behind + more // 2 for behind, more in zip(end, spare, strict=True))
    return Filtering(taps, decision.stride, left, right, decision.pad_type)


def with_side(layer: Blur, decision: Decision) -> Blur:
    """Put the extra tap of an even filter where the decision has it."""
    if decision.side:
        layer.put_extra_tap(decision.side)
    return layer


def emit_blur(writer: Writer, source: str, target: str, blur: Filtering, value: Value, example: Value) -> None:
    """Write the nodes that blur one value into another; integers are rounded to integers again."""
    if value.kind in FLOATING or not value.kind:
        _emit(writer, source, target, blur, value, example)
        return
    floats = writer.emit("Cast", [source], to=FLOAT)
    blurred = writer.names.new(f"{writer.prefix}/blurred")
    _emit(writer, floats, blurred, blur, Value(FLOAT, value.dims), example)
    half = writer.emit("Add", [blurred, writer.constant(0.5, FLOAT)])
    whole = writer.emit("Floor", [half])
    writer.emit("Cast", [whole], target, to=value.kind)


def _emit(writer: Writer, source: str, target: str, blur: Filtering, value: Value, example: Value) -> None:
    kind = value.kind or FLOAT
    padded, pads = _padded(writer, source, blur, value, example)
    channels = value.dims[1] if value.dims is not None and len(value.dims) == blur.axes + 2 else None
    if channels is None:
        _emit_flat(writer, source, padded, target, blur, pads, kind)
        return
    kernel = _kernel(writer, blur, channels, kind)
    renormalised = blur.pad_type == "zero-renorm" and any(pads)
    result = "" if renormalised else target
    filtered = writer.emit("Conv", [padded, kernel], result, group=channels, **_window(blur, pads))
    if renormalised:
        writer.emit("Div", [filtered, _inside(writer, source, blur, pads, kind)], target)


def _emit_flat(
    writer: Writer, source: str, padded: str, target: str, blur: Filtering, pads: list[int], kind: int
) -> None:
    """Blur a map of any number of channels: each is a sample of one channel."""
    rank = blur.axes + 2
    flat = writer.join([writer.constant([-1, 1]), writer.shape(padded, 2, rank)])
    single = writer.emit("Reshape", [padded, flat])
    filtered = writer.emit("Conv", [single, _kernel(writer, blur, 1, kind)], **_window(blur, pads))
    if blur.pad_type == "zero-renorm" and any(pads):
        filtered = writer.emit("Div", [filtered, _inside(writer, source, blur, pads, kind)])
    again = writer.join([writer.shape(padded, 0, 2), writer.shape(filtered, 2, rank)])
    writer.emit("Reshape", [filtered, again], target)


def _kernel(writer: Writer, blur: Filtering, channels: int, kind: int) -> str:
    return writer.constant(np.broadcast_to(blur.taps, (channels, 1, *blur.taps.shape)), kind)


def _window(blur: Filtering, pads: list[int]) -> dict[str, Any]:
    window = {"kernel_shape": list(blur.taps.shape), "strides": list(blur.stride)}
    return window | ({"pads": pads} if any(pads) else {})


def _inside(writer: Writer, source: str, blur: Filtering, pads: list[int], kind: int) -> str:
    """Return how much of the filter lies inside the map, at each position."""
    sizes = writer.join([writer.constant([1, 1]), writer.shape(source, 2, blur.axes + 2)])
    zeros = writer.emit("Expand", [writer.constant(1.0, kind), sizes])
    return writer.emit("Conv", [zeros, _kernel(writer, blur, 1, kind)], **_window(blur, pads))


def _padded(writer: Writer, source: str, blur: Filtering, value: Value, example: Value) -> tuple[str, list[int]]:
    """Return the padded map, and the zeros that the convolution pads itself."""
    nothing = [0] * (2 * blur.axes)
    if blur.computed:
        pads = writer.emit("Add", [blur.computed, writer.constant(blur.pads)])
        return writer.pad(source, pads, MODES.get(blur.pad_type, "constant")), nothing
    if blur.pad_type.startswith("zero"):
        return source, [*blur.left, *blur.right]
    always, likely = (_spatial(known, blur) for known in (value, example))
    if blur.pad_type == "reflect" and writer.opset >= COMPUTED_PADS and _may_be_short(blur, always, likely):
        return _padded_by_size(writer, source, blur), nothing
    sizes = [one or other for one, other in zip(always, likely, strict=True)]
    short = [axis for axis, size in enumerate(sizes) if _is_short(blur, axis, size)]
    source = _beyond(writer, source, blur, [axis for axis in range(blur.axes) if axis not in short])
    return writer.pad(source, _only(blur, short), "edge"), nothing


def _spatial(value: Value, blur: Filtering) -> tuple[int | None, ...]:
    dims = value.dims if value.dims is not None and len(value.dims) == blur.axes + 2 else ()
    return dims[2:] or (None,) * blur.axes


def _may_be_short(blur: Filtering, always: Sequence[int | None], likely: Sequence[int | None]) -> bool:
    """Return whether an axis whose size is open may well be too short to be reflected."""
    sizes = [size for known, size in zip(always, likely, strict=True) if known is None]
    return any(blur.pads) and any(size is None or size <= LONG for size in sizes)


def _padded_by_size(writer: Writer, source: str, blur: Filtering) -> str:
    """Reflect the axes that are long enough when the graph runs, and replicate the others."""
    size = writer.shape(source, 2, blur.axes + 2)
    most = [max(pair) for pair in zip(blur.left, blur.right, strict=True)]
    enough = writer.emit("Cast", [writer.emit("Greater", [size, writer.constant(most)])], to=INT64)
    ones = writer.constant([1, 1])
    pads = writer.constant(blur.pads)
    reflected = writer.emit("Mul", [pads, writer.join([ones, enough, ones, enough])])
    return writer.pad(writer.pad(source, reflected, "reflect"), writer.emit("Sub", [pads, reflected]), "edge")


def _is_short(blur: Filtering, axis: int, size: int | None) -> bool:
    """Return whether an axis has too few positions to be reflected, or to go round."""
    if size is None or blur.pad_type == "replicate":
        return False
    most = max(blur.left[axis], blur.right[axis])
    return size <= most if blur.pad_type == "reflect" else size < most


def _only(blur: Filtering, axes: Sequence[int]) -> list[int]:
    return [pad if at % (blur.axes + 2) - 2 in axes else 0 for at, pad in enumerate(blur.pads)]


def _beyond(writer: Writer, source: str, blur: Filtering, axes: Sequence[int]) -> str:
    if blur.pad_type != "circular":
        return writer.pad(source, _only(blur, axes), MODES[blur.pad_type])
    for axis in axes:
        left, right = blur.left[axis], blur.right[axis]
        before = [writer.slice(source, axis + 2, -left, 2**31)] if left else []
        behind = [writer.slice(source, axis + 2, 0, right)] if right else []
        source = writer.join([*before, source, *behind], axis + 2) if before or behind else source
    return source


def is_plain(blur: Filtering) -> bool:
    """Return whether a blur leaves what it is given as it is."""
    return prod(blur.taps.shape) == 1 and max(blur.stride) == 1
