"""AvgPool(k, s) is a box blur, subsampled by s: a better blur takes its place.

A filter at least as wide as the window replaces the average outright, centred on the window. A narrower one would blur
less than the average did, so the dense average stays before it. Both are `AvgBlurPool`, one node.
"""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from blurify.layers import AVG_BLUR_POOLS, SAME_BLUR_POOLS
from blurify.rules.base import Parts, Rule, with_stride
from blurify.rules.same import SAME_AVG_POOLS
from blurify.sites import Kind, Reason, Site, per_axis

MODULES: dict[type[nn.Module], int] = {nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3}


def recognise(node: fx.Node, module: Any) -> Site | None:
    """Normalise a strided average pooling module."""
    same = type(module).__name__ in SAME_AVG_POOLS
    axes = 2 if same else MODULES.get(type(module), 0)
    if not axes:
        return None
    site = Site(
        kind=Kind.AVG,
        kernel_size=per_axis(module.kernel_size, axes),
        stride=per_axis(module.stride, axes),
        padding=per_axis(module.padding, axes),
        dilation=(1,) * axes,
        ceil_mode=bool(module.ceil_mode),
        count_include_pad=bool(module.count_include_pad),
        divisor_override=getattr(module, "divisor_override", None),
        same=same,
        refusal=Reason.ALREADY_ANTIALIASED if is_antialiasing(str(node.target)) else None,
    )
    return site if max(site.stride) > 1 else None


def is_antialiasing(path: str) -> bool:
    """Whether the pool is timm's `aa` layer: an average put after a stride-1 conv to subsample it."""
    return path.rsplit(".", 1)[-1] == "aa"


def replace(node: fx.Node, module: Any, site: Site, filt_size: tuple[int, ...], pad_type: str) -> Parts:
    """One layer that blurs and subsamples; for the SAME kinds the dense average, then the blur."""
    if site.same and module is not None:
        same = SAME_BLUR_POOLS[site.axes](site.kernel_size, site.stride, filt_size=filt_size, pad_type=pad_type)
        return Parts(with_stride(module, (1,) * site.axes), same)
    layer = AVG_BLUR_POOLS[site.axes](
        site.kernel_size,
        site.stride,
        site.padding,
        site.ceil_mode,
        site.count_include_pad,
        site.divisor_override,
        filt_size=filt_size,
        pad_type=pad_type,
    )
    return Parts(layer, None)


RULE = Rule(recognise, replace)
