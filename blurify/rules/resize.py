"""`F.interpolate` that shrinks samples between positions without a low-pass, unless it is told `antialias=True`.

Bilinear and bicubic have that flag, whose triangle or cubic widens with the factor; the other modes are blurred first.
Nearest upsampling is the opposite case: what it repeats is smoothed after, on request.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from blurify.layers import BLUR_POOLS, AntialiasedResize
from blurify.rules.arguments import Signature, are_known, bind
from blurify.rules.base import Context, Parts, Rule
from blurify.rules.upsample import is_smoothed
from blurify.sites import Kind, Reason, Site

NAMES = (
    "input",
    "size",
    "scale_factor",
    "mode",
    "align_corners",
    "recompute_scale_factor",
    "antialias",
)
FUNCTIONS = frozenset({F.interpolate, F.upsample})


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise a resize: one that shrinks, or a nearest one that grows."""
    if type(module) is nn.Upsample:
        given = {name: getattr(module, name, None) for name in NAMES[1:]}
    elif node.op == "call_function" and node.target in FUNCTIONS:
        given = bind(node, Signature(0, NAMES))
    else:
        return None
    mode = given.get("mode") or "nearest"
    if given.get("antialias") or mode == "area":
        return _site(Kind.RESIZE, (2, 2), Reason.ALREADY_ANTIALIASED)
    factors = shrink_factors(given, *context.shapes(node))
    if factors is None:
        return _site(Kind.RESIZE, (1, 1), Reason.UNKNOWN_SIZE)
    if max(factors) > 1:
        return _site(Kind.RESIZE, tuple(max(round(f), 2) if f > 1 else 1 for f in factors), None)
    if min(factors) < 1 and mode.startswith("nearest"):
        growth = tuple(max(round(1 / f), 2) if f < 1 else 1 for f in factors)
        return _site(Kind.UPSAMPLE, growth, Reason.ALREADY_ANTIALIASED if is_smoothed(node, context) else None)
    return None


def _site(kind: Kind, stride: tuple[int, ...], refusal: Reason | None) -> Site:
    ones = (1,) * len(stride)
    return Site(kind, ones, stride, (0,) * len(stride), ones, refusal=refusal)


def shrink_factors(
    given: dict[str, Any], fed: tuple[int, ...] | None, gives: tuple[int, ...] | None
) -> tuple[float, ...] | None:
    """By how much each spatial axis shrinks (below 1 where it grows); None where it is not known."""
    if fed is not None and gives is not None:
        return tuple(n / w for n, w in zip(fed[2:], gives[2:], strict=True))
    scale = given.get("scale_factor")
    if scale is None or not are_known(scale):
        return None
    return tuple(1 / float(s) for s in scale) if isinstance(scale, (tuple, list)) else (1 / float(scale),) * 2


def replace(node: fx.Node, module: Any, site: Site, filt_size: tuple[int, ...], pad_type: str) -> Parts:
    """The antialiased resize in the place of a shrinking one; a blur after a growing one."""
    if site.kind is Kind.UPSAMPLE:
        return Parts(None, BLUR_POOLS[site.axes](None, pad_type, filt_size, 1))
    if module is not None:
        given = {name: getattr(module, name, None) for name in NAMES[1:6]}
    else:
        given = {name: value for name, value in bind(node, Signature(0, NAMES)).items() if name in NAMES[1:6]}
    source = node.args[0] if node.args else node.kwargs["input"]
    node.args, node.kwargs = (source,), given
    return Parts(AntialiasedResize(filt_size, pad_type), None, all_arguments=True)


RULE = Rule(recognise, replace)
