"""Which convs are stems, and which cut images or tokens into patches: the published networks keep these."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, fx, nn

from blurify.graph.constants import constant_tensor
from blurify.graph.module import TracedModule
from blurify.graph.paths import name_of
from blurify.planning.positionwise import crosses
from blurify.rules.low_pass import smoothed_axes
from blurify.tracing.questions import ancestors

# What reads the size of a map takes nothing else from it.
SIZES = frozenset({"size", "sym_size", "getattr"})
PRODUCTS = frozenset("conv1d conv2d conv3d convolution _convolution linear".split())
TOKEN_RESHAPES = frozenset("view reshape unflatten _unsafe_view".split())
TRANSPOSITIONS = frozenset("transpose permute movedim".split())


def is_stem(site: fx.Node, traced: TracedModule, axes: int) -> bool:
    """Return whether a conv is the first that the model's input comes to, whatever prepares the input for it.

    Nothing before has learnt anything but to scale, shift or norm each position: a resized image is an image.
    """
    waiting, seen, reached = list(sources(site)), set[fx.Node](), False
    while waiting:
        node = waiting.pop()
        if node in seen or node.op == "get_attr":
            continue
        seen.add(node)
        if node.op == "placeholder":
            reached = True
        elif is_learnt(node, traced) and not any(crosses(node, source, traced, axes) for source in sources(node)):
            return False
        else:
            waiting.extend(sources(node))
    return reached


def sources(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the nodes whose values a node takes; of a conv, the map alone."""
    if name_of(node) not in SIZES:
        yield from node.all_input_nodes[:1] if is_product(node) else node.all_input_nodes


def is_product(node: fx.Node) -> bool:
    """Return whether a node is called with a map and weights."""
    return name_of(node) in PRODUCTS


def is_learnt(node: fx.Node, traced: TracedModule) -> bool:
    """Return whether a node computes by weights, which are parameters and no fixed low-pass."""
    # A frozen program holds its weights as buffers.
    frozen = next(traced.parameters(), None) is None
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        return not all(map(is_low_pass, module.buffers() if frozen else module.parameters()))
    # Weights may be computed from parameters: standardised, normed, quantized.
    computed = [each for weights in node.all_input_nodes[1:] for each in ancestors(weights) if each.op == "get_attr"]
    read = [*node.all_input_nodes, *(computed if is_product(node) else ())]
    tensors = [constant_tensor(source, traced) for source in read]
    weights = [each for each in tensors if isinstance(each, nn.Parameter) or (frozen and is_product(node))]
    return not all(each is None or is_low_pass(each) for each in weights)


def is_low_pass(weight: Tensor) -> bool:
    """Return whether a conv's weight is a fixed filter that blurs."""
    return weight.dim() > 2 and bool(smoothed_axes(weight, weight.dim() - 2))


def is_fed_by_tokens(site: fx.Node, traced: TracedModule, axes: int) -> bool:
    """Return whether a conv reads a map that was made of a sequence of tokens."""
    node = next(sources(site), None)
    while node is not None:
        name, read = name_of(node), list(sources(node))
        if name in TOKEN_RESHAPES:
            return True
        # Transposing alone makes no map: channels-last networks do it around every norm.
        if not read or not (name in TRANSPOSITIONS or crosses(node, read[0], traced, axes)):
            return False
        node = read[0]
    return False
