"""Heat maps of how far every site's map is from moving with the image, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING

from blurify.drawing.canvas import AFTER, BEFORE, FAINT, HEAT, INK, folded_name, heading, new_figure
from blurify.errors import ArgumentError
from blurify.measure.equivariance import Deviation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

COLUMNS = 6
_CELL, _BAND, _TOP, _LEFT = 1.42, 3.65, 0.72, 0.55


def heat_maps(deviations: Mapping[str, Deviation], *, caption: str = "") -> Figure:
    """Draw what `shift_deviation` found: a column a site, before above after, one cell a shift.

    >>> heat_maps(shift_deviation(smooth, pictures)).get_size_inches()  # doctest: +SKIP

    Each column has a scale of its own, from light for equivariant to dark for the most that either map of it deviates,
    so that the two of a column compare; the means under the maps compare between columns too.

    Raises:
        ArgumentError: there is nothing to draw.
        BlurifyError: matplotlib is not installed.
    """
    if not deviations:
        raise ArgumentError("There are no deviations to draw.")
    columns = min(COLUMNS, len(deviations))
    bands = ceil(len(deviations) / columns)
    width = max(6.2, _LEFT + columns * _CELL + 0.1)
    figure = new_figure(width, _TOP + bands * _BAND)
    about = "Cosine distance between the map of the shifted image and the shifted map; a cell is a shift in pixels."
    heading(figure, "Does the map move with the image?", "\n".join(filter(None, [about, caption])))
    for number, (site, deviation) in enumerate(deviations.items()):
        band, column = divmod(number, columns)
        left, top = _LEFT + column * _CELL, _TOP + band * _BAND
        mean = deviation.distance.mean(0)
        for row, (values, name) in enumerate(zip(mean, ("before", "after"), strict=True)):
            axes = _axes(figure, left, top + 0.7 + 1.45 * row)
            _draw(axes, values, deviation, float(mean.max()))
            if column == 0:
                axes.set_ylabel(name, size=10, color=(BEFORE, AFTER)[row], weight="bold")
            if row == 0:
                title = folded_name(site, 17)
                axes.set_title(f"{title}\n{_stride(deviation)}", size=7.5, color=INK, pad=4, linespacing=1.15)
    return figure


def _axes(figure: Figure, left: float, top: float) -> Axes:
    """Axes of a square of fixed size, at inches from the left and the top."""
    width, height = figure.get_size_inches()
    side = _CELL - 0.32
    return figure.add_axes((left / width, 1 - (top + side) / height, side / width, side / height))


def _stride(deviation: Deviation) -> str:
    down, right = deviation.stride
    return f"stride {down}" if down == right else f"stride {down}x{right}"


def _draw(axes: Axes, values: Tensor, deviation: Deviation, most: float) -> None:
    downs, rights = deviation.shifts
    axes.imshow(values.numpy(), cmap=HEAT, vmin=0, vmax=most or 1.0, aspect="auto", interpolation="nearest")
    # The ends of the period, and its middle: more would not fit.
    axes.set_xticks(*_ends(rights), size=6.5)
    axes.set_yticks(*_ends(downs), size=6.5)
    axes.tick_params(length=2, pad=1.5, colors=FAINT)
    axes.set_xlabel(f"mean {float(values.mean()):.2g}", size=8, labelpad=1, color=INK)


def _ends(shifts: tuple[int, ...]) -> tuple[list[int], list[str]]:
    last = len(shifts) - 1
    places = sorted({0, last // 2, last}) if last % 2 == 0 else [0, last]
    return places, [str(shifts[place]) for place in places]
