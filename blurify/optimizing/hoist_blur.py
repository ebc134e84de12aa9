"""A blur that follows a 1x1 conv moves before it: `B(a * (W x + b) + c) = a * (W B(x) + b) + c`.

`B` filters each channel by taps of sum 1, `W` mixes channels at one position, and `a`, `c` scale and shift channels
(a batch-norm by its running statistics, a bias): along one axis or the other, the products are the same. With reflect,
replicate and circular padding the sum is 1 at the border as well. Zeros beyond the border are no constant, so with zero
padding nothing may be added on the way: `B(W x) = W B(x)`.

The conv then runs where the map is small already: a 1x1 shortcut of stride 2 costs a quarter. After `.train()` a
batch-norm on the way takes its statistics from the blurred map, as in Zhang's published networks, whose shortcuts are
blurred first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, fx, nn

from blurify.graph.arguments import bind
from blurify.graph.constants import constant_tensor
from blurify.graph.edit import insert_after
from blurify.graph.module import TracedModule
from blurify.graph.nodes import batch_statistics, called, only_source
from blurify.graph.tree import has_hooks
from blurify.layers import Blur, BlurPool1d, BlurPool2d, BlurPool3d
from blurify.planning.positionwise import operator_name
from blurify.rules.conv import signature_of

# A conv of one of these classes multiplies every position by one matrix, if its kernel is 1 and its padding 0.
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BLURS = (BlurPool1d, BlurPool2d, BlurPool3d)
# timm's norm and activation in one, told by name so that timm need not be imported.
ACTIVATING_NORMS = frozenset({"BatchNormAct2d"})
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def run(traced: TracedModule, graph: fx.Graph) -> list[str]:
    """Move every blur of the graph that may and that pays."""
    said = []
    for node in list(graph.nodes):
        conv = conv_before(node, traced) if "blurs" in node.meta else None
        if conv is not None:
            move(node, conv, graph)
            said.append(f"blur moved before the 1x1 conv at {conv.meta['path']}")
    return said


@dataclass(frozen=True)
class Product:
    """A 1x1 conv: at every position the channels are multiplied by one matrix."""

    in_channels: int
    out_channels: int
    groups: int
    adds: bool


def conv_before(blur: fx.Node, traced: TracedModule) -> fx.Node | None:
    """Return the 1x1 conv that the blur may move before, if that lowers the arithmetic."""
    layer = called(blur, traced)
    if type(layer) not in BLURS or max(layer.filt_size) == 1:
        return None
    adds = False
    for node in upwards(blur):
        module = called(node, traced)
        if module is not None and has_hooks(module):
            return None
        product = product_of(node, traced)
        if product is not None:
            adds = adds or product.adds
            allowed = not (adds and layer.pad_type == "zero")
            return node if allowed and pays(product, layer) else None
        if not is_affine(node, traced):
            return None
        adds = adds or type(module) is not nn.Identity
    return None


def upwards(blur: fx.Node) -> Iterator[fx.Node]:
    """Yield the nodes before, each read by nothing but the one after it."""
    node = only_source(blur)
    while node is not None and len(node.users) == 1:
        yield node
        node = only_source(node)


def product_of(node: fx.Node, traced: TracedModule) -> Product | None:
    """Return the 1x1 conv that the node is, unpadded and at stride 1; None if it is none."""
    module, signature = called(node, traced), signature_of(node)
    if type(module) in CONVS:
        given = vars(module) | {"bias": module.bias}
        weight: Tensor | None = module.weight
    elif signature is not None:
        given = bind(node, signature)
        weight = constant_tensor(given["weight"], traced)
    else:
        return None
    if weight is None or not 2 < weight.dim() < 6 or weight[0, 0].numel() != 1 or given.get("transposed"):
        return None
    unpadded = given.get("padding", 0) in ("valid", "same") or is_all(given.get("padding", 0), 0)
    if not unpadded or not is_all(given.get("stride", 1), 1):
        return None
    groups = given.get("groups", 1)
    return Product(weight.shape[1] * groups, weight.shape[0], groups, given.get("bias") is not None)


def is_all(value: Any, number: int) -> bool:
    """Return whether the number, or every one of a list, is this one."""
    return set(value if isinstance(value, (tuple, list)) else (value,)) == {number}


def is_affine(node: fx.Node, traced: TracedModule) -> bool:
    """Return whether the node scales and shifts each channel, independently of the map in evaluation."""
    module = called(node, traced)
    if module is None:
        return operator_name(node) == "batch_norm" and batch_statistics(node) is False
    if type(module).__name__ in ACTIVATING_NORMS:
        return bool(module.track_running_stats) and type(module.act) is type(module.drop) is nn.Identity
    return type(module) is nn.Identity or (type(module) in NORMS and bool(module.track_running_stats))


def pays(product: Product, blur: Blur) -> bool:
    """Return whether multiplications per output position become fewer, the blur's own counted."""
    taps, kept = blur.filt.numel(), prod(blur.stride)
    before = product.in_channels // product.groups * product.out_channels
    return bool(before + taps * product.in_channels < kept * before + taps * product.out_channels)


def move(blur: fx.Node, conv: fx.Node, graph: fx.Graph) -> None:
    """Take the blur from where it is and put it between the conv and what that reads."""
    last = blur.all_input_nodes[0]
    blur.replace_all_uses_with(last)
    graph.erase_node(blur)
    moved = insert_after(conv.all_input_nodes[0], str(blur.target), only=conv)
    conv.prepend(moved)
    # What has the size that the site's output had is the end of the way still.
    moved.meta.update(blur.meta | {"gives": last.meta["path"]})
