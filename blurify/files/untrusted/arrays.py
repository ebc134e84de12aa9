"""NumPy arrays of a pickle, made into tensors from their bytes: nothing of NumPy's own unpickling is called."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Numbers, and nothing that holds objects.
_KINDS = "biufc"


class DType:
    """A NumPy type by its own name, such as `f4`, and the order of its bytes."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code: Any = code
        self.order: Any = "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="

    def numpy(self) -> Any:
        """Return the type.

        Raises:
            ValueError: it is none of numbers.
        """
        code, order = _text(self.code), _text(self.order)
        found = np.dtype(code) if isinstance(code, str) and len(code) <= 4 else np.dtype("O")
        if found.kind not in _KINDS:
            raise ValueError("an array of NumPy that does not hold numbers")
        return found.newbyteorder(">") if order == ">" else found


def _text(value: Any) -> Any:
    """Return text, which Python 2 wrote as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value


class Array:
    """An array, or one number, as its type, its sizes and its bytes."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def tensor(self) -> Tensor | None:
        """Return the tensor of the same numbers, or None where the bytes say otherwise."""
        try:
            _, shape, dtype, fortran, raw = self.state
            return _tensor(dtype.numpy(), tuple(shape), fortran, raw)
        except (TypeError, ValueError, AttributeError):  # it is something else, which no weight is
            return None


def _tensor(dtype: Any, shape: tuple[int, ...], fortran: Any, raw: Any) -> Tensor:
    data = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
    if prod(shape) * dtype.itemsize != len(data):
        raise ValueError("an array of NumPy with fewer bytes than its sizes say")
    values = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bytes cannot be written to, and nobody does
        return torch.from_numpy(np.ascontiguousarray(values.astype(dtype.newbyteorder("="), copy=False)).reshape(shape))


class Scalar(Array):
    """One number."""

    def tensor(self) -> Tensor | None:
        """Return None: a number is no weight."""
        return None


def from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """Return the array as the newest protocol of pickle writes it."""
    made = Array()
    made.state = (1, shape, dtype, order == "F", raw)
    return made


class NdArray:
    """Stand for the class of arrays, which is only named."""


ARRAYS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": DType,
    "numpy.ndarray": NdArray,
    **{f"numpy.{core}.multiarray._reconstruct": Array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": Scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": from_buffer for core in ("core", "_core")},
}
