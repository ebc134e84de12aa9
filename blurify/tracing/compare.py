"""The proof that a traced graph is the model: both are run on the same inputs, and must give the same.

The inputs differ in batch and, where the model takes that, in size. Without real weights the kinds, shapes and dtypes
of the outputs are compared alone.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from blurify.errors import first_line
from blurify.graph.module import TracedModule
from blurify.graph.paths import IN_PLACE
from blurify.graph.tree import HOOKS, has_hooks, home, is_of_library
from blurify.tracing.differing import difference
from blurify.tracing.export import doubled, quietly
from blurify.tracing.inputs import Inputs, example_for, input_size, random_batch
from blurify.tracing.modes import evaluating, same_chance
from blurify.tracing.omissions import written_path
from blurify.tracing.questions import OTHER_SIZES
from blurify.tracing.shapes import placeholder_values

# The same operations in the same order leave no more than this, of the largest value.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# Spatial sizes to try before the model's own: small, and unlike along the two axes.
SMALL = ((32, 48), (64, 96))
# Of a run that took longer than this, in seconds, there is no second one.
LONG = 1.0


def unlike_model(model: nn.Module, traced: TracedModule, inputs: Inputs | None) -> tuple[str, str] | None:
    """Return what the traced graph of `.eval()` gives otherwise than the model, and in which module first, if any.

    None means that they are the same. A model that runs on none of the inputs is not compared. Both are left as found.
    """
    seen, written = 0, written_tensors(traced)
    exactly = not any(tensor.is_meta for tensor in chain(model.parameters(), model.buffers()))
    began = time.perf_counter()
    # An exported graph holds what the model's hooks did.
    silent = traced.meta["front_end"] == "torch.fx"
    with (
        evaluating(model),
        evaluating(traced),
        quietly(),
        uncast(traced),
        unheard(model, silent),
        unheard(traced, silent),
    ):
        for example in examples(model, inputs, silent):
            expected, actual = outputs(model, example, written), outputs(traced, example, written)
            # An exported graph says itself which sizes it does not take.
            if isinstance(expected, Exception) or is_of_other_sizes(actual, any_error=not silent and seen > 0):
                continue
            seen += 1
            unlike = unlikeness(expected, actual, exactly)
            if unlike is not None:
                where = first_difference(model, traced, example) or ""
                return f"{unlike}{f', first in {where!r}' if where else ''}", where
            if seen == 2 or time.perf_counter() - began > LONG:
                break
    traced.meta["compared"] = seen
    return None


@contextmanager
def uncast(traced: TracedModule) -> Iterator[None]:
    """Let `torch.autocast` do nothing where the graph leaves it out, so that all else can be compared."""
    enter, leave = torch.autocast.__enter__, torch.autocast.__exit__
    left_out = any("autocast" in each for each in traced.meta["omitted"])
    try:
        if left_out:
            torch.autocast.__enter__ = lambda self: None  # type: ignore[method-assign]
            torch.autocast.__exit__ = lambda self, *error: None  # type: ignore[method-assign]
        yield
    finally:
        torch.autocast.__enter__, torch.autocast.__exit__ = enter, leave  # type: ignore[method-assign]


@contextmanager
def unheard(model: nn.Module, silent: bool) -> Iterator[None]:
    """Let no hook run but those that torch itself needs to compute a weight, and a library for its own modules."""
    hooking = [module for module in model.modules() if silent and has_hooks(module)]
    found = [(module, name, getattr(module, name)) for module in hooking for name in HOOKS]
    hooked = [(m, name, hooks) for m, name, hooks in found if isinstance(hooks, dict)]
    for module, name, hooks in hooked:
        needed = {
            k: hook for k, hook in hooks.items() if home(hook).startswith("torch.") or is_of_library(module, hook)
        }
        module.__dict__[name] = OrderedDict(needed)
    try:
        yield
    finally:
        for module, name, hooks in hooked:
            module.__dict__[name] = hooks


def is_of_other_sizes(outcome: Any, any_error: bool) -> bool:
    """Return whether the graph refused an input because it was recorded with one of another size."""
    if isinstance(outcome, Exception) and any_error:
        return True
    return isinstance(outcome, AssertionError) and OTHER_SIZES in str(outcome)


def examples(model: nn.Module, inputs: Inputs | None, small: bool) -> Iterator[Inputs]:
    """Yield inputs of different batch and size, the likeliest to be taken first."""
    if inputs is not None:
        yield inputs
        twice = doubled(inputs)
        if twice is not None:
            yield twice
        return
    own = example_for(model)
    (like,) = own.args
    channels, *spatial = input_size(model)
    if small and len(spatial) == 2:
        for height, width in SMALL:
            yield Inputs((random_batch((2, channels, height, width), like),))
            yield Inputs((random_batch((3, channels, width, height), like),))
    yield own
    yield example_for(model, batch=2)


def outputs(model: nn.Module, inputs: Inputs, written: Container[str] = ()) -> Any:
    """Return the model's outputs, or the exception that it raises. Tensors that `forward` writes to are copies."""
    own = inputs.copied()
    copies = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if name in written}
    copies |= {name: buffer.clone() for name, buffer in model.named_buffers()}
    # Both draw the numbers that were drawn while the model was recorded.
    with copied_attributes(model), torch.random.fork_rng(devices=[]), same_chance():
        try:
            return functional_call(model, copies, own.args, own.kwargs)
        except Exception as error:
            return error


