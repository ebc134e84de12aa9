"""Check arguments once: filter sizes, pad types, strides, patterns. Each check returns the value or raises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from blurify.errors import ArgumentError, ArgumentTypeError

PAD_TYPES = {
    "refl": "reflect",
    "reflect": "reflect",
    "repl": "replicate",
    "replicate": "replicate",
    "zero": "zero",
    "zero-renorm": "zero-renorm",
    "circular": "circular",
}
GRIDS = ("published", "centered")


def check_int(name: str, value: object, least: int) -> int:
    """Return `value` if it is an integer of at least `least`, else raise naming both."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentTypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}.")
    if value < least:
        raise ArgumentError(f"{name} must be at least {least}, got {value}.")
    return value


def check_bool(name: str, value: object) -> bool:
    """Return `value` if it is True or False; a string such as "no" would count as true."""
    if not isinstance(value, bool):
        raise ArgumentTypeError(f"{name} must be True or False, got {value!r} of type {type(value).__name__}.")
    return value


def check_strength(name: str, value: object) -> float:
    """Return `value` if it is a number from 0 to 1, else raise naming both."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentTypeError(f"{name} must be a number from 0 to 1, got {value!r} of type {type(value).__name__}.")
    if not 0 <= value <= 1:
        raise ArgumentError(f"{name} must be from 0 (no blur) to 1 (the whole blur), got {value}.")
    return float(value)


def check_per_axis(name: str, value: object, axes: int, least: int) -> tuple[int, ...]:
    """Return one integer per spatial axis, from one integer for all or a sequence of exactly `axes`."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != axes:
            raise ArgumentError(f"{name} must be one integer or {axes}, one per spatial axis; got {tuple(value)!r}.")
        return tuple(check_int(name, v, least) for v in value)
    return (check_int(name, value, least),) * axes


def check_pad_type(value: object) -> str:
    """Return the canonical pad type for any published spelling of it."""
    if not isinstance(value, str):
        raise ArgumentTypeError(f"pad_type must be a string, got {value!r} of type {type(value).__name__}.")
    if value not in PAD_TYPES:
        raise ArgumentError(f"pad_type {value!r} is unknown; use one of {', '.join(PAD_TYPES)}.")
    return PAD_TYPES[value]


def check_grid(value: object) -> str:
    """Return `value` if it names a way to place the extra tap of even filters."""
    if value not in GRIDS:
        raise ArgumentError(f"grid must be one of {', '.join(map(repr, GRIDS))}, got {value!r}.")
    return str(value)


def check_patterns(name: str, value: object) -> tuple[str, ...]:
    """Return glob patterns as a tuple; a lone string is one pattern."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Iterable):
        raise ArgumentTypeError(f"{name} must be glob patterns on site names, got {value!r}.")
    patterns = tuple(value)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ArgumentTypeError(f"{name} must hold strings, got {pattern!r} of type {type(pattern).__name__}.")
    return patterns
