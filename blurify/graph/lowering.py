"""Generate code that differs from the node-by-node code: chains of nodes that run in micro-batches.

The graph stays what it is, for whoever reads, edits, interprets or traces it; only the code that runs is made of
another one, in which every marked chain is a single call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from keyword import iskeyword
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.node import Node
from torch.nn.modules import module as modules

from blurify.graph.tree import has_hooks
from blurify.kernels import eager

# What a marked node says: the path of its chain's last node, and how many channels the chain's largest map has.
Part = tuple[str, float]
Method = Callable[[nn.Module, Tensor], Tensor]


def lower(graph: fx.Graph) -> tuple[fx.Graph, dict[str, Method]]:
    """Return the graph with a method's call for each marked chain, and the methods; without chains the graph itself."""
    chains = marked_chains(graph)
    if not chains:
        return graph, {}
    lowered, methods = fx.Graph(), {}
    lowered.set_codegen(graph._codegen)
    copies: dict[Node, Node] = {}
    inside = {node for chain in chains for node in chain}
    last = {chain[-1]: (f"_in_parts_{number}", chain) for number, chain in enumerate(chains)}
    for node in graph.nodes:
        if node in last:
            name, chain = last[node]
            methods[name] = method(chain)
            copies[node] = lowered.create_node("call_module", name, (copies[source(chain)],), name=node.name)
        elif node not in inside and not (node.op == "get_attr" and inside.issuperset(node.users)):
            copies[node] = lowered.node_copy(node, copies.__getitem__)
    return lowered, methods


def marked_chains(graph: fx.Graph) -> list[list[Node]]:
    """Return the marked nodes, chain by chain; a chain that an edit has broken is none any more."""
    chains: dict[Part, list[Node]] = {}
    for node in graph.nodes:
        if "part" in node.meta:
            chains.setdefault(node.meta["part"], []).append(node)
    return [chain for chain in chains.values() if is_chain(chain)]


def is_chain(nodes: list[Node]) -> bool:
    """Return whether each node is read by the next one alone, and reads only what the model holds besides."""
    linked = all(set(node.users) == {following} and before(following) is node for node, following in pairwise(nodes))
    return linked and all(len(read(node)) == 1 for node in nodes)


def before(node: Node) -> Node:
    """Return the node computed right before; anything between might see what a chain writes in place."""
    node = node.prev
    while node.op == "get_attr":
        node = node.prev
    return node


def read(node: Node) -> list[Node]:
    """Return the nodes whose results the node reads."""
    return [source for source in node.all_input_nodes if source.op != "get_attr"]


def source(chain: list[Node]) -> Node:
    """Return the inputs of the chain."""
    return read(chain[0])[0]


def method(chain: list[Node]) -> Method:
    """Return a method that runs the chain, for as many samples at a time as are worth it."""
    graph = fx.Graph()
    copies = {source(chain): graph.placeholder("x")}
    for node in chain:
        for held in node.all_input_nodes:
            if held.op == "get_attr" and held not in copies:
                copies[held] = graph.node_copy(held)
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[chain[-1]])
    run, channels = compiled(graph), chain[-1].meta["part"][1]
    paths = [str(node.target) for node in chain if node.op == "call_module"]

    def in_parts(self: nn.Module, x: Tensor) -> Tensor:
        samples = eager.samples_at_a_time(x, channels)
        if samples is None or any(is_watched(self.get_submodule(path)) for path in paths):
            return run(self, x)
        return eager.in_parts(lambda part: run(self, part), x, samples)

    return in_parts


def is_watched(module: nn.Module) -> bool:
    """Return whether the module must see the whole batch: it trains, or somebody listens to it."""
    listeners = (has_hooks(module), modules._global_forward_hooks, modules._global_forward_pre_hooks)
    return module.training or any(listeners)


def compiled(graph: fx.Graph) -> Method:
    """Return the graph as a method of the model that holds its modules."""
    with quoted_keywords():
        code = graph.python_code("self")
    names: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, "<blurify: a chain>", "exec"), names)
    run: Method = names["forward"]
    return run


@contextmanager
def quoted_keywords() -> Iterator[None]:
    """Let generated code reach modules called `class` or `global`, which no dotted path of Python may name."""
    dotted = fx.graph._format_target
    fx.graph._format_target = quoted_target
    try:
        yield
    finally:
        fx.graph._format_target = dotted


def quoted_target(base: str, target: str) -> str:
    """Return the code of a dotted path that starts at `base`."""
    code = base
    for name in target.split("."):
        plain = name.isidentifier() and not iskeyword(name)
        code = f"{code}.{name}" if plain else f"getattr({code}, {name!r})"
    return code