@contextmanager
def copied_attributes(model: nn.Module) -> Iterator[None]:
    """Put copies in the place of the tensors that are plain attributes of modules."""
    own = [(m, name, v) for m in model.modules() for name, v in m.__dict__.items() if isinstance(v, Tensor)]
    for module, name, value in own:
        module.__dict__[name] = value.clone()
    try:
        yield
    finally:
        for module, name, value in own:
            module.__dict__[name] = value


def written_tensors(traced: TracedModule) -> set[str]:
    """Return the paths of the tensors that the graph writes to."""
    paths = (written_path(node, IN_PLACE) for node in traced.eval_graph.nodes)
    return {path for path in paths if path}


def unlikeness(expected: Any, actual: Any, exactly: bool) -> str | None:
    """Return in what two outputs differ, in numbers too if `exactly`; None where they are alike."""
    if isinstance(actual, Exception):
        return f"it does not run where the model does ({first_line(actual)})"
    mine, theirs = list(parts(expected)), list(parts(actual))
    if [path for path, _ in mine] != [path for path, _ in theirs]:
        return "it gives outputs of another structure"
    for (path, a), (_, b) in zip(mine, theirs, strict=True):
        problem = _unlike(a, b, exactly)
        if problem:
            return f"its output {path or '0'} {problem}"
    return None


def parts(output: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every tensor and plain value of an output, with where it is."""
    if isinstance(output, Mapping):
        items: Any = output.items()
    elif isinstance(output, (tuple, list)):
        items = enumerate(output)
    elif is_dataclass(output):
        items = ((field.name, getattr(output, field.name)) for field in fields(output))
    else:
        yield path, output
        return
    for key, value in items:
        yield from parts(value, f"{path}.{key}" if path else str(key))


def _unlike(a: Any, b: Any, exactly: bool = True) -> str:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        plain = isinstance(a, (int, float, str, type(None)))
        return "" if type(a) is type(b) and (not plain or a == b) else f"is {b!r}, not {a!r}"
    if a.shape != b.shape:
        return f"is of shape {tuple(b.shape)}, not {tuple(a.shape)}"
    if a.dtype != b.dtype:
        return f"is of {b.dtype}, not {a.dtype}"
    error = difference(a, b) if exactly else 0.0
    return "" if error <= TOLERANCES.get(a.dtype, 0.0) else f"differs by {error:.1e} (relative)"


def first_difference(model: nn.Module, traced: TracedModule, inputs: Inputs) -> str | None:
    """Return the path of the first module whose output the graph has otherwise, or in which it stops, if any."""
    graph_gives, stopped_in = module_outputs(traced, inputs)
    found: list[str] = []
    counts: dict[str, int] = {}

    def look(path: str, output: Any) -> None:
        index = counts[path] = counts.get(path, -1) + 1
        mine = graph_gives.get(path, [])
        if isinstance(output, Tensor) and index < len(mine) and _unlike(output, mine[index]):
            found.append(path)

    hooks = [
        module.register_forward_hook(lambda _module, _args, output, path=path: look(path, output))
        for path, module in model.named_modules()
        if path
    ]
    try:
        outputs(model, inputs, written_tensors(traced))
    finally:
        for hook in hooks:
            hook.remove()
    return next(iter(found), stopped_in)


def module_outputs(traced: TracedModule, inputs: Inputs) -> tuple[dict[str, list[Tensor]], str | None]:
    """Return what each call of a module gives in the graph, by path, and the module in which the graph stops."""
    given: dict[str, list[Tensor]] = {}
    stopped_in: str | None = None

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            nonlocal stopped_in
            stopped_in = next((call.path for call in reversed(n.meta.get("within", ()))), None)
            result = super().run_node(n)
            ends = [call.path for call in reversed(n.meta.get("within", ())) if call.gives is n]
            paths = [str(n.target)] * (n.op == "call_module") + ends
            for path in paths if isinstance(result, Tensor) else ():
                given.setdefault(path, []).append(result)
            return result

    own = inputs.copied()
    torch.manual_seed(0)
    with suppress(Exception):
        values = placeholder_values(traced.eval_graph, own)
        Recorder(traced, graph=traced.eval_graph).run(*values, enable_io_processing=False)
        stopped_in = None
    return given, stopped_in
