"""Parts of `forward` that a graph does not hold: each is a phrase that follows "the graph leaves out"."""

from __future__ import annotations

import operator
import random
import sys
from collections.abc import Container, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from blurify.tracing.recording import is_proxy, leaves

CONTEXTS = ("torch.no_grad() or torch.enable_grad()", "torch.inference_mode()", "torch.autocast()", "torch.autocast()")
# What tracing itself leaves on the modules.
OF_TRACING = ("_tensor_constant", "_torchbind_obj", "_modules", "_parameters", "_buffers")
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.Size)


def contexts() -> tuple[bool, ...]:
    """Return the state of each of `CONTEXTS`."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
    )


def entered(before: tuple[bool, ...]) -> str | None:
    """Return the context that `forward` has entered since; None if it has entered none."""
    now = contexts()
    return next((name for name, a, b in zip(CONTEXTS, before, now, strict=True) if a != b), None)


def chance() -> tuple[Any, ...]:
    """Return the state of every random generator that a graph does not draw from when it runs."""
    numpy = sys.modules.get("numpy")
    drawn: dict[str, Any] = {} if numpy is None else numpy.random.get_state(legacy=False)["state"]
    numpys = tuple(value.tobytes() if hasattr(value, "tobytes") else value for value in drawn.values())
    return random.getstate(), numpys, torch.get_rng_state().numpy().tobytes()


class Attributes:
    """The attributes of all modules of a model, to see which `forward` sets."""

    def __init__(self, model: nn.Module) -> None:
        # A TorchScript module runs outside of Python, and its registries are no dicts.
        self.modules = [(path, m) for path, m in model.named_modules() if not isinstance(m, torch.jit.ScriptModule)]
        self.before = {module: module.__dict__ | module._buffers for _, module in self.modules}

    def set_since(self) -> Iterator[tuple[str, Any, Any]]:
        """Path, old and new value of what was set since, or holds something that was recorded."""
        for path, module in self.modules:
            before = self.before[module]
            for name, value in (module.__dict__ | module._buffers).items():
                if not name.startswith(OF_TRACING) and (_differs(before, name, value) or _holds_proxies(value)):
                    yield f"{path}.{name}" if path else name, before.get(name), value


def _differs(before: dict[str, Any], name: str, value: Any) -> bool:
    if name not in before:
        return True
    old = before[name]
    return old is not value and not (type(old) is type(value) and isinstance(value, PLAIN) and old == value)


def _holds_proxies(value: Any) -> bool:
    return any(map(is_proxy, leaves(value)))


def written_path(node: fx.Node, in_place: Container[Any]) -> str | None:
    """Return the path of the tensor of the model's that an in-place operation writes to; None for other nodes."""
    writes = False
    while node.args and isinstance(node.args[0], fx.Node):
        if is_write(node, in_place):
            writes = True
        elif not (node.target is getattr and node.args[1] == "data"):
            break
        node = node.args[0]
    return str(node.target) if writes and node.op == "get_attr" else None


def is_write(node: fx.Node, in_place: Container[Any]) -> bool:
    """Return whether a node writes to what it reads first: `x.add_(y)`, `x += y`, `x[i] = y`."""
    method = node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__")
    return method or node.target is operator.setitem or node.target in in_place


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Each parameter, buffer and other tensor of the model, by its first path."""
    found: dict[int, tuple[str, Tensor]] = {}
    for path, module in model.named_modules():
        for holder in (module._parameters, module._buffers, module.__dict__):
            for name, value in holder.items():
                if isinstance(value, Tensor):
                    found.setdefault(id(value), (f"{path}.{name}" if path else name, value))
    return dict(found.values())
