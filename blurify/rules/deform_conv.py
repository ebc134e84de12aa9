"""A strided deformable conv: its offsets are one per *output* position, so at stride 1 there are none for most. Kept.

torchvision is not imported for it: a model cannot hold what is not loaded yet.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import fx

from blurify.graph.arguments import Signature, are_known, bind
from blurify.rules.base import Context, Rule, never
from blurify.sites import Kind, Reason, Site, per_axis

NAMES = ("input", "offset", "weight", "bias", "stride", "padding", "dilation", "mask")
OPERATOR = "torchvision.deform_conv2d.default"
OPERATOR_NAMES = ("input", "weight", "offset", "mask", "bias", "stride_h", "stride_w")


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise a strided deformable convolution: torchvision's module, function or operator."""
    ops = sys.modules.get("torchvision.ops")
    if ops is None:
        return None
    if isinstance(module, ops.DeformConv2d):
        return _site(module.stride, module.kernel_size)
    if node.op != "call_function":
        return None
    if node.target is ops.deform_conv2d:
        return _site(bind(node, Signature(2, NAMES)).get("stride", 1), ())
    if str(node.target) == OPERATOR:
        given = bind(node, Signature(2, OPERATOR_NAMES))
        return _site((given["stride_h"], given["stride_w"]), ())
    return None


def _site(stride: Any, kernel_size: Any) -> Site | None:
    if not are_known(stride):
        return Site(Kind.CONV, (), (1, 1), (), (), refusal=Reason.DYNAMIC)
    if max(per_axis(stride, 2)) == 1:
        return None
    return Site(Kind.CONV, tuple(kernel_size), per_axis(stride, 2), (), (), refusal=Reason.OFFSETS)


RULE = Rule(recognise, never)
