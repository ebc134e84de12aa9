"""How far apart two tensors are."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor


def difference(expected: Tensor, actual: Tensor, floor: float = 0.0) -> float:
    """Return the largest difference of two tensors, relative to the first's largest value; inf if they are unlike."""
    if expected.shape != actual.shape:
        return float("inf")
    if expected.is_meta or expected.numel() == 0:
        return 0.0
    e, a = expected.detach().to_dense(), actual.detach().to_dense().to(expected.device)
    if e.dtype != a.dtype or e.dtype not in (torch.float32, torch.float64):
        wide = torch.complex128 if e.is_complex() or a.is_complex() else torch.float64
        e, a = e.to(wide), a.to(wide)
    scale, apart = largest(e), largest(e - a)
    if not isfinite(apart) or not isfinite(scale):
        # Equal infinities and equal NaNs are equal; any other pair with one of them is not.
        same = (e == a) | (e.isnan() & a.isnan())
        apart = largest(torch.where(same, torch.zeros_like(e), e - a).abs().nan_to_num(nan=float("inf")))
        scale = largest(e.abs().nan_to_num(nan=0.0, posinf=0.0))
    scale = max(scale, floor)
    return apart / scale if scale > 0 else apart


def largest(tensor: Tensor) -> float:
    """Return the largest absolute value."""
    return float(torch.linalg.vector_norm(tensor, float("inf")))
