"""The convs and linear layers of a graph whose weights can be fitted, and why others cannot."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from blurify.graph.arguments import Signature, are_known, bind
from blurify.graph.module import TracedModule
from blurify.recovery.norms import own_mean
from blurify.recovery.weights import Making, exact, is_scaled, is_spectral, making, parameter_at, scaled, standardising
from blurify.rules.conv import signature_of
from blurify.rules.same import SAME_CONVS
from blurify.sites import per_axis

CONVS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
LINEARS: dict[Any, Signature] = dict.fromkeys(
    (F.linear, torch.ops.aten.linear.default), Signature(0, ("input", "weight", "bias"))
)


class Skip(str, Enum):
    """Why a layer keeps its carried weights. The value is what a person reads."""

    STANDARDISED = "its weight is standardised without a gain, so that a fitted one cannot be expressed"
    SPECTRAL = "its weight is divided by its largest singular value, so that a fitted one cannot be expressed"
    COMPUTED = "its weight is computed from others"
    SUBCLASS = "a subclass whose forward may do something else"
    OPAQUE = "inside a module that the tracer does not look into"
    TRANSPOSED = "a transposed conv"
    NOT_BETTER = "no fit lowers the error on held-out images"
    TOO_LARGE = "its normal equations do not fit into the memory budget"
    CONSTANT = "what it is to give is constant on these images"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Geometry:
    """How a conv slides: one entry per spatial axis; a linear layer has none. `pad_mode` is `F.pad`'s."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    pad_mode: str = "constant"

    @property
    def axes(self) -> int:
        """Return the number of spatial axes, 0 for a linear layer."""
        return len(self.kernel_size)


LINEAR = Geometry((), (), (), (), 1)


@dataclass(frozen=True)
class LayerCall:
    """One call whose weight can be fitted, by names that both networks' graphs have.

    What a fit adds to the outputs goes into `bias`, the layer's own, or is taken from `mean`, the running mean of the
    batch-norm after it; with neither, nothing is added. `made` says how the weight is computed from `weight`, if it is.
    """

    path: str
    node: str
    source: str
    weight: Tensor
    bias: Tensor | None
    mean: Tensor | None
    geometry: Geometry
    made: Making | None = None

    def carried(self) -> Tensor:
        """Return the weight that it multiplies with, float64."""
        return exact(self.weight) if self.made is None else self.made.value()

    def change(self, weight: Tensor) -> None:
        """Let it multiply with another, in place."""
        if self.made is None:
            self.weight.copy_(weight)
        else:
            self.made.express(weight)


def find_calls(traced: TracedModule) -> tuple[list[LayerCall], dict[str, Skip]]:
    """Return the calls that see the effect of a blur, in graph order, and those among them that cannot be fitted."""
    reached = downstream(traced.eval_graph)
    calls: list[LayerCall] = []
    skipped: dict[str, Skip] = {}
    for node in traced.eval_graph.nodes:
        found = recognise(node, traced) if node in reached else None
        if isinstance(found, LayerCall):
            calls.append(found)
        elif found is not None:
            skipped[str(node.meta["path"])] = found
    return calls, skipped


def downstream(graph: fx.Graph) -> set[fx.Node]:
    """Return every node that reads, through others, what a blur gives."""
    reached: set[fx.Node] = set()
    for node in graph.nodes:
        if any(source in reached or "blurs" in source.meta for source in node.all_input_nodes):
            reached.add(node)
    return reached


def recognise(node: fx.Node, traced: TracedModule) -> LayerCall | Skip | None:
    """Return the call that the node is, or why it cannot be fitted, or None where there is nothing to fit."""
    if node.op == "call_module":
        return _of_module(node, traced.get_submodule(str(node.target)), traced)
    signature = signature_of(node)
    if signature is not None:
        return _of_function(node, bind(node, signature), signature.axes, traced)
    if node.op == "call_function" and node.target in LINEARS:
        return _of_function(node, bind(node, LINEARS[node.target]), 0, traced)
    return None


