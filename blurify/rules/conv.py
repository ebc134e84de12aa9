"""Conv(s) is Conv(1) subsampled by s, with the same weights, so the blur goes between them, at the landing.

Of an even stride above 2 the conv keeps half and the blur takes the other 2, as in Zhang's AlexNet. The dense op is the
same module at another stride, never a new conv: its class, weights, parametrizations and hooks stay.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from blurify.graph.arguments import Signature, are_known, bind, set_argument
from blurify.rules.base import Context, Replacement, Rule, with_stride
from blurify.rules.downsampler import Downsampler
from blurify.rules.low_pass import averaged_axes, fixed_taps, smoothed_axes
from blurify.rules.same import SAME_CONVS
from blurify.sites import Kind, Reason, Site, per_axis

MODULES: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
FUNCTION_OF_AXES = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
# Classes that are no `nn.Conv2d` and yet convolve by their own `stride`, with arguments beside the map.
MIXTURES = frozenset({"CondConv2d"})
NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
aten = torch.ops.aten
FUNCTIONS: dict[Any, Signature] = {
    **{f: Signature(1, NAMES) for f in (F.conv1d, aten.conv1d.default, aten.conv1d.padding)},
    **{f: Signature(2, NAMES) for f in (F.conv2d, aten.conv2d.default, aten.conv2d.padding)},
    **{f: Signature(3, NAMES) for f in (F.conv3d, aten.conv3d.default, aten.conv3d.padding)},
}
# One operator for any number of axes, transposed ones included.
ANY_AXES = Signature(0, (*NAMES[:6], "transposed", "output_padding", "groups"))
GENERIC = frozenset({torch.convolution, aten.convolution.default})


def recognise(node: fx.Node, module: Any, context: Context) -> Site | None:
    """Normalise a strided convolution."""
    axes = next((n for kind, n in MODULES.items() if isinstance(module, kind)), 0)
    axes = 2 if type(module).__name__ in MIXTURES else axes
    if axes:
        return _module_site(module, axes)
    signature = signature_of(node)
    return None if signature is None else _function_site(node, signature, context.root)


def signature_of(node: fx.Node) -> Signature | None:
    """Return the signature of a convolution function, with its number of axes."""
    if node.op != "call_function":
        return None
    if node.target not in GENERIC:
        return FUNCTIONS.get(node.target)
    given = bind(node, ANY_AXES)
    stride = given["stride"]
    axes = len(stride) if isinstance(stride, (tuple, list)) else 0
    return None if given["transposed"] or not axes else Signature(axes, ANY_AXES.names)


def _module_site(module: Any, axes: int) -> Site | None:
    site = Site(
        kind=Kind.CONV,
        kernel_size=per_axis(module.kernel_size, axes),
        stride=per_axis(module.stride, axes),
        padding=per_axis(0 if isinstance(module.padding, str) else module.padding, axes),
        dilation=per_axis(module.dilation, axes),
        same=type(module).__name__ in SAME_CONVS or bool(getattr(module, "dynamic_padding", False)),
        refusal=refusal(module),
    )
    return site if max(site.stride) > 1 else None


def _function_site(node: fx.Node, signature: Signature, root: nn.Module) -> Site | None:
    given, axes = bind(node, signature), signature.axes
    stride, dilation = given.get("stride", 1), given.get("dilation", 1)
    if not are_known(stride, dilation):
        return Site(Kind.CONV, (), (1,) * axes, (), (), refusal=Reason.DYNAMIC)
    if max(per_axis(stride, axes)) == 1:
        return None
    weight = fixed_taps(given["weight"], root)
    blurs = given.get("bias") is None and is_blur(weight, per_axis(stride, axes))
    return Site(
        kind=Kind.CONV,
        kernel_size=() if weight is None else tuple(weight.shape[2:]),
        stride=per_axis(stride, axes),
        padding=(0,) * axes,
        dilation=per_axis(dilation, axes),
        refusal=Reason.ALREADY_ANTIALIASED if blurs else None,
    )


def refusal(module: Any) -> Reason | None:
    """Return the reason why this conv cannot be rewritten, if there is one."""
    # A parametrized module's class is made on the fly from its original.
    kind = type(module).__bases__[0] if nn.utils.parametrize.is_parametrized(module) else type(module)
    if kind not in MODULES and kind.__name__ not in SAME_CONVS | MIXTURES:
        return Reason.UNKNOWN_SUBCLASS
    plain = module.bias is None and module.groups == module.weight.shape[0]
    return Reason.ALREADY_ANTIALIASED if plain and is_blur(module.weight, module.stride) else None


def is_blur(weight: Tensor | None, stride: tuple[int, ...]) -> bool:
    """Return whether a conv's weight is that of a blur along all axes that it steps over."""
    stepped = {axis for axis, step in enumerate(stride) if step > 1}
    return stepped <= smoothed_axes(weight, len(stride)) | averaged_axes(weight, len(stride))


def replace(node: fx.Node, module: nn.Module | None, site: Site, down: Downsampler) -> Replacement:
    """Return the same conv at the dense stride, then the blur."""
    dense = None if module is None else with_stride(module, site.dense_stride)
    signature = signature_of(node)
    if signature is not None:
        set_argument(node, signature, "stride", list(site.dense_stride))
    return Replacement(dense, down.after_dense(site))


def can_be_function(module: Any) -> bool:
    """Return whether `F.conv*d` with the module's parameters computes what the module does."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks, module._backward_pre_hooks)
    return type(module) in MODULES and module.padding_mode == "zeros" and not any(hooks)


def as_function(node: fx.Node, module: Any, site: Site) -> None:
    """Turn this call of a shared conv into the function at the dense stride, over the same parameters."""
    graph, path = node.graph, str(node.target)
    with graph.inserting_before(node):
        names = ("weight",) if module.bias is None else ("weight", "bias")
        parameters = [graph.get_attr(f"{path}.{name}") for name in names]
    for parameter in parameters:
        parameter.meta["path"] = str(parameter.target)
    source = node.args[0] if node.args else next(iter(node.kwargs.values()))
    node.op, node.target = "call_function", FUNCTION_OF_AXES[site.axes]
    node.args = (source, *parameters)
    node.kwargs = {
        "stride": site.dense_stride,
        "padding": module.padding,
        "dilation": module.dilation,
        "groups": module.groups,
    }


RULE = Rule(recognise, replace, as_function, can_be_function)
