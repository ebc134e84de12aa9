"""A gallery of blur filters: their taps, and what they make of every frequency."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi
from typing import TYPE_CHECKING

from blurify.drawing.canvas import AFTER, BEFORE, FAINT, INK, heading, new_figure, quiet
from blurify.errors import ArgumentError
from blurify.filters import binomial_taps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZES = (1, 2, 3, 4, 5, 6, 7)
_POINTS = 200


def filter_gallery(sizes: Sequence[int] = SIZES, stride: int = 2) -> Figure:
    """Draw binomial filters side by side: taps above, the magnitude of the frequency response below.

    >>> filter_gallery([2, 4]).get_size_inches().tolist()
    [6.2, 3.9]

    What lies above the new Nyquist limit, `1 / (2 stride)` cycles a position, is folded back; it is shaded, and its
    share of what is left of white noise along one axis is written there.

    Raises:
        ArgumentError: no sizes, a size below 1 or a stride below 2.
        BlurifyError: matplotlib is not installed.
    """
    if not sizes or min(sizes) < 1 or stride < 2:
        raise ArgumentError(f"sizes must be 1 or more and stride 2 or more, got {list(sizes)} and {stride}.")
    width = max(6.2, 0.75 + 1.22 * len(sizes))
    figure = new_figure(width, 3.9)
    heading(
        figure,
        f"Blur filters before subsampling by {stride}",
        "Top: taps. Bottom: magnitude of the response; what is left of the shaded frequencies is folded back "
        "(share of white noise).",
    )
    axes = figure.subplots(2, len(sizes), sharey="row", squeeze=False)
    for column, size in enumerate(sizes):
        _draw_taps(axes[0, column], size, max(sizes))
        _draw_response(axes[1, column], size, stride)
    axes[0, 0].set_ylabel("weight", size=9)
    axes[1, 0].set_ylabel("response", size=9)
    figure.supxlabel("cycles a position", size=9)
    figure.subplots_adjust(left=0.6 / width, right=1 - 0.1 / width, top=0.75, bottom=0.15, hspace=0.35, wspace=0.14)
    return figure


def response(size: int, frequency: float) -> float:
    """The magnitude that a binomial filter leaves of a frequency in cycles a position: `|cos(pi f)|^(size - 1)`.

    >>> response(3, 0.0), round(response(3, 0.25), 3)
    (1.0, 0.5)
    """
    return abs(cos(pi * frequency)) ** (size - 1)


def folded_noise(size: int, stride: int, points: int = 2000) -> float:
    """The share of white noise's energy after the filter that lies above the new Nyquist limit, along one axis.

    >>> folded_noise(1, 2)
    0.5
    """
    middles = [(index + 0.5) / (2 * points) for index in range(points)]
    energy = [response(size, frequency) ** 2 for frequency in middles]
    above = sum(e for e, frequency in zip(energy, middles, strict=True) if frequency > 0.5 / stride)
    return above / sum(energy)


def _draw_taps(axes: Axes, size: int, most: int) -> None:
    taps = binomial_taps(size)
    places = [index - (size - 1) / 2 for index in range(size)]
    axes.bar(places, taps, 0.8, color=AFTER if size > 1 else BEFORE)
    axes.set_title(f"{size} tap{'s' * (size > 1)}", size=9.5, color=INK)
    axes.set_xlim(-most / 2 - 0.2, most / 2 + 0.2)
    axes.set_xticks([])
    quiet(axes)


def _draw_response(axes: Axes, size: int, stride: int) -> None:
    limit = 0.5 / stride
    frequencies = [0.5 * index / _POINTS for index in range(_POINTS + 1)]
    values = [response(size, frequency) for frequency in frequencies]
    axes.plot(frequencies, values, color=AFTER if size > 1 else BEFORE, lw=2)
    axes.fill_between(frequencies, values, where=[f >= limit for f in frequencies], color=BEFORE, alpha=0.3, lw=0)
    axes.axvline(limit, color=FAINT, lw=1, ls="--")
    axes.annotate(f"{100 * folded_noise(size, stride):.2g} %", (0.49, 0.82), ha="right", size=8.5, color=INK)
    axes.set_xlim(0, 0.5)
    axes.set_ylim(0, 1.08)
    axes.set_xticks([0, limit, 0.5], ["0", f"{limit:.3g}", ".5"])
    quiet(axes)
    axes.tick_params(labelsize=7.5)
