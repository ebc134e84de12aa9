"""A transposed conv with a stride puts zeros between positions, and so makes copies of the spectrum: blur after it.

Zhang advises it for generators and U-Nets; it is done on request.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from blurify.graph.arguments import Signature, are_known, bind
from blurify.rules.base import Context, Replacement, Rule, axes_of, refused_unless_exact
from blurify.rules.downsampler import Downsampler
from blurify.rules.smoothed import filtered_axes, is_between
from blurify.sites import Kind, Reason, Site, per_axis

MODULES: dict[type[nn.Module], int] = {nn.ConvTranspose1d: 1, nn.ConvTranspose2d: 2, nn.ConvTranspose3d: 3}
NAMES = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
aten = torch.ops.aten
FUNCTIONS: dict[Any, int] = {
    **dict.fromkeys((F.conv_transpose1d, aten.conv_transpose1d.default), 1),
    **dict.fromkeys((F.conv_transpose2d, aten.conv_transpose2d.input), 2),
    **dict.fromkeys((F.conv_transpose3d, aten.conv_transpose3d.input), 3),
}


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise a strided transposed conv."""
    axes = axes_of(module, MODULES)
    if axes:
        kernel_size, stride = per_axis(module.kernel_size, axes), per_axis(module.stride, axes)
        return refused_unless_exact(_site(node, kernel_size, stride, context), module, MODULES)
    axes = FUNCTIONS.get(node.target, 0) if node.op == "call_function" else 0
    if not axes:
        return None
    stride = bind(node, Signature(axes, NAMES)).get("stride", 1)
    if not are_known(stride):
        return Site(Kind.UPSAMPLE, (), (1,) * axes, (), (), refusal=Reason.DYNAMIC)
    return _site(node, (), per_axis(stride, axes), context)


def _site(node: fx.Node, kernel_size: tuple[int, ...], stride: tuple[int, ...], context: Context) -> Site | None:
    if max(stride) == 1:
        return None
    smoothed = Reason.ALREADY_ANTIALIASED if is_smoothed_after(node, stride, context) else None
    nothing, ones = (0,) * len(stride), (1,) * len(stride)
    return Site(Kind.UPSAMPLE, kernel_size, stride, nothing, ones, refusal=smoothed)


def is_smoothed_after(node: fx.Node, stride: tuple[int, ...], context: Context) -> bool:
    """Return whether the only reader of an upsampling, but for padding, is a blur along all axes that grow."""
    grows = {axis for axis, step in enumerate(stride) if step > 1}
    while len(node.users) == 1:
        (node,) = node.users
        axes = filtered_axes(node, context.root, len(stride))
        if axes or not is_between(node, context.root):
            return grows <= axes
    return False


def replace(node: fx.Node, module: Any, site: Site, down: Downsampler) -> Replacement:
    """Return a blur at stride 1 after the upsampling."""
    return Replacement(None, down.after_growth(site))


RULE = Rule(recognise, replace)
