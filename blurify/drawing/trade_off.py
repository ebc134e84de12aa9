"""Agreement and consistency against strength: what a weaker blur keeps, and what it gives up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from blurify.drawing.canvas import AFTER, BEFORE, FAINT, INK, heading, new_figure, quiet
from blurify.errors import ArgumentError
from blurify.measure.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT, _TOP = 7.0, 4.4, 0.85
_LOOKS = ((BEFORE, "o", "--"), (AFTER, "s", "-"))


def trade_off(
    strengths: Sequence[float], figures: Mapping[str, Sequence[Estimate]], chosen: float, min_agreement: float
) -> Figure:
    """Draw figures in percent, with their intervals, against the mean strength of the blurs.

    >>> points = [Estimate(100, 100, 100, 64), Estimate(90, 86, 94, 64)]
    >>> trade_off([0, 1], {"agreement": points, "consistency": points}, 0, 95).get_size_inches().tolist()
    [7.0, 4.4]

    Args:
        strengths: one for each trial, 0 to 1.
        figures: by name, one estimate for each trial; two names at most.
        chosen: the strength that was chosen, marked by a line.
        min_agreement: in percent, drawn across.

    Raises:
        ArgumentError: there are no trials, more than two figures, or not one estimate a trial.
        BlurifyError: matplotlib is not installed.
    """
    if not strengths or len(figures) > len(_LOOKS) or any(len(row) != len(strengths) for row in figures.values()):
        raise ArgumentError(f"The trade-off is of one estimate a strength, two figures at most, got {len(figures)}.")
    figure = new_figure(_WIDTH, _HEIGHT)
    caption = (
        f"Bars are 95 % intervals. The line across is the budget, {min_agreement:g} %; the one upright, the choice."
    )
    heading(figure, "What weaker blurs keep", caption)
    axes = figure.subplots()
    for (name, points), (color, marker, style) in zip(figures.items(), _LOOKS, strict=False):
        middle = [point.percent for point in points]
        reach = [[p.percent - p.low for p in points], [p.high - p.percent for p in points]]
        axes.errorbar(
            strengths,
            middle,
            reach,
            color=color,
            marker=marker,
            ls=style,
            ms=5,
            lw=1.8,
            elinewidth=1,
            capsize=3,
            label=name,
        )
    axes.axhline(min_agreement, color=FAINT, lw=1, ls=":")
    axes.axvline(chosen, color=FAINT, lw=1, ls=":")
    axes.set_xlabel("mean strength of the blurs", size=9, color=INK)
    axes.set_ylabel("%", size=9, color=INK)
    axes.set_xlim(-0.03, max(1.0, *strengths) + 0.03)
    quiet(axes)
    axes.legend(frameon=False, fontsize=9.5, loc="best")
    figure.subplots_adjust(0.6 / _WIDTH, 0.5 / _HEIGHT, 1 - 0.15 / _WIDTH, 1 - _TOP / _HEIGHT)
    return figure
