"""The toy of Zhang (ICML 2019, figures 2 and 4): a signal, the same a position further, and what pooling keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blurify.drawing.canvas import AFTER, BEFORE, FAINT, INK, heading, new_figure, quiet
from blurify.errors import ArgumentError
from blurify.filters import Filter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SQUARE = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0)


def toy_pools(signal: Tensor, filt_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Max pooling by 2 of a periodic signal: the dense maxima, every second, the dense ones blurred, every second.

    >>> dense, plain, blurred, smooth = toy_pools(torch.tensor([0.0, 0.0, 1.0, 1.0]), 3)
    >>> plain.tolist(), smooth.tolist()
    ([0.0, 1.0], [0.5, 1.0])
    """
    dense = torch.maximum(signal, signal.roll(-1))
    before = (filt_size - 1) // 2
    blurred = sum(
        (t * dense.roll(before - k) for k, t in enumerate(Filter("binomial", filt_size).taps())), torch.zeros(())
    )
    return dense, dense[::2], blurred, blurred[::2]


def toy_signal(signal: Sequence[float] = SQUARE, filt_size: int = 3) -> Figure:
    """Draw a periodic signal and the same shifted by one, max-pooled by 2 without and with the blur.

    >>> toy_signal().get_size_inches().tolist()
    [9.0, 4.6]

    Raises:
        ArgumentError: the signal is shorter than the filter or of odd length.
        BlurifyError: matplotlib is not installed.
    """
    if len(signal) % 2 or len(signal) < max(2, filt_size):
        raise ArgumentError(
            f"The signal must have an even number of values, at least as many as the filter's {filt_size}; "
            f"got {len(signal)}."
        )
    figure = new_figure(9.0, 4.6)
    heading(
        figure,
        "Pooling by 2, of a signal and of the same signal one position further",
        f"Top: plain max pooling. Bottom: the maxima are blurred by {filt_size} taps before every second is kept.",
    )
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for column, shift in enumerate((0, 1)):
        moved = torch.tensor(signal).roll(shift)
        dense, plain, blurred, smooth = toy_pools(moved, filt_size)
        _draw(axes[0, column], moved, dense, plain, BEFORE, "s")
        _draw(axes[1, column], moved, blurred, smooth, AFTER, "o")
        axes[0, column].set_title(("as it is", "shifted by one")[column], size=10, color=INK)
        axes[1, column].set_xlabel("position", size=9)
    for row, (name, color) in enumerate((("max pool", BEFORE), ("max pool, blur", AFTER))):
        axes[row, 0].set_ylabel(name, size=10, color=color, weight="bold")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.subplots_adjust(left=0.09, right=0.985, top=0.79, bottom=0.18, hspace=0.14, wspace=0.06)
    return figure


def _draw(axes: Axes, signal: Tensor, dense: Tensor, kept: Tensor, color: str, marker: str) -> None:
    places = range(len(signal))
    axes.bar(places, signal.tolist(), 0.92, color="#e6e6e6", label="signal")
    axes.plot(places, dense.tolist(), ":", color=FAINT, marker=".", lw=1.2, label="at every position")
    axes.plot(places[::2], kept.tolist(), "-", color=color, marker=marker, ms=8, lw=2, label="what is kept")
    axes.set_ylim(-0.06, 1.22)
    axes.set_yticks([0, 0.5, 1])
    for place, value in zip(places[::2], kept.tolist(), strict=True):
        axes.annotate(
            f"{value:.3g}", (place, value), (0, 7), textcoords="offset points", ha="center", size=8.5, color=INK
        )
    quiet(axes)
