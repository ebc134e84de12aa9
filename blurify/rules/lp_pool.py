"""LPPool(p, k, s) is the p-th root of k^n times AvgPool(k, s) of x^p: blur the powers instead of averaging them.

The root acts on every position alone, so with one tap this is the pool itself. It is also what `torch.export` makes of
the pool, so the front-ends agree; and L2 pooling by a smooth window is Henaff and Simoncelli's (ICLR 2016). Where p is
infinite the pool is a maximum of magnitudes, and is blurred after it.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from blurify.graph.arguments import Signature, are_known, bind
from blurify.rules.base import Context, Replacement, Rule, axes_of, refused_unless_exact
from blurify.rules.downsampler import Downsampler
from blurify.sites import Kind, Reason, Site, per_axis

MODULES: dict[type[nn.Module], int] = {nn.LPPool1d: 1, nn.LPPool2d: 2, nn.LPPool3d: 3}
NAMES = ("input", "norm_type", "kernel_size", "stride", "ceil_mode")
FUNCTIONS: dict[Any, int] = {F.lp_pool1d: 1, F.lp_pool2d: 2, F.lp_pool3d: 3}


def arguments(node: fx.Node, module: Any) -> tuple[int, dict[str, Any]]:
    """Return the spatial axes of a power-average pooling and what it was given; no axes for all else."""
    axes = axes_of(module, MODULES)
    if axes:
        return axes, {name: getattr(module, name) for name in NAMES[1:]}
    axes = FUNCTIONS.get(node.target, 0) if node.op == "call_function" else 0
    return axes, bind(node, Signature(axes, NAMES)) if axes else {}


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise a strided power-average pooling."""
    axes, given = arguments(node, module)
    if not axes:
        return None
    window = (given["kernel_size"], given.get("stride") or given["kernel_size"])
    if not are_known(*window, given["norm_type"]):
        return Site(Kind.AVG, (), (1,) * axes, (), (), refusal=Reason.DYNAMIC)
    kernel_size, stride = (per_axis(value, axes) for value in window)
    if max(stride) == 1:
        return None
    kind = Kind.MAX if math.isinf(given["norm_type"]) else Kind.AVG
    nothing, ones = (0,) * axes, (1,) * axes
    site = Site(kind, kernel_size, stride, nothing, ones, ceil_mode=bool(given.get("ceil_mode")))
    return site if module is None else refused_unless_exact(site, module, MODULES)


def replace(node: fx.Node, module: Any, site: Site, down: Downsampler) -> Replacement:
    """Return one layer that raises to the power, blurs and subsamples, and takes the root."""
    norm_type = arguments(node, module)[1]["norm_type"]
    return Replacement(down.in_place_of_power_average(site, norm_type), None)


RULE = Rule(recognise, replace)
