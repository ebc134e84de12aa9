"""Binomial low-pass filters of any size, from the binomial theorem. Pure mathematics: no tensors here.

The taps of size `n` are the coefficients of `((1 + z) / 2)**(n - 1)`: a box of two taps convolved with itself
`n - 2` times. They sum to 1 and have `n - 1` zeros at the Nyquist frequency.
"""

from __future__ import annotations

from math import comb
from typing import TypedDict


class Blurring(TypedDict):
    """Arguments of every blurring layer, by name."""

    filt_size: tuple[int, ...]
    pad_type: str
    strength: float


def binomial_taps(filt_size: int) -> tuple[float, ...]:
    """Return the `filt_size` taps of the binomial low-pass filter; they sum to 1.

    >>> binomial_taps(4)
    (0.125, 0.375, 0.375, 0.125)

    `filt_size` must be at least 1 (callers validate it). Sizes 1 to 7 are the filters of Zhang, "Making
    Convolutional Networks Shift-Invariant Again" (ICML 2019), section 4: Rectangle-2, Triangle-3, Binomial-5 and kin.
    """
    order = filt_size - 1
    # Integer division by a power of two is exact in floating point, as long as the coefficient itself is.
    return tuple(comb(order, k) / 2**order for k in range(filt_size))


def mixed_taps(filt_size: int, strength: float) -> tuple[float, ...]:
    """Return `(1 - strength) * delta + strength * binomial`, of `filt_size` taps: from plain subsampling to the blur.

    >>> mixed_taps(4, 0.5)
    (0.0625, 0.6875, 0.1875, 0.0625)

    The one is at `(filt_size - 1) // 2`, as many taps from the left as are padded there, so that of an even size too it
    falls on the position that plain subsampling reads. At a strength of 0 it alone is left: one tap.
    """
    if strength == 0:
        return (1.0,)
    here = (filt_size - 1) // 2
    return tuple(strength * tap + (1 - strength) * (k == here) for k, tap in enumerate(binomial_taps(filt_size)))
