"""A bar chart of where a network still aliases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from blurify.drawing.canvas import AFTER, BEFORE, FAINT, INK, folded_name, heading, new_figure, quiet
from blurify.errors import ArgumentError
from blurify.measure.estimate import Estimate, estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

_ROW, _TOP, _BOTTOM, _WIDTH, _THICK = 0.5, 1.05, 0.5, 9.0, 0.36


def folded_chart(shares: Mapping[str, Tensor], *, caption: str = "") -> Figure:
    """Draw what `folded_energy` found: two bars a site, with the 95 % intervals that a bootstrap gives them.

    >>> folded_chart({"maxpool": torch.tensor([[0.31, 0.02], [0.27, 0.03]])}).get_size_inches().tolist()
    [9.0, 2.05]

    Args:
        shares: of every site `[N, 2]`, 0 to 1, before and after.
        caption: one more line of text under the title.

    Raises:
        ArgumentError: there is nothing to draw.
        BlurifyError: matplotlib is not installed.
    """
    if not shares:
        raise ArgumentError("There are no shares to draw.")
    height = _TOP + _ROW * len(shares) + _BOTTOM
    figure = new_figure(_WIDTH, height)
    about = "Share of each site's energy, beside the mean, that subsampling folds onto lower frequencies."
    heading(figure, "Where it still aliases", "\n".join(filter(None, [about, caption])))
    axes = figure.add_axes((2.35 / _WIDTH, _BOTTOM / height, (_WIDTH - 3.1) / _WIDTH, 1 - (_TOP + _BOTTOM) / height))
    for column, (name, color, hatch) in enumerate((("before", BEFORE, "///"), ("after", AFTER, ""))):
        found = [estimate(values[:, column]) for values in shares.values()]
        places = [row + (column - 0.5) * _THICK for row in range(len(found))]
        axes.barh(places, [f.percent for f in found], _THICK, color=color, hatch=hatch, edgecolor="white", label=name)
        for place, figure_of in zip(places, found, strict=True):
            _say(axes, place, figure_of)
    axes.set_yticks(range(len(shares)), [folded_name(site, 32, lines=2) for site in shares])
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.set_xlim(0, max(1.0, axes.get_xlim()[1]))
    axes.set_xlabel("% of the energy", size=9, color=INK)
    quiet(axes, grid="x")
    figure.legend(loc="upper right", ncols=2, frameon=False, fontsize=9.5, borderaxespad=0.3)
    return figure


def _say(axes: object, place: float, value: Estimate) -> None:
    """Draw the interval as a line, and the number next to it."""
    axes.plot([value.low, value.high], [place, place], color=INK, lw=1)  # type: ignore[attr-defined]
    axes.annotate(  # type: ignore[attr-defined]
        f"{value.percent:.1f}",
        (value.high, place),
        (4, 0),
        textcoords="offset points",
        va="center",
        size=7.5,
        color=FAINT,
    )
