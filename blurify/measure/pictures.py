"""Pictures of what was measured, drawn with matplotlib, which is imported only when one is drawn."""

from __future__ import annotations

import io
from typing import Any

from torch import Tensor, nn

from blurify.errors import ArgumentError, BlurifyError
from blurify.measure.consistency import diagonal_sweep
from blurify.measure.shifts import room

# Okabe and Ito's palette, told apart under every common colour blindness and in grey.
BEFORE, AFTER = "#D55E00", "#0072B2"
_INCHES, _DPI = (9.0, 4.9), 110


def require_matplotlib() -> None:
    """Refuse, before any slow work, where a picture could not be drawn.

    >>> require_matplotlib()

    Raises:
        BlurifyError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise BlurifyError(
            "drawing a picture needs matplotlib, which is not installed; get it with: pip install 'blurify[pictures]'"
        ) from error


def draw_sliding(
    original: nn.Module, converted: nn.Module, picture: Tensor, label: int, size: int, *, caption: str = ""
) -> bytes:
    """Draw one picture sliding through the window, what both models call it, and how sure they are; return a PNG.

    >>> png = draw_sliding(model, blurify.antialias(model), picture, label=7, size=40)  # doctest: +SKIP
    >>> Path("sliding.png").write_bytes(png)  # doctest: +SKIP

    From the top: the picture under every diagonal shift that the window allows, each model's top-1 class there (a
    wrong one on a filled box), and the probability of the true class against the shift.

    Args:
        original: the classifier before, `[N, C, size, size]` to `[N, classes]`.
        converted: the same after.
        picture: `[C, H, W]` float, larger than the window.
        label: its true class.
        size: of the window, in pixels.
        caption: one or two lines of text to set under the title, such as how the picture was chosen.

    Returns:
        The bytes of a PNG of 990 x 539 pixels.

    Raises:
        BlurifyError: matplotlib is not installed.
        ArgumentError: the window cannot move inside the picture, or a model has no class `label`.
    """
    require_matplotlib()
    # Not pyplot, which would choose a backend for the whole process; a figure alone draws PNGs with Agg.
    from matplotlib.figure import Figure

    if room(picture[None], size) == 0:
        raise ArgumentError(f"a window of {size} pixels fills the picture, so it cannot slide; give a larger picture.")
    before, after = (diagonal_sweep(model, picture[None], size)[0] for model in (original, converted))
    if not 0 <= label < before.shape[1]:
        raise ArgumentError(f"label must be from 0 to {before.shape[1] - 1}, got {label}.")
    figure = Figure(figsize=_INCHES, dpi=_DPI, facecolor="white")
    strip, curves = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1.0, 1.2]})
    _draw_strip(strip, picture, size, before.argmax(1).tolist(), after.argmax(1).tolist(), label)
    _draw_curves(curves, before[:, label], after[:, label], label)
    figure.suptitle("One picture, slid pixel by pixel, before and after blurify", x=0.015, y=0.985, ha="left", size=13)
    figure.text(0.015, 0.905, caption, size=8.5, color="#444444", va="top")
    figure.subplots_adjust(left=0.12, right=0.985, top=0.83, bottom=0.1, hspace=0.06)
    buffer = io.BytesIO()
    # No date and version: the same numbers give the same file.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_strip(axes: Any, picture: Tensor, size: int, before: list[int], after: list[int], label: int) -> None:
    # One unit of x is one pixel of shift, so that tiles, answers and curves line up.
    for step in range(len(before)):
        window = picture[:, step : step + size, step : step + size].float().mean(0)
        axes.imshow(window.numpy(), cmap="gray_r", extent=(step - 0.4, step + 0.4, 0, 1), aspect="auto")
        # The window's own edge, or the picture would seem to stand still.
        axes.plot(*zip(*_corners(step), strict=True), color="#999999", lw=0.8)
    for row, (color, answers) in enumerate(((BEFORE, before), (AFTER, after))):
        for step, answer in enumerate(answers):
            _draw_answer(axes, step, -0.3 - 0.5 * row, answer, color, wrong=answer != label)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelbottom=False)
    axes.set_yticks([0.5, -0.3, -0.8], ["picture", "before", "after"], size=10)
    for text, color in zip(axes.get_yticklabels()[1:], (BEFORE, AFTER), strict=True):
        text.set_color(color)
    axes.set_xlim(-0.6, len(before) - 0.4)
    axes.set_ylim(-1.1, 1.03)


def _corners(step: int) -> list[tuple[float, float]]:
    left, right = step - 0.4, step + 0.4
    return [(left, 0), (right, 0), (right, 1), (left, 1), (left, 0)]


def _draw_answer(axes: Any, x: float, y: float, answer: int, color: str, *, wrong: bool) -> None:
    # Wrong is shape and fill, not colour alone.
    box = {"boxstyle": "round,pad=0.25", "facecolor": color, "edgecolor": color} if wrong else None
    weight = "bold" if wrong else "normal"
    axes.text(
        x, y, str(answer), ha="center", va="center", size=11, color="white" if wrong else color, weight=weight, bbox=box
    )


def _draw_curves(axes: Any, before: Tensor, after: Tensor, label: int) -> None:
    for values, color, name, marker, style in (
        (before, BEFORE, "before", "o", "--"),
        (after, AFTER, "after", "s", "-"),
    ):
        axes.plot(
            range(len(values)), values.tolist(), style, color=color, marker=marker, markersize=5, lw=2, label=name
        )
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel(f"probability\nof the true class, {label}", size=9)
    axes.set_xlabel("diagonal shift, in pixels", size=9)
    axes.set_xticks(range(len(before)))
    axes.tick_params(labelsize=9)
    axes.grid(axis="y", color="#dddddd", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=9, loc="best")
