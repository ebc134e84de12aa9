"""Carry a plan out on an ONNX graph: one function for each family of operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from blurify.onnx.blurs import COMPUTED_PADS, Filtering, averaging, emit_blur, filtering, mixing
from blurify.onnx.dense import LOWEST, computed_padding, dense_sizes, depends_on_size, pad_plainly, sizes_of
from blurify.onnx.editing import Edit
from blurify.onnx.scopes import Scope, attribute, scopes_of, set_attribute
from blurify.onnx.shapes import Shapes, Value
from blurify.onnx.slices import stepped_axes
from blurify.onnx.windows import Window, window_of
from blurify.onnx.writer import FLOAT, Names
from blurify.planning.decision import Decision
from blurify.sites import Kind, Reason, Site


def carry_out(model: Any, decisions: Iterable[Decision], shapes: Shapes, folder: Path | None = None) -> None:
    """Rewrite the graph of a file as decided, in place.

    >>> carry_out(model, plan.rewritten, infer(model, {}))
    """
    names = Names(model)
    places = {path: scope for scope in scopes_of(model, folder) for path in scope.paths}
    edits: dict[int, Edit] = {}
    for decision in decisions:
        scope = places[decision.site]
        edit = edits.setdefault(scope.number, Edit(scope, shapes, names))
        node = edit.node(decision.site)
        REWRITES[node.op_type](edit, node, decision)
    # The innermost first, since a graph is copied with all inside it.
    for _, edit in sorted(edits.items(), reverse=True):
        edit.finish()


def refusal(decision: Decision, node: Any, scope: Scope, shapes: Shapes) -> Reason | None:
    """Return why a site that is to be rewritten cannot be in this graph, if so."""
    if node.op_type not in REWRITES:
        return Reason.NO_OPERATOR
    if node.op_type == "Slice":
        edit = Edit(scope, shapes, None)  # type: ignore[arg-type]
        return None if sliced_axes(edit, node) else Reason.NOT_SPATIAL
    window = window_of(node, scope)
    if window is None or decision.kind is Kind.UPSAMPLE:
        return None
    if not depends_on_size(window) or _is_sized(node, scope, shapes):
        return None
    if scope.opset < COMPUTED_PADS:
        return Reason.OLD_OPSET
    wide = decision.kind is Kind.AVG and averaging(decision, window.begin, window.end) is None
    odd = decision.kind is Kind.AVG and decision.pad_type in ("circular", "zero-renorm")
    return Reason.OPEN_SIZE if wide or odd else None


def _is_sized(node: Any, scope: Scope, shapes: Shapes) -> bool:
    dims = shapes.of(scope, node.input[0]).dims
    return dims is not None and None not in dims[2:]


def _window(edit: Edit, node: Any) -> Window:
    window = window_of(node, edit.scope)
    if window is None:
        raise AssertionError(f"{node.name} has no window")
    return window


def rewrite_conv(edit: Edit, node: Any, decision: Decision) -> None:
    """Make a convolution dense, and blur its map at the landing."""
    window = _window(edit, node)
    ones = (1,) * window.axes
    site = Site(Kind.CONV, window.kernel, window.stride, ones, ones)
    edit.forget_between(decision.site, decision.landing)
    sizes = dense_sizes(edit, node, window, site.dense_stride)
    zero = node.input[2] if node.op_type != "Conv" and len(node.input) > 2 else 0.0
    pad_plainly(edit, decision.site, node, window, zero)
    set_attribute(node, "strides", list(site.dense_stride))
    edit.blur_behind(decision, decision.landing, filtering(decision, site.blur_stride), sizes)


def rewrite_max(edit: Edit, node: Any, decision: Decision) -> None:
    """Make a max pooling dense, and blur its maxima; indices stay those of the strided one."""
    window = _window(edit, node)
    if len(node.output) > 1 and node.output[1]:
        original = type(node).FromString(node.SerializeToString())
        original.output[0] = edit.names.new(f"{node.output[0]}_strided")
        original.name = edit.names.new(f"{decision.site}/indices")
        edit.before[edit.scope.index[decision.site]].append(original)
        del node.output[1:]
        set_attribute(node, "storage_order", None)
    sizes = dense_sizes(edit, node, window)
    pad_plainly(edit, decision.site, node, window, LOWEST)
    set_attribute(node, "strides", [1] * window.axes)
    edit.blur_behind(decision, decision.site, filtering(decision, window.stride), sizes)


def rewrite_average(edit: Edit, node: Any, decision: Decision) -> None:
    """Put a blur in the place of an average, or behind the dense average where that is the wider one."""
    window = _window(edit, node)
    sizes = sizes_of(edit, node, window)
    begin, end = (window.begin, window.end) if sizes is None else window.padding(sizes)
    computed = sizes is None and depends_on_size(window)
    blur = averaging(decision, *(((0,) * window.axes,) * 2 if computed else (begin, end)))
    if blur is not None:
        _stand_in(edit, node, decision, blur, window if computed else None)
    elif not computed:
        dense = dense_sizes(edit, node, window)
        _make_average_dense(edit, node, decision, window, end)
        edit.blur_behind(decision, decision.site, mixing(decision, window.stride), dense)


def _stand_in(edit: Edit, node: Any, decision: Decision, blur: Filtering, computed: Window | None) -> None:
    writer, number = edit.writer(decision.site), edit.scope.index[decision.site]
    source, target = node.input[0], node.output[0]
    if computed is not None:
        blur = replace(blur, computed=computed_padding(writer, source, computed))
    value, example = edit.value(source), edit.example(source)
    if decision.strength == 1:
        edit.dropped.add(number)
        emit_blur(writer, source, target, blur, value, example)
    else:
        # Strength mixes what the average gives with what the blur gives.
        node.output[0] = edit.names.new(f"{target}_average")
        blurred = edit.names.new(f"{target}_blurred")
        emit_blur(writer, source, blurred, blur, value, example)
        kind = value.kind or FLOAT
        parts = ((node.output[0], 1 - decision.strength), (blurred, decision.strength))
        shares = [writer.emit("Mul", [name, writer.constant(share, kind)]) for name, share in parts]
        writer.emit("Add", shares, target)
    edit.behind[number] += writer.nodes


def _make_average_dense(edit: Edit, node: Any, decision: Decision, window: Window, end: tuple[int, ...]) -> None:
    """Average at stride 1. What ceil mode adds behind is never counted, even where the padding is."""
    more = [behind - before for behind, before in zip(end, window.end, strict=True)]
    if window.ceil_mode and any(more) and attribute(node, "count_include_pad", 0):
        writer = edit.writer(decision.site)
        zeros = [0, 0, *window.begin, 0, 0, *window.end]
        node.input[0] = writer.pad(node.input[0], zeros, "constant")
        edit.before[edit.scope.index[decision.site]] += writer.nodes
        set_attribute(node, "count_include_pad", 0)
        set_attribute(node, "pads", [*[0] * window.axes, *more])
        set_attribute(node, "ceil_mode", None)
    else:
        pad_plainly(edit, decision.site, node, window, 0.0)
    set_attribute(node, "strides", [1] * window.axes)


def rewrite_powers(edit: Edit, node: Any, decision: Decision) -> None:
    """Make a power-average pooling dense, and blur the powers."""
    window, power = _window(edit, node), float(attribute(node, "p", 2))
    sizes = dense_sizes(edit, node, window)
    pad_plainly(edit, decision.site, node, window, 0.0)
    set_attribute(node, "strides", [1] * window.axes)
    number, target = edit.scope.index[decision.site], node.output[0]
    value = edit.value(target)
    leading = (None, None) if value.dims is None else value.dims[:2]
    value, example = (Value(value.kind, (*leading, *each)) for each in sizes)
    writer = edit.writer(decision.site)
    node.output[0] = edit.names.new(f"{target}_dense")
    kind = value.kind or FLOAT
    powers = writer.emit("Pow", [node.output[0], writer.constant(power, kind)])
    blurred = edit.names.new(f"{target}_blurred")
    emit_blur(writer, powers, blurred, filtering(decision, window.stride), value, example)
    # A filter with negative taps may give less than nothing, which has no root.
    rooted = writer.emit("Relu", [blurred])
    writer.emit("Pow", [rooted, writer.constant(1 / power, kind)], target)
    edit.behind[number] += writer.nodes


def rewrite_slice(edit: Edit, node: Any, decision: Decision) -> None:
    """Blur a map before every second position of it is taken."""
    axes = sliced_axes(edit, node)
    edit.blur_before(decision, node, filtering(decision, (1,) * len(axes)), axes)


def sliced_axes(edit: Edit, node: Any) -> tuple[int, ...]:
    """Return the two axes that a slice steps over, itself or together with the slice that reads it."""
    scope, rank = edit.scope, len(edit.example(node.input[0]).dims or ())
    axes = stepped_axes(node, scope, rank)
    if len(axes) == 1:
        readers = [other for other in scope.graph.node if node.output[0] in other.input and other.op_type == "Slice"]
        axes += stepped_axes(readers[0], scope, rank) if len(readers) == 1 else ()
    return axes if len(axes) == 2 and axes[1] == axes[0] + 1 else ()


def rewrite_resize(edit: Edit, node: Any, decision: Decision) -> None:
    """Blur a map before it is shrunk, or after it has grown."""
    axes = len(decision.stride)
    if decision.kind is Kind.UPSAMPLE:
        known = (edit.value(node.output[0]).dims, edit.example(node.output[0]).dims)
        always, likely = (dims[2:] if dims else (None,) * axes for dims in known)
        edit.blur_behind(decision, decision.site, filtering(decision, (1,) * axes), (always, likely))
    else:
        edit.blur_before(decision, node, mixing(decision, (1,) * axes), tuple(range(2, 2 + axes)))


REWRITES: dict[str, Callable[[Edit, Any, Decision], None]] = {
    "Conv": rewrite_conv,
    "QLinearConv": rewrite_conv,
    "ConvInteger": rewrite_conv,
    "MaxPool": rewrite_max,
    "AveragePool": rewrite_average,
    "LpPool": rewrite_powers,
    "Slice": rewrite_slice,
    "Resize": rewrite_resize,
    "Upsample": rewrite_resize,
    "ConvTranspose": rewrite_resize,
    "DepthToSpace": rewrite_resize,
}
