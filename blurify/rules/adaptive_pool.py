"""An adaptive pool that shrinks a known size by a whole factor `r` is a pool of window and stride `r`.

What takes its place decides again at every size: by a whole factor it blurs, else it does what the adaptive pool does.
"""

from __future__ import annotations

from dataclasses import replace as replaced
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from blurify.graph.arguments import Signature, are_known, bind
from blurify.graph.edit import reads_only_the_first, unpack_first
from blurify.rules.base import Context, Replacement, Rule, refused_unless_exact
from blurify.rules.downsampler import Downsampler
from blurify.sites import Kind, Reason, Site

MODULES: dict[type[nn.Module], tuple[Kind, int]] = {
    nn.AdaptiveAvgPool1d: (Kind.AVG, 1),
    nn.AdaptiveAvgPool2d: (Kind.AVG, 2),
    nn.AdaptiveAvgPool3d: (Kind.AVG, 3),
    nn.AdaptiveMaxPool1d: (Kind.MAX, 1),
    nn.AdaptiveMaxPool2d: (Kind.MAX, 2),
    nn.AdaptiveMaxPool3d: (Kind.MAX, 3),
}
NAMES = ("input", "output_size", "return_indices")
aten = torch.ops.aten
# These always return a pair.
WITH_INDICES: dict[Any, tuple[Kind, int]] = {
    F.adaptive_max_pool1d_with_indices: (Kind.MAX, 1),
    F.adaptive_max_pool2d_with_indices: (Kind.MAX, 2),
    F.adaptive_max_pool3d_with_indices: (Kind.MAX, 3),
    aten.adaptive_max_pool1d.default: (Kind.MAX, 1),
    aten.adaptive_max_pool2d.default: (Kind.MAX, 2),
    aten.adaptive_max_pool3d.default: (Kind.MAX, 3),
}
FUNCTIONS: dict[Any, tuple[Kind, int]] = WITH_INDICES | {
    F.adaptive_avg_pool1d: (Kind.AVG, 1),
    F.adaptive_avg_pool2d: (Kind.AVG, 2),
    F.adaptive_avg_pool3d: (Kind.AVG, 3),
    F.adaptive_max_pool1d: (Kind.MAX, 1),
    F.adaptive_max_pool2d: (Kind.MAX, 2),
    F.adaptive_max_pool3d: (Kind.MAX, 3),
    aten.adaptive_avg_pool1d.default: (Kind.AVG, 1),
    aten.adaptive_avg_pool2d.default: (Kind.AVG, 2),
    aten.adaptive_avg_pool3d.default: (Kind.AVG, 3),
}


def arguments(node: fx.Node, module: Any) -> tuple[Kind, int, Any, bool] | None:
    """Kind, axes, output size of an adaptive pool, and whether it returns a pair; None for all else."""
    known = next((known for kind, known in MODULES.items() if isinstance(module, kind)), None)
    if known is not None:
        return *known, module.output_size, bool(getattr(module, "return_indices", False))
    if node.op != "call_function" or node.target not in FUNCTIONS:
        return None
    kind, axes = FUNCTIONS[node.target]
    given = bind(node, Signature(axes, NAMES))
    return kind, axes, given["output_size"], bool(given.get("return_indices")) or node.target in WITH_INDICES


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise an adaptive pool that shrinks and leaves more than one position."""
    known = arguments(node, module)
    if known is None:
        return None
    site = _sized(*known, node, context)
    return site if module is None else refused_unless_exact(site, module, MODULES)


def _sized(kind: Kind, axes: int, size: Any, pair: bool, node: fx.Node, context: Context) -> Site | None:
    if not are_known(size):
        return Site(kind, (), (1,) * axes, (), (), refusal=Reason.DYNAMIC)
    wanted = tuple(size) * (axes // len(size)) if isinstance(size, (tuple, list)) else (size,) * axes
    if all(w == 1 for w in wanted):
        return None
    refusal = Reason.RETURNS_INDICES if pair and not reads_only_the_first(node) else None
    return _site(kind, wanted, context.shapes(node)[0], refusal)


def _site(
    kind: Kind, wanted: tuple[int | None, ...], shape: tuple[int, ...] | None, refusal: Reason | None
) -> Site | None:
    axes = len(wanted)
    if shape is None:
        return Site(kind, (), (1,) * axes, (), (), refusal=refusal or Reason.UNKNOWN_SIZE, output_size=wanted)
    spatial = shape[-axes:]
    sizes = tuple(n if w is None else w for n, w in zip(spatial, wanted, strict=True))
    if all(n <= w for n, w in zip(spatial, sizes, strict=True)):
        return None
    whole = all(n % w == 0 and n > w for n, w in zip(spatial, sizes, strict=True))
    if not whole:
        return Site(kind, (), (1,) * axes, (), (), refusal=refusal or Reason.UNEVEN, output_size=wanted)
    window = tuple(n // w for n, w in zip(spatial, sizes, strict=True))
    nothing, ones = (0,) * axes, (1,) * axes
    return Site(kind, window, window, nothing, ones, refusal=refusal, output_size=wanted)


def replace(node: fx.Node, module: Any, site: Site, down: Downsampler) -> Replacement:
    """Return one layer that blurs and subsamples where it can."""
    known = arguments(node, module)
    if known is not None and known[3]:
        unpack_first(node)
    return Replacement(down.in_place_of_adaptive_pool(site), None)


def as_decided(site: Site, decided: Site) -> Site:
    """Return the pool with the stride that shapes told, for which its filter is made."""
    return replaced(site, stride=decided.stride)


RULE = Rule(recognise, replace, as_decided=as_decided)
