"""Run conv chains in micro-batches: what treats each sample separately gives `f(x)[i] = f(x[i])`.

A site's dense output is the largest map of its surroundings, and where a batch of them does not fit the processor's
cache, writing and reading it costs more than computing it. So the chain that ends in a blur, from as far up as nothing
mixes samples and nothing else reads what lies between, is run for as many samples at a time as fit
(`blurify.graph.lowering`); the dense maps of the whole batch are never there at once. What is compiled for batches of
one size holds every part by itself.

The graph stays as it is, but for what its nodes say of the chain they belong to.
"""

from __future__ import annotations

from math import prod

import torch
from torch import fx
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import Conv2d

from blurify.graph.constants import constant_shape, constant_tensor
from blurify.graph.lowering import Part, before
from blurify.graph.module import TracedModule
from blurify.graph.nodes import batch_statistics, called, only_source
from blurify.layers import Blur, DenseMaxPool2d
from blurify.planning.positionwise import crosses, operator_name

# Whose convs are known to do what a conv does, to each sample.
CONV_HOMES = ("torch.nn.", "timm.layers.", "torchvision.")
CONV_FUNCTIONS = frozenset({torch.nn.functional.conv2d, torch.ops.aten.conv2d.default})


def run(traced: TracedModule, graph: fx.Graph) -> list[str]:
    """Mark the chain before every blur of what `.eval()` computes."""
    marked = 0
    for node in graph.nodes if graph is traced.eval_graph else ():
        chain = chain_to(node, traced) if "blurs" in node.meta and "part" not in node.meta else []
        if len(chain) > 1:
            part: Part = node.meta["path"], growth(chain, traced)
            for member in chain:
                member.meta["part"] = part
            marked += 1
    return [f"{marked} conv chain{'s' * (marked > 1)} run{'s' * (marked == 1)} in micro-batches"] if marked else []


def chain_to(blur: fx.Node, traced: TracedModule) -> list[fx.Node]:
    """Return the nodes, in order, that lead to the blur and to nothing else, and treat every sample by itself."""
    layer = called(blur, traced)
    if not isinstance(layer, Blur) or layer.axes != 2 or only_source(blur) is None:
        return []
    chain = [blur]
    while (source := only_source(chain[0])) is not None and len(source.users) == 1:
        if "blurs" in source.meta or before(chain[0]) is not source or not is_of_one_sample(source, traced):
            break
        chain.insert(0, source)
    return chain


def is_of_one_sample(node: fx.Node, traced: TracedModule) -> bool:
    """Return whether what the node gives for a sample depends on that sample alone."""
    source, module = only_source(node), called(node, traced)
    if source is None or any(spans_samples(other, traced) for other in node.all_input_nodes):
        return False
    if isinstance(module, Conv2d):
        return type(module).__module__.startswith(CONV_HOMES)
    if isinstance(module, _BatchNorm):
        return bool(module.track_running_stats)
    if type(module) is DenseMaxPool2d or node.target in CONV_FUNCTIONS:
        return True
    name = operator_name(node)
    if (name == "batch_norm" and batch_statistics(node)) or ("drop" in name and drops(node)) or "rrelu" in name:
        return False
    return crosses(node, source, traced, 2)


def drops(node: fx.Node) -> bool:
    """Return whether a dropout function draws random numbers, or may: for a few samples at a time it draws others."""
    return (node.args[2] if len(node.args) > 2 else node.kwargs.get("training", node.kwargs.get("train"))) is not False


def spans_samples(node: fx.Node, traced: TracedModule) -> bool:
    """Return whether a parameter or buffer has a value for each sample."""
    shape = constant_shape(node, traced) if node.op == "get_attr" else None
    return shape is not None and len(shape) == 4 and shape[0] != 1


def growth(chain: list[fx.Node], traced: TracedModule) -> float:
    """Return the channels of the largest map of the chain, counted at the size that the chain is fed; or 0.

    0 stands for no conv, which is: as many as that map has.
    """
    largest, shrunk = 0.0, 1
    for node in chain:
        channels, stride = conv_sizes(node, traced)
        shrunk *= stride
        largest = max(largest, channels / shrunk)
    return largest


def conv_sizes(node: fx.Node, traced: TracedModule) -> tuple[int, int]:
    """Return the channels that a conv gives, and the product of its strides; 0 and 1 for all else."""
    module = called(node, traced)
    if isinstance(module, Conv2d):
        return module.out_channels, prod(module.stride)
    weight = constant_tensor(node.args[1], traced) if node.target in CONV_FUNCTIONS else None
    return (0 if weight is None else weight.shape[0]), 1
