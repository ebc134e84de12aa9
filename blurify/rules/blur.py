"""Blur layers, ours and others': the network is antialiased there already, so they are seen and left alone."""

from __future__ import annotations

from typing import Any

from torch import fx

from blurify.layers import AntialiasedResize, Blur, _AdaptiveBlurPool, _MaxBlurPool
from blurify.rules.base import Context, Rule, never
from blurify.sites import Kind, Reason, Site, per_axis
from blurify.tracing.leaves import is_foreign_blur


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise a blur layer that subsamples."""
    if isinstance(module, _MaxBlurPool):
        module = module.blur_pool
    if module is None or not (isinstance(module, Blur) or is_foreign_blur(module)):
        return None
    axes = module.axes if isinstance(module, Blur) else 2
    stride = per_axis(getattr(module, "stride", 2), axes)
    # These choose their stride by the size of what they are given.
    by_size = isinstance(module, (AntialiasedResize, _AdaptiveBlurPool))
    if max(stride) == 1 and not by_size:
        return None
    filt_size = getattr(module, "filt_size", getattr(module, "kernel_size", 3))
    ones = (1,) * axes
    return Site(
        kind=Kind.BLUR,
        kernel_size=per_axis(filt_size, axes),
        stride=stride,
        padding=(0,) * axes,
        dilation=ones,
        refusal=Reason.ALREADY_ANTIALIASED,
    )


RULE = Rule(recognise, never)
