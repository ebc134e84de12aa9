"""The model that a converted graph was made of, kept so that the graph is pickled as that model and its plan.

The origin holds no numbers: its tensors are on the meta device, and those of the graph take their place when it is
pickled. What was done to the graph since its conversion is in no plan, so a graph that its origin does not give again
is pickled node by node.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from blurify.graph.module import TracedModule
from blurify.graph.tree import HOOKS, computed_copies, own_copy
from blurify.optimizing import optimize_graphs
from blurify.planning.plan import Plan, plan_of
from blurify.rewriting.losses import apply_traced
from blurify.rewriting.wholes import with_wholes
from blurify.tracing import same_graph, trace
from blurify.tracing.inputs import Inputs, random_batch

Given = tuple[tuple[Any, ...], dict[str, Any]] | None


class Pending(nn.Module):
    """A graph that is still to be made: a model, its plan, the inputs that it is traced on, and whether to optimize."""

    def __init__(self, model: nn.Module, plan: Plan, inputs: Given, optimize: bool) -> None:
        super().__init__()
        self.model, self.plan, self.inputs, self.optimize = model, plan, inputs, optimize

    def reduced(self) -> tuple[Any, ...]:
        """Return what `pickle` is to call."""
        return graph, (self.model, self.plan, self.inputs, self.optimize)

    def made(self) -> TracedModule:
        """Make the graph, over the model's own parameters."""
        inputs = None if self.inputs is None else Inputs(*tree_map_only(Tensor, numbers, self.inputs))
        traced = with_wholes(trace(self.model, inputs), self.model, inputs, self.plan.rewritten)
        with traced.edited():
            apply_traced(self.plan, traced, inplace=True)
            if self.optimize:
                optimize_graphs(traced)
        traced.origin = Origin.of(self.model, inputs, self.optimize)
        return traced


@dataclass(frozen=True)
class Origin:
    """A model without its numbers, and how it was converted."""

    model: nn.Module
    inputs: Given
    optimize: bool

    @classmethod
    def of(cls, model: nn.Module, inputs: Inputs | None, optimize: bool) -> Origin | None:
        """Return the origin of what a model is converted to; None where the model is a graph without one."""
        if isinstance(model, TracedModule):
            return model.origin if isinstance(model.origin, cls) and model.origin.optimize == optimize else None
        if isinstance(model, (fx.GraphModule, torch.jit.ScriptModule)):
            return None
        memo = {id(value): without_numbers(value) for value in (*model.parameters(), *model.buffers())}
        given = None if inputs is None else (inputs.args, inputs.kwargs)
        try:
            twin = own_copy(model, {**dict(computed_copies(model)), **memo})
            return cls(twin, tree_map_only(Tensor, without_numbers, given), optimize)
        except Exception:  # a model may refuse to be copied in any way at all; its graph needs no copy
            return None

    def reduced(self, traced: TracedModule) -> tuple[Any, ...] | None:
        """Return what `pickle` is to call for the graph; None if it must be pickled node by node."""
        found = self.pending(traced)
        return None if found is None else found.reduced()

    def pending(self, traced: TracedModule) -> Pending | None:
        """Return what gives the graph again, over its own parameters; None if something else would come of it."""
        plan = plan_of(traced)
        try:
            pickle.dumps(self.model)
            model = self._with_numbers_of(traced)
            found = None if plan is None else Pending(model, plan, self.inputs, self.optimize)
            return found if found is not None and is_alike(found.made(), traced) else None
        except Exception:  # whatever was done to the graph, it is pickled node by node then
            return None

    def _with_numbers_of(self, traced: TracedModule) -> nn.Module:
        mine = (*self.model.named_parameters(remove_duplicate=False), *self.model.named_buffers(remove_duplicate=False))
        own = dict(traced.named_parameters(remove_duplicate=False)) | dict(traced.named_buffers(remove_duplicate=False))
        model: nn.Module = own_copy(self.model, {id(value): own[name] for name, value in mine})
        for path, module in model.named_modules():
            module.training = traced.get_submodule(path).training
        return model


def without_numbers(value: Tensor) -> Tensor:
    """Return a tensor of the same kind on the meta device."""
    twin = torch.empty_like(value, device="meta", requires_grad=False)
    return nn.Parameter(twin, value.requires_grad) if isinstance(value, nn.Parameter) else twin


def numbers(value: Tensor) -> Tensor:
    """Return a tensor of the same shape with numbers in it."""
    if not value.is_meta:
        return value
    like = torch.empty(0, dtype=value.dtype)
    floating = value.is_floating_point()
    return random_batch(tuple(value.shape), like) if floating else torch.zeros_like(value, device="cpu")


def is_alike(one: TracedModule, other: TracedModule) -> bool:
    """Return whether two traced modules compute the same by layers of the same settings, and run as many hooks."""
    if len(one.graphs) != len(other.graphs) or not all(map(same_graph, one.graphs, other.graphs)):
        return False
    state, others = one.state_dict(), other.state_dict()
    shapes = [[(name, getattr(value, "shape", None)) for name, value in each.items()] for each in (state, others)]
    paths = ["", *sorted(one.leaf_paths())]
    pairs = [(one.get_submodule(path), other.get_submodule(path)) for path in paths]
    return (
        shapes[0] == shapes[1]
        and one.meta.keys() >= other.meta.keys() - {"blurify_why"}
        and one.attributes().keys() == other.attributes().keys()
        and all(settings(a) == settings(b) for a, b in pairs[1:])
        and all(hook_counts(a) == hook_counts(b) for a, b in pairs)
    )


def settings(module: nn.Module) -> tuple[type, str]:
    """Return the class of a layer and all that it was told, its tensors aside."""
    told = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    children = [(name, settings(child)) for name, child in module.named_children()]
    return type(module), repr((sorted(told.items()), children))


def hook_counts(module: nn.Module) -> list[int]:
    """Return how many hooks of every kind the module has."""
    return [len(getattr(module, name) or ()) if isinstance(getattr(module, name), dict) else 0 for name in HOOKS]


def graph(model: nn.Module, plan: Plan, inputs: Given, optimize: bool) -> TracedModule:
    """Make a graph of what was pickled of it; pickled graphs name this function, as `blurify.saved.graph`."""
    return Pending(model, plan, inputs, optimize).made()


graph.__module__ = "blurify.saved"
