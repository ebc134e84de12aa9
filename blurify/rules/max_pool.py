"""MaxPool(k, s) is MaxPool(k, 1) subsampled by s, so the blur goes between them."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from blurify.layers import BLUR_POOLS, DENSE_MAX_POOLS, SAME_BLUR_POOLS
from blurify.rules.base import Parts, Rule, with_stride
from blurify.rules.same import SAME_MAX_POOLS
from blurify.sites import Kind, Reason, Site, per_axis

MODULES: dict[type[nn.Module], int] = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}


def recognise(node: fx.Node, module: Any) -> Site | None:
    """Normalise a strided max pooling module."""
    same = type(module).__name__ in SAME_MAX_POOLS
    axes = 2 if same else MODULES.get(type(module), 0)
    if not axes:
        return None
    site = Site(
        kind=Kind.MAX,
        kernel_size=per_axis(module.kernel_size, axes),
        stride=per_axis(module.stride, axes),
        padding=per_axis(module.padding, axes),
        dilation=per_axis(module.dilation, axes),
        ceil_mode=bool(module.ceil_mode),
        same=same,
        refusal=Reason.RETURNS_INDICES if getattr(module, "return_indices", False) else None,
    )
    return site if max(site.stride) > 1 else None


def replace(node: fx.Node, module: Any, site: Site, filt_size: tuple[int, ...], pad_type: str) -> Parts:
    """The dense pool, then the blur."""
    if site.same and module is not None:
        same = SAME_BLUR_POOLS[site.axes]
        blur = same(site.kernel_size, site.stride, site.dilation, filt_size=filt_size, pad_type=pad_type)
        return Parts(with_stride(module, (1,) * site.axes), blur)
    dense = DENSE_MAX_POOLS[site.axes](site.kernel_size, site.stride, site.padding, site.dilation, site.ceil_mode)
    return Parts(dense, BLUR_POOLS[site.axes](None, pad_type, filt_size, site.stride))


RULE = Rule(recognise, replace)
