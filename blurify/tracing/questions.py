"""Answers to what `forward` asks of a proxy: its class, its attributes, its length, its truth.

An answer that holds for every input is given. One that holds for inputs of the example's size is given as well, and
the graph checks it when it runs. What the values of the input decide is not answered.
"""

from __future__ import annotations

import operator
import traceback
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Node
from torch.fx.proxy import TraceError as NoAnswer

from blurify.tracing.answers import Answers, Known
from blurify.tracing.export import BY_VALUES
from blurify.tracing.recording import RANDOM

if TYPE_CHECKING:
    from blurify.tracing.tracer import LeafAwareTracer

TENSOR_NAMES = frozenset(dir(Tensor))
# Functions and methods that may give something else than one tensor.
OTHERS = frozenset(
    """
    getattr getitem size dim ndimension numel nelement stride item tolist chunk split split_with_sizes tensor_split
    hsplit vsplit dsplit unbind unsafe_chunk unsafe_split max min topk sort kthvalue median mode cummax cummin aminmax
    meshgrid broadcast_tensors unique unique_consecutive histogram frexp svd qr slogdet lstm gru rnn_tanh rnn_relu
    multi_head_attention_forward std_mean var_mean batch_norm_stats max_pool1d max_pool2d max_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d is_floating_point is_complex is_contiguous is_cuda get eq ne lt gt le ge
    keys items values len type
    """.split()
)
# The modules of torch whose layers give one tensor each.
LAYERS = frozenset(f"torch.nn.modules.{name}" for name in "activation batchnorm conv dropout linear".split())
OF_SIZES = frozenset({"shape", "size", "dim", "ndim", "ndimension", "numel", "nelement", "__len__"})
# What these decide is decided again when the model is moved.
OF_PLACE = frozenset({"device", "dtype", "is_cuda", "layout", "type"})
# Part of what the graph says of an input that it was not recorded for.
OTHER_SIZES = "decides otherwise for this input than for"
OF_GRADIENTS = frozenset({"requires_grad", "is_leaf", "grad_fn", "grad"})


class Questions:
    """Answers about the proxies of one recording."""

    def __init__(self, tracer: LeafAwareTracer, answers: Answers) -> None:
        self.tracer = tracer
        self.answers = answers

    def class_of(self, proxy: fx.Proxy) -> type:
        """Return the class of the value, a tensor's where nobody knows."""
        own = proxy.__dict__.get("tensor")
        if own is not None or proxy.node in self.tracer.tensors:
            return Tensor if own is None else type(own)
        known = self.answers.of(proxy.node)
        if known is None or known.value is None or isinstance(known.value, Tensor):
            return Tensor
        return type(known.value)

    def has_attribute(self, proxy: fx.Proxy, name: str) -> bool:
        """Return whether the value has the attribute; where nobody knows, it may."""
        if name in TENSOR_NAMES:
            return True
        if proxy.node in self.tracer.tensors:
            return False
        known = self.answers.of(proxy.node)
        return known is None or hasattr(known.value, name)

    def truth(self, proxy: fx.Proxy) -> bool:
        """Return the truth of the value, checked by the graph where the example's size decides it."""
        known = self.answers.truth(proxy.node) or self._of_constants(proxy, bool)
        if known is None:
            # Another front-end may know what comes from no tensor, the keys of a dict for one.
            by_values = self._reads_tensors(proxy.node)
            raise NoAnswer(BY_VALUES if by_values else "a branch depends on a value that is not known while tracing")
        if not self._holds(proxy.node, known):
            self._check(proxy if known.value else self._node(operator.not_, (proxy,)))
        return bool(known.value)

    def _reads_tensors(self, node: fx.Node) -> bool:
        known = self.answers.of(node)
        if node in self.tracer.tensors or (known is not None and isinstance(known.value, Tensor)):
            return True
        return any(map(self._reads_tensors, node.all_input_nodes))

    def number(self, proxy: fx.Proxy) -> Any:
        """Return the value as a number, checked by the graph where the example's size decides it."""
        known = self.answers.number(proxy.node) or self._of_constants(proxy, float)
        if known is None:
            raise NoAnswer("the value of a tensor is asked for as a number")
        if not self._holds(proxy.node, known):
            self._check(self._node(operator.eq, (proxy, known.value)))
        return known.value

    def length(self, proxy: fx.Proxy) -> int:
        """Return how many items the value has, checked by the graph where the example's size decides it."""
        known = self.answers.length(proxy.node)
        if known is None:
            raise NoAnswer("the length of a value is asked for, which depends on the input")
        if not known.always:
            size = self._node(operator.getitem, (self._node(getattr, (proxy, "shape")), 0))
            self._check(self._node(operator.eq, (size, known.value)))
        return int(known.value)

    def forget(self, graph: fx.Graph) -> None:
        """Take out what only answered questions: sizes that nothing reads."""
        for node in reversed(list(graph.nodes)):
            known = self.answers.known.get(node)
            asked = known is not None and not isinstance(known.value, Tensor)
            if (
                asked
                and not node.users
                and node.op in ("call_function", "call_method")
                and node.target is not torch._assert
            ):
                graph.erase_node(node)

    def _holds(self, node: Node, known: Known) -> bool:
        """Return whether the answer needs no check when the graph runs."""
        read = facts(node, self.tracer.tensors)
        if read & OF_GRADIENTS:
            self.tracer.omit("a branch that depends on whether gradients are computed")
            return True
        return known.always and read <= OF_SIZES

    def _of_constants(self, proxy: fx.Proxy, kind: type) -> Known | None:
        """Return a value that does not depend on the input."""
        value = self.answers.of_constants(proxy.node)
        if value is None:
            return None
        chance = any(source.target in RANDOM for source in ancestors(proxy.node))
        self.tracer.omit(
            "a branch that random numbers decide" if chance else "a branch that a value of its own decides"
        )
        return Known(kind(value), always=True)

    def _check(self, condition: fx.Proxy) -> None:
        if self.tracer.is_inside_opened():
            raise NoAnswer("a leaf that decides by sizes stays whole, for it takes all of them")
        message = (
            f"{asking_line()} {OTHER_SIZES} the one that the graph was recorded with; "
            "convert with example_inputs like this one."
        )
        self.tracer.create_proxy("call_function", torch._assert, (condition, message), {})

    def _node(self, function: Any, args: tuple[Any, ...]) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, args, {})


