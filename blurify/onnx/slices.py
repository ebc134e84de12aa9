"""The slices of an ONNX node, one for each axis."""

from __future__ import annotations

from typing import Any

from blurify.onnx.scopes import Scope, numbers

Part = tuple[int, int, int, int]


def slices_of(node: Any, scope: Scope, rank: int | None) -> list[Part] | None:
    """Return the axis, start, end and step of a slice along every axis; None where they are computed."""
    starts, ends = numbers(node, scope, 1, "starts"), numbers(node, scope, 2, "ends")
    if starts is None or ends is None:
        return None
    axes = numbers(node, scope, 3, "axes") or (None if _is_given(node, 3) else list(range(len(starts))))
    steps = numbers(node, scope, 4) or (None if _is_given(node, 4) else [1] * len(starts))
    if axes is None or steps is None or min(steps) < 1 or (min(axes) < 0 and rank is None):
        return None
    placed = [int(axis) % rank if rank else int(axis) for axis in axes]
    return [(axis, int(s), int(e), int(t)) for axis, s, e, t in sorted(zip(placed, starts, ends, steps, strict=True))]


def _is_given(node: Any, position: int) -> bool:
    return position < len(node.input) and bool(node.input[position])


def stepped_axes(node: Any, scope: Scope, rank: int | None) -> tuple[int, ...]:
    """Return the axes along which a slice takes every second position, or fewer."""
    return tuple(axis for axis, _, _, step in slices_of(node, scope, rank) or () if step > 1)
