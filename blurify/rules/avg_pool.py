"""AvgPool(k, s) is a box blur, subsampled by s: a better blur takes its place.

A filter at least as wide as the window replaces the average outright, centred on the window. A narrower one would blur
less than the average did, so the dense average stays before it. Both are `AvgBlurPool`, one node.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from blurify.graph.arguments import Signature, are_known, bind
from blurify.rules.base import Context, Replacement, Rule, axes_of, refused_unless_exact, with_stride
from blurify.rules.downsampler import Downsampler
from blurify.rules.same import SAME_AVG_POOLS
from blurify.sites import Kind, Reason, Site, per_axis

MODULES: dict[type[nn.Module], int] = {nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3}
NAMES = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
aten = torch.ops.aten
FUNCTIONS: dict[Any, Signature] = {
    **{f: Signature(1, NAMES[:-1]) for f in (F.avg_pool1d, torch.avg_pool1d, aten.avg_pool1d.default)},
    **{f: Signature(2, NAMES) for f in (F.avg_pool2d, aten.avg_pool2d.default)},
    **{f: Signature(3, NAMES) for f in (F.avg_pool3d, aten.avg_pool3d.default)},
}


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise a strided average pooling."""
    same = type(module).__name__ in SAME_AVG_POOLS
    axes = 2 if same else axes_of(module, MODULES)
    if axes:
        site = _site(node, axes, {name: getattr(module, name, None) for name in NAMES[1:]}, same)
        return site if same else refused_unless_exact(site, module, MODULES)
    signature = FUNCTIONS.get(node.target) if node.op == "call_function" else None
    return None if signature is None else _site(node, signature.axes, bind(node, signature), False)


def _site(node: fx.Node, axes: int, given: dict[str, Any], same: bool) -> Site | None:
    window = [given["kernel_size"], given.get("stride") or given["kernel_size"], given.get("padding") or 0]
    if not are_known(*window):
        return Site(Kind.AVG, (), (1,) * axes, (), (), refusal=Reason.DYNAMIC)
    kernel_size, stride, padding = (per_axis(value, axes) for value in window)
    if max(stride) == 1:
        return None
    return Site(
        Kind.AVG,
        kernel_size,
        stride,
        padding,
        dilation=(1,) * axes,
        ceil_mode=bool(given.get("ceil_mode")),
        count_include_pad=bool(given.get("count_include_pad", True)),
        divisor_override=given.get("divisor_override"),
        same=same,
        refusal=Reason.ALREADY_ANTIALIASED if is_antialiasing(str(node.meta.get("path", node.target))) else None,
    )


def is_antialiasing(path: str) -> bool:
    """Return whether the pool is timm's `aa` layer: an average put after a stride-1 conv to subsample it."""
    return path.rsplit(".", 1)[-1] == "aa"


def replace(node: fx.Node, module: Any, site: Site, down: Downsampler) -> Replacement:
    """Return one layer that blurs and subsamples; for the SAME kinds the dense average, then the blur."""
    if site.same and module is not None:
        return Replacement(with_stride(module, (1,) * site.axes), down.after_dense(site))
    return Replacement(down.in_place_of_average(site), None)


RULE = Rule(recognise, replace)
