"""*Weights*: every name, value, dtype, device, `requires_grad` and tie is the original's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from blurify.verifying.verdict import Weights


def compare_weights(original: nn.Module, converted: nn.Module) -> Weights:
    """Compare every parameter and buffer by name."""
    mine, theirs = original.state_dict(keep_vars=True), converted.state_dict(keep_vars=True)
    problems = [f"{name} is missing" for name in mine if name not in theirs]
    problems += [f"{name} is new" for name in theirs if name not in mine]
    for name in mine.keys() & theirs.keys():
        problem = _unlike(mine[name], theirs[name])
        if problem:
            problems.append(f"{name} differs in {problem}")
    if _ties(mine) != _ties(theirs):
        problems.append("tied parameters are not tied alike")
    return Weights(len(mine), tuple(sorted(problems)))


def _unlike(a: Any, b: Any) -> str:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return ""
    for attribute in ("dtype", "device", "shape", "requires_grad"):
        if getattr(a, attribute) != getattr(b, attribute):
            return f"{attribute} ({getattr(a, attribute)} became {getattr(b, attribute)})"
    return "" if a.is_meta or torch.equal(a, b) or bool((a.isnan() & b.isnan() | (a == b)).all()) else "value"


def _ties(state: dict[str, Any]) -> set[frozenset[str]]:
    groups: dict[int, set[str]] = {}
    for name, value in state.items():
        groups.setdefault(id(value), set()).add(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}
