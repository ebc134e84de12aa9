"""Zeros around a map that a conv then pads with zeros are that conv's own padding: `conv_q(pad_p(x)) = conv_(p+q)(x)`.

The padded map is then never made. It holds for as many zeros on one side of an axis as on the other, none of them
fewer than none, and a conv that pads with zeros.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from blurify.graph_module import TracedModule
from blurify.lowering import before
from blurify.optimize.nodes import called, only_source
from blurify.rewrite import callers
from blurify.rules import set_module
from blurify.rules.arguments import Signature, bind, set_argument
from blurify.rules.base import shallow_copy
from blurify.rules.conv import signature_of
from blurify.sites import per_axis
from blurify.tree import has_hooks

CONVS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
ZERO_PADS = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)
CONSTANT_PADS = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
PADS: dict[Any, Signature] = {
    F.pad: Signature(0, ("input", "pad", "mode", "value")),
    torch.ops.aten.pad.default: Signature(0, ("input", "pad", "mode", "value")),
    torch.ops.aten.constant_pad_nd.default: Signature(0, ("input", "pad", "value")),
}


def run(traced: TracedModule, graph: fx.Graph) -> list[str]:
    """Give the zeros of every pad that a conv alone reads to the conv."""
    said = []
    for pad in list(graph.nodes):
        zeros = zeros_of(pad, traced)
        conv = next(iter(pad.users)) if zeros and len(pad.users) == 1 else None
        # Between them, something might write to what the pad reads.
        if conv is None or only_source(conv) != pad or before(conv) != pad or not widen(conv, zeros, traced):
            continue
        said.append(f"zeros at {pad.meta['path']} are padding of the conv at {conv.meta['path']}")
        pad.replace_all_uses_with(pad.all_input_nodes[0])
        graph.erase_node(pad)
    return said


def zeros_of(node: fx.Node, traced: TracedModule) -> list[int]:
    """How many zeros the node puts on both sides of each spatial axis, first axis first; empty if it does not."""
    module = called(node, traced)
    if isinstance(module, (*ZERO_PADS, *CONSTANT_PADS)):
        constant = type(module) in ZERO_PADS or (type(module) in CONSTANT_PADS and module.value == 0)
        given = list(module.padding) if constant and not has_hooks(module) else []
    elif node.op == "call_function" and node.target in PADS and only_source(node) is not None:
        asked = bind(node, PADS[node.target])
        pad = asked["pad"]
        constant = asked.get("mode", "constant") == "constant" and asked.get("value") in (None, 0)
        given = list(pad) if constant and isinstance(pad, (tuple, list)) else []
    else:
        return []
    pairs = list(zip(given[::2], given[1::2], strict=False))[::-1]
    alike = all(isinstance(low, int) and low == high and low >= 0 for low, high in pairs)
    return [low for low, _ in pairs] if alike else []


def widen(node: fx.Node, zeros: list[int], traced: TracedModule) -> bool:
    """Add the zeros to the padding of the conv that the node is; False, and nothing done, if it cannot take them."""
    module, signature = called(node, traced), signature_of(node)
    if module is not None:
        axes = CONVS.get(type(module), 0)
        # Another call of it has no such zeros.
        alone = axes and not has_hooks(module) and all_calls_are(node, traced)
        own = per_axis(module.padding, axes) if alone and isinstance(module.padding, (int, tuple)) else None
        if own is None or module.padding_mode != "zeros" or len(zeros) > axes:
            return False
        twin = shallow_copy(module)
        twin.padding = total(own, zeros)
        set_module(traced, str(node.target), twin)
        return True
    padding = None if signature is None else bind(node, signature).get("padding", 0)
    if signature is None or not isinstance(padding, (int, tuple, list)) or len(zeros) > signature.axes:
        return False
    set_argument(node, signature, "padding", list(total(per_axis(padding, signature.axes), zeros)))
    return True


def all_calls_are(node: fx.Node, traced: TracedModule) -> bool:
    """Whether nothing else calls the node's module; there is one graph for both modes then."""
    return callers(traced)[str(node.target)] == {node}


def total(own: tuple[int, ...], zeros: list[int]) -> tuple[int, ...]:
    """The sum for each axis, where zeros may be of the last axes alone."""
    more = [0] * (len(own) - len(zeros)) + zeros
    return tuple(a + b for a, b in zip(own, more, strict=True))
