"""Recognise reads of a map's size or type: subsampling changes only its spatial sizes."""

from __future__ import annotations

from torch import SymInt, fx

from blurify.planning.positionwise.values import IN_ONE, SPATIAL, Map, Operation, Size, Sizes, Value, index_of

# What is the same for a map of any size.
FACTS = frozenset("dim ndim ndimension dtype device is_cuda layout requires_grad is_floating_point is_complex".split())
EACH = {in_one: axes for axes, in_one in IN_ONE.items()}
# What `max` and its like give.
PAIR = ("values", "indices")
CONSTANTS = frozenset("zeros ones full new_zeros new_ones new_full".split())
READERS = frozenset({"getattr", "size", "sym_size", "_assert_tensor_metadata", *FACTS})


def read_size(call: Operation) -> Value | None:
    """Return the size, or the fact, that is read of a map."""
    source, name = call.args[0], call.name
    if name == "getattr":
        name = call.args[1]
    if isinstance(source, tuple):
        return source[PAIR.index(name)] if name in PAIR else None
    if not isinstance(source, Map):
        return None
    if name in FACTS:
        return Size()
    if name == "_assert_tensor_metadata":
        return Size() if call.get(1, "size", "a") is None else None
    dim = call.get(1, "dim") if call.name != "getattr" else None
    if name in ("size", "shape") and dim is None:
        return Sizes(source.layout)
    at = index_of(source.layout, dim) if name in ("size", "sym_size") else None
    return None if at is None else Size(source.layout[at])


def constant(call: Operation) -> Value | None:
    """Return the map of one number that is made as large as a map of the region."""
    sizes = next((value for value in call.args if isinstance(value, Sizes)), call.kwargs.get("size"))
    return Map(sizes.layout) if isinstance(sizes, Sizes) else None


def arithmetic(call: Operation, node: fx.Node) -> Value | None:
    """Return the number computed from sizes; None for what may be a tensor, and for other numbers of spatial sizes."""
    if call.name.rstrip("_") == "mul" and 1 in call.args:
        return next((arg for arg in call.args if isinstance(arg, Size)), None)
    if not all((isinstance(arg, Size) and not arg.is_spatial) or type(arg) in (int, float) for arg in call.args):
        return _of_spatial(call)
    number = getattr(node.target, "__module__", "") in ("_operator", "math")
    return Size() if number or isinstance(node.meta.get("val"), (int, SymInt)) else None


def _of_spatial(call: Operation) -> Size | None:
    """Return how many positions several axes have, or one of the axes if that is divided by the others."""
    if len(call.args) != 2 or not all(isinstance(arg, Size) for arg in call.args):
        return None
    one, other = (EACH.get(arg.role, arg.role) for arg in call.args)
    if call.name.rstrip("_") == "mul":
        return _of_axes(one + other)
    if call.name == "floordiv" and (one.startswith(other) or one.endswith(other)):
        return _of_axes(one.removeprefix(other) if one.startswith(other) else one.removesuffix(other))
    return None


def _of_axes(axes: str) -> Size | None:
    return Size(IN_ONE.get(axes, axes)) if axes in IN_ONE or (len(axes) == 1 and axes in SPATIAL) else None
