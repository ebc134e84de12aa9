"""`F.interpolate` that shrinks samples between positions without a low-pass, unless it is told `antialias=True`.

Bilinear and bicubic have that flag, whose triangle or cubic widens with the factor; the other modes are blurred first.
Nearest upsampling is the opposite case: what it repeats is smoothed after, on request.
"""

from __future__ import annotations

from dataclasses import replace as replaced
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from blurify.graph.arguments import Signature, are_known, bind
from blurify.rules.base import Context, Replacement, Rule, refused_unless_exact
from blurify.rules.downsampler import Downsampler
from blurify.rules.upsample import is_smoothed_after
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
# What `torch.export` makes of each mode, by number of axes; both overloads of each.
MODES: dict[str, tuple[str, int]] = {
    **{f"upsample_nearest{n}d": ("nearest", n) for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": ("nearest-exact", n) for n in (1, 2, 3)},
    "upsample_linear1d": ("linear", 1),
    "upsample_bilinear2d": ("bilinear", 2),
    "upsample_bicubic2d": ("bicubic", 2),
    "upsample_trilinear3d": ("trilinear", 3),
    "_upsample_bilinear2d_aa": ("bilinear", 2),
    "_upsample_bicubic2d_aa": ("bicubic", 2),
    "_upsample_lanczos2d_aa": ("lanczos", 2),
}
# Both of the others are `Upsample` by another name.
MODULES = (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
AXES_OF_MODE = {"linear": 1, "trilinear": 3}


def arguments(node: fx.Node, module: Any) -> dict[str, Any] | None:
    """Return the arguments of a resize, by the names of `F.interpolate`; None for all else."""
    if isinstance(module, nn.Upsample):
        return {name: getattr(module, name, None) for name in NAMES[1:]}
    if node.op != "call_function":
        return None
    if node.target in FUNCTIONS:
        return bind(node, Signature(0, NAMES))
    target = node.target
    if isinstance(target, torch._ops.OpOverload) and target.overloadpacket.__name__ in MODES:
        return _of_operator(node, target) if target.namespace == "aten" else None
    return None


def _of_operator(node: fx.Node, target: torch._ops.OpOverload) -> dict[str, Any]:
    name = target.overloadpacket.__name__
    mode, axes = MODES[name]
    given = bind(node, Signature(axes, tuple(argument.name for argument in target._schema.arguments)))
    # One overload has a list of factors *or* a size, the other a size *and* factors, which then rule the grid.
    single = [factor for key, factor in given.items() if key.startswith("scales") and factor is not None]
    factors = given.get("scale_factors") or (single if len(single) == axes else None)
    return {
        "size": None if factors else given["output_size"],
        "scale_factor": factors,
        "mode": mode,
        "align_corners": given.get("align_corners"),
        "antialias": name.endswith("_aa"),
    }


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise a resize: one that shrinks, or a nearest one that grows."""
    given = arguments(node, module)
    site = None if given is None else _resized(node, given, context)
    return site if module is None else refused_unless_exact(site, module, MODULES)


def _resized(node: fx.Node, given: dict[str, Any], context: Context) -> Site | None:
    mode = given.get("mode") or "nearest"
    fed, gives = context.shapes(node)
    axes = axes_of(given, fed)
    if given.get("antialias") or mode == "area":
        return _site(Kind.RESIZE, (2,) * axes, Reason.ALREADY_ANTIALIASED)
    factors = shrink_factors(given, axes, fed, gives)
    if factors is None:
        return _site(Kind.RESIZE, (1,) * axes, Reason.UNKNOWN_SIZE)
    if max(factors) > 1:
        return _site(Kind.RESIZE, tuple(max(round(f), 2) if f > 1 else 1 for f in factors), None)
    if min(factors) < 1 and mode.startswith("nearest"):
        growth = tuple(max(round(1 / f), 2) if f < 1 else 1 for f in factors)
        return _site(
            Kind.UPSAMPLE, growth, Reason.ALREADY_ANTIALIASED if is_smoothed_after(node, growth, context) else None
        )
    return None


def _site(kind: Kind, stride: tuple[int, ...], refusal: Reason | None) -> Site:
    ones = (1,) * len(stride)
    return Site(kind, ones, stride, (0,) * len(stride), ones, refusal=refusal)


def axes_of(given: dict[str, Any], fed: tuple[int, ...] | None) -> int:
    """Return the number of spatial axes: by what is fed, else by what was written, else those of an image."""
    if fed is not None:
        return len(fed) - 2
    for written in (given.get("scale_factor"), given.get("size")):
        if isinstance(written, (tuple, list)):
            return len(written)
    return AXES_OF_MODE.get(given.get("mode") or "nearest", 2)


def shrink_factors(
    given: dict[str, Any], axes: int, fed: tuple[int, ...] | None, gives: tuple[int, ...] | None
) -> tuple[float, ...] | None:
    """Return by how much each spatial axis shrinks (below 1 where it grows); None where it is not known."""
    if fed is not None and gives is not None:
        return tuple(n / w for n, w in zip(fed[2:], gives[2:], strict=True))
    scale = given.get("scale_factor")
    if scale is None or not are_known(scale):
        return None
    return tuple(1 / float(s) for s in scale) if isinstance(scale, (tuple, list)) else (1 / float(scale),) * axes


def is_smooth(node: fx.Node, module: Any) -> bool:
    """Return whether a node is a resize whose mode has an antialiased form, which keeps the grid."""
    given = arguments(node, module)
    return given is not None and given.get("mode") in ("bilinear", "bicubic")


def replace(node: fx.Node, module: Any, site: Site, down: Downsampler) -> Replacement:
    """Return the antialiased resize in the place of a shrinking one; a blur after a growing one."""
    if site.kind is Kind.UPSAMPLE:
        return Replacement(None, down.after_growth(site))
    given = arguments(node, module) or {}
    source = node.args[0] if node.args else node.kwargs["input"]
    node.args, node.kwargs = (source,), {name: given[name] for name in NAMES[1:6] if name in given}
    return Replacement(down.in_place_of_resize(site), None, all_arguments=True)


def as_decided(site: Site, decided: Site) -> Site:
    """Return the resize with its direction and its axes, which shapes told."""
    resizes = decided.kind in (Kind.RESIZE, Kind.UPSAMPLE)
    return replaced(site, kind=decided.kind, stride=decided.stride) if resizes else site


RULE = Rule(recognise, replace, as_decided=as_decided)
