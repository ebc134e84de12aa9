"""*Weights*: every name, value, dtype, device, `requires_grad` and tie is the original's, and filters are their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from blurify.layers import Blur
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
    problems += [f"{path}.filt is not the filter of its size" for path, blur in blurs(converted) if is_changed(blur)]
    if _ties(mine) != _ties(theirs):
        problems.append("tied parameters are not tied alike")
    return Weights(len(mine), tuple(sorted(problems)))


def blurs(model: nn.Module) -> Iterator[tuple[str, Blur]]:
    """Yield every layer that blurs, with its path."""
    yield from ((path, module) for path, module in model.named_modules() if isinstance(module, Blur))


def is_changed(blur: Blur) -> bool:
    """Return whether a layer's filter, which no state_dict shows, is another than the layer was made with."""
    return not blur.filt.is_meta and not torch.equal(blur.filt, blur.make_filter().to(blur.filt))


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
