"""Positions moved to channels: `PixelUnshuffle`, `Unfold`, `Tensor.unfold` with a step. Kept, since no value is mixed.

Windows of `k` taps at dilation `d`, a step of `s` apart, read the phases `d i mod s` of the map, `i < k`. If those are
all phases, nothing is lost (at the borders apart); else whole rows are never read.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from blurify.graph.arguments import Signature, are_known, bind
from blurify.rules.base import Context, Rule, never
from blurify.sites import Kind, Reason, Site, per_axis

aten = torch.ops.aten
UNSHUFFLES = frozenset({F.pixel_unshuffle, aten.pixel_unshuffle.default})
UNSHUFFLE = Signature(2, ("input", "downscale_factor"))
UNFOLDS: dict[Any, Signature] = {
    F.unfold: Signature(2, ("input", "kernel_size", "dilation", "padding", "stride")),
    aten.im2col.default: Signature(2, ("input", "kernel_size", "dilation", "padding", "stride")),
}
# One dimension of a tensor, as a method or an operator.
ALONG_ONE = Signature(1, ("input", "dimension", "size", "step"))


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise an unfolding whose windows step by more than one position."""
    if isinstance(module, nn.PixelUnshuffle):
        return _site(module.downscale_factor, module.downscale_factor, 1, 2)
    if isinstance(module, nn.Unfold):
        return _site(module.kernel_size, module.stride, module.dilation, 2)
    if node.op == "call_method" and node.target == "unfold":
        return _along_one(node)
    if node.op != "call_function":
        return None
    if node.target is aten.unfold.default:
        return _along_one(node)
    if node.target in UNSHUFFLES:
        factor = bind(node, UNSHUFFLE)["downscale_factor"]
        return _site(factor, factor, 1, 2)
    signature = UNFOLDS.get(node.target)
    if signature is None:
        return None
    given = bind(node, signature)
    return _site(given["kernel_size"], given.get("stride", 1), given.get("dilation", 1), 2)


def _along_one(node: fx.Node) -> Site | None:
    given = bind(node, ALONG_ONE)
    return _site(given["size"], given["step"], 1, 1)


def _site(kernel_size: Any, stride: Any, dilation: Any, axes: int) -> Site | None:
    if not are_known(kernel_size, stride, dilation):
        return Site(Kind.UNFOLD, (), (1,) * axes, (), (), refusal=Reason.DYNAMIC)
    window, step, apart = (per_axis(value, axes) for value in (kernel_size, stride, dilation))
    if max(step) == 1:
        return None
    whole = all(len({d * i % s for i in range(k)}) == s for k, s, d in zip(window, step, apart, strict=True))
    return Site(Kind.UNFOLD, window, step, (), apart, refusal=Reason.ALL_PHASES if whole else Reason.GAPS)


RULE = Rule(recognise, never)