def asking_line() -> str:
    """Return the line of the model's code that is running, for a message."""
    theirs = [frame for frame in traceback.extract_stack() if not is_ours(frame.filename)]
    return f"`{theirs[-1].line}` ({Path(theirs[-1].filename).name}:{theirs[-1].lineno})" if theirs else "forward"


# A user's own folder may have these names too, so paths are compared with those of the packages.
TRACERS = (Path(torch.__file__).resolve().parent, Path(__file__).resolve().parents[1])


def is_ours(filename: str) -> bool:
    """Return whether a frame's file belongs to what traces instead of what is traced."""
    path = Path(filename).resolve()
    return any(folder in path.parents for folder in TRACERS)


def gives_one_tensor(node: Node, module: object, known: Container[Node]) -> bool:
    """Return whether a node gives one tensor, as far as its kind tells; `known` are the nodes before it that do."""
    if node.op == "call_module":
        return type(module).__module__ in LAYERS and not isinstance(module, nn.MultiheadAttention)
    if node.op != "call_function" and node.op != "call_method":
        return node.op == "get_attr"
    home = getattr(node.target, "__module__", None) or "torch"
    name = getattr(node.target, "__name__", str(node.target))
    if name in OTHERS or not home.startswith(("torch", "_operator")):
        return False
    return any(source in known or source.op == "placeholder" for source in node.all_input_nodes)


def facts(node: Node, tensors: Container[Node]) -> frozenset[str]:
    """Return the attributes and methods of tensors that a condition reads."""
    names: set[str] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current in tensors or current.op == "placeholder":
            continue
        if current.op == "call_function" and current.target is getattr:
            names.add(str(current.args[1]))
        elif current.op == "call_method":
            names.add(str(current.target))
        waiting.extend(current.all_input_nodes)
    return frozenset(names & (OF_SIZES | OF_GRADIENTS | OF_PLACE))


def ancestors(node: Node) -> list[Node]:
    """All that a node is made of, itself included."""
    seen: dict[Node, None] = {}
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen[current] = None
            waiting.extend(current.all_input_nodes)
    return list(seen)
