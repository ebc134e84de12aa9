"""Prepare a program's graph for the pass: weights under their names and in their order."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from blurify.graph.edit import holder_of


def unguarded(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """Return the program as a graph over its weights, without checks of the sizes that it was recorded with."""
    checks = "check_guards" in inspect.signature(program.module).parameters
    return program.module(check_guards=False) if checks else program.module()


def with_state(model: fx.GraphModule, state: Mapping[str, Tensor]) -> fx.GraphModule:
    """Return the same graph over a tree with all of the weights, those too that nothing reads, in their order."""
    tree = nn.Module()
    for name, value in state.items():
        _put(tree, name, value)
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, value in own.items():
        if name not in state:
            _put(tree, name, value, persistent=False)
    for name, module in model.named_children():
        if isinstance(module, fx.GraphModule):
            tree.add_module(name, module)
    model._modules, model._parameters, model._buffers = tree._modules, tree._parameters, tree._buffers
    model._non_persistent_buffers_set = tree._non_persistent_buffers_set
    _register_constants(model)
    return model


def _register_constants(model: fx.GraphModule) -> None:
    """Let the weights of a frozen archive, which are constants, be converted and looked at like others."""
    for name, value in list(vars(model).items()):
        if isinstance(value, Tensor):
            delattr(model, name)
            model.register_buffer(name, value, persistent=False)


def _put(tree: nn.Module, path: str, value: Tensor, persistent: bool = True) -> None:
    holder, name = holder_of(tree, path)
    if isinstance(value, nn.Parameter):
        holder.register_parameter(name, value)
    else:
        holder.register_buffer(name, value, persistent=persistent)


def named_by_weights(model: fx.GraphModule) -> fx.GraphModule:
    """Let what reads a layer's weight say that it arose in that layer, where nothing says so."""
    for node in model.graph.nodes:
        weights = [
            str(n.target) for n in node.all_input_nodes if n.op == "get_attr" and str(n.target).endswith(".weight")
        ]
        if node.op == "call_function" and len(weights) == 1:
            layer = weights[0].rpartition(".")[0]
            node.meta["nn_module_stack"] = {layer: (layer, "torch.nn.modules.Layer")}
    return model
