"""The dense form of an op: the same windows at stride 1, every `stride`-th of which is one of the op's own.

SAME padding and ceil mode depend on the stride and on the size of the map. Where the size is known they are written as
plain padding; where it is not, the padding is computed in the graph, from the map's own sizes.
"""

from __future__ import annotations

from typing import Any

from blurify.onnx.editing import DenseSizes, Edit
from blurify.onnx.scopes import set_attribute
from blurify.onnx.windows import Window
from blurify.onnx.writer import FLOAT, FLOATING, Writer

# The least of every type of integers that may be pooled.
LEAST = {2: 0, 3: -128}
LOWEST = -float("inf")


def sizes_of(edit: Edit, node: Any, window: Window) -> tuple[int, ...] | None:
    """Return the sizes of the map that a node reads, if they are the same for any input."""
    dims = edit.value(node.input[0]).dims
    sizes = () if dims is None or len(dims) != window.axes + 2 else dims[2:]
    known = tuple(size for size in sizes if size is not None)
    return known if len(known) == window.axes else None


def dense_sizes(edit: Edit, node: Any, window: Window, stride: tuple[int, ...] | None = None) -> DenseSizes:
    """Return the sizes of the dense map, or of one at another stride: for any input, and for the example's inputs."""
    fed = (edit.value(node.input[0]), edit.example(node.input[0]))
    anyhow, here = (_dense(value.dims, window, stride or (1,) * window.axes) for value in fed)
    return anyhow, here


def _dense(dims: tuple[int | None, ...] | None, window: Window, stride: tuple[int, ...]) -> tuple[int | None, ...]:
    if dims is None or len(dims) != window.axes + 2:
        return (None,) * window.axes
    begin, end = window.padding(tuple(size or 0 for size in dims[2:]))
    parts = zip(dims[2:], begin, end, window.reach, stride, strict=True)
    return tuple(size and (size + low + high - reach - 1) // step + 1 for size, low, high, reach, step in parts)


def depends_on_size(window: Window) -> bool:
    """Return whether what an op pads depends on the size of its map."""
    return bool(window.same) or window.ceil_mode


def pad_plainly(edit: Edit, path: str, node: Any, window: Window, fill: str | float) -> None:
    """Write what an op pads as plain padding: as its attribute, or before it, by `fill`."""
    if not depends_on_size(window):
        return
    sizes = sizes_of(edit, node, window)
    attribute = [0] * (2 * window.axes)
    if sizes is not None:
        begin, end = window.padding(sizes)
        fits = all(max(pair) < kernel for pair, kernel in zip(zip(begin, end, strict=True), window.kernel, strict=True))
        attribute = [*begin, *end] if fits else attribute
    if sizes is None or not fits:
        writer = edit.writer(path)
        kind = edit.value(node.input[0]).kind or FLOAT
        pads = computed_padding(writer, node.input[0], window) if sizes is None else [0, 0, *begin, 0, 0, *end]
        node.input[0] = writer.pad(node.input[0], pads, "constant", *_filled(writer, fill, kind))
        edit.before[edit.scope.index[path]] += writer.nodes
    set_attribute(node, "auto_pad", None)
    set_attribute(node, "ceil_mode", None)
    set_attribute(node, "pads", attribute)


def _filled(writer: Writer, fill: str | float, kind: int) -> tuple[str]:
    if isinstance(fill, str):
        return (fill,)
    fill = fill if kind in FLOATING else LEAST.get(kind, 0)
    return (writer.constant(fill, kind),)


def computed_padding(writer: Writer, source: str, window: Window) -> str:
    """Compute what an op pads a map of any size by, before all axes and then behind all.

    As in `Window.padding`, and by operators that integers have had since opset 7.
    """
    size = writer.shape(source, 2, 2 + window.axes)
    before, behind = (_same if window.same else _ceil)(writer, size, window)
    nothing = writer.constant([0, 0])
    return writer.join([nothing, before, nothing, behind])


def _same(writer: Writer, size: str, window: Window) -> tuple[str, str]:
    stride, two, ones = (writer.constant(v) for v in (window.stride, [2] * window.axes, [1] * window.axes))
    last = writer.emit("Mul", [writer.emit("Div", [writer.emit("Sub", [size, ones]), stride]), stride])
    reach = writer.constant([reach + 1 for reach in window.reach])
    lacking = writer.emit("Sub", [writer.emit("Add", [last, reach]), size])
    # max(lacking, 0)
    total = writer.emit("Div", [writer.emit("Add", [lacking, writer.emit("Abs", [lacking])]), two])
    smaller = writer.emit("Div", [total, two])
    larger = writer.emit("Sub", [total, smaller])
    return (smaller, larger) if window.same == "UPPER" else (larger, smaller)


def _ceil(writer: Writer, size: str, window: Window) -> tuple[str, str]:
    parts = list(zip(window.begin, window.end, window.reach, window.stride, strict=True))
    stride, last = writer.constant(window.stride), writer.constant([s - 1 for s in window.stride])
    starts = writer.emit("Add", [size, writer.constant([b + e - reach - 1 for b, e, reach, _ in parts])])
    up = writer.emit("Mul", [writer.emit("Div", [writer.emit("Add", [starts, last]), stride]), stride])
    lacking = writer.emit("Sub", [up, starts])
    # A window that would start in the padding behind is dropped: 1 where it is, 0 where not.
    too_far = writer.emit("Div", [lacking, writer.constant([max(reach + 1 - e, 1) for _, e, reach, _ in parts])])
    dropped = writer.emit("Div", [writer.emit("Add", [too_far, last]), stride])
    kept = writer.emit("Sub", [writer.constant([1] * window.axes), dropped])
    more = writer.emit("Mul", [lacking, kept])
    return writer.constant(window.begin), writer.emit("Add", [writer.constant(window.end), more])
