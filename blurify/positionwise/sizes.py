"""What reads the size or type of a map: subsampling leaves all but its spatial sizes as they are."""

from __future__ import annotations

from torch import SymInt, fx

from blurify.positionwise.values import Call, Map, Size, Sizes, Value, index_of

# What is the same for a map of any size.
FACTS = frozenset("dim ndim ndimension dtype device is_cuda layout requires_grad is_floating_point is_complex".split())
# What `max` and its like give.
PAIR = ("values", "indices")
READERS = frozenset({"getattr", "size", "sym_size", "_assert_tensor_metadata", *FACTS})


def read_size(call: Call) -> Value | None:
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


def arithmetic(node: fx.Node) -> Value | None:
    """Return the number computed from sizes that stay as they are; None for what may be a tensor."""
    number = getattr(node.target, "__module__", "") in ("_operator", "math")
    return Size() if number or isinstance(node.meta.get("val"), (int, SymInt)) else None
