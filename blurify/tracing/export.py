"""The second front-end: `torch.export`, for models whose control flow depends on sizes or values.

It records what one example made the model do, with batch and spatial sizes left open where the model allows.
Strict mode reads Python more deeply, non-strict mode runs it; each takes models that the other refuses.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.func import functional_call
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.fx.proxy import TraceError as NoAnswer
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from blurify.tracing.inputs import Inputs
from blurify.tracing.modes import as_found
from blurify.tracing.wrappers import seen_through

# What the symbolic tracer says of a branch.
BY_VALUES = "symbolically traced variables cannot be used as inputs to control flow"
# What fake tensors say of a program that reads values, or of an operator that they do not know.
READS_VALUES = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)


def export_once(model: nn.Module, inputs: Inputs, strict: bool) -> fx.GraphModule:
    """Export the model as it stands (mode included). Whatever it raises is let through."""
    twice = doubled(inputs)
    program = _export(model, twice or inputs, strict)
    if twice is not None and not accepts(program, inputs):
        # The model does otherwise with other batches, so it is better shown the user's.
        program = _export(model, inputs, strict)
    return program


def _export(model: nn.Module, inputs: Inputs, strict: bool) -> fx.GraphModule:
    inputs = inputs.copied()
    # What forward leaves in attributes, symbols of this export among it, is nothing to the next.
    with quietly(), as_found(model), seen_through(model):
        program = torch.export.export(
            model, inputs.args, inputs.kwargs, dynamic_shapes=open_sizes(model, inputs), strict=strict
        )
        return program.module()


def accepts(program: fx.GraphModule, inputs: Inputs) -> bool:
    """Return whether an exported model runs on inputs of these sizes."""
    # A program in training counts its batches, in the model's own buffers if it is given no others.
    state: dict[str, Tensor] = program.state_dict()
    with quietly():
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                functional_call(program, *tree_map_only(Tensor, mode.from_tensor, (state, inputs.args, inputs.kwargs)))
        except READS_VALUES:
            return _runs(program, tree_map_only(Tensor, torch.clone, (state, inputs.args, inputs.kwargs)))
        except Exception:
            return False
        return True


def looks_at_values(error: Exception) -> bool:
    """Say whether a front-end failed for a decision by values, which none can record."""
    if isinstance(error.__cause__, NoAnswer) and BY_VALUES in str(error):
        return True
    return isinstance(error, (GuardOnDataDependentSymNode, *READS_VALUES)) or "data-dependent" in str(error).lower()


def _runs(program: fx.GraphModule, call: Any) -> bool:
    try:
        with torch.no_grad():
            functional_call(program, *call)
    except Exception:
        return False
    return True


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what export warns of, logs and prints from the user: what it refuses is an exception, which we report."""
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def doubled(inputs: Inputs) -> Inputs | None:
    """Return the same with a batch of two, since export takes one of one for a constant; None for other batches."""
    tensors = [leaf for leaf in tree_leaves((inputs.args, inputs.kwargs)) if isinstance(leaf, Tensor)]
    if not tensors or not all(t.dim() > 0 and t.shape[0] == 1 for t in tensors):
        return None
    args, kwargs = tree_map_only(Tensor, lambda t: t.repeat(2, *(1 for _ in t.shape[1:])), (inputs.args, inputs.kwargs))
    return Inputs(args, kwargs)


def open_sizes(model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """Return the sizes that may vary, per argument of `forward`: all but the channels of an image."""
    bound = inspect.signature(model.forward).bind(*inputs.args, **inputs.kwargs)
    return {name: tree_map(_open, value) for name, value in bound.arguments.items()}


def _open(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return None
    channels = {1} if leaf.dim() > 2 else set()
    return {axis: torch.export.Dim.AUTO for axis in range(leaf.dim()) if axis not in channels}
