"""A transposed conv with a stride puts zeros between positions, and so makes copies of the spectrum: blur after it.

Zhang advises it for generators and U-Nets; it is done on request.
"""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from blurify.decision import Blurring
from blurify.layers import BLUR_POOLS
from blurify.rules.base import Context, Parts, Rule, axes_of, refused_unless_exact
from blurify.rules.smoothed import filtered_axes
from blurify.sites import Kind, Reason, Site, per_axis

MODULES: dict[type[nn.Module], int] = {nn.ConvTranspose1d: 1, nn.ConvTranspose2d: 2, nn.ConvTranspose3d: 3}


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise a strided transposed conv."""
    axes = axes_of(module, MODULES)
    if not axes or max(per_axis(module.stride, axes)) == 1:
        return None
    site = Site(
        Kind.UPSAMPLE,
        per_axis(module.kernel_size, axes),
        per_axis(module.stride, axes),
        per_axis(module.padding, axes),
        per_axis(module.dilation, axes),
        refusal=Reason.ALREADY_ANTIALIASED if is_smoothed_after(node, per_axis(module.stride, axes), context) else None,
    )
    return refused_unless_exact(site, module, MODULES)


def is_smoothed_after(node: fx.Node, stride: tuple[int, ...], context: Context) -> bool:
    """Whether the only reader of an upsampling is a blur, along all axes that grow."""
    readers = list(node.users)
    grows = {axis for axis, step in enumerate(stride) if step > 1}
    return len(readers) == 1 and grows <= filtered_axes(readers[0], context.root, len(stride))


def replace(node: fx.Node, module: Any, site: Site, blurring: Blurring) -> Parts:
    """A blur at stride 1 after the upsampling."""
    return Parts(None, BLUR_POOLS[site.axes](None, stride=1, **blurring))


RULE = Rule(recognise, replace)
