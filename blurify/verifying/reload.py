"""*Reload*: after both models have loaded the same other weights and buffers, they still compute the same.

A value that was computed from weights while the model was recorded, and is a constant since, shows here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from blurify.errors import first_line
from blurify.tracing.inputs import Inputs
from blurify.verifying.outputs import Named, compare, run
from blurify.verifying.verdict import Row


def reload(original: nn.Module, twin: nn.Module, source: nn.Module, inputs: Inputs) -> Row:
    """Load other values into both, which stay there, and compare what they return; `source` has the first values."""
    expected, text = loaded(original, source, inputs)
    if expected is None:
        return Row("reload", "skipped", f"the original does not run with other weights: {text}")
    try:
        state = original.state_dict()
        load(twin, {name: state[name] for name in source.state_dict()})
        found = compare(expected, run(twin, inputs))
    except Exception as error:  # a model may run its own code when it loads
        return Row("reload", "failed", f"what the original loads, the converted model does not: {first_line(error)}")
    text = f"after both load other weights and buffers, one-tap outputs differ by {found}"
    return Row.of("reload", found.ok, text)


def loaded(model: nn.Module, source: nn.Module, inputs: Inputs) -> tuple[Named | None, str]:
    """Load other values than the source's, and return what the model gives then, or why it gives nothing.

    Integers may be indices or sizes that only suit each other; where the model fails, they stay as they are.
    """
    text = ""
    for integers in (True, False):
        try:
            load(model, perturbed(source.state_dict(), integers))
            outputs = run(model, inputs)
        except Exception as error:  # a model may run its own code when it loads
            text = first_line(error)
            continue
        if all(bool(t.isfinite().all()) for t in outputs.values() if t.is_floating_point()):
            return outputs, ""
        text = "its outputs are infinite or not numbers"
    load(model, source.state_dict())
    return None, text


def load(model: nn.Module, values: dict[str, Any]) -> None:
    """Load the values; a copy of a graph module has its constants in its state_dict, which the original has not."""
    # In place, for the versions of modules are an attribute of this dict.
    state = model.state_dict()
    state.update(values)
    model.load_state_dict(state)


def perturbed(state: dict[str, Any], integers: bool) -> dict[str, Any]:
    """Return the state_dict with other values for all of its tensors."""
    for number, (name, value) in enumerate(list(state.items())):
        state[name] = other(value, integers, 1.05 + 0.05 * (number % 4))
    return state


def other(value: Any, integers: bool, factor: float) -> Any:
    """Return other values than these; variances stay positive, and indices stay those that there are."""
    if not isinstance(value, Tensor) or value.numel() == 0 or value.dtype is torch.bool:
        return value
    if not value.is_floating_point():
        return value if not integers or value.is_complex() else value.flip(-1) if value.dim() else value + 1
    changed = value * factor
    # Scales that begin at next to nothing, and maps of zeros, would not show.
    return changed + 0.05 if value.dim() < 2 or not bool(changed.any()) else changed
