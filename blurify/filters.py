"""Low-pass filters: families of taps, and the frozen `Filter` that names one. Pure mathematics: no tensors here.

Subsampling by `s` keeps frequencies up to `1 / (2 s)` cycles a position, the new Nyquist limit, and folds the others.

- binomial: the coefficients of `((1 + z) / 2)**(n - 1)`. Smooth and never negative, but it weakens most of what lies
  below the limit too. Zhang, "Making Convolutional Networks Shift-Invariant Again" (ICML 2019), section 4.
- halfband: maximally flat Nyquist filters. Tap `n` is the Lagrange polynomial through `2 a` positions that is 1 at
  position 0, at `n / s`; so every `s`-th tap but the middle one is zero. Herrmann (IEEE Trans. Circuit Theory, 1971);
  Deslauriers and Dubuc (Constructive Approximation, 1989).
- lanczos: `sinc(n / s) sinc(n / (s a))`: the ideal response, windowed by the main lobe of a wider one (Duchon, 1979).
- kaiser: the ideal response under a Kaiser window, whose beta follows from the transition band, of half-width
  `(sqrt(2) - 1) / (2 s)`. Kaiser (1974); Karras et al., "Alias-Free Generative Adversarial Networks" (NeurIPS 2021).
- gaussian: samples of a Gaussian of the width that OpenCV gives to a size.
- ideal: 1 below the limit and 0 from it on. It has no taps: a Fourier transform of a periodic map applies it.
- taps: the user's own.

`halfband`, `lanczos` and `kaiser` are as much longer as the stride is larger; their `size` is that at a stride of 2.
"""

from __future__ import annotations

from cmath import exp as turn
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb, exp, isfinite, log10, pi, prod, sin, sqrt
from typing import TypedDict

from blurify.errors import ArgumentError, ArgumentTypeError

Taps = tuple[float, ...]
IDEAL, OWN = "ideal", "taps"
MOST_TAPS = 1024
# Middles of intervals between 0 and half a cycle, over which energies are summed.
POINTS = 960
MOST_DECIBELS = 200.0


def binomial_taps(filt_size: int, stride: int = 2) -> Taps:
    """Return the `filt_size` taps of the binomial low-pass filter; they sum to 1.

    >>> binomial_taps(4)
    (0.125, 0.375, 0.375, 0.125)
    """
    order = filt_size - 1
    # Integer division by a power of two is exact in floating point, as long as the coefficient itself is.
    return tuple(comb(order, k) / 2**order for k in range(filt_size))