def _of_module(node: fx.Node, module: Any, traced: TracedModule) -> LayerCall | Skip | None:
    kind = nn.utils.parametrize.type_before_parametrizations(module)
    known = kind in CONVS or kind is nn.Linear or kind.__name__ == "Conv2dSame" or is_scaled(module)
    if not known:
        return _why_not(module)
    if len(node.all_input_nodes) != 1:
        return Skip.SUBCLASS
    made = making(module)
    weight, bias = module._parameters.get("weight") if made is None else made.v, module._parameters.get("bias")
    if weight is None or (bias is None and module.bias is not None):
        return Skip.SPECTRAL if is_spectral(module) else Skip.COMPUTED
    geometry = LINEAR if kind is nn.Linear else _geometry(module)
    return _call(node, node.all_input_nodes[0], weight, bias, geometry, traced, made)


def _why_not(module: nn.Module) -> Skip | None:
    if isinstance(module, (nn.modules.conv._ConvTransposeNd, nn.modules.conv._LazyConvXdMixin)):
        return Skip.TRANSPOSED
    if type(module).__name__ in SAME_CONVS:
        return Skip.STANDARDISED
    if isinstance(module, (*CONVS, nn.Linear)):
        return Skip.SUBCLASS
    inside = (child for child in module.modules() if child is not module)
    return Skip.OPAQUE if any(isinstance(child, (*CONVS, nn.Linear)) for child in inside) else None


def _geometry(module: Any) -> Geometry:
    axes = len(module.kernel_size)
    dynamic = type(module).__name__ in SAME_CONVS and getattr(module, "same_pad", True)
    same = "tf_same" if dynamic else module.padding
    return Geometry(
        kernel_size=tuple(module.kernel_size),
        stride=per_axis(module.stride, axes),
        padding=same if isinstance(same, str) else per_axis(same, axes),
        dilation=per_axis(module.dilation, axes),
        groups=module.groups,
        pad_mode="constant" if module.padding_mode == "zeros" else module.padding_mode,
    )


def _of_function(node: fx.Node, given: dict[str, Any], axes: int, traced: TracedModule) -> LayerCall | Skip | None:
    made = scaled(given["weight"], traced)
    if made is None and standardising(given["weight"]) is not None:
        return Skip.STANDARDISED
    weight = parameter_at(given["weight"], traced) if made is None else made.v
    bias = parameter_at(given.get("bias"), traced)
    settings = [given.get(name, usual) for name, usual in (("stride", 1), ("padding", 0), ("dilation", 1))]
    if weight is None or (given.get("bias") is not None and bias is None):
        return Skip.COMPUTED
    if not are_known(*settings) or not isinstance(given["input"], fx.Node):
        return Skip.COMPUTED
    if not axes:
        return _call(node, given["input"], weight, bias, LINEAR, traced)
    stride, padding, dilation = settings
    geometry = Geometry(
        kernel_size=tuple(weight.shape[2:]),
        stride=per_axis(stride, axes),
        padding=padding if isinstance(padding, str) else per_axis(padding, axes),
        dilation=per_axis(dilation, axes),
        groups=given.get("groups", 1),
    )
    return _call(node, given["input"], weight, bias, geometry, traced, made)


def _call(
    node: fx.Node,
    source: fx.Node,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    traced: TracedModule,
    made: Making | None = None,
) -> LayerCall:
    mean = _mean_after(node, traced) if bias is None else None
    return LayerCall(str(node.meta["path"]), node.name, source.name, weight, bias, mean, geometry, made)


def _mean_after(node: fx.Node, traced: TracedModule) -> Tensor | None:
    """Return the running mean of the batch-norm that alone reads the node, and reads nothing else anywhere."""
    (user,) = node.users if len(node.users) == 1 else (None,)
    return None if user is None else own_mean(user, traced)
