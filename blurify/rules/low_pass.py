"""Foreign low-pass filters: fixed, depthwise, the same for all channels, of sum 1, and weak at the Nyquist frequency.

Whoever wrote one may have given it negative taps, or computes it at every call, as an outer product say.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from blurify.graph.constants import SPREADS, constant_tensor
from blurify.graph.paths import name_of

# A filter that lets less through of what alternates from one position to the next is taken for a blur.
MOST_AT_NYQUIST = 0.2
# What people do to stored taps before they convolve with them.
COMPUTES = frozenset(
    "view reshape unsqueeze squeeze getitem slice mul div outer flip transpose permute matmul sum float".split()
)


def smoothed_axes(weight: Tensor | None, axes: int) -> frozenset[int]:
    """Return the spatial axes along which a fixed weight, the taps of which are its last dimensions, is a low-pass."""
    taps = fixed_filter(weight, axes)
    if taps is None:
        return frozenset()
    return frozenset(axis for axis in range(axes) if abs(at_nyquist(taps, axis)) < MOST_AT_NYQUIST)


def averaged_axes(weight: Tensor | None, axes: int) -> frozenset[int]:
    """Return the spatial axes along which a fixed weight is an average of several positions, a box of three say."""
    taps = fixed_filter(weight, axes)
    positive = taps is not None and bool((taps >= 0).all())
    return frozenset(axis for axis in range(axes) if taps is not None and positive and taps.shape[axis] > 1)


def fixed_filter(weight: Tensor | None, axes: int) -> Tensor | None:
    """Return the taps of a weight that is fixed, depthwise, the same for all channels and of sum 1; None for others."""
    if weight is None or weight.requires_grad or weight.is_meta or weight.dim() < axes:
        return None
    if weight.dim() >= axes + 2 and weight.shape[1] != 1:
        return None
    filters = weight.detach().double().reshape(-1, *weight.shape[weight.dim() - axes :])
    taps = filters[0]
    if bool((filters != taps).any()) or abs(float(taps.sum()) - 1) > 1e-3:
        return None
    return taps


def at_nyquist(taps: Tensor, axis: int) -> float:
    """Return the response of a filter to what alternates along one axis and is constant along the others."""
    others = [other for other in range(taps.dim()) if other != axis]
    line = taps.sum(others) if others else taps
    return float(line[::2].sum() - line[1::2].sum())


def fixed_taps(node: object, root: nn.Module) -> Tensor | None:
    """Return the weight that a node stands for, where it is computed of fixed tensors alone; None for all else."""
    known = constant_tensor(node, root)
    if known is not None or not isinstance(node, fx.Node):
        return known
    name = name_of(node)
    if name in SPREADS and node.args:
        return fixed_taps(node.args[0], root)
    if name not in COMPUTES or node.kwargs:
        return None
    args = [fixed_taps(arg, root) if isinstance(arg, fx.Node) else arg for arg in node.args]
    if any(arg is None or (isinstance(arg, Tensor) and (arg.requires_grad or arg.is_meta)) for arg in args):
        return None
    try:
        return _computed(node, args)
    except Exception:  # sizes that are computed when the model runs, say
        return None


def _computed(node: fx.Node, args: list[Any]) -> Tensor | None:
    target: Any = node.target
    with torch.no_grad():
        value = getattr(args[0], target)(*args[1:]) if node.op == "call_method" else target(*args)
    return value if isinstance(value, Tensor) else None
