"""Recognise operations over all channels of one position: reductions, norms and softmax along channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blurify.planning.positionwise.elementwise import elementwise, writes
from blurify.planning.positionwise.values import (
    SPATIAL,
    Map,
    Operation,
    Pieces,
    Sizes,
    Value,
    channel_dims,
    is_canonical,
)

# Where the dimension and `keepdim` are among the arguments.
REDUCTIONS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(
        "mean nanmean sum nansum prod amax amin logsumexp all any argmax argmin max min median".split(), (1, 2)
    ),
    **dict.fromkeys("var std var_mean std_mean".split(), (1, 3)),
    **dict.fromkeys("norm linalg_vector_norm vector_norm".split(), (2, 3)),
}
PAIRS = {**dict.fromkeys("max min median".split(), (True, False)), "var_mean": (True, True), "std_mean": (True, True)}
INTEGERS = frozenset({"argmax", "argmin", "all", "any"})
# Where the dimension is among the arguments, and what it is where it is not.
ALONG: dict[str, tuple[int, Any]] = {
    **dict.fromkeys("softmax _softmax log_softmax _log_softmax softmin cumsum cumprod logcumsumexp".split(), (1, None)),
    "normalize": (2, 1),
    "glu": (1, -1),
    "flip": (1, None),
    "roll": (2, None),
    "sort": (1, -1),
    "topk": (2, -1),
}
# These give what they take, and where it was.
RANKED = frozenset({"sort", "topk"})
NORMS = frozenset("layer_norm native_layer_norm rms_norm _fused_rms_norm".split())
# Their further arguments are per channel whatever their rank; the first of what some give is the map.
PER_CHANNEL = frozenset("batch_norm prelu _prelu_kernel local_response_norm channel_shuffle".split())
PER_CHANNEL_FIRST = frozenset(
    "native_batch_norm cudnn_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training".split()
)
DROPS = frozenset("dropout1d dropout2d dropout3d feature_dropout feature_alpha_dropout".split())
STATISTICS = frozenset({"group_norm", "native_group_norm", "instance_norm"})


def reduce(call: Operation) -> Value | None:
    """Return what is left of a map whose channels are reduced to one number."""
    source, name = call.args[0], call.name
    at, keep_at = REDUCTIONS[name]
    dims = call.get(at, "dim", "axis")
    if name in ("max", "min") and not isinstance(dims, int):
        return elementwise(call)
    found = channel_dims(source.layout, dims) if isinstance(source, Map) else None
    if found is None or writes(call) or not isinstance(source, Map):
        return None
    kept = call.get(keep_at, "keepdim", "keepdims") is True
    layout = "".join("1" if i in found else role for i, role in enumerate(source.layout) if kept or i not in found)
    if name in PAIRS:
        return tuple(Map(layout, floating) for floating in PAIRS[name])
    return Map(layout, name not in INTEGERS)


def along(call: Operation) -> Value | None:
    """Return the map of what is computed along its channels."""
    source, (at, default) = call.args[0], ALONG[call.name]
    dims = call.get(at, "dim", "dims", "axis", default=default)
    if not isinstance(source, Map) or writes(call) or channel_dims(source.layout, dims) is None:
        return None
    return (source, Map(source.layout, floating=False)) if call.name in RANKED else source


def norm(call: Operation) -> Value | None:
    """Return the map normalised over its last dimensions, if these are channels."""
    source, shape = call.args[0], call.get(1, "normalized_shape")
    if isinstance(shape, Sizes):
        shape = list(shape.layout)
    if not isinstance(source, Map) or not isinstance(shape, (tuple, list)) or not are_constant(call):
        return None
    if channel_dims(source.layout, [-1 - i for i in range(len(shape))]) is None:
        return None
    return (source, None, None) if call.name.startswith(("native", "_fused")) else source


def per_channel(call: Operation) -> Value | None:
    """Return the map treated channel by channel, where a batch-norm looks for channels."""
    source = call.args[0]
    axes = sum(role in SPATIAL for role in source.layout) if isinstance(source, Map) else 0
    if not isinstance(source, Map) or not is_canonical(source.layout, axes) or not are_constant(call):
        return None
    return (source, None, None) if call.name in PER_CHANNEL_FIRST or call.name.startswith("native") else source


def are_constant(call: Operation) -> bool:
    """Return whether no argument but the first depends on the map."""
    others = [*call.args[1:], *call.kwargs.values()]
    return not writes(call) and not any(isinstance(other, (Map, Pieces)) for other in others)


HANDLERS: dict[str, Callable[[Operation], Value | None]] = {
    **dict.fromkeys(REDUCTIONS, reduce),
    **dict.fromkeys(ALONG, along),
    **dict.fromkeys(NORMS, norm),
    **dict.fromkeys(PER_CHANNEL | PER_CHANNEL_FIRST | DROPS | STATISTICS, per_channel),
}
