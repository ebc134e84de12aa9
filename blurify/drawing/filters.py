"""A gallery of blur filters: their taps, and what they make of every frequency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from blurify.drawing.canvas import AFTER, BEFORE, FAINT, INK, heading, new_figure, quiet
from blurify.errors import ArgumentError
from blurify.filters import Filter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILTERS = tuple(Filter("binomial", size) for size in range(1, 8))
_POINTS = 200


def filter_gallery(filters: Sequence[Filter] = FILTERS, stride: int = 2) -> Figure:
    """Draw filters side by side: taps above, the magnitude of the frequency response below.

    >>> filter_gallery([Filter("binomial", 4), Filter("lanczos")]).get_size_inches().tolist()
    [6.2, 3.9]

    What lies above the new Nyquist limit, `1 / (2 stride)` cycles a position, is folded back; it is shaded, and its
    share of what is left of white noise along one axis is written there.

    Raises:
        ArgumentError: no filters, or a stride below 2.
        BlurifyError: matplotlib is not installed.
    """
    if not filters or stride < 2:
        raise ArgumentError(f"filters must not be empty and stride must be 2 or more, got {filters} and {stride}.")
    width = max(6.2, 0.75 + 1.22 * len(filters))
    figure = new_figure(width, 3.9)
    heading(
        figure,
        f"Blur filters before subsampling by {stride}",
        "Top: taps. Bottom: magnitude of the response; what is left of the shaded frequencies is folded back "
        "(share of white noise).",
    )
    axes = figure.subplots(2, len(filters), sharey="row", squeeze=False)
    most = max(len(each.taps(stride)) for each in filters)
    for column, each in enumerate(filters):
        _draw_taps(axes[0, column], each, stride, most)
        _draw_response(axes[1, column], each, stride)
    axes[0, 0].set_ylabel("weight", size=9)
    axes[1, 0].set_ylabel("response", size=9)
    figure.supxlabel("cycles a position", size=9)
    figure.subplots_adjust(left=0.6 / width, right=1 - 0.1 / width, top=0.75, bottom=0.15, hspace=0.35, wspace=0.14)
    return figure


def _draw_taps(axes: Axes, each: Filter, stride: int, most: int) -> None:
    taps = each.taps(stride)
    places = [index - (len(taps) - 1) / 2 for index in range(len(taps))]
    axes.bar(places, taps, 0.8, color=BEFORE if each.is_one_tap else AFTER)
    plain = each.kind == "binomial" and each.strength == 1
    axes.set_title(f"{each.size} tap{'s' * (each.size > 1)}" if plain else str(each), size=9.5, color=INK)
    axes.set_xlim(-most / 2 - 0.2, most / 2 + 0.2)
    axes.set_xticks([])
    quiet(axes)


def _draw_response(axes: Axes, each: Filter, stride: int) -> None:
    limit = 0.5 / stride
    frequencies = [0.5 * index / _POINTS for index in range(_POINTS + 1)]
    values = each.response(frequencies, stride)
    axes.plot(frequencies, values, color=BEFORE if each.is_one_tap else AFTER, lw=2)
    axes.fill_between(frequencies, values, where=[f >= limit for f in frequencies], color=BEFORE, alpha=0.3, lw=0)
    axes.axvline(limit, color=FAINT, lw=1, ls="--")
    axes.annotate(f"{100 * each.quality(stride).folded:.2g} %", (0.49, 0.82), ha="right", size=8.5, color=INK)
    axes.set_xlim(0, 0.5)
    axes.set_ylim(0, 1.08)
    axes.set_xticks([0, limit, 0.5], ["0", f"{limit:.3g}", ".5"])
    quiet(axes)
    axes.tick_params(labelsize=7.5)
