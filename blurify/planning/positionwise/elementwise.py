"""Functions of one or several tensors, number by number: where axes are aligned, positions are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from blurify.planning.positionwise.values import Constant, Map, Operation, Pieces, Sizes, Value, broadcast

ARITHMETIC = frozenset(
    "abs add addcdiv addcmul copysign div divide floor_divide floordiv fmod hypot lerp logaddexp logaddexp2 maximum "
    "minimum fmax fmin max min mod mul multiply neg negative positive pow float_power reciprocal remainder rsub "
    "rsqrt sqrt square sub subtract true_divide truediv xlogy masked_fill where clamp clamp_min clamp_max clip".split()
)
FUNCTIONS = frozenset(
    "acos acosh asin asinh atan atan2 atanh ceil cos cosh deg2rad erf erfc erfinv exp exp2 expit expm1 floor frac "
    "log log10 log1p log2 logit nan_to_num rad2deg round sgn sign sin sinc sinh tan tanh trunc fix i0 i0e ndtr "
    "log_ndtr digamma lgamma heaviside".split()
)
ACTIVATIONS = frozenset(
    "celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu log_sigmoid logsigmoid mish relu relu6 rrelu "
    "rrelu_with_noise selu sigmoid silu softplus softshrink softsign tanhshrink threshold dropout native_dropout "
    "alpha_dropout".split()
)
COPIES = frozenset(
    "alias clone copy contiguous detach zeros_like ones_like full_like lift_fresh_copy identity stop_gradient".split()
)
COMPARISONS = frozenset(
    "eq ne lt le gt ge equal greater greater_equal less less_equal not_equal isnan isinf isfinite logical_and "
    "logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_not and_ or_ xor __and__ __or__ __xor__ "
    "invert signbit".split()
)
CASTS = {
    **dict.fromkeys("to type type_as _to_copy".split()),
    **dict.fromkeys("float double half bfloat16".split(), True),
    **dict.fromkeys("bool byte char int long short".split(), False),
}
# These give a pair, the mask second.
PAIRS = frozenset({"native_dropout"})
NAMES = ARITHMETIC | FUNCTIONS | ACTIVATIONS | COPIES | COMPARISONS
# `max(x)` and `where(x)` alone read everything.
LEAST = {"max": 2, "min": 2, "where": 3}


def elementwise(call: Operation) -> Value | None:
    """Return what a function of numbers gives for maps and constants that broadcast."""
    values = [*call.args, *call.kwargs.values()]
    maps = [value for value in values if isinstance(value, Map)]
    shapes = [value.shape for value in values if isinstance(value, Constant)]
    if len(values) < LEAST.get(call.name, 1) or any(map(_is_no_operand, values)) or not maps:
        return None
    layout = broadcast([each.layout for each in maps], shapes)
    if layout is None or (writes(call) and not _is_first(call, layout)):
        return None
    floating = call.name.rstrip("_") not in COMPARISONS and any(each.floating for each in maps)
    result = Map(layout, floating)
    return (result, None) if call.name in PAIRS else result


def writes(call: Operation) -> bool:
    """Return whether the call writes into an argument."""
    return call.kwargs.get("out") is not None or (call.name.endswith("_") and call.name not in COMPARISONS)


def _is_first(call: Operation, layout: str) -> bool:
    given = call.kwargs.get("out") is None
    return given and isinstance(call.args[0], Map) and call.args[0].layout == layout


def _is_no_operand(value: Any) -> bool:
    return isinstance(value, (Pieces, Sizes, list, tuple)) or (hasattr(value, "is_spatial") and value.is_spatial)


def put(call: Operation) -> Value | None:
    """Return the map with one number wherever a mask of the region says so."""
    source, indices, value = call.args[:3]
    mask = indices[0] if isinstance(indices, (tuple, list)) and len(indices) == 1 else None
    one = isinstance(value, Constant) and value.shape == () and len(call.args) == 3
    fits = isinstance(mask, Map) and not mask.floating and isinstance(source, Map) and mask.layout == source.layout
    return source if one and fits else None


def cast(call: Operation) -> Value | None:
    """Return the same map in another type or place."""
    source = call.args[0]
    if not isinstance(source, Map):
        return None
    kind = CASTS[call.name]
    if kind is None:
        others = list(_leaves((call.args[1:], call.kwargs)))
        if any(isinstance(other, (Pieces, Sizes)) for other in others):
            return None
        floats = [o.is_floating_point for o in others if isinstance(o, torch.dtype)]
        floats += [o.floating for o in others if isinstance(o, Map)]
        kind = floats[-1] if floats else source.floating
    return Map(source.layout, kind)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


HANDLERS = {
    **{name: elementwise for base in NAMES for name in (base, f"{base}_")},
    **dict.fromkeys(CASTS, cast),
    **dict.fromkeys(("index_put", "index_put_"), put),
}
