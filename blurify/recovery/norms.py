"""The batch-norms behind a layer, as modules and as functions, where they do the same to every sample."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from blurify.graph.arguments import Signature, bind
from blurify.graph.constants import constant_tensor
from blurify.graph.module import TracedModule
from blurify.graph.nodes import batch_statistics

FUNCTIONS: dict[Any, Signature] = {
    F.batch_norm: Signature(
        0, ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    ),
} | dict.fromkeys(
    (torch.batch_norm, torch.ops.aten.batch_norm.default),
    Signature(0, ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")),
)


def own_mean(node: fx.Node, traced: TracedModule) -> Tensor | None:
    """The running mean of the batch-norm that the node is, if nothing else in the graph reads it; None for all else."""
    module = module_of(node, traced)
    if module is not None:
        alone = sum(other.target == node.target for other in traced.eval_graph.nodes) == 1
        return module.running_mean if alone else None
    mean = arguments(node).get("running_mean")
    if not isinstance(mean, fx.Node) or mean.op != "get_attr" or len(mean.users) != 1:
        return None
    return constant_tensor(mean, traced)


def gain_of(node: fx.Node, traced: TracedModule) -> Tensor | None:
    """Return the factor of each channel in the node's batch-norm; None for all else."""
    module = module_of(node, traced)
    if module is not None:
        return scale(module.running_var, module.weight, module.eps)
    given = arguments(node)
    variance, weight = (constant_tensor(given.get(name), traced) for name in ("running_var", "weight"))
    return scale(variance, weight, given.get("eps", 1e-5))


def module_of(node: fx.Node, traced: TracedModule) -> _BatchNorm | None:
    """Return the batch-norm with running statistics that the node calls."""
    module: nn.Module | None = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module if isinstance(module, _BatchNorm) and module.track_running_stats else None


def arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a batch-norm function with running statistics, by name; nothing for all else."""
    signature = FUNCTIONS.get(node.target) if node.op == "call_function" else None
    return bind(node, signature) if signature is not None and batch_statistics(node) is False else {}


def scale(variance: Tensor | None, weight: Tensor | None, eps: float) -> Tensor | None:
    """`weight / sqrt(variance + eps)`."""
    if variance is None:
        return None
    plain = (variance.detach() + eps).rsqrt()
    return plain if weight is None else plain * weight.detach()
