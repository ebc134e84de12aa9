"""The window of a convolution or pooling, whichever way a node says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blurify.onnx.scopes import Scope, attribute


@dataclass(frozen=True)
class Window:
    """One entry per spatial axis. `same` is "" or the side, UPPER or LOWER, that has the larger part of SAME padding.

    `end` is what is padded behind, which need not be what is padded before, in `begin`.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    ceil_mode: bool = False
    same: str = ""

    @property
    def axes(self) -> int:
        """Return the number of spatial axes."""
        return len(self.kernel)

    @property
    def reach(self) -> tuple[int, ...]:
        """Return how many positions lie between the first and the last that a window reads."""
        return tuple(d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True))

    def padding(self, sizes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return what the op pads a map of these sizes by, before and behind, SAME and ceil mode worked out.

        Every `stride`-th window of the padded map, at stride 1, is then one of the op's own windows, and no other is.
        """
        pairs = [self._axis(axis, size) for axis, size in enumerate(sizes)]
        return tuple(before for before, _ in pairs), tuple(behind for _, behind in pairs)

    def _axis(self, axis: int, size: int) -> tuple[int, int]:
        stride, reach = self.stride[axis], self.reach[axis]
        if self.same:
            total = max((size - 1) // stride * stride + reach + 1 - size, 0)
            before = total // 2 if self.same == "UPPER" else total - total // 2
            return before, total - before
        before, behind = self.begin[axis], self.end[axis]
        if not self.ceil_mode:
            return before, behind
        lacking = -(size + before + behind - reach - 1) % stride
        # A window that would start in the padding behind is dropped.
        start = size + before + behind + lacking - reach - 1
        return before, behind + (lacking if start < size + before else 0)


def window_of(node: Any, scope: Scope) -> Window | None:
    """Return the window of a node; None where the file does not say it."""
    kernel = attribute(node, "kernel_shape")
    if kernel is None:
        place = 3 if node.op_type == "QLinearConv" else 1
        weight = scope.constant(node.input[place]) if len(node.input) > place else None
        # Of weights that are computed only the number of axes is known.
        kernel = weight.dims[2:] if weight is not None else [1] * len(attribute(node, "strides", ()))
    if not kernel:
        return None
    axes = len(kernel)
    ones = [1] * axes
    pads = attribute(node, "pads") or [0] * (2 * axes)
    auto = attribute(node, "auto_pad", "NOTSET")
    strides, dilations = attribute(node, "strides") or ones, attribute(node, "dilations") or ones
    if (len(strides), len(dilations), len(pads)) != (axes, axes, 2 * axes):
        return None
    if auto != "NOTSET":
        pads = [0] * (2 * axes)
    return Window(
        tuple(kernel),
        tuple(strides),
        tuple(dilations),
        tuple(pads[:axes]),
        tuple(pads[axes:]),
        bool(attribute(node, "ceil_mode", 0)),
        auto.removeprefix("SAME_") if auto.startswith("SAME_") else "",
    )
