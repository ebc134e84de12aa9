"""Run a model and compare what it returns: every tensor by its name, each to the tolerance of its own dtype."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError, first_line
from blurify.tracing.differing import difference
from blurify.tracing.inputs import Inputs

# What rounding alone can do to a deep network, relative to its largest output.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 2e-1}
NO_CONTAINERS = (nn.Module, type, ModuleType, FunctionType, str, bytes, int, float, complex, torch.Size, range)

Named = dict[str, Tensor]


def run(model: nn.Module, inputs: Inputs, given: bool = True) -> Named:
    """Return what the model, which may be left in another mode, returns after `.eval()`; its buffers are as before.

    Raises:
        ArgumentError: the model does not run on the inputs, or returns no tensor.
    """
    with keeping_buffers(model), seeded(0, model), torch.no_grad():
        try:
            set_mode(model, False)
            own = inputs.copied()
            output = model(*own.args, **own.kwargs)
        except Exception as error:
            what = "the given input" if given else "the assumed input"
            raise ArgumentError(
                f"{type(model).__name__} does not run on {what} of size {inputs.sizes()}: {first_line(error)} "
                "Pass example_inputs (--input-size on the command line) that it takes."
            ) from error
        named = named_tensors(output)
    if not named:
        raise ArgumentError(
            f"{type(model).__name__} returns a {type(output).__name__} without tensors in it, so there is nothing to "
            "compare; wrap the model so that it returns its tensors."
        )
    return named


def set_mode(model: nn.Module, training: bool) -> None:
    """Put the model into a mode; an exported module has one, and refuses to be asked."""
    with suppress(NotImplementedError):
        model.train(training)


@contextmanager
def keeping_buffers(model: nn.Module) -> Iterator[None]:
    """Undo what is written to the model's buffers and other tensors, or put in their place; no other is touched."""
    kept = [(*place, place[2].detach().clone()) for place in _changeable(model)]
    try:
        yield
    finally:
        with torch.no_grad():
            for holder, name, tensor, value in kept:
                # A forward may set a buffer again: `self.mean = 0.9 * self.mean + ...`.
                if holder is not None and holder.get(name) is not tensor:
                    holder[name] = tensor
                # Batch-norms write without counting it in the tensor's version.
                if not torch.equal(tensor, value):
                    tensor.copy_(value)


def _changeable(model: nn.Module) -> Iterator[tuple[dict[str, Any] | None, str, Tensor]]:
    """Yield the tensors that a forward may change: what holds them, if that can be written to, their name, and they."""
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            yield from (
                (None, name, buffer) for name, buffer in module.named_buffers(recurse=False) if not buffer.is_meta
            )
            continue
        holders: tuple[dict[str, Any], ...] = (module._buffers, module.__dict__)
        for holder in holders:
            yield from ((holder, name, t) for name, t in holder.items() if isinstance(t, Tensor) and not t.is_meta)


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield every tensor of an output: in containers, and in the fields of dataclasses and the like."""
    return iter(named_tensors(output).values())


def named_tensors(output: Any) -> Named:
    """Return every tensor of an output by where it is.

    >>> list(named_tensors({"out": torch.zeros(1), "aux": [torch.zeros(1), None]}))
    ['out', 'aux.0']
    """
    return dict(_walk(output, "", ()))


def _walk(value: Any, name: str, holders: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif id(value) not in holders:
        for key, part in parts(value):
            yield from _walk(part, f"{name}.{key}" if name else str(key), (*holders, id(value)))


def parts(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return the named parts of a value that may hold tensors."""
    if value is None or isinstance(value, NO_CONTAINERS):
        return ()
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return zip(value._fields, value, strict=True)
    if isinstance(value, (tuple, list)):
        return enumerate(value)
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    return list(getattr(value, "__dict__", {}).items())


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far two sets of outputs are apart: that output's error which is the largest part of what it may be."""

    error: float
    tolerance: float
    name: str = ""

    @property
    def ok(self) -> bool:
        """Return whether rounding explains it."""
        return self.error <= self.tolerance

    @property
    def part(self) -> float:
        """Return the error as a part of what it may be."""
        return self.error / self.tolerance

    def __str__(self) -> str:
        """Return the two numbers."""
        return f"{self.error:.1e} (relative; {self.tolerance:.0e} allowed)"


def compare(expected: Named, actual: Named, floor: float = 0.0) -> Difference:
    """Return the largest difference; errors are relative to the output's largest value, or to `floor` if that is less.

    Outputs of other names or sizes are infinitely far apart.
    """
    names = next((name for name in (*expected, *actual) if (name in expected) != (name in actual)), None)
    if names is not None:
        return Difference(float("inf"), 1e-4, names)
    differences = [
        Difference(difference(e, actual[name], floor), TOLERANCES.get(e.dtype, 1e-4), name)
        for name, e in expected.items()
    ]
    return max(differences, key=lambda each: each.part, default=Difference(0.0, 1e-4))


@contextmanager
def seeded(seed: int, model: nn.Module) -> Iterator[None]:
    """Seed the random numbers of torch, Python and NumPy, and leave all of them as they were."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    python, numpy = random.getstate(), sys.modules.get("numpy")
    kept = None if numpy is None else numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            random.seed(seed)
            if numpy is not None:
                numpy.random.seed(seed)
            yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(kept)


def next_draws() -> tuple[float, float, float]:
    """Return what would be drawn next, which tells whether anything was drawn before."""
    numpy = sys.modules.get("numpy")
    return float(torch.rand(())), random.random(), 0.0 if numpy is None else float(numpy.random.random())
