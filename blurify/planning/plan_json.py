"""A plan's JSON text, back to decisions: a plan may come out of anybody's file, so every field is checked.

What is not as `Plan.to_json` writes it ends in one sentence. Nothing here looks at a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import fields
from enum import Enum
from math import prod
from typing import Any, NoReturn, TypeVar

from blurify.checks import check_pad_type, check_per_axis, check_strength
from blurify.errors import ArgumentError, ArgumentTypeError, PlanError, quoted
from blurify.filters import OWN, Filter, checked_taps
from blurify.planning.decision import Decision, OutputShift, Part
from blurify.sites import Action, Kind, Reason

PLAN_VERSION = 1

# Far above any network's, and far below what exhausts memory or time.
LARGEST_TEXT = 16_000_000
LARGEST_FILT_SIZE = 1024
MOST_TAPS = LARGEST_FILT_SIZE**2  # of all axes together: a layer holds their outer product
MOST_VALUES = 64  # a kept slice may step over more than the three axes of a map, and backwards
MOST_AXES = 3

WORDS = TypeVar("WORDS", bound=Enum)
KNOWN = [field.name for field in fields(Decision)]
REQUIRED = ("site", "kind", "action")


def read_plan(text: str) -> tuple[tuple[Decision, ...], tuple[Part, ...], tuple[OutputShift, ...]]:
    """Read the decisions of a plan's text, the parts of a model not traced whole, and how far outputs' grids move.

    >>> read_plan('{"version": 1, "decisions": []}')
    ((), (), ())

    Raises:
        PlanError: the text is no plan, or one of another version.
    """
    content = _parsed(text)
    if not isinstance(content, dict):
        _refuse(f"it is a JSON {_kind(content)}, not an object")
    version = content.get("version")
    if type(version) is int and version != PLAN_VERSION:
        raise PlanError(
            f"this plan has version {version!r} and this blurify reads version {PLAN_VERSION}; write it again."
        )
    if type(version) is not int:
        _refuse(f"its version is {_short(version)}, not the integer {PLAN_VERSION}")
    listed = content.get("decisions")
    if not isinstance(listed, list):
        _refuse(f"its 'decisions' are {_short(listed)}, not a list")
    _refuse_unknown(content, ("version", "decisions", "parts", "outputs"), "it")
    decisions = tuple(checked_decision(given, index) for index, given in enumerate(listed))
    _check_unique(decisions)
    return decisions, _parts(content.get("parts", [])), _outputs(content.get("outputs", []))


def _parts(given: object) -> tuple[Part, ...]:
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        _refuse(f"its 'parts' are {_short(given)}, not a list of objects")
    known = [field.name for field in fields(Part)]
    for index, each in enumerate(given):
        _refuse_unknown(each, known, f"part {index}")
        if "path" not in each or "kind" not in each:
            _refuse(f"part {index} has no 'path' or no 'kind'")
    try:
        return tuple(Part(**{key: _text(key, value) for key, value in each.items()}) for each in given)
    except ArgumentTypeError as error:
        _refuse(f"in its parts {str(error).rstrip('.')}", error)


def _outputs(given: object) -> tuple[OutputShift, ...]:
    if not isinstance(given, list):
        _refuse(f"its 'outputs' are {_short(given)}, not a list")
    return tuple(_output(each) for each in given)


def _output(given: object) -> OutputShift:
    name, pixels = (given.get("output"), given.get("pixels")) if isinstance(given, dict) else (None, None)
    known = isinstance(pixels, list) and len(pixels) <= MOST_AXES and all(type(by) in (int, float) for by in pixels)
    if not isinstance(name, str) or not isinstance(pixels, list) or not known:
        _refuse(f"one of its 'outputs' is {_short(given)}, not the name of an output and how far its grid moves")
    return OutputShift(name, tuple(map(float, pixels)))


def checked_decision(given: object, index: int) -> Decision:
    """Read one decision, the `index`-th of its plan."""
    if not isinstance(given, dict):
        _refuse(f"decision {index} is {_short(given)}, not an object")
    site = given.get("site")
    name = f"decision {index}" + (f" (of {_short(site)})" if isinstance(site, str) else "")
    _refuse_unknown(given, KNOWN, name)
    absent = [key for key in REQUIRED if key not in given]
    if absent:
        _refuse(f"{name} has no field {absent[0]!r}")
    try:
        decision = Decision(**{key: CHECKS[key](key, value) for key, value in given.items()})
        _check_whole(decision, name)
    except (ArgumentError, ArgumentTypeError) as error:
        _refuse(f"in {name} {str(error).rstrip('.')}", error)
    return decision


def _check_whole(decision: Decision, name: str) -> None:
    """Check one field against the others."""
    if decision.action is Action.KEEP:
        if decision.reason is None:
            _refuse(f"{name} keeps its site without a 'reason'")
        return
    if not decision.kind.traits.rewritable:
        _refuse(f"{name} rewrites a site of kind {decision.kind}, which is always kept")
    for key in ("landing", "stride", "filt_size", "pad_type"):
        if not getattr(decision, key):
            _refuse(f"{name} rewrites its site without a {key!r}")
    _check_axes(decision, name)
    for each in decision.filters:
        if each.is_ideal and decision.pad_type != "circular":
            _refuse(f"{name} has the ideal filter without circular padding")


def _check_axes(decision: Decision, name: str) -> None:
    axes = len(decision.stride)
    # The kernel of a conv whose weight is computed is not known.
    known = ("stride", "filt_size", "kernel_size") if decision.kernel_size else ("stride", "filt_size")
    for key in known:
        values = getattr(decision, key)
        if len(values) != axes or axes > MOST_AXES:
            _refuse(f"{name} has {len(values)} values of {key!r} and {axes} of 'stride', not one per spatial axis")
        check_per_axis(key, values, axes, 1)
    if max(decision.filt_size) > LARGEST_FILT_SIZE or prod(decision.filt_size) > MOST_TAPS:
        _refuse(f"{name} has filters of {' by '.join(map(_short, decision.filt_size))} taps, which is too many")


def _check_unique(decisions: Iterable[Decision]) -> None:
    seen = set()
    for decision in decisions:
        # What lies inside a leaf may be called outside of it as well, and is then listed twice.
        key = decision.site, decision.kind is Kind.OPAQUE
        if key in seen:
            _refuse(f"it decides {_short(decision.site)} twice")
        seen.add(key)


def _parsed(text: object) -> Any:
    if not isinstance(text, str):
        raise PlanError(f"A plan is read from text, got a {type(text).__name__}; pass what Plan.to_json() returned.")
    if len(text) > LARGEST_TEXT:
        _refuse(f"it has {len(text)} characters, more than {LARGEST_TEXT}")
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError as error:
        _refuse("it is nested too deeply", error)
    except ValueError as error:
        _refuse(f"it is not JSON ({str(error).rstrip('.')})", error)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{key} must be a string, got {_short(value)}.")
    return value


def _name(key: str, value: object) -> str:
    if not _text(key, value):
        raise ArgumentError(f"{key} must not be empty.")
    return _text(key, value)


def _texts(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ArgumentTypeError(f"{key} must be a list of strings, got {_short(value)}.")
    return tuple(_text(key, item) for item in value)


def _sizes(key: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MOST_VALUES:
        raise ArgumentTypeError(f"{key} must be a list of integers, one per axis, got {_short(value)}.")
    for item in value:
        if type(item) is not int:
            raise ArgumentTypeError(f"{key} must hold integers, got {_short(item)}.")
    return tuple(value)


def _word(words: type[WORDS]) -> Callable[[str, object], WORDS]:
    def word(key: str, value: object) -> WORDS:
        known = {item.value: item for item in words}
        if not isinstance(value, str) or value not in known:
            raise ArgumentError(f"{key} {_short(value)} is unknown; it is one of {', '.join(known)}.")
        return known[value]

    return word


def _pad_type(key: str, value: object) -> str:
    return check_pad_type(_text(key, value)[:80])


def _strength(key: str, value: object) -> float:
    if type(value) not in (int, float):
        raise ArgumentTypeError(f"{key} must be a number from 0 to 1, got {_short(value)}.")
    return check_strength(key, value)


def _filter(key: str, value: object) -> str:
    name = _text(key, value)[:80]
    return name if name == OWN else Filter(name).kind


def _taps(key: str, value: object) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise ArgumentTypeError(f"{key} must be a list of numbers, got {_short(value)}.")
    return checked_taps(value)


def _bool(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ArgumentTypeError(f"{key} must be true or false, got {_short(value)}.")
    return value


def _side(key: str, value: object) -> str:
    if value not in ("left", "both"):
        raise ArgumentError(f"{key} {_short(value)} is unknown; it is one of left, both, or not there.")
    return str(value)


CHECKS: dict[str, Callable[[str, object], Any]] = {
    "site": _name,
    "kind": _word(Kind),
    "action": _word(Action),
    "reason": _word(Reason),
    "landing": _name,
    "train_landing": _name,
    "kernel_size": _sizes,
    "stride": _sizes,
    "filt_size": _sizes,
    "pad_type": _pad_type,
    "filter": _filter,
    "taps": _taps,
    "strength": _strength,
    "statistics": _texts,
    "detail": _text,
    "before": _text,
    "side": _side,
    "plain_resize": _bool,
}


def _refuse_unknown(given: dict[str, Any], known: Iterable[str], name: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        _refuse(f"{name} has the unknown field {_short(unknown[0])}")


def _refuse(fact: str, cause: Exception | None = None) -> NoReturn:
    raise PlanError(f"this text is no plan of blurify: {fact}; write one with Plan.to_json().") from cause


def _kind(value: object) -> str:
    kinds = {list: "list", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")


def _short(value: object) -> str:
    """Return a value as it fits into one sentence, on one line of printable characters."""
    if isinstance(value, (dict, list)):
        return f"a {'list' if isinstance(value, list) else 'JSON object'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    return quoted(value)
