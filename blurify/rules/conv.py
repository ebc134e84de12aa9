"""Conv(s) is Conv(1) subsampled by s, with the same weights, so the blur goes between them, at the landing.

Of an even stride above 2 the conv keeps half and the blur takes the other 2, as in Zhang's AlexNet. The dense op is the
same module at another stride, never a new conv: its class, weights, parametrizations and hooks stay.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from blurify.layers import BLUR_POOLS, SAME_BLUR_POOLS
from blurify.rules.base import Parts, Rule, with_stride
from blurify.rules.same import SAME_CONVS
from blurify.sites import Kind, Reason, Site, per_axis

MODULES: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
FUNCTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def recognise(node: fx.Node, module: Any) -> Site | None:
    """Normalise a strided convolution module."""
    axes = next((n for kind, n in MODULES.items() if isinstance(module, kind)), 0)
    if not axes:
        return None
    site = Site(
        kind=Kind.CONV,
        kernel_size=per_axis(module.kernel_size, axes),
        stride=per_axis(module.stride, axes),
        padding=per_axis(0 if isinstance(module.padding, str) else module.padding, axes),
        dilation=per_axis(module.dilation, axes),
        same=type(module).__name__ in SAME_CONVS,
        refusal=refusal(module),
    )
    return site if max(site.stride) > 1 else None


def refusal(module: Any) -> Reason | None:
    """Why this conv cannot be rewritten, if so."""
    # A parametrized module's class is made on the fly from its original.
    kind = type(module).__bases__[0] if nn.utils.parametrize.is_parametrized(module) else type(module)
    if kind not in MODULES and kind.__name__ not in SAME_CONVS:
        return Reason.UNKNOWN_SUBCLASS
    return Reason.ALREADY_ANTIALIASED if is_fixed_low_pass(module) else None


def is_fixed_low_pass(module: Any) -> bool:
    """Whether the conv is a blur: depthwise, frozen, the same positive taps of sum 1 in every channel."""
    weight = module.weight
    if not isinstance(weight, torch.Tensor) or weight.requires_grad or weight.is_meta or module.bias is not None:
        return False
    if weight.shape[1] != 1 or weight.shape[0] != module.groups or weight[0].numel() == 1:
        return False
    taps = weight.detach().double()
    alike = bool((taps == taps[:1]).all()) and bool((taps >= 0).all())
    return alike and abs(float(taps[0].sum()) - 1) < 1e-3


def replace(node: fx.Node, module: Any, site: Site, filt_size: tuple[int, ...], pad_type: str) -> Parts:
    """The same conv at the dense stride, then the blur."""
    dense = None if module is None else with_stride(module, site.dense_stride)
    if site.same:
        same = SAME_BLUR_POOLS[site.axes]
        blur = same(site.kernel_size, site.stride, site.dilation, filt_size=filt_size, pad_type=pad_type)
        return Parts(dense, blur)
    return Parts(dense, BLUR_POOLS[site.axes](None, pad_type, filt_size, site.blur_stride))


def can_be_a_function(module: Any) -> bool:
    """Whether `F.conv*d` with the module's parameters computes what the module does."""
    return type(module) in MODULES and module.padding_mode == "zeros" and not module._forward_pre_hooks


def as_function(node: fx.Node, module: Any, site: Site) -> None:
    """Turn this call of a shared conv into the function at the dense stride, over the same parameters."""
    graph, path = node.graph, str(node.target)
    with graph.inserting_before(node):
        names = ("weight",) if module.bias is None else ("weight", "bias")
        parameters = [graph.get_attr(f"{path}.{name}") for name in names]
    for parameter in parameters:
        parameter.meta["path"] = str(parameter.target)
    source = node.args[0] if node.args else next(iter(node.kwargs.values()))
    node.op, node.target = "call_function", FUNCTIONS[site.axes]
    node.args = (source, *parameters)
    node.kwargs = {
        "stride": site.dense_stride,
        "padding": module.padding,
        "dilation": module.dilation,
        "groups": module.groups,
    }


RULE = Rule(recognise, replace)
