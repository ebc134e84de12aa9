"""Binomial low-pass filters of any size, from the binomial theorem. Pure mathematics: no tensors here.

The taps of size `n` are the coefficients of `((1 + z) / 2)**(n - 1)`: a box of two taps convolved with itself
`n - 2` times. They sum to 1 and have `n - 1` zeros at the Nyquist frequency.
"""

from __future__ import annotations

from math import comb


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
