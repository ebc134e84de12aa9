"""What nobody reads, and does nothing beside, is not computed.

Only what is known to do nothing beside is taken out: whatever writes to a tensor, draws random numbers, keeps
statistics, checks something or is listened to stays, and so does all that is not known here.
"""

from __future__ import annotations

from torch import fx, nn

from blurify import layers
from blurify.graph_module import TracedModule
from blurify.optimize.nodes import called, writes
from blurify.tracing.paths import function_name
from blurify.tree import has_hooks

# Of exactly these classes: a subclass may do anything beside.
PURE = frozenset(
    kind
    for namespace in (nn.modules.conv, nn.modules.pooling)
    for kind in vars(namespace).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module)
) | {nn.Linear, nn.Identity, nn.Flatten, nn.Softmax, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Upsample}
OURS = (layers.Blur, layers.DenseMaxPool1d, layers.DenseMaxPool2d, layers.DenseMaxPool3d)
# Functions, tensor methods and aten operators go by the same names.
NAMES = frozenset(
    """
    abs adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d add amax avg_pool1d avg_pool2d avg_pool3d cat chunk
    clamp concat contiguous conv1d conv2d conv3d dim div exp expand flatten float gelu getattr getitem hardsigmoid
    hardswish interpolate linear log_softmax matmul max_pool1d max_pool2d max_pool3d mean mul narrow neg numel permute
    relu relu6 reshape select sigmoid silu size slice softmax split sqrt squeeze stack sub sum sym_size t tanh transpose
    unbind unflatten unsqueeze view
    """.split()
)
# What of these goes is not worth a word.
LOOKS = frozenset({"dim", "getattr", "getitem", "numel", "size", "sym_size"})


def run(traced: TracedModule, graph: fx.Graph) -> list[str]:
    """Take out what nobody reads, last things first: what only they read is then read by nobody."""
    said = []
    for node in reversed(list(graph.nodes)):
        if not node.users and does_nothing_beside(node, traced):
            if node.op != "get_attr" and function_name(node.target) not in LOOKS:
                said.append(f"{node.meta['path']} not computed, since nothing reads it")
            graph.erase_node(node)
    return said[::-1]


def does_nothing_beside(node: fx.Node, traced: TracedModule) -> bool:
    """Whether computing the node changes nothing but what is read of it."""
    if node.op in ("placeholder", "output") or "blurs" in node.meta:
        return False
    if node.op == "get_attr":
        return True
    if writes(node, traced):
        return False
    module = called(node, traced)
    if module is None:
        return function_name(node.target) in NAMES
    return (type(module) in PURE or isinstance(module, OURS)) and not has_hooks(module)
