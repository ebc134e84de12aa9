"""A fractional max pool draws its windows at random, so it is no dense pool subsampled on a grid: it is kept."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from blurify.graph.arguments import Signature, are_known, bind
from blurify.rules.base import Context, Rule, axes_of, never
from blurify.sites import Kind, Reason, Site, per_axis

MODULES: dict[type[nn.Module], int] = {nn.FractionalMaxPool2d: 2, nn.FractionalMaxPool3d: 3}
aten = torch.ops.aten
FUNCTIONS: dict[Any, int] = {
    F.fractional_max_pool2d: 2,
    F.fractional_max_pool2d_with_indices: 2,
    aten.fractional_max_pool2d.default: 2,
    F.fractional_max_pool3d: 3,
    F.fractional_max_pool3d_with_indices: 3,
    aten.fractional_max_pool3d.default: 3,
}


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise a fractional pooling; its stride is no whole number and stands as 1."""
    axes = axes_of(module, MODULES)
    if axes:
        kernel_size = module.kernel_size
    elif node.op == "call_function" and node.target in FUNCTIONS:
        axes = FUNCTIONS[node.target]
        kernel_size = bind(node, Signature(axes, ("input", "kernel_size")))["kernel_size"]
    else:
        return None
    window = per_axis(kernel_size, axes) if are_known(kernel_size) else ()
    return Site(Kind.MAX, window, (1,) * axes, (), (), refusal=Reason.RANDOM_WINDOWS)


RULE = Rule(recognise, never)
