"""MaxPool(k, s) is MaxPool(k, 1) subsampled by s, so the blur goes between them."""

from __future__ import annotations

from dataclasses import replace as replaced
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from blurify.graph.arguments import Signature, are_known, bind
from blurify.graph.edit import reads_only_the_first, unpack_first
from blurify.layers import DENSE_MAX_POOLS, INDEXED_MAX_POOLS
from blurify.positions import first_item
from blurify.rules.base import Context, Replacement, Rule, axes_of, refused_unless_exact, with_stride
from blurify.rules.downsampler import Downsampler
from blurify.rules.same import SAME_MAX_POOLS
from blurify.sites import Kind, Reason, Site, per_axis

MODULES: dict[type[nn.Module], int] = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}
NAMES = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
aten = torch.ops.aten
FUNCTIONS: dict[Any, Signature] = {
    **{f: Signature(1, NAMES) for f in (F.max_pool1d, torch.max_pool1d, aten.max_pool1d.default)},
    **{f: Signature(2, NAMES) for f in (F.max_pool2d, torch.max_pool2d, aten.max_pool2d.default)},
    **{f: Signature(3, NAMES) for f in (F.max_pool3d, torch.max_pool3d, aten.max_pool3d.default)},
}
FUNCTIONS_WITH_INDICES: dict[Any, Signature] = {
    **{f: Signature(1, NAMES) for f in (F.max_pool1d_with_indices, aten.max_pool1d_with_indices.default)},
    **{f: Signature(2, NAMES) for f in (F.max_pool2d_with_indices, aten.max_pool2d_with_indices.default)},
    **{f: Signature(3, NAMES) for f in (F.max_pool3d_with_indices, aten.max_pool3d_with_indices.default)},
}


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise a strided max pooling."""
    same = type(module).__name__ in SAME_MAX_POOLS
    axes = 2 if same else axes_of(module, MODULES)
    if axes:
        site = _site(node, axes, {name: getattr(module, name, None) for name in NAMES[1:]}, same)
        return site if same else refused_unless_exact(site, module, MODULES)
    signature = (FUNCTIONS | FUNCTIONS_WITH_INDICES).get(node.target) if node.op == "call_function" else None
    return None if signature is None else _site(node, signature.axes, bind(node, signature), False)


def _site(node: fx.Node, axes: int, given: dict[str, Any], same: bool) -> Site | None:
    window = [given["kernel_size"], given.get("stride") or given["kernel_size"]]
    window += [given.get("padding") or 0, given.get("dilation") or 1]
    if not are_known(*window):
        return Site(Kind.MAX, (), (1,) * axes, (), (), refusal=Reason.DYNAMIC)
    kernel_size, stride, padding, dilation = (per_axis(value, axes) for value in window)
    pair = bool(given.get("return_indices") or node.target in FUNCTIONS_WITH_INDICES)
    pair = pair and not reads_only_the_first(node)
    # Its values are blurred where they leave the pair.
    refusal = Reason.RETURNS_INDICES if pair and (same or first_item(node) is None) else None
    if max(stride) == 1:
        return None
    shape = Site(Kind.MAX, kernel_size, stride, padding, dilation, bool(given.get("ceil_mode")))
    return replaced(shape, same=same, refusal=refusal, pair=pair)


def replace(node: fx.Node, module: nn.Module | None, site: Site, down: Downsampler) -> Replacement:
    """Return the dense pool, then the blur."""
    window = (site.kernel_size, site.stride, site.padding, site.dilation, site.ceil_mode)
    if site.pair:
        return Replacement(INDEXED_MAX_POOLS[site.axes](*window), down.after_dense(site))
    pair = getattr(module, "return_indices", False) or bind(node, Signature(site.axes, NAMES)).get("return_indices")
    if pair or node.target in FUNCTIONS_WITH_INDICES:
        unpack_first(node)
    if site.same and module is not None:
        return Replacement(with_stride(module, (1,) * site.axes), down.after_dense(site))
    return Replacement(DENSE_MAX_POOLS[site.axes](*window), down.after_dense(site))


RULE = Rule(recognise, replace)
