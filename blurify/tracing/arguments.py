"""Placeholders for the arguments of `forward`, under their own names.

An argument that the example gives as a tensor, a number or something with tensors in it is recorded. Any other keeps
the value that it has in the example, else its default, and the graph checks that it is called with no other.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from blurify.errors import TraceError
from blurify.tracing.inputs import Inputs

if TYPE_CHECKING:
    from blurify.tracing.tracer import LeafAwareTracer

MISSING = inspect.Parameter.empty
# Values that a signature can write and a condition can compare.
PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)


def arguments(tracer: LeafAwareTracer, model: nn.Module, inputs: Inputs | None) -> tuple[list[Any], dict[str, Any]]:
    """Return what to call `model.forward` with while it is recorded."""
    signature = inspect.signature(model.forward)
    given = {} if inputs is None else signature.bind_partial(*inputs.args, **inputs.kwargs).arguments
    positional: list[Any] = []
    keyword: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        value = given.get(parameter.name, MISSING)
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += _many(tracer, parameter.name, value, bool(positional or keyword) or inputs is not None)
        elif parameter.kind is parameter.VAR_KEYWORD:
            keyword |= _named(tracer, {} if value is MISSING else value)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            keyword[parameter.name] = _one(tracer, parameter, value, is_given=inputs is not None)
        else:
            positional.append(_one(tracer, parameter, value, is_given=inputs is not None))
    return positional, keyword


def _one(tracer: LeafAwareTracer, parameter: inspect.Parameter, value: Any, is_given: bool) -> Any:
    default = parameter.default
    if default is not MISSING and not _is_plain(default):
        # No signature can write it; who gives another gets Python's own TypeError.
        return default if value is MISSING else _placeholder(tracer, parameter.name)
    if value is MISSING and default is MISSING and is_given:
        raise TraceError(f"the example gives no {parameter.name!r}, which forward needs")
    if type(value) in (int, float) or (value is MISSING and default is MISSING):
        return _placeholder(tracer, parameter.name, default)
    value = default if value is MISSING else value
    if not _is_plain(value):
        return _placeholder(tracer, parameter.name, default)
    _check(tracer, _placeholder(tracer, parameter.name, default), parameter.name, value)
    return value


def _many(tracer: LeafAwareTracer, name: str, values: Any, others: bool) -> list[Any]:
    """Return the values of `*name`: as many as the example gives, one if there is no example and no other argument."""
    count = (0 if others else 1) if values is MISSING else len(values)
    return [_placeholder(tracer, f"{name}_{index}") for index in range(count)]


def _named(tracer: LeafAwareTracer, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of `**name`: the arguments of the example, each under its own name."""
    return {key: _one(tracer, _keyword(key), value, is_given=True) for key, value in values.items()}


def _keyword(name: str) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)


def _placeholder(tracer: LeafAwareTracer, name: str, default: Any = MISSING) -> Any:
    follows_default = any(node.args for node in tracer.graph.nodes if node.op == "placeholder")
    if default is MISSING and follows_default:
        # Python wants a default here too: a keyword-only argument without one comes after others that have one.
        default = None
    return tracer.create_proxy("placeholder", name, () if default is MISSING else (default,), {})


def _check(tracer: LeafAwareTracer, argument: Any, name: str, value: Any) -> None:
    compare = operator.is_ if value is None or isinstance(value, bool) else operator.eq
    same = tracer.create_proxy("call_function", compare, (argument, value), {})
    message = f"the model was converted for {name}={value!r}; give another in example_inputs or example_kwargs"
    tracer.create_proxy("call_function", torch._assert, (same, message), {})


def _is_plain(value: Any) -> bool:
    return all(isinstance(leaf, PLAIN) for leaf in _leaves(value))


def _leaves(value: Any) -> Iterator[Any]:
    if type(value) in (tuple, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
