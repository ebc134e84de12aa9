"""Probability against shift: how sure two networks are of one class while an image slides."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

from torch import Tensor

from blurify.drawing.canvas import AFTER, BEFORE, INK, folded_name, heading, new_figure, quiet
from blurify.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
_WIDTH, _ROW, _TOP, _BOTTOM = 9.0, 2.05, 0.75, 0.5


def probability_curves(before: Tensor, after: Tensor, names: Sequence[str], *, caption: str = "") -> Figure:
    """Draw the probability of one class of each image against the diagonal shift, before and after.

    >>> probability_curves(torch.rand(2, 33), torch.rand(2, 33), ["cat", "dog"]).get_size_inches().tolist()
    [9.0, 3.3]

    Args:
        before: `[N, shifts]`, 0 to 1: of `diagonal_sweep`, the columns of the wanted classes.
        after: the same of the other network.
        names: what to write above each of the N.
        caption: one more line of text under the title.

    Raises:
        ArgumentError: the shapes differ, or there is nothing to draw.
        BlurifyError: matplotlib is not installed.
    """
    if before.dim() != 2 or before.shape != after.shape or len(names) != len(before) or len(names) == 0:
        raise ArgumentError(
            "before and after must be of one shape [N, shifts], with N names; "
            f"got {[*before.shape]}, {[*after.shape]} and {len(names)}."
        )
    rows = ceil(len(names) / COLUMNS)
    columns = min(COLUMNS, len(names))
    height = _TOP + rows * _ROW + _BOTTOM
    figure = new_figure(_WIDTH, height)
    heading(figure, "Probability while the image slides", caption)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for number, axes in enumerate(panels.flat):
        if number >= len(names):
            axes.set_visible(False)
            continue
        draw_curves(axes, before[number], after[number])
        axes.set_title(folded_name(names[number], 36, lines=2), size=9, color=INK)
        # Of a column whose last panel is left out, the one above has the numbers.
        axes.tick_params(labelbottom=number + columns >= len(names))
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="upper right", ncols=2, frameon=False, fontsize=9.5)
    figure.supxlabel("diagonal shift, in pixels", size=9, y=0.08 / height)
    left, right = 0.45 / _WIDTH, 1 - 0.1 / _WIDTH
    figure.subplots_adjust(left, _BOTTOM / height, right, 1 - (_TOP + 0.3) / height, hspace=0.35, wspace=0.07)
    return figure


def draw_curves(axes: Axes, before: Tensor, after: Tensor) -> None:
    """Return two curves of `[shifts]` probabilities, told apart by colour, line and marker."""
    few = len(before) <= 12
    for values, color, name, marker, style in (
        (before, BEFORE, "before", "o", "--"),
        (after, AFTER, "after", "s", "-"),
    ):
        size = 5 if few else 2.5
        axes.plot(range(len(values)), values.tolist(), style, color=color, marker=marker, ms=size, lw=1.8, label=name)
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([0, 0.5, 1])
    quiet(axes)
    axes.set_xticks(range(0, len(before), 1 if few else 8))