def halfband_taps(size: int, stride: int = 2) -> Taps:
    """Return the maximally flat Nyquist filter that interpolates through `(size + 1) / 2` positions.

    >>> [32 * tap for tap in halfband_taps(7)]
    [-1.0, 0.0, 9.0, 16.0, 9.0, 0.0, -1.0]
    """
    half = (size + 1) // 4

    def tap(n: int) -> float:
        x = Fraction(n, stride)
        nodes = range(n // stride - half + 1, n // stride + half + 1)
        factors = [(j - x) / j for j in nodes if j]
        return float(prod(factors, start=Fraction(1, stride)))

    return tuple(tap(n) for n in span(size, stride))


def lanczos_taps(size: int, stride: int = 2) -> Taps:
    """Return `sinc(n / s) sinc(n / (s a))`, where `a = (size + 1) / 4`.

    >>> [round(100 * tap) for tap in lanczos_taps(11)]
    [1, 0, -7, 0, 30, 50, 30, 0, -7, 0, 1]
    """
    half = (size + 1) // 4
    return normalized(sinc(n / stride) * sinc(n / (stride * half)) for n in span(size, stride))


def kaiser_taps(size: int, stride: int = 2) -> Taps:
    """Return the ideal response under a Kaiser window, by Kaiser's formulas for the attenuation and for beta.

    >>> [round(100 * tap) for tap in kaiser_taps(7)]
    [-7, 0, 31, 51, 31, 0, -7]
    """
    places = span(size, stride)
    width = 4 * (sqrt(2) - 1) * 0.5 / stride  # the whole transition band, in units of half a cycle
    beta = kaiser_beta(2.285 * (len(places) - 1) * pi * width + 7.95)
    reach = len(places) // 2
    return normalized(sinc(n / stride) * bessel(beta * sqrt(1 - (n / reach) ** 2)) for n in places)


def kaiser_beta(attenuation: float) -> float:
    """Return the beta of the Kaiser window that attenuates by so many decibels."""
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    over = max(attenuation - 21, 0.0)
    return 0.5842 * float(over**0.4) + 0.07886 * over


def gaussian_taps(size: int, stride: int = 2, sigma: float | None = None) -> Taps:
    """Return samples of a Gaussian; by default of the width `0.3 ((size - 1) / 2 - 1) + 0.8`, as in OpenCV.

    >>> [round(100 * tap) for tap in gaussian_taps(5)]
    [7, 24, 37, 24, 7]
    """
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8 if sigma is None else sigma
    return normalized(exp(-((k - (size - 1) / 2) ** 2) / (2 * sigma**2)) for k in range(size))


def span(size: int, stride: int) -> range:
    """Return the positions of the taps of a filter that has `size` of them at a stride of 2."""
    reach = -((size + 1) // 2 * stride // -2)
    return range(1 - reach, reach)


def sinc(x: float) -> float:
    """Return `sin(pi x) / (pi x)`, exactly zero at whole numbers but 0."""
    if x == int(x):
        return float(x == 0)
    return sin(pi * x) / (pi * x)


def bessel(x: float) -> float:
    """Return the modified Bessel function of order zero, by its series."""
    total = term = 1.0
    for k in range(1, 60):
        term *= (x / (2 * k)) ** 2
        total += term
    return total


def normalized(taps: Iterable[float]) -> Taps:
    """Return taps in proportion, of sum 1."""
    values = tuple(taps)
    total = sum(values)
    return tuple(tap / total for tap in values)


@dataclass(frozen=True)
class Family:
    """One kind of filter: its taps, its default size, and which sizes it has besides 1."""

    taps: Callable[[int, int], Taps]
    default: int
    has: Callable[[int], bool]
    sizes: str


def _any(size: int) -> bool:
    return True


FAMILIES = {
    "binomial": Family(binomial_taps, 4, _any, "any size"),
    "halfband": Family(halfband_taps, 7, lambda size: size in (3, 7, 11, 15), "sizes 3, 7, 11 and 15"),
    "lanczos": Family(lanczos_taps, 11, lambda size: size % 4 == 3, "sizes 3, 7, 11, 15 and so on"),
    "kaiser": Family(kaiser_taps, 11, lambda size: size % 2 == 1, "odd sizes"),
    "gaussian": Family(gaussian_taps, 5, _any, "any size"),
    IDEAL: Family(lambda size, stride: (1.0,), 2, lambda size: size == 2, "no size: leave it out"),
}


@dataclass(frozen=True)
class Filter:
    """A low-pass filter along one axis: a family, a size and a strength, from plain subsampling (0) to the blur (1).

    >>> Filter("halfband", 7).taps(2)[:4]
    (-0.03125, 0.0, 0.28125, 0.5)

    A size of 0 stands for the family's default. `own` are the taps of the kind `taps`; see `Filter.of_taps`.

    Raises:
        ArgumentError: the family is unknown, or does not have the size.
    """

    kind: str = "binomial"
    size: int = 0
    strength: float = 1.0
    own: Taps = ()

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ArgumentError(f"strength must be from 0 (no blur) to 1 (the whole blur), got {self.strength}.")
        if self.kind == OWN:
            object.__setattr__(self, "own", checked_taps(self.own))
            if self.size not in (0, 1, len(self.own)):
                raise ArgumentError(
                    f"filt_size {self.size} contradicts a filter given as {len(self.own)} taps; leave filt_size "
                    "(--filt-size) out."
                )
            object.__setattr__(self, "size", self.size or len(self.own))
            return
        if self.kind not in FAMILIES:
            raise ArgumentError(
                f"filter {self.kind!r} is unknown; use one of {', '.join(FAMILIES)}, or taps such as 1,4,6,4,1."
            )
        family = FAMILIES[self.kind]
        object.__setattr__(self, "size", self.size or family.default)
        if self.size < 1 or self.size > MOST_TAPS or not (self.size == 1 or family.has(self.size)):
            raise ArgumentError(f"The {self.kind} filter has {family.sizes}; got {self.size}.")

    @classmethod
    def of_taps(cls, *taps: float) -> Filter:
        """Return a filter of these taps, divided by their sum.

        >>> Filter.of_taps(1, 2, 1).taps()
        (0.25, 0.5, 0.25)
        """
        return cls(OWN, own=tuple(taps))

    @property
    def is_one_tap(self) -> bool:
        """Return whether the filter leaves what it filters as it is."""
        return self.size == 1 or self.strength == 0

    @property
    def is_ideal(self) -> bool:
        """Return whether a Fourier transform applies the filter, and no taps."""
        return self.kind == IDEAL and not self.is_one_tap

    @property
    def averages(self) -> bool:
        """Return whether the filter may stand in for an average: one with negative taps, or none, follows it."""
        return not self.is_ideal and min(self.whole(2)) >= 0

    def whole(self, stride: int = 2) -> Taps:
        """Return the taps at the whole strength."""
        if self.size == 1:
            return (1.0,)
        if self.kind == OWN:
            return self.own
        if (self.size + 1) * stride > 2 * MOST_TAPS:
            raise ArgumentError(f"The {self} filter is too long at a stride of {stride}; exclude such sites.")
        return made_taps(self.kind, self.size, max(stride, 2))

    def taps(self, stride: int = 2) -> Taps:
        """Return the taps before subsampling by `stride`: `(1 - strength) * delta + strength * taps`, of sum 1.

        >>> Filter("binomial", 4, 0.5).taps()
        (0.0625, 0.6875, 0.1875, 0.0625)

        The one is at `(n - 1) // 2` of `n`, as many taps from the left as are padded there, so that of an even size
        too it falls on the position that plain subsampling reads. At a strength of 0 it alone is left: one tap.
        """
        if self.strength == 0:
            return (1.0,)
        taps, strength = self.whole(stride), self.strength
        here = (len(taps) - 1) // 2
        return taps if strength == 1 else tuple(strength * t + (1 - strength) * (k == here) for k, t in enumerate(taps))

    def response(self, frequencies: Sequence[float], stride: int = 2) -> tuple[float, ...]:
        """Return the magnitude that the filter leaves of each frequency, in cycles a position.

        >>> Filter("binomial", 3).response([0.0, 0.5])
        (1.0, 0.0)
        """
        if self.is_ideal:
            limit = 0.5 / max(stride, 2)
            return tuple(1.0 if abs(f) < limit else 1 - self.strength for f in frequencies)
        taps = self.taps(stride)
        return tuple(abs(sum(tap * turn(-2j * pi * f * k) for k, tap in enumerate(taps))) for f in frequencies)

    def quality(self, stride: int = 2) -> Quality:
        """Return how well the filter keeps what lies below the new Nyquist limit, and suppresses what lies above.

        >>> Filter("binomial", 1).quality().folded
        0.5
        """
        middles = [(k + 0.5) / (2 * POINTS) for k in range(POINTS)]
        energies = [value**2 for value in self.response(middles, stride)]
        below = [energy for energy, f in zip(energies, middles, strict=True) if f < 0.5 / stride]
        (at_limit,) = self.response([0.5 / stride], stride)
        decibels = -20 * log10(max(at_limit, 10 ** (-MOST_DECIBELS / 20)))
        return Quality(decibels + 0.0, 1 - sum(below) / len(below), 1 - sum(below) / sum(energies))

    def __str__(self) -> str:
        """Return the filter as people write it: `4`, `lanczos 11`, or `3 at 0.5` where its strength is not 1."""
        name = {IDEAL: IDEAL, OWN: f"{OWN} {self.size}"}.get(self.kind, f"{self.kind} {self.size}")
        name = str(self.size) if self.kind == "binomial" or self.size == 1 else name
        return name if self.strength == 1 else f"{name} at {self.strength:.4g}"


# By name, as taps, as their text, or as a value.
FilterLike = str | Filter | Sequence[float]


class Blurring(TypedDict):
    """Arguments of a blurring layer, by name: a filter per axis, and what lies beyond the edge."""

    filter: tuple[Filter, ...]
    pad_type: str


@dataclass(frozen=True)
class Quality:
    """Hold the attenuation at the new Nyquist limit in decibels, and shares of white noise's energy along one axis.

    `loss` is the share of what lies below the limit that the filter takes away, and `folded` the share of what it
    leaves that lies above and is folded back.
    """

    attenuation: float
    loss: float
    folded: float

    def __str__(self) -> str:
        """Return the figures in a sentence's part."""
        decibels = "complete" if self.attenuation >= MOST_DECIBELS else f"{self.attenuation:.1f} dB"
        return (
            f"attenuation {decibels} at the new Nyquist, "
            f"pass-band loss {100 * self.loss:.1f} %, folded energy {100 * self.folded:.1f} %"
        )


@lru_cache(maxsize=256)
def made_taps(kind: str, size: int, stride: int) -> Taps:
    """Return a family's taps, made once."""
    return FAMILIES[kind].taps(size, stride)


def checked_taps(taps: Sequence[object]) -> Taps:
    """Return given taps, divided by their sum, which must be positive."""
    if not taps or len(taps) > MOST_TAPS:
        raise ArgumentError(f"A filter has 1 to {MOST_TAPS} taps, got {len(taps)}.")
    values = []
    for tap in taps:
        if isinstance(tap, bool) or not isinstance(tap, (int, float)):
            raise ArgumentTypeError(f"Taps must be numbers, got {tap!r} of type {type(tap).__name__}.")
        if not isfinite(tap):
            raise ArgumentError(f"Taps must be finite numbers, got {tap}.")
        values.append(float(tap))
    total = sum(values)
    if total <= 1e-6 * sum(map(abs, values)):
        raise ArgumentError(f"Taps must have a positive sum, by which they are divided; these sum to {total:g}.")
    # Divided again, what sums to 1 but for rounding would change.
    return tuple(values) if abs(total - 1) < 1e-12 else normalized(values)


def as_filter(value: object) -> Filter:
    """Return the filter that a name, a list of taps or their text stands for, or that the value is.

    >>> as_filter("lanczos"), as_filter("1,2,1").taps()
    (Filter(kind='lanczos', size=11, strength=1.0, own=()), (0.25, 0.5, 0.25))
    """
    if isinstance(value, Filter):
        return value
    if isinstance(value, str):
        return Filter.of_taps(*_numbers(value)) if "," in value else Filter(value.strip())
    if isinstance(value, Sequence):
        return Filter(OWN, own=tuple(value))
    raise ArgumentTypeError(
        f"filter must be a name such as 'lanczos', a Filter or a list of taps, got {value!r} of type "
        f"{type(value).__name__}."
    )


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(f"{text!r} is not taps, which are numbers such as 1,4,6,4,1.") from None
