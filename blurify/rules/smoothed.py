"""Foreign blurs at stride 1 before an op that strides: nothing is left there that could be folded back."""

from __future__ import annotations

from typing import Any

from torch import fx, nn
from torch.nn.modules import padding

from blurify.graph.arguments import Signature, bind
from blurify.graph.paths import name_of
from blurify.layers import Blur
from blurify.rules.base import Context
from blurify.rules.conv import signature_of
from blurify.rules.low_pass import fixed_taps, smoothed_axes
from blurify.sites import per_axis
from blurify.tracing.leaves import is_foreign_blur

# What may stand between the filter and the op that strides: padding, and what leaves values as they are.
BETWEEN = frozenset(
    "contiguous clone detach to float half type_as _to_copy view reshape squeeze unsqueeze identity".split()
)
AXES = frozenset(range(3))
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def is_smoothed(node: fx.Node, stride: tuple[int, ...], context: Context) -> bool:
    """Return whether what a node reads was low-passed along all axes that it steps over."""
    wanted = {axis for axis, step in enumerate(stride) if step > 1}
    source, found = _source(node), set[int]()
    while source is not None and not wanted <= found:
        axes = filtered_axes(source, context.root, len(stride))
        if not axes and not is_between(source, context.root):
            return False
        found |= axes
        source = _source(source)
    return wanted <= found


def filtered_axes(node: fx.Node, root: nn.Module, axes: int) -> frozenset[int]:
    """Return the spatial axes along which a node is a low-pass at stride 1."""
    if node.op == "call_module":
        return _of_module(root.get_submodule(str(node.target)), axes)
    signature = signature_of(node)
    if signature is None or signature.axes != axes:
        return frozenset()
    return _of_function(node, signature, root)


def _of_module(module: nn.Module, axes: int) -> frozenset[int]:
    if isinstance(module, Blur):
        return frozenset(axis for axis, taps in enumerate(module.filt_size) if taps > 1)
    if is_foreign_blur(module):
        return AXES
    if isinstance(module, AVERAGES):
        # A box of two, at stride 1: an odd one lets too much through.
        windows, steps = (per_axis(value, axes) for value in (module.kernel_size, module.stride))
        return frozenset(axis for axis in range(axes) if windows[axis] % 2 == 0 and max(steps) == 1)
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or len(module.kernel_size) != axes:
        return frozenset()
    plain = max(module.stride) == 1 and module.bias is None and module.groups == module.weight.shape[0]
    return smoothed_axes(module.weight, axes) if plain else frozenset()


def _of_function(node: fx.Node, signature: Signature, root: nn.Module) -> frozenset[int]:
    given = bind(node, signature)
    stride: Any = given.get("stride", 1)
    if given.get("bias") is not None or isinstance(stride, fx.Node) or max(per_axis(stride, signature.axes)) > 1:
        return frozenset()
    return smoothed_axes(fixed_taps(given["weight"], root), signature.axes)


def _source(node: fx.Node) -> fx.Node | None:
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if isinstance(first, fx.Node) else None


def is_between(node: fx.Node, root: nn.Module) -> bool:
    """Return whether a node may stand between a low-pass and what it serves."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return isinstance(module, nn.Identity) or type(module).__module__ == padding.__name__
    return name_of(node) in BETWEEN or "pad" in name_of(node) or _crops(node)


def _crops(node: fx.Node) -> bool:
    """Return whether a node cuts out a part of a map, without a step."""
    if name_of(node) == "slice":
        return len(node.args) < 5 or bool(node.args[4] == 1)
    index = node.args[1] if name_of(node) == "getitem" else None
    parts = index if isinstance(index, tuple) else (None,)
    return all(part is Ellipsis or (isinstance(part, slice) and part.step in (None, 1)) for part in parts)
